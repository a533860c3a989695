"""Qwen3-VL-8B's shape in bfloat16 at 1k, 4k and 8k prompt tokens, 1 and 4 candidates: both engines beside raw vLLM.

`make bench-gpu` runs it, and it ends within 15 minutes: what there is no time for is left out, and named. Weights are
random, frames are in memory. Engines run one after the other, each in a process of its own, since each wants the GPU's
memory. The Transformers engine also tells where its time goes, its MFU in vision and prefill, and the kernels that take
longest. `raw_vllm` is one call of vLLM's `LLM.generate` with all clips.

On a CPU all parts can be tried out: `python gpu_table.py --model tiny --prompt-tokens 160 --clips 2 --tokens 8`.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple

TEXT_TOKENS: Final = 128
"""Of a prompt, for its words and the times of frames; the rest is the video's."""
FRAMES: Final = 20
"""Of a clip: ten seconds, two frames a second."""


class Cell(NamedTuple):
    """One line of the table."""

    prompt_tokens: int
    candidates: int


class Job(NamedTuple):
    """What each engine is given."""

    model: str
    files: list[Path]
    tokens: int
    cells: list[Cell]
    rounds: int

    def settings(self, engine: Any, cell: Cell) -> Any:
        from reelscribe.config import Settings

        return Settings(
            model=self.model,
            engine=engine,
            num_captions=cell.candidates,
            sampling={"max_tokens": self.tokens, "temperature": 1.0},
            max_video_tokens=max(cell.prompt_tokens - TEXT_TOKENS, FRAMES),
            batch_size=len(self.files),
        )

    @property
    def largest(self) -> Cell:
        return Cell(*map(max, zip(*self.cells, strict=True)))


Run = Callable[[], None]
Measured = Iterator[tuple[Cell, dict[str, Any]]]


def transformers(job: Job) -> Measured:
    from common import prepared_for
    from engine import time_parts
    from gpu import mfu_of

    from reelscribe.engines.transformers import load

    engine = load(job.settings("transformers", job.largest))
    for cell in job.cells:
        prepared = prepared_for(job.files, job.settings("transformers", cell), engine.info.limits)

        def run(prepared: Any = prepared) -> None:
            check(list(engine.generate(iter(prepared))), len(job.files))

        told = timed(run, job) | {"video_tokens": prepared[0].frames.video_tokens}
        parts = time_parts(engine, run)
        told |= {"seconds_by_part": parts, **mfu_of(engine, prepared[0], len(prepared), parts)}
        if cell == job.cells[-1]:
            told["kernels"] = longest_kernels(run)
        yield cell, told


def longest_kernels(run: Run, count: int = 15) -> list[dict[str, Any]]:
    """What takes the longest on the device, by PyTorch's profiler."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    on_gpu = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as seen:
        run()
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    found = sorted(seen.key_averages(), key=lambda event: -getattr(event, key))
    return [
        {"name": event.key[:100], "calls": event.count, "seconds": round(getattr(event, key) / 1e6, 4)}
        for event in found[:count]
    ]


def vllm(job: Job) -> Measured:
    from common import prepared_for
    from feeding import forget

    from reelscribe.engines.vllm import load

    engine = load(job.settings("vllm", job.largest))
    for cell in job.cells:
        prepared = prepared_for(job.files, job.settings("vllm", cell), engine.info.limits)

        def run(prepared: Any = prepared) -> None:
            forget(engine)
            check(list(engine.generate(iter(prepared))), len(job.files))

        yield cell, timed(run, job) | {"video_tokens": prepared[0].frames.video_tokens}


def raw_vllm(job: Job) -> Measured:
    import feeding
    from common import prepared_for

    from reelscribe.engines.checkpoint import Checkpoint

    largest = job.largest
    longest = largest.prompt_tokens + job.tokens + TEXT_TOKENS
    given = feeding.Job(job.model, "", job.tokens, largest.prompt_tokens, largest.candidates)
    fed = feeding.Fed(given, max_model_len=longest, max_num_batched_tokens=max(longest, 8192))
    limits = Checkpoint.load(job.model, revision=None).limits
    for cell in job.cells:
        works = prepared_for(job.files, job.settings("vllm", cell), limits)
        prompts = [fed.prompt(work.requests[0], work.frames) for work in works]
        lengths: list[int] = []

        def run(prompts: Any = prompts, lengths: list[int] = lengths, candidates: int = cell.candidates) -> None:
            fed.forget()
            lengths[:] = fed.generate(prompts, candidates)

        told = timed(run, job)
        yield cell, told | {"video_tokens": works[0].frames.video_tokens, "prompt_tokens_seen": lengths[0]}


ENGINES: Final[dict[str, Callable[[Job], Measured]]] = {
    "transformers": transformers,
    "raw_vllm": raw_vllm,
    "vllm": vllm,
}


def check(made: list[Any], count: int) -> None:
    """Raise unless every clip has its captions."""
    from reelscribe.values import Failure

    failed = [outcome for outcome in made if isinstance(outcome, Failure)]
    if failed or len(made) != count:
        raise RuntimeError(f"{len(failed)} of {count} clips failed: {failed[:1]}")


def timed(run: Run, job: Job) -> dict[str, Any]:
    """After one untimed call."""
    from gpu import seconds_of

    run()
    seconds = [round(seconds_of(run), 3) for _ in range(job.rounds)]
    return {"seconds": seconds, "clips_per_second": round(len(job.files) / statistics.median(seconds), 3)}


def work(name: str, job: Job, line: Connection) -> None:
    """What the process of an engine does: send each cell when it is measured, and at last why there are no more."""
    try:
        for cell, told in ENGINES[name](job):
            line.send((cell, told))
        line.send(None)
    except Exception as exc:  # an engine that is not there, or fails, is a result, too
        line.send(f"{type(exc).__name__}: {exc}".partition("\n")[0][:300])


def measure(name: str, job: Job, deadline: float) -> dict[str, Any]:
    """The cells that an engine came to by the deadline, by `time.monotonic()`; its process ends in any case."""
    line, other = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=work, args=(name, job, other), name=name)
    process.start()
    other.close()
    cells: list[dict[str, Any]] = []
    why = None
    while line.poll(max(deadline - time.monotonic(), 0)):
        try:
            told = line.recv()
        except EOFError:
            why = "its process died"
            break
        if not isinstance(told, tuple):
            why = told
            break
        cells.append(told[0]._asdict() | told[1])
        print(name, cells[-1], flush=True)
    else:
        why = "no time was left"
    process.join(1 if why else 30)
    process.terminate()
    process.join(10)
    process.kill()
    left_out = [cell._asdict() for cell in job.cells[len(cells) :]]
    return {"cells": cells} | ({"left_out": left_out, "why": why} if why else {})


def ratios(engines: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Clips a second of each of this package's engines, by those of raw vLLM."""
    rates = {
        name: {(cell["prompt_tokens"], cell["candidates"]): cell["clips_per_second"] for cell in told["cells"]}
        for name, told in engines.items()
    }
    raw = rates.pop("raw_vllm", {})
    return [
        Cell(*key)._asdict() | {name: round(by[key] / rate, 3) for name, by in rates.items() if key in by}
        for key, rate in raw.items()
    ]


def main() -> None:
    began = time.monotonic()
    import torch
    from common import arguments, build_model, render_clips, save_result, workspace

    size = {"width": 1280, "height": 720, "seconds": 10.0}
    table = {"prompt_tokens": "1024,4096,8192", "candidates": "1,4"}
    counts = {"clips": 32, "tokens": 128, "rounds": 2, "minutes": 14.0}
    args = arguments(__doc__, model="qwen3-vl-8b", engines=",".join(ENGINES), **table, **counts, **size)
    lengths, candidates = ([int(each) for each in text.split(",")] for text in (args.prompt_tokens, args.candidates))
    names = args.engines.split(",")
    with workspace() as folder:
        dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
        files = render_clips(folder, args.clips, width=args.width, height=args.height, seconds=args.seconds)
        model = build_model(args.model, folder, dtype=dtype)
        torch.cuda.empty_cache()
        cells = [Cell(length, count) for length in lengths for count in candidates]
        job = Job(str(model), files, args.tokens, cells, args.rounds)
        engines: dict[str, dict[str, Any]] = {}
        for number, name in enumerate(names):
            now = time.monotonic()
            share = (began + args.minutes * 60 - now) / (len(names) - number)
            engines[name] = measure(name, job, now + share)
    told = {"settings": vars(args), "seconds": round(time.monotonic() - began), "engines": engines}
    save_result(f"table-{args.model}", told | {"over_raw_vllm": ratios(engines)})


if __name__ == "__main__":
    main()
