"""Three tasks about each clip in one run, against three runs of one task each.

Both make the same captions with the same loaded engine, in turns, from frames in memory. Clips of some 300 and of some
2,000 video tokens are timed apart: the longer a clip, the more of the work is shared. With Transformers the parts of
one run of each kind are timed as well, so that it is seen where the limit is: each candidate's steps are its own.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import torch
from common import arguments, build_model, interleaved, prepared_for, render_clips, save_result, workspace
from memory import peak_memory_bytes

from reelscribe.config import Settings
from reelscribe.engines import load_engine
from reelscribe.values import Generation, Work

_SIZES: Final[dict[str, dict[str, Any]]] = {
    "300": {"width": 320, "height": 240, "seconds": 4.0},
    "2000": {"width": 640, "height": 480, "seconds": 7.0},
}
_TASKS: Final = {
    "caption": "Describe the video in one sentence.",
    "motion": "What moves, in which direction, and how fast?",
    "colours": "Which colours are to be seen, and which of them covers most of the picture?",
}


def with_tasks(work: Work) -> Work:
    """The clip, with all tasks asked about it."""
    [one] = work.requests
    asked = (replace(one, id=one.id._replace(task=name), prompt=prompt) for name, prompt in _TASKS.items())
    return replace(work, requests=tuple(asked))


def parts_of(engine: Any, run: Callable[[], Any]) -> dict[str, float]:
    """Seconds of one run by part; none for an engine that does not show them."""
    if engine.info.engine != "transformers":
        return {}
    from engine import time_parts

    return time_parts(engine, run)


def measure(engine: Any, works: list[Work], rounds: int) -> dict[str, Any]:
    """Time both ways over the same clips."""
    by_task = [[list(work.singly())[number] for work in works] for number in range(len(_TASKS))]
    expected = len(works) * len(_TASKS)

    def made(batch: list[Work]) -> int:
        return sum(isinstance(answer, Generation) for answer in engine.generate(iter(batch)))

    def one_run() -> None:
        assert made(works) == expected

    def run_by_run() -> None:
        assert sum(map(made, by_task)) == expected

    timed = interleaved({"one_run": one_run, "three_runs": run_by_run}, rounds=rounds)
    return {
        "video_tokens": works[0].frames.video_tokens,
        **timed,
        "speedup": round(timed["three_runs"]["median_seconds"] / timed["one_run"]["median_seconds"], 2),
        "seconds_by_part": {"one_run": parts_of(engine, one_run), "three_runs": parts_of(engine, run_by_run)},
    }


def main() -> None:
    args = arguments(
        __doc__, model="tiny", engine="transformers", clips=16, candidates=2, tokens=64, rounds=3, batch_size=16
    )
    sizes: dict[str, Any] = {}
    with workspace() as folder:
        dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
        settings = Settings(
            model=str(build_model(args.model, folder, dtype=dtype)),
            engine=args.engine,
            num_captions=args.candidates,
            sampling={"max_tokens": args.tokens, "temperature": 1.0},
            batch_size=args.batch_size,
            max_video_tokens=2304,
        )
        engine = load_engine(settings)
        for name, size in _SIZES.items():
            (folder / name).mkdir()
            files = render_clips(folder / name, args.clips, **size)
            works = [with_tasks(work) for work in prepared_for(files, settings, engine.info.limits)]
            began = time.perf_counter()
            sizes[name] = measure(engine, works, args.rounds)
            print(name, f"{time.perf_counter() - began:.0f} s", flush=True)
    result = {"settings": vars(args), "tasks": _TASKS, **sizes, "peak_memory_bytes": peak_memory_bytes()}
    save_result("tasks" if args.engine == "transformers" else f"tasks-{args.engine}", result)


if __name__ == "__main__":
    main()
