"""Files to captions: reelscribe against the published method, same model, same clips, same machine, in one run."""

from typing import Any

import torch
from baseline_serial import SerialBaseline
from common import (
    arguments,
    build_model,
    interleaved,
    render_clips,
    requests_for,
    save_result,
    workspace,
)
from engine import time_parts
from memory import peak_memory_bytes

from reelscribe.config import Settings
from reelscribe.config.groups import Dtype
from reelscribe.engines import load_engine
from reelscribe.engines.transformers import TransformersEngine
from reelscribe.pipeline import caption


def main() -> None:
    size = {"width": 320, "height": 240, "seconds": 4.0, "dtype": ""}
    args = arguments(__doc__, model="tiny", clips=16, candidates=4, tokens=64, rounds=3, batch_size=16, **size)
    dtype: Dtype = args.dtype or ("bfloat16" if torch.cuda.is_available() else "float32")
    with workspace() as folder:
        files = render_clips(folder, args.clips, width=args.width, height=args.height, seconds=args.seconds)
        sampling = {"max_tokens": args.tokens, "temperature": 1.0}
        settings = Settings(
            model=str(build_model(args.model, folder, dtype=getattr(torch, dtype))),
            num_captions=args.candidates,
            sampling=sampling,
            batch_size=args.batch_size,
            dtype=dtype,
        )
        engine = load_engine(settings)
        assert isinstance(engine, TransformersEngine)
        baseline = SerialBaseline(settings)

        def ours() -> None:
            made = list(caption(requests_for(files, settings), settings, engine))
            assert all(len(item.candidates) == args.candidates for item in made)  # type: ignore[union-attr]

        timed = interleaved(
            {
                "reelscribe": ours,
                "baseline_serial": lambda: baseline.caption_files(
                    files, num_captions=args.candidates, max_tokens=args.tokens
                ),
            },
            rounds=args.rounds,
        )
        parts = time_parts(engine, ours)
    for item in timed.values():
        item["captions_per_second"] = round(args.clips * args.candidates / item["median_seconds"], 2)
    ratio = timed["baseline_serial"]["median_seconds"] / timed["reelscribe"]["median_seconds"]
    result: dict[str, Any] = {"settings": vars(args) | {"dtype": dtype}, **timed, "speedup": round(ratio, 2)}
    result |= {"seconds_by_part": parts, "peak_memory_bytes": peak_memory_bytes()}
    save_result(f"end-to-end-{args.model}-{args.candidates}-{dtype}", result)


if __name__ == "__main__":
    main()
