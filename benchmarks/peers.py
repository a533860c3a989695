"""Files to captions by every peer: same model, clips, candidates and tokens, on one machine, in one run, in turns.

Each method is a process of its own that loads its model beforehand; the others stand still while one is timed. All take
two frames a second, of one size; tokens of a prompt are told for each. All but Ray Data LLM, which has vLLM's own
loader, get them from this package's decoder: what differs is how the engine is fed.

- `reelscribe_transformers`, `reelscribe_vllm`: this package.
- `published`: the published operator's method: one video, one candidate at a time, by Transformers.
- `generate_batches`: Transformers' `generate` for 16 clips at once, all candidates in one call. Its continuous batching
  takes token ids alone, no pixels (`generate_batch`, Transformers 5.24).
- `vllm_at_once`: all clips decoded in threads, then one call of vLLM's `LLM.generate`.
- `nemo_curator`: as the captioning stage of NeMo Curator 1.4 feeds vLLM: a task at a time, here one clip each, with a
  call of `generate`; clips are decoded ahead in threads. Rebuilt: the stage itself wants a GPU.
- `cosmos_curate`: as the captioning stage of Cosmos-Curate feeds it: batches of 16, each waited for. Rebuilt likewise.
- `ray_data_llm`: Ray Data LLM 2.60 itself, with its stages for chat, multimodal input and vLLM.

Daft 0.7.26 feeds vLLM text alone, so it is not here (`daft.ai.vllm`: a prompter that takes no files).
"""

import multiprocessing
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

if TYPE_CHECKING:
    from reelscribe.config.groups import EngineName

T = TypeVar("T")

BATCH: Final = 16
_MOVED: Final = """
import importlib.abc, importlib.util, sys

class Moved(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        return importlib.util.spec_from_loader(name, self) if name == "vllm.entrypoints.chat_utils" else None

    def create_module(self, spec):
        import vllm.renderers.chat_utils as module
        return module

    def exec_module(self, module):
        pass

sys.meta_path.insert(0, Moved())
"""
"""For Ray 2.60, which looks for this module where vLLM 0.31 had it; read by its workers as sitecustomize.py."""


class Job(NamedTuple):
    """What is to be captioned, and how."""

    model: str
    folder: str
    candidates: int
    tokens: int
    video_tokens: int

    def files(self) -> list[Path]:
        return sorted(Path(self.folder).glob("*.mp4"))

    def settings(self, engine: "EngineName") -> Any:
        from reelscribe.config import Settings

        return Settings(
            model=self.model,
            engine=engine,
            num_captions=self.candidates,
            sampling={"max_tokens": self.tokens, "temperature": 1.0},
            max_video_tokens=self.video_tokens,
            batch_size=BATCH,
        )


class Took(NamedTuple):
    """What a run tells of itself, beside how long it was."""

    prompt_tokens: list[int]
    """Of each clip, where the method tells."""
    seconds: float | None = None
    """Where the whole call is not what is to be timed."""


Run = Callable[[], Took]
"""Captions all clips."""


def reelscribe(job: Job, engine: "EngineName") -> Run:
    from common import requests_for

    from reelscribe.engines import load_engine
    from reelscribe.pipeline import caption

    settings = job.settings(engine)
    loaded = load_engine(settings)

    def run() -> Took:
        _forget(loaded)
        made = list(caption(requests_for(job.files(), settings), settings, loaded))
        assert all(len(item.candidates) == job.candidates for item in made)  # type: ignore[union-attr]
        return Took([item.meta["prompt_tokens"] for item in made])  # type: ignore[union-attr]

    return run


def _forget(engine: Any) -> None:
    """Forget the prefixes of earlier rounds: clips of a data set differ."""
    import asyncio

    if hasattr(engine, "_llm"):
        asyncio.run_coroutine_threadsafe(engine._llm.reset_prefix_cache(), engine._loop).result()


def published(job: Job) -> Run:
    from baseline_serial import SerialBaseline

    baseline = SerialBaseline(job.settings("transformers"))

    def run() -> Took:
        baseline.caption_files(job.files(), num_captions=job.candidates, max_tokens=job.tokens)
        return Took([])

    return run


def generate_batches(job: Job) -> Run:
    import torch
    from baseline_serial import SerialBaseline

    from reelscribe.values import Clip
    from reelscribe.video.decode import decode

    baseline = SerialBaseline(job.settings("transformers"))
    baseline.processor.tokenizer.padding_side = "left"

    @torch.inference_mode()
    def run() -> Took:
        lengths: list[int] = []
        for files in in_groups(job.files(), BATCH):
            frames = [decode(Clip(source=str(file)), baseline.budget) for file in files]
            inputs = baseline.inputs(*frames)
            lengths += inputs["attention_mask"].sum(1).tolist()
            ids = baseline.model.generate(
                **inputs,
                max_new_tokens=job.tokens,
                do_sample=True,
                temperature=1.0,
                num_return_sequences=job.candidates,
            )
            assert len(baseline.processor.tokenizer.batch_decode(ids)) == len(files) * job.candidates
        return Took(lengths)

    return run


def in_groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Items by so many; fewer in the last group."""
    source = iter(items)
    while group := list(islice(source, size)):
        yield group


class Fed:
    """vLLM's own `LLM`, fed with clips that this package's decoder and prompt made: only the feeding differs."""

    def __init__(self, job: Job) -> None:
        from vllm import LLM, SamplingParams

        from reelscribe.engines.checkpoint import Checkpoint
        from reelscribe.engines.guard import Guard
        from reelscribe.engines.vllm import CORE_ENVIRONMENT
        from reelscribe.video.sampling import FrameBudget

        self.job, settings = job, job.settings("vllm")
        self._checkpoint = Checkpoint.load(job.model, revision=None)
        self._budget = FrameBudget.of(settings, self._checkpoint.limits)
        self._guard = Guard()
        with self._guard.starting(CORE_ENVIRONMENT):
            self._llm = LLM(model=job.model, **vllm_arguments(job))
        self._params = SamplingParams(n=job.candidates, temperature=1.0, max_tokens=job.tokens)
        self._requests = requests(job)

    def prepare(self, number: int) -> dict[str, Any]:
        """A clip to a prompt of vLLM."""
        from reelscribe.engines.prompt import Prompt
        from reelscribe.video.decode import decode

        request = self._requests[number]
        frames = decode(request.clip, self._budget)
        times = list(frames.timestamps)
        metadata = {"fps": 1.0, "frames_indices": times, "total_num_frames": len(times), "do_sample_frames": False}
        return {
            "prompt": Prompt.of(self._checkpoint.processor, self._checkpoint.family, request).text,
            "multi_modal_data": {"video": [(frames.pixels, metadata)]},
            "mm_processor_kwargs": {"do_resize": False, "do_sample_frames": False},
        }

    def fed_by(self, size: int, *, ahead: int) -> Run:
        """Calls of `generate` with so many clips each, which are decoded in threads, so many ahead."""

        def run() -> Took:
            self._llm.reset_prefix_cache()
            lengths: list[int] = []
            with ThreadPoolExecutor(os.cpu_count()) as threads:
                for prompts in in_groups(ahead_of(threads, self.prepare, len(self._requests), ahead), size):
                    made = self._llm.generate(prompts, self._params, use_tqdm=False)
                    assert all(len(item.outputs) == self.job.candidates for item in made)
                    lengths += [len(item.prompt_token_ids) for item in made]
            return Took(lengths)

        return run


def ahead_of(
    threads: ThreadPoolExecutor, prepare: Callable[[int], dict[str, Any]], count: int, ahead: int
) -> Iterator[dict[str, Any]]:
    """What is made of each number, in order, with so many under way."""
    under_way = deque(threads.submit(prepare, number) for number in range(min(ahead, count)))
    for number in range(ahead, count + ahead):
        if not under_way:
            return
        yield under_way.popleft().result()
        if number < count:
            under_way.append(threads.submit(prepare, number))


def requests(job: Job) -> list[Any]:
    from common import requests_for

    return requests_for(job.files(), job.settings("vllm"))


def vllm_arguments(job: Job) -> dict[str, Any]:
    """What every peer tells vLLM: one clip's videos alone, no cache of prepared clips, and on a CPU what it needs."""
    import torch

    arguments = {
        "limit_mm_per_prompt": {"image": 0, "video": 1},
        "max_model_len": 8192,
        "max_num_batched_tokens": 8192,
        "mm_processor_cache_gb": 0,
        "disable_log_stats": True,
    }
    if not torch.cuda.is_available():
        arguments |= {
            "dtype": "float32",
            "enforce_eager": True,
            "kv_cache_memory_bytes": 2 << 30,
            "distributed_executor_backend": "uni",
            "enable_chunked_prefill": False,
            "block_size": 32,
        }
    return arguments


def ray_data_llm(job: Job) -> Run:
    import ray

    shim = Path(job.folder) / "shim"
    shim.mkdir()
    (shim / "sitecustomize.py").write_text(_MOVED)
    paths = os.pathsep.join([str(shim), os.environ.get("PYTHONPATH", "")])
    # Its five pools of actors stand still with fewer than some six logical CPUs.
    ray.init(num_cpus=8, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": paths}})
    exec(_MOVED, {})
    from ray.data.llm import PrepareMultimodalStageConfig, build_processor, vLLMEngineProcessorConfig

    from reelscribe.tasks import DEFAULT_PROMPT

    size = {"shortest_edge": 4096, "longest_edge": job.video_tokens * 2 * 32 * 32}  # pixels of all frames
    media = {"allowed_local_media_path": job.folder}
    config = vLLMEngineProcessorConfig(
        model_source=job.model,
        task_type="generate",
        engine_kwargs=vllm_arguments(job) | media | {"mm_processor_kwargs": {"size": size}},
        batch_size=BATCH,
        concurrency=1,
        log_engine_metrics=False,
        accelerator_type=None,
        placement_group_config={"bundles": [{"CPU": 1}]},
        prepare_multimodal_stage=PrepareMultimodalStageConfig(enabled=True, model_config_kwargs=media),
        chat_template_stage=True,
        tokenize_stage=True,
        detokenize_stage=True,
    )

    sampling = {"n": job.candidates, "temperature": 1.0, "max_tokens": job.tokens}
    prompt = {"type": "text", "text": DEFAULT_PROMPT}

    # Its workers know nothing of this module: what is theirs refers to plain values alone.
    def ask(row: dict[str, Any]) -> dict[str, Any]:
        video = {"type": "video_url", "video_url": {"url": f"file://{row['file']}"}}
        return {"messages": [{"role": "user", "content": [video, prompt]}], "sampling_params": sampling}

    def told(row: dict[str, Any]) -> dict[str, Any]:
        return {"tokens": row["num_input_tokens"], "at": time.time()}

    process = build_processor(config, preprocess=ask, postprocess=told)
    files = [{"file": str(file)} for file in job.files()]

    def run() -> Took:
        blocks = ray.data.from_items(files, override_num_blocks=max(1, len(files) // BATCH))
        rows = sorted(process(blocks).take_all(), key=lambda row: row["at"])
        assert len(rows) == len(files)
        # It loads its model anew for each data set, so the clock runs from its first block on.
        first, last = rows[BATCH - 1]["at"], rows[-1]["at"]
        seconds = (last - first) * len(rows) / (len(rows) - BATCH)
        return Took([row["tokens"] for row in rows], seconds)

    return run


METHODS: Final[dict[str, Callable[[Job], Run]]] = {
    "reelscribe_transformers": lambda job: reelscribe(job, "transformers"),
    "reelscribe_vllm": lambda job: reelscribe(job, "vllm"),
    "published": published,
    "generate_batches": generate_batches,
    "vllm_at_once": lambda job: Fed(job).fed_by(len(job.files()), ahead=len(job.files())),
    "nemo_curator": lambda job: Fed(job).fed_by(1, ahead=BATCH),
    "cosmos_curate": lambda job: Fed(job).fed_by(BATCH, ahead=2 * BATCH),
    "ray_data_llm": ray_data_llm,
}


def work(method: str, job: Job, line: Connection) -> None:
    """What the process of a method does: load, run once untimed, then run whenever it is told to."""
    run = METHODS[method](job)
    while True:
        began = time.perf_counter()
        took = run()
        line.send(took._replace(seconds=took.seconds or time.perf_counter() - began))
        if not line.recv():
            return


def main() -> None:
    from common import arguments, build_model, render_clips, save_result, workspace

    size = {"width": 320, "height": 240, "seconds": 4.0}
    args = arguments(
        __doc__, model="tiny", clips=96, candidates=4, tokens=64, rounds=3, methods=",".join(METHODS), **size
    )
    names = args.methods.split(",")
    spawning = multiprocessing.get_context("spawn")
    results: dict[str, dict[str, Any]] = {}
    with workspace() as folder:
        clips = folder / "clips"
        clips.mkdir()
        render_clips(clips, args.clips, width=args.width, height=args.height, seconds=args.seconds)
        model = build_model(args.model, folder)
        job = Job(str(model), str(clips), args.candidates, args.tokens, video_tokens=512)
        lines: dict[str, Connection] = {}
        for name in names:
            lines[name], other = spawning.Pipe()
            spawning.Process(target=work, args=(name, job, other), name=name).start()
            other.close()
            results[name] = {"prompt_tokens": statistics.mean(lines[name].recv().prompt_tokens or [0]), "seconds": []}
            print(name, "is ready", flush=True)
        for turn in range(args.rounds):
            for name, line in lines.items():
                line.send(True)
                results[name]["seconds"].append(round(line.recv().seconds, 3))
                print(turn, name, results[name]["seconds"][-1], flush=True)
        for line in lines.values():
            line.send(False)
        for process in multiprocessing.active_children():
            process.join(60)
    for result in results.values():
        result["median_seconds"] = statistics.median(result["seconds"])
        result["clips_per_second"] = round(args.clips / result["median_seconds"], 2)
    save_result(f"peers-{args.model}-{args.candidates}", {"settings": vars(args), "methods": results})


if __name__ == "__main__":
    main()
