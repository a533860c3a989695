"""What judging costs: the engine's CPU time for candidates alone, and for candidates that the model judges.

Clips are decoded beforehand, so that the model's part is what is timed: the built-in model, whose captions are about
as long as the question whether they hold, and one of its size with random weights and captions of 64 tokens.
"""

import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from common import arguments, build_model, prepared_for, render_clips, save_result, workspace

from reelscribe import Settings
from reelscribe.engines.transformers import TransformersEngine
from reelscribe.tasks import DEFAULT_JUDGE_PROMPT
from reelscribe.values import Generation, Work

_MODELS: Final = ("shapes", "tiny")


def timed(engine: TransformersEngine, works: list[Work]) -> float:
    """Seconds of CPU for all works."""
    began = time.process_time()
    made = list(engine.generate(iter(works)))
    taken = time.process_time() - began
    if not all(isinstance(answer, Generation) for answer in made):
        raise RuntimeError("a clip failed.")
    return taken


def measure(model: str, folder: Path, files: list[Path], candidates: int, rounds: int) -> dict[str, float]:
    """CPU seconds of a model without and with the judge, by turns."""
    settings = Settings(
        model=model if model == "shapes" else str(build_model(model, folder)),
        num_captions=candidates,
        sampling={"temperature": 1.0, "max_tokens": 64},
    )
    engine = TransformersEngine(settings.model, device="cpu")
    plain = prepared_for(files, settings, engine.info.limits)
    judged = [
        replace(work, requests=(replace(work.requests[0], keep="judged", judge=DEFAULT_JUDGE_PROMPT),))
        for work in plain
    ]
    seconds: dict[str, list[float]] = {"alone": [], "judged": []}
    for number in range(rounds + 1):
        for name, works in (("alone", plain), ("judged", judged)):
            taken = timed(engine, works)
            if number:  # the first is a warm-up
                seconds[name].append(taken)
    medians = {name: round(statistics.median(taken), 3) for name, taken in seconds.items()}
    ratios = [judged / alone for alone, judged in zip(seconds["alone"], seconds["judged"], strict=True)]
    return {**medians, "times": round(statistics.median(ratios), 2)}


def main() -> None:
    args = arguments(__doc__, clips=16, candidates=4, rounds=5)
    with workspace() as folder:
        files = render_clips(folder, args.clips)
        found = {name: measure(name, folder, files, args.candidates, args.rounds) for name in _MODELS}
    save_result("judging", {"settings": vars(args), "cpu_seconds": found})


if __name__ == "__main__":
    main()
