"""The real Qwen3-VL-8B shape on a GPU, in one command: speed, use of the card, and what each way of attention adds.

Random weights, bfloat16; 64 rendered clips of 10 s at 720p, 20 frames, 4 candidates x 128 tokens. The published method
is timed on a few of the clips, and counted per clip. Runs on a CPU, too, to see that it works (`--model tiny`).
"""

import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from baseline_serial import SerialBaseline
from common import arguments, build_model, render_clips, requests_for, save_result, workspace
from engine import time_parts
from memory import peak_memory_bytes

from reelscribe.config import Settings
from reelscribe.engines.transformers import TransformersEngine, load
from reelscribe.pipeline import caption
from reelscribe.values import Failure, Request, Work
from reelscribe.video.decode import decode
from reelscribe.video.sampling import FrameBudget

PEAK_FLOPS: Final = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}
"""Dense bfloat16, by NVIDIA's data sheets."""
VARIANTS: Final[dict[str, dict[str, Any]]] = {
    "sdpa": {},
    "flash_attention_2": {"attn_implementation": "flash_attention_2"},
    "eager": {"attn_implementation": "eager"},
    "compiled": {},
}
"""Each by what it adds to `model_params`. "compiled" is sdpa with the language model's steps compiled."""


def prefill_flops(model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, float]:
    """Floating-point operations of one vision pass and one prefill: two for each weight and token, and attention.

    Products of matrices alone are counted, as is usual for model FLOPs utilisation: the weights of linear layers, and
    in attention two products of queries' length by keys' length, halved where it is causal. Patches attend within
    their pair of frames. The embedding is a look-up; the output layer sees one token a clip, and is left out.
    """
    text, vision = model.config.get_text_config(), model.config.vision_config
    mergers = [model.model.visual.merger, *model.model.visual.deepstack_merger_list]
    merging = sum(
        item.weight.numel() for part in mergers for item in part.modules() if isinstance(item, torch.nn.Linear)
    )
    grids = inputs["video_grid_thw"].tolist()
    patches = sum(t * h * w for t, h, w in grids)
    lengths = inputs["attention_mask"].sum(1).tolist()
    width = text.num_attention_heads * text.head_dim
    embedding = model.model.visual.patch_embed.proj.weight.numel()
    among_patches = vision.depth * sum(4 * t * (h * w) ** 2 * vision.hidden_size for t, h, w in grids)
    per_patch = weights_of(model.model.visual.blocks) + embedding + merging / 4
    return {
        "vision": 2 * patches * per_patch + among_patches,
        "prefill": 2 * sum(lengths) * weights_of(model.model.language_model)
        + text.num_hidden_layers * sum(2 * length**2 * width for length in lengths),
    }


def weights_of(module: torch.nn.Module) -> int:
    """Weights of the linear layers."""
    return sum(item.weight.numel() for item in module.modules() if isinstance(item, torch.nn.Linear))


def seconds_of(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def count_waits(run: Callable[[], Any]) -> dict[str, int]:
    """How often the host waited for the card, by line of code, as PyTorch's debug mode for that says."""
    if not torch.cuda.is_available():
        return {}
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = [f"{Path(each.filename).name}:{each.lineno}" for each in seen if "synchroniz" in str(each.message)]
    return dict(Counter(places).most_common())


def measure(engine: TransformersEngine, settings: Settings, asked: list[Request], rounds: int) -> dict[str, Any]:
    """Seconds of whole runs, by part, and what the card made of the prefill."""

    def run() -> None:
        made = list(caption(asked, settings, engine))
        failed = [outcome for outcome in made if isinstance(outcome, Failure)]
        if failed or len(made) != len(asked):
            raise RuntimeError(f"{len(failed)} of {len(asked)} clips failed: {failed[:1]}")

    run()  # warm
    taken = [seconds_of(run) for _ in range(rounds)]
    parts = time_parts(engine, run)
    frames = decode(asked[0].clip, FrameBudget.of(settings, engine.info.limits))
    work = Work(requests=(asked[0],), frames=frames)
    return {
        "median_seconds": round(statistics.median(taken), 3),
        "clips_per_second": round(len(asked) / statistics.median(taken), 3),
        "seconds_by_part": parts,
        "waits": count_waits(run),
        "video_tokens": frames.video_tokens,
        **mfu_of(engine, work, len(asked), parts),
    }


def mfu_of(engine: TransformersEngine, work: Work, clips: int, parts: dict[str, float]) -> dict[str, Any]:
    """Model FLOPs utilisation of vision and prefill, of this many clips like one, which took so long by part."""
    flops = prefill_flops(engine._model, engine.inputs([work]))
    rate = clips * sum(flops.values()) / (parts["vision"] + parts["prefill"])
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    peak = next((each for name, each in PEAK_FLOPS.items() if name in card), None)
    return {
        "flops_per_clip": flops,
        "prefill_flops_per_second": rate,
        "peak_flops_per_second": peak,
        "prefill_mfu": round(rate / peak, 3) if peak else None,
    }


def try_variant(name: str, settings: Settings, asked: list[Request], rounds: int) -> dict[str, Any]:
    """Measure one; a way of attention that is not there is a result, too."""
    try:
        engine = load(replace(settings, model_params=VARIANTS[name]))
        if name == "compiled":
            engine._model.model.language_model.compile(dynamic=True)
        return measure(engine, settings, asked, rounds)
    except Exception as exc:  # kernels and compilers raise all kinds of errors
        return {"error": f"{type(exc).__name__}: {exc}".partition("\n")[0][:300]}


def time_baseline(settings: Settings, files: list[Path], tokens: int) -> float:
    """Seconds a clip of the published method."""
    baseline = SerialBaseline(settings)
    taken = seconds_of(lambda: baseline.caption_files(files, num_captions=settings.num_captions, max_tokens=tokens))
    return taken / len(files)


def main() -> None:
    size = {"width": 1280, "height": 720, "seconds": 10.0}
    counts = {"clips": 64, "baseline_clips": 2, "candidates": 4, "tokens": 128, "rounds": 3}
    args = arguments(__doc__, model="qwen3-vl-8b", **counts, **size)
    with workspace() as folder:
        dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
        files = render_clips(folder, args.clips, width=args.width, height=args.height, seconds=args.seconds)
        settings = Settings(
            model=str(build_model(args.model, folder, dtype=dtype)),
            num_captions=args.candidates,
            batch_size=args.clips,
            sampling={"max_tokens": args.tokens, "temperature": 1.0},
        )
        asked = requests_for(files, settings)
        variants = {}
        for name in VARIANTS:
            variants[name] = try_variant(name, settings, asked, args.rounds)
            print(name, variants[name], flush=True)
            torch.cuda.empty_cache()
        per_clip = time_baseline(settings, files[: args.baseline_clips], args.tokens)
    best = min(item["median_seconds"] for item in variants.values() if "median_seconds" in item)
    result = {
        "settings": vars(args),
        "variants": variants,
        "baseline_serial_seconds_per_clip": round(per_clip, 3),
        "speedup_of_best": round(per_clip * args.clips / best, 2),
        "peak_memory_bytes": peak_memory_bytes(),
        "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
    }
    save_result(f"gpu-{args.model}", result)


if __name__ == "__main__":
    main()
