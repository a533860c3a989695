"""Outputs to compare: some without videos, which nothing but their rows is read of, and two of real clips."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from flow import ScriptedEngine, put_rows, said
from report.conftest import EVIL, browser, look, put_videos

from reelscribe.config import Settings
from reelscribe.runners.local import run
from reelscribe.values import Work

__all__ = ["browser", "look"]

LEFT = {
    "sea.mp4": "A person walks along the beach.",
    "dog.mp4": "The video shows a dog.",
    "cut.mp4": "A cook who cuts onions, and...",
    "evil.mp4": EVIL,
    "zoo.mp4": "一只狗在跑。",
}
RIGHT = {
    "zoo.mp4": "一只猫在跑。",
    "sea.mp4": "A woman walks on the beach.",
    "evil.mp4": EVIL,
    "cut.mp4": "Hands cut onions.",
    "dog.mp4": "A brown dog.",
}


def put_output(file: Path, texts: Mapping[str, Any], **meta: Any) -> Path:
    """Write an output without a ledger: a text for each video, candidates for a list, a failure for None."""
    rows = []
    for video, text in texts.items():
        candidates = text if isinstance(text, list) else [text]
        row = {
            "video": video,
            "caption": text and candidates[0],
            "caption_candidates": candidates if text else [],
            "caption_meta": {"model": "m", "prompt": "p", "kept": [0], "flags": "", **meta},
            "caption_failure": "" if text else "decode: broken",
        }
        rows.append(row)
    return put_rows(file, rows)


def _captioned(output: Path, texts: Mapping[str, str], **changes: Any) -> Path:
    rows = [{"video": str(output.parent / "in" / name)} for name in texts]
    engine = ScriptedEngine(lambda work: said(*_candidates(work, texts)))
    settings = Settings(num_captions=2, seed=1, decoders=0, **changes)
    run([put_rows(output.parent / f"{output.stem}.rows.jsonl", rows)], output, settings, engine=engine)
    return output


def _candidates(work: Work, texts: Mapping[str, str]) -> list[str]:
    return [texts[work.clip.path.name]] * 2


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two outputs of the same clips, in other orders, which tests leave as they are."""
    folder = tmp_path_factory.mktemp("compared")
    put_videos(folder / "in", list(LEFT))
    left = _captioned(folder / "left.jsonl", LEFT, keep="consensus", price=2.0)
    return [str(left), str(_captioned(folder / "right.jsonl", RIGHT))]
