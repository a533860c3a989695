"""Whole runs of 100, 1,000 and 10,000 clips: whether clips/s stay constant and memory flat, and what the flow costs.

Each size is a process of its own, so that its peak memory is its own. The engine is the fake one, held to a rate, so
that what is measured is everything around an engine: reading, decoding, selection, writing. The cost of the flow alone
is taken without decoding: frames are there already, and the engine answers at once.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, render_clips, save_result, workspace
from memory import peak_memory_bytes

import reelscribe.pipeline
from reelscribe.config import Settings
from reelscribe.engines.fake import FakeEngine
from reelscribe.runners.local import run
from reelscribe.values import Frames, Work

SIZES = [100, 1_000, 10_000]
DISTINCT = 50
"""Rendered clips; the others are links to them."""


def make_data(folder: Path, count: int) -> Path:
    """A data set of so many files."""
    films = render_clips(folder, DISTINCT, width=160, height=120, seconds=2.0)
    data = folder / "data.jsonl"
    with data.open("w") as rows:
        for number in range(count):
            link = folder / f"clip-{number:06d}.mp4"
            link.hardlink_to(films[number % DISTINCT])
            rows.write(json.dumps({"video": link.name, "number": number}) + "\n")
    return data


def without_decoding(works: Iterable[Work], *_: Any, **__: Any) -> Iterator[tuple[Work, Frames]]:
    frames = Frames(
        pixels=np.zeros((4, 64, 96, 3), np.uint8),
        timestamps=(0.0, 0.5, 1.0, 1.5),
        duration_seconds=2.0,
        video_tokens=12,
    )
    for work in works:
        yield work, frames


def measure(count: int, rate: float) -> dict[str, Any]:
    """One run, in this process."""
    with workspace() as folder:
        data = make_data(folder, count)
        if not rate:
            reelscribe.pipeline.decode_ahead = without_decoding  # type: ignore[attr-defined]
        engine = FakeEngine(clips_per_second=rate or None)
        began = time.perf_counter()
        summary = run([data], folder / "out.jsonl", Settings(engine="fake"), engine=engine)
        seconds = time.perf_counter() - began
    assert summary.captions == count
    return {
        "clips": count,
        "seconds": round(seconds, 3),
        "clips_per_second": round(count / seconds, 1),
        "peak_memory_bytes": peak_memory_bytes(),
    }


def main() -> None:
    args = arguments(__doc__, clips=0, rate=100.0)
    if args.clips:
        print(json.dumps(measure(args.clips, args.rate)))
        return

    def apart(count: int, rate: float) -> dict[str, Any]:
        command = [sys.executable, __file__, "--clips", str(count), "--rate", str(rate)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result

    runs = [apart(count, args.rate) for count in SIZES]
    flow = apart(SIZES[-1], 0.0)
    first, last = runs[1], runs[-1]
    save_result(
        "scaling",
        {
            "settings": vars(args),
            "runs": runs,
            "rate_of_largest_to_rate_of_middle": round(last["clips_per_second"] / first["clips_per_second"], 3),
            "memory_of_largest_minus_middle_bytes": last["peak_memory_bytes"] - first["peak_memory_bytes"],
            "flow_alone": flow,
            "flow_milliseconds_per_clip": round(1000 * flow["seconds"] / flow["clips"], 3),
        },
    )


if __name__ == "__main__":
    main()
