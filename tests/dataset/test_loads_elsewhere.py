"""JSON Lines as `datasets` of Hugging Face loads them: it takes all types from the first 10 MB."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flow import ScriptedEngine, put_clip, put_rows, read_rows_of, said

from reelscribe.config import Settings
from reelscribe.runners.local import run
from reelscribe.values import CAPTION_META, Row

datasets = pytest.importorskip("datasets")

PAD, PLAIN = "x" * 100_000, 120  # 12 MB of rows in which nothing is wrong


def _last(listed: bool) -> Iterator[Row]:
    """Rows with all that may come of a video."""
    for name, ask in (("clip.mp4", "Loop?"), ("gone.mp4", ""), ("text.mp4", ""), ("clip.mp4", "Fails?")):
        yield {"video": [name, "clip.mp4"] if listed else name, "text": "last", "ask": ask}
    yield {"video": None, "text": "none", "ask": ""}
    yield {"video": ["clip.mp4"] if listed else "clip.mp4", "text": "again", "ask": "Again?"}


def _metas(rows: Iterable[Row]) -> list[Row]:
    metas = [row["caption_meta"] for row in rows]
    return [meta for each in metas if each is not None for meta in (each if isinstance(each, list) else [each])]


@pytest.mark.parametrize("listed", [False, True])
def test_output_loads_whatever_came_of_rows_behind_the_first_ten_megabytes(tmp_path: Path, listed: bool) -> None:
    put_clip(tmp_path / "clip.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    video: Any = ["clip.mp4"] if listed else "clip.mp4"
    data = put_rows(tmp_path / "in.jsonl", [{"video": video, "text": PAD, "ask": ""}] * PLAIN + [*_last(listed)])
    data.write_text(data.read_text() + "{broken\n")

    def answer(item: Any) -> Any:
        if item.requests[0].prompt == "Fails?":
            return None
        if item.requests[0].prompt == "Loop?":
            return said("and again and again " * 20)
        cut_off = item.requests[0].prompt == "Again?" and item.requests[0].attempt == 1
        return said("It was cut ...") if cut_off else said("A clip.")

    settings = Settings(decoders=0, prompt_key="ask", retry_flagged=True)
    summary = run(data, tmp_path / "out.jsonl", settings, engine=ScriptedEngine(answer))
    assert set(summary.failures) == {"missing", "unreadable", "engine", "row"}
    assert set(summary.flags) == {"loop"}
    written = read_rows_of(tmp_path / "out.jsonl")
    assert {tuple(meta) for meta in _metas(written)} == {tuple(CAPTION_META)}
    assert {json.loads(meta["sampling"] or "{}").get("temperature") for meta in _metas(written)} == {None, 0.7}
    loaded = datasets.load_dataset(
        "json", data_files=str(tmp_path / "out.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert [row["caption"] for row in loaded] == [row["caption"] for row in written]
    assert _metas(loaded) == _metas(written)


def test_output_of_several_tasks_loads_whatever_came_of_each(tmp_path: Path) -> None:
    put_clip(tmp_path / "clip.mp4")
    plain: list[Row] = [{"video": "clip.mp4", "text": PAD, "ask": ""}] * PLAIN
    data = put_rows(tmp_path / "in.jsonl", [*plain, *_last(listed=False)])
    data.write_text(data.read_text() + "{broken\n")
    fields = {"seconds": {"type": "number", "x-from": "duration"}, "what": {"type": "string"}}
    tasks = {
        "form": {"prompt_key": "ask", "schema": {"type": "object", "properties": fields, "required": ["what"]}},
        "short": {"prompt": "Shorten: {form}", "after": "form", "video": False},
    }

    def answer(item: Any) -> Any:
        if item.requests[0].prompt == "Fails?":
            return None
        loops = item.requests[0].prompt == "Loop?"
        return said(
            "no value" if loops else '{"what": "a sheep"}' if item.requests[0].id.task == "form" else "A sheep."
        )

    settings = Settings(decoders=0, tasks=tasks)
    run(data, tmp_path / "out.jsonl", settings, engine=ScriptedEngine(answer))
    written = read_rows_of(tmp_path / "out.jsonl")
    loaded = datasets.load_dataset(
        "json", data_files=str(tmp_path / "out.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    for name in ("form", "form_failure", "short", "short_failure"):
        assert loaded[name][:] == [row[name] for row in written], name
    told = [row["short_failure"].partition(":")[0] for row in written[PLAIN:]]
    assert told == ["", "after", "after", "after", "", "", "row"]
