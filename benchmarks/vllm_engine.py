"""Frames in memory to captions with vLLM: reelscribe, raw `LLM.generate` over all requests, and the published method.

The published method, with vLLM: one request at a time, a call of `generate` for each candidate. All get the same model,
frames, arguments and sampling parameters, in one run, in turns; both engines are loaded beforehand.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import psutil
import torch
from common import arguments, build_model, interleaved, prepared_for, render_clips, save_result, workspace
from memory import peak_memory_bytes
from vllm import LLM

from reelscribe.config import Settings
from reelscribe.engines.guard import Guard
from reelscribe.engines.prompt import Prompt
from reelscribe.engines.vllm import CORE_ENVIRONMENT, VllmEngine, load
from reelscribe.values import Work


class Raw:
    """vLLM's own offline engine, loaded with the same arguments."""

    def __init__(self, engine: VllmEngine) -> None:
        self._guard = Guard()
        with self._guard.starting(CORE_ENVIRONMENT):
            self._llm = LLM(**engine.engine_args)
        self._engine = engine

    def forget(self) -> None:
        """Forget the prefixes of earlier runs: clips of a data set differ."""
        assert self._llm.reset_prefix_cache()

    def prompt(self, item: Work) -> dict[str, Any]:
        times = list(item.frames.timestamps)
        metadata = {"fps": 1.0, "frames_indices": times, "total_num_frames": len(times), "do_sample_frames": False}
        return {
            "prompt": Prompt.of(self._engine._processor, self._engine._family, item.requests[0]).text,
            "multi_modal_data": {"video": [(item.frames.pixels, metadata)]},
            "mm_processor_kwargs": {"do_resize": False, "do_sample_frames": False},
        }

    def params(self, item: Work) -> Any:
        request = item.requests[0]
        return self._engine.to_vllm(request.sampling, request.num_captions, request.seed)

    def all_at_once(self, prepared: list[Work]) -> None:
        """Every request in one call."""
        self.forget()
        prompts, params = [self.prompt(item) for item in prepared], [self.params(item) for item in prepared]
        self._llm.generate(prompts, params, use_tqdm=False)

    def serial(self, prepared: list[Work]) -> None:
        """One request, one candidate at a time."""
        self.forget()
        for item in prepared:
            params = self.params(item)
            params.n = 1
            for _ in range(item.requests[0].num_captions):
                params.seed += 1
                self._llm.generate([self.prompt(item)], params, use_tqdm=False)


class Gauge:
    """Counts the bytes of frames that an engine holds: of requests pulled and not yet answered."""

    def __init__(self, engine: VllmEngine) -> None:
        self._engine = engine
        self.most_bytes = 0

    def run(self, prepared: list[Work]) -> None:
        asyncio.run_coroutine_threadsafe(self._engine._llm.reset_prefix_cache(), self._engine._loop).result()
        sizes = {item.requests[0].id: item.frames.pixels.nbytes for item in prepared}
        held = 0

        def source() -> Iterator[Work]:
            nonlocal held
            for item in prepared:
                held += sizes[item.requests[0].id]
                self.most_bytes = max(self.most_bytes, held)
                yield item

        for answer in self._engine.generate(source()):
            assert len(answer.candidates) == prepared[0].requests[0].num_captions  # type: ignore[union-attr]
            held -= sizes[answer.id]


def peaks() -> dict[str, int]:
    """Most memory that each process below this one has had, in bytes."""
    found = {}
    for child in psutil.Process().children(recursive=True):
        if "VLLM" in (name := child.cmdline()[0]):
            found[f"{name} {child.pid}"] = peak_memory_bytes(child.pid)
    return found


def main() -> None:
    size = {"width": 320, "height": 240, "seconds": 4.0}
    args = arguments(__doc__, model="tiny", clips=64, candidates=4, tokens=64, rounds=3, prefetch_mib=96, **size)
    with workspace() as folder:
        dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
        settings = Settings(
            model=str(build_model(args.model, folder, dtype=dtype)),
            engine="vllm",
            num_captions=args.candidates,
            sampling={"max_tokens": args.tokens, "temperature": 1.0},
            prefetch_bytes=args.prefetch_mib << 20,
            max_video_tokens=512,
        )
        engine = load(settings)
        assert isinstance(engine, VllmEngine)
        files = render_clips(folder, args.clips, width=args.width, height=args.height, seconds=args.seconds)
        prepared = prepared_for(files, settings, engine.info.limits)
        gauge = Gauge(engine)
        gauge.run(prepared)
        memory = {"peak_memory_bytes": peak_memory_bytes(), "peak_memory_bytes_of_vllm": peaks()}
        raw = Raw(engine)
        timed = interleaved(
            {
                "reelscribe": lambda: gauge.run(prepared),
                "raw_generate": lambda: raw.all_at_once(prepared),
                "baseline_serial": lambda: raw.serial(prepared),
            },
            rounds=args.rounds,
        )
        engine.close()
    for item in timed.values():
        item["captions_per_second"] = round(args.clips * args.candidates / item["median_seconds"], 2)
    ours = timed["reelscribe"]["median_seconds"]
    bound = {
        "bytes_of_all_frames": sum(item.frames.pixels.nbytes for item in prepared),
        "most_bytes_in_flight": gauge.most_bytes,
        "bound_bytes": settings.prefetch_bytes,
    }
    assert gauge.most_bytes <= settings.prefetch_bytes
    result = {"settings": vars(args), "video_tokens": prepared[0].frames.video_tokens, **timed, **bound, **memory}
    result |= {
        "speedup": round(timed["baseline_serial"]["median_seconds"] / ours, 2),
        "share_of_raw": round(timed["raw_generate"]["median_seconds"] / ours, 3),
    }
    save_result(f"vllm-engine-{args.model}-{args.candidates}", result)


if __name__ == "__main__":
    main()
