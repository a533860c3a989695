"""Ways to caption files, each as a peer does it, for `peers.py`. A host is a process with one model for its ways."""

import asyncio
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

if TYPE_CHECKING:
    from reelscribe.config.groups import EngineName

T = TypeVar("T")

BATCH: Final = 16
KV_CACHE_BYTES: Final = 1 << 30
"""Of each vLLM on a CPU: three of them share the machine's memory."""
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
    """What all are given."""

    model: str
    folder: str
    tokens: int
    video_tokens: int
    most_candidates: int

    def settings(self, engine: "EngineName", candidates: int) -> Any:
        from reelscribe.config import Settings

        return Settings(
            model=self.model,
            engine=engine,
            num_captions=candidates,
            sampling={"max_tokens": self.tokens, "temperature": 1.0},
            max_video_tokens=self.video_tokens,
            batch_size=BATCH,
            model_params={"kv_cache_memory_bytes": KV_CACHE_BYTES} if engine == "vllm" and not on_gpu() else {},
        )


def on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


Run = Callable[[list[Path], int], list[int]]
"""Captions files with this many candidates each. Returns the tokens of each clip's prompt, or nothing."""


def transformers_engine(job: Job) -> dict[str, Run]:
    return {"reelscribe_transformers": reelscribe(job, "transformers")}


def vllm_engine(job: Job) -> dict[str, Run]:
    return {"reelscribe_vllm": reelscribe(job, "vllm")}


def reelscribe(job: Job, engine: "EngineName") -> Run:
    from common import requests_for

    from reelscribe.engines import load_engine
    from reelscribe.pipeline import caption

    loaded = load_engine(job.settings(engine, job.most_candidates))

    def run(files: list[Path], candidates: int) -> list[int]:
        settings = job.settings(engine, candidates)
        forget(loaded)
        made = list(caption(requests_for(files, settings), settings, loaded))
        assert all(len(item.candidates) == candidates for item in made)  # type: ignore[union-attr]
        return [item.meta["prompt_tokens"] for item in made]  # type: ignore[union-attr]

    return run


def forget(engine: Any) -> None:
    """Forget the clips of earlier rounds: those of a data set differ."""

    async def both() -> None:
        await engine._llm.reset_prefix_cache()
        await engine._llm.reset_encoder_cache()

    if hasattr(engine, "_llm"):
        asyncio.run_coroutine_threadsafe(both(), engine._loop).result()


def generate(job: Job) -> dict[str, Run]:
    import torch
    from baseline_serial import SerialBaseline

    from reelscribe.values import Clip
    from reelscribe.video.decode import decode

    baseline = SerialBaseline(job.settings("transformers", job.most_candidates))
    baseline.processor.tokenizer.padding_side = "left"

    def published(files: list[Path], candidates: int) -> list[int]:
        baseline.caption_files(files, num_captions=candidates, max_tokens=job.tokens)
        return []

    @torch.inference_mode()
    def in_batches(files: list[Path], candidates: int) -> list[int]:
        lengths: list[int] = []
        for group in in_groups(files, BATCH):
            frames = [decode(Clip(source=str(file)), baseline.budget) for file in group]
            inputs = baseline.inputs(*frames)
            lengths += inputs["attention_mask"].sum(1).tolist()
            ids = baseline.model.generate(
                **inputs,
                max_new_tokens=job.tokens,
                do_sample=True,
                temperature=1.0,
                num_return_sequences=candidates,
            )
            assert len(baseline.processor.tokenizer.batch_decode(ids)) == len(group) * candidates
        return lengths

    return {"published": published, "generate_batches": in_batches}


def in_groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Items by this many; fewer in the last group."""
    source = iter(items)
    while group := list(islice(source, size)):
        yield group


def vllm(job: Job) -> dict[str, Run]:
    fed = Fed(job)
    return {
        "vllm_at_once": fed.by(None, ahead=None),
        "nemo_curator": fed.by(1, ahead=BATCH),
        "cosmos_curate": fed.by(BATCH, ahead=2 * BATCH),
    }


class Fed:
    """vLLM's own `LLM`, fed with clips that this package's decoder and prompt made: only the feeding differs."""

    def __init__(self, job: Job, **arguments: Any) -> None:
        from vllm import LLM

        from reelscribe.engines.checkpoint import Checkpoint
        from reelscribe.engines.guard import Guard
        from reelscribe.engines.vllm import CORE_ENVIRONMENT
        from reelscribe.video.sampling import FrameBudget

        self.job = job
        self._checkpoint = Checkpoint.load(job.model, revision=None)
        self._budget = FrameBudget.of(job.settings("vllm", job.most_candidates), self._checkpoint.limits)
        self._guard = Guard()
        with self._guard.starting(CORE_ENVIRONMENT):
            self._llm = LLM(model=job.model, **vllm_arguments(job) | arguments)

    def prepare(self, request: Any) -> dict[str, Any]:
        """A clip to a prompt of vLLM."""
        from reelscribe.video.decode import decode

        return self.prompt(request, decode(request.clip, self._budget))

    def prompt(self, request: Any, frames: Any) -> dict[str, Any]:
        """A prompt of vLLM, of decoded frames."""
        from reelscribe.engines.prompt import Prompt

        times = list(frames.timestamps)
        metadata = {"fps": 1.0, "frames_indices": times, "total_num_frames": len(times), "do_sample_frames": False}
        return {
            "prompt": Prompt.of(self._checkpoint.processor, self._checkpoint.family, request).text,
            "multi_modal_data": {"video": [(frames.pixels, metadata)]},
            "mm_processor_kwargs": {"do_resize": False, "do_sample_frames": False},
        }

    def by(self, size: int | None, *, ahead: int | None) -> Run:
        """Calls of `generate` with `size` clips each, which are decoded in threads, `ahead` of them. None: all."""
        from common import requests_for

        def run(files: list[Path], candidates: int) -> list[int]:
            self.forget()
            asked = requests_for(files, self.job.settings("vllm", candidates))
            lengths: list[int] = []
            with ThreadPoolExecutor(os.cpu_count()) as threads:
                ready = ahead_of(threads, self.prepare, asked, ahead or len(files))
                for prompts in in_groups(ready, size or len(files)):
                    lengths += self.generate(prompts, candidates)
            return lengths

        return run

    def forget(self) -> None:
        """Forget the clips of earlier rounds: those of a data set differ."""
        self._llm.reset_prefix_cache()
        self._llm.llm_engine.reset_encoder_cache()

    def generate(self, prompts: list[dict[str, Any]], candidates: int) -> list[int]:
        """One call of vLLM's. Returns the tokens of each prompt."""
        from vllm import SamplingParams

        params = SamplingParams(n=candidates, temperature=1.0, max_tokens=self.job.tokens)
        made = self._llm.generate(prompts, params, use_tqdm=False)
        assert all(len(item.outputs) == candidates for item in made)
        return [len(item.prompt_token_ids) for item in made]


def ahead_of(threads: ThreadPoolExecutor, prepare: Callable[[Any], T], items: Iterable[Any], ahead: int) -> Iterator[T]:
    """What is made of each item, in order, with this many under way."""
    source = iter(items)
    under_way = deque(threads.submit(prepare, item) for item in islice(source, ahead))
    while under_way:
        yield under_way.popleft().result()
        under_way.extend(threads.submit(prepare, item) for item in islice(source, 1))


def vllm_arguments(job: Job) -> dict[str, Any]:
    """What every peer tells vLLM: one clip's videos alone, no cache of prepared clips, and on a CPU what it needs."""
    arguments = {
        "limit_mm_per_prompt": {"image": 0, "video": 1},
        "max_model_len": 8192,
        "max_num_batched_tokens": 8192,
        "mm_processor_cache_gb": 0,
        "disable_log_stats": True,
    }
    if not on_gpu():
        arguments |= {
            "dtype": "float32",
            "enforce_eager": True,
            "kv_cache_memory_bytes": KV_CACHE_BYTES,
            "distributed_executor_backend": "uni",
            "enable_chunked_prefill": False,
            "block_size": 32,
        }
    return arguments


TICKETS: Final = 10_000
"""Rows of the one data set that Ray Data LLM is given: more than are ever asked for."""


def ray(job: Job) -> dict[str, Run]:
    """Ray Data LLM on one data set that never ends, since it loads its model anew for each.

    A row of it is a ticket: it waits until a file says which clip it stands for, and with how many candidates. Prompts
    begin with the number of the call, or vLLM would know them from earlier rounds by its prefix cache, which cannot be
    reset from here. (Its cache of encoded clips holds 8,192 tokens: of a round of 64 clips none is left for the next.)
    """
    import ray

    folder = Path(job.folder).parent / "ray"
    for part in ("shim", "asked", "told"):
        (folder / part).mkdir(parents=True)
    (folder / "shim" / "sitecustomize.py").write_text(_MOVED)
    paths = os.pathsep.join([str(folder / "shim"), os.environ.get("PYTHONPATH", "")])
    # Its five pools of actors stand still with fewer than some six logical CPUs.
    environment = {"env_vars": {"PYTHONPATH": paths}}
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="ERROR", runtime_env=environment)
    ray.data.DataContext.get_current().enable_progress_bars = False
    exec(_MOVED, {})
    process = ray_processor(job, str(folder))
    blocks = ray.data.from_items(
        [{"ticket": number} for number in range(TICKETS)], override_num_blocks=TICKETS // BATCH
    )
    answers = process(blocks).iter_batches(batch_size=None, prefetch_batches=0)
    threading.Thread(target=lambda: deque(answers, maxlen=0), daemon=True).start()
    tickets, calls = count(), count()

    def run(files: list[Path], candidates: int) -> list[int]:
        if len(files) % BATCH:
            raise SystemExit(f"Ray Data LLM is given blocks of {BATCH} clips, so --clips must be a multiple of it.")
        numbers = list(islice(tickets, len(files)))
        sampling = {"n": candidates, "temperature": 1.0, "max_tokens": job.tokens}
        asked = {"call": str(next(calls)), "sampling_params": sampling}
        for number, file in zip(numbers, files, strict=True):
            put(folder / "asked" / str(number), asked | {"file": str(file)})
        told = [folder / "told" / str(number) for number in numbers]
        while not all(file.exists() for file in told):
            time.sleep(0.05)
        return [int(file.read_text()) for file in told]

    return {"ray_data_llm": run}


def ray_processor(job: Job, folder: str) -> Any:
    """Ray Data LLM's stages, from tickets to answers in files."""
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
    prompt = {"type": "text", "text": DEFAULT_PROMPT}

    # Its workers know nothing of this module: what is theirs refers to plain values alone.
    def ask(row: dict[str, Any]) -> dict[str, Any]:
        from pathlib import Path

        asked = Path(folder, "asked", str(row["ticket"]))
        while not asked.exists():
            time.sleep(0.02)
        given = json.loads(asked.read_text())
        video = {"type": "video_url", "video_url": {"url": f"file://{given['file']}"}}
        messages = [{"role": "user", "content": [{"type": "text", "text": given["call"]}, video, prompt]}]
        return {"ticket": row["ticket"], "messages": messages, "sampling_params": given["sampling_params"]}

    def tell(row: dict[str, Any]) -> dict[str, Any]:
        from pathlib import Path

        told = Path(folder, "told", str(row["ticket"]))
        part = told.with_suffix(".part")
        part.write_text(str(row["num_input_tokens"]))
        part.rename(told)
        return {"ticket": row["ticket"]}

    return build_processor(config, preprocess=ask, postprocess=tell)


def put(file: Path, content: dict[str, Any]) -> None:
    """Write a file that others see only when it is whole."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(content))
    part.rename(file)


HOSTS: Final[dict[str, Callable[[Job], dict[str, Run]]]] = {
    "transformers_engine": transformers_engine,
    "vllm_engine": vllm_engine,
    "generate": generate,
    "vllm": vllm,
    "ray": ray,
}
WAYS: Final = {
    "reelscribe_transformers": "transformers_engine",
    "reelscribe_vllm": "vllm_engine",
    "published": "generate",
    "generate_batches": "generate",
    "vllm_at_once": "vllm",
    "nemo_curator": "vllm",
    "cosmos_curate": "vllm",
    "ray_data_llm": "ray",
}
"""Each way's host."""
