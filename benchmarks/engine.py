"""Frames in memory to captions: what the engine alone takes, and where its time goes."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from baseline_serial import SerialBaseline
from common import (
    arguments,
    build_model,
    interleaved,
    prepared_for,
    render_clips,
    save_result,
    workspace,
)
from memory import peak_memory_bytes

from reelscribe.config import Settings
from reelscribe.engines import load_engine
from reelscribe.engines.feed import ReadyItems
from reelscribe.engines.inputs import InputBuilder
from reelscribe.engines.running import RunningBatch
from reelscribe.engines.sampling import Sampler
from reelscribe.engines.transformers import TransformersEngine


class Stopwatch:
    """Adds up the seconds spent inside functions, and keeps those of the first call."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.first: dict[str, float] = {}

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            result = function(*args, **kwargs)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            taken = time.perf_counter() - began
            self.seconds[name] = self.seconds.get(name, 0.0) + taken
            self.first.setdefault(name, taken)
            return result

        return timed


def time_parts(engine: TransformersEngine, run: Callable[[], Any]) -> dict[str, float]:
    """Seconds of one run by part. `waiting` is when the engine had nothing to do."""
    watch, model = Stopwatch(), engine._model
    parts: dict[str, tuple[Any, str]] = {
        "collate": (InputBuilder, "collate"),
        "vision": (model.model.visual, "forward"),
        "prefill": (RunningBatch, "_read"),
        "questions": (RunningBatch, "_ask"),
        "decode_steps": (RunningBatch, "step"),
        "sampling": (Sampler, "step"),
        "waiting": (ReadyItems, "wait"),
    }
    originals = {name: getattr(owner, attribute) for name, (owner, attribute) in parts.items()}
    for name, (owner, attribute) in parts.items():
        setattr(owner, attribute, watch.wrap(name, originals[name]))
    began = time.perf_counter()
    run()
    total = time.perf_counter() - began
    for name, (owner, attribute) in parts.items():
        setattr(owner, attribute, originals[name])
    seconds = watch.seconds
    seconds["decode_steps"] -= seconds["sampling"]
    seconds["prefill"] -= seconds["vision"] + seconds["collate"]
    seconds["other"] = total - sum(seconds.values())
    started = watch.first["waiting"]
    seconds |= {"total": total, "busy_share_after_start": 1 - (seconds["waiting"] - started) / (total - started)}
    return {name: round(value, 4) for name, value in seconds.items()}


def main() -> None:
    size = {"width": 320, "height": 240, "seconds": 4.0}
    args = arguments(__doc__, model="tiny", clips=16, candidates=4, tokens=64, rounds=3, batch_size=16, **size)
    with workspace() as folder:
        dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
        settings = Settings(
            model=str(build_model(args.model, folder, dtype=dtype)),
            num_captions=args.candidates,
            sampling={"max_tokens": args.tokens, "temperature": 1.0},
            batch_size=args.batch_size,
        )
        engine = load_engine(settings)
        assert isinstance(engine, TransformersEngine)
        files = render_clips(folder, args.clips, width=args.width, height=args.height, seconds=args.seconds)
        prepared = prepared_for(files, settings, engine.info.limits)
        baseline = SerialBaseline(settings)

        def serial() -> Iterator[list[str]]:
            for item in prepared:
                yield baseline.caption_frames(item.frames, num_captions=args.candidates, max_tokens=args.tokens)

        timed = interleaved(
            {
                "reelscribe": lambda: list(engine.generate(iter(prepared))),
                "baseline_serial": lambda: list(serial()),
            },
            rounds=args.rounds,
        )
        parts = time_parts(engine, lambda: list(engine.generate(iter(prepared))))
    ratio = timed["baseline_serial"]["median_seconds"] / timed["reelscribe"]["median_seconds"]
    result = {
        "settings": vars(args),
        "video_tokens": prepared[0].frames.video_tokens,
        **timed,
        "speedup": round(ratio, 2),
    }
    result |= {"seconds_by_part": parts, "peak_memory_bytes": peak_memory_bytes()}
    save_result(f"engine-{args.model}-{args.candidates}", result)


if __name__ == "__main__":
    main()
