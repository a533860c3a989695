"""Runs on Ray with 1 to 64 engines that answer at a set rate: whether clips/s grow with them, and what ends that.

    PYTHONPATH=src python benchmarks/scale.py --rate 10 --actors 64

Real: Ray, its actors (one process each), the feed of requests, Ray Data, the reading, ledger and writing of the run.
Simulated: the engines and decoders. Each actor waits as long as an engine of that rate would take, and gives a caption
of a usual size, so that two cores can stand for 64 GPUs. The ceiling is taken with actors that do not wait: it is what
the one process that reads, keeps the ledger and writes can do, beside the actors on the same cores. What it takes of a
CPU for each row is less of a matter of what else the cores do: a core second divided by that is its bound.

Rates are those of the third quarter of the rows: without the start of the actors, which takes a while where 64 share
two cores, and without the end, when the last chunks are with some of them.
"""

import json
import os
import pickle
import sys
import threading
import time
from pathlib import Path
from typing import Any

from common import arguments, render_clips, save_result, workspace
from memory import peak_memory_bytes

os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")


import pyarrow as pa
import ray
from ray import cloudpickle

from reelscribe.config import Settings
from reelscribe.runners import ray_stage
from reelscribe.runners.local import run
from reelscribe.runners.ray import _CHUNK_WORKS
from reelscribe.runners.status import ledger_of
from reelscribe.values import Answer, Candidate, Request

WORDS = "a large red circle moves from the left to the right over a dark ground while it turns slowly blue "


class Waiting:
    """Stands for `MakeAnswers`: waits as long as an engine would take."""

    def __init__(self, settings: Settings, folder: str, feed: Any) -> None:
        self._feed, self._name = feed, str(ray.get_runtime_context().get_actor_id())
        self._seconds = 1 / settings.fps if settings.fps < 1e6 else 0.0  # the rate comes as a setting of no use here
        self._engine = threading.Lock()

    async def __call__(self, batch: pa.Table) -> pa.Table:
        import asyncio

        return await asyncio.to_thread(self.make, batch)

    def make(self, batch: pa.Table) -> pa.Table:
        chunks = [pickle.loads(chunk) if chunk else [] for chunk in batch["works"].to_pylist()]
        for number in batch["number"].to_pylist():
            ray.get(self._feed.begun.remote(self._name, number))
        with self._engine:
            time.sleep(self._seconds * sum(map(len, chunks)))
        made = [pickle.dumps(tuple(answer_to(asked) for work in chunk for asked in work.requests)) for chunk in chunks]
        return pa.table({"number": batch["number"], "answers": pa.array(made, pa.binary())})


def answer_to(request: Request) -> Answer:
    """An answer of a usual size."""
    meta = {
        "engine": "fake",
        "model": "fake",
        "revision": None,
        "prompt": request.prompt,
        "prompt_sha256": "0" * 64,
        "sampling": {"temperature": 0.7, "top_p": 0.8},
        "seed": request.seed,
        "frame_timestamps": [number / 2 for number in range(20)],
        "frame_size": [640, 352],
        "video_tokens": 2200,
        "prompt_tokens": 2300,
        "completion_tokens": [80],
        "stop_reasons": ["stop"],
        "faults": [""],
        "clip_flags": "",
        "try": 1,
        "tries": 1,
    }
    candidate = Candidate(text=WORDS * 4, stop_reason="stop", num_tokens=80)
    return Answer(id=request.id, candidates=(candidate,), meta=meta)


def measure(data: Path, name: str, *, actors: int, rate: float, rows: int) -> dict[str, Any]:
    """One run of so many actors."""
    times: list[tuple[float, float]] = []
    settings = Settings(engine="fake", fps=rate or 1e6, runner="ray", actors=str(actors), decoders=1)
    output = data.parent / f"{name}.jsonl"
    before, began = peak_memory_bytes(), time.perf_counter()
    summary = run([data], output, settings, on_row=lambda _: times.append((time.perf_counter(), time.process_time())))
    assert summary.captions == rows
    together = _CHUNK_WORKS * actors  # rows come by chunks, at first one of each actor
    first, last = (int(rows * share) // together * together for share in (0.5, 0.75))
    seconds, cpu_seconds = (after - before for after, before in zip(times[last - 1], times[first - 1], strict=True))
    per_second = (last - first) / seconds
    return {
        "actors": actors,
        "clips": rows,
        "seconds": round(time.perf_counter() - began, 1),
        "seconds_to_first_row": round(times[0][0] - began, 1),
        "clips_per_second": round(per_second, 1),
        "share_of_linear": round(per_second / (rate * actors), 3) if rate else None,
        "cpu_milliseconds_per_row_of_this_process": round(1000 * cpu_seconds / (last - first), 3),
        "peak_memory_grew_bytes": peak_memory_bytes() - before,
        "ledger_bytes_per_clip": round(ledger_of(output).stat().st_size / rows),
        "output_bytes_per_clip": round(output.stat().st_size / rows),
    }


def main() -> None:
    args = arguments(__doc__, actors=64, rate=10.0, seconds=40.0, ceiling_rows=40_000)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray_stage.MakeAnswers = Waiting  # type: ignore[assignment, misc]
    ray.init(
        num_cpus=args.actors,  # of which most are imagined: who only waits needs none
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200 << 20,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
    )
    with workspace() as folder:
        [clip] = render_clips(folder, 1, width=160, height=120, seconds=1.0)

        def data(rows: int) -> Path:
            """Rows, each with a clip of its own: one that comes a second time is known."""
            file = folder / f"{rows}.jsonl"
            names = [f"clip-{number:06d}.mp4" for number in range(rows)]
            for name in names:
                if not (folder / name).exists():
                    (folder / name).hardlink_to(clip)
            file.write_text("".join(json.dumps({"video": name}) + "\n" for name in names))
            return file

        runs = []
        actors = 1
        while actors <= args.actors:
            rows = round(args.rate * actors * args.seconds)
            runs.append(measure(data(rows), f"out-{actors}", actors=actors, rate=args.rate, rows=rows))
            print(runs[-1], flush=True)
            actors *= 4
        rows = args.ceiling_rows
        ceiling = measure(data(rows), "ceiling", actors=2, rate=0.0, rows=rows)
    save_result("scale", {"settings": vars(args), "runs": runs, "ceiling": ceiling})


if __name__ == "__main__":
    main()
