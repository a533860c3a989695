"""What the benchmarks share: models from configurations, clips, interleaved timing, results."""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from transformers import AutoProcessor, GenerationConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from reelscribe import model_path
from reelscribe.config import Settings
from reelscribe.demo import write_clip
from reelscribe.models.shapes.scenes import random_scene
from reelscribe.runners.record import hardware, versions
from reelscribe.tasks import DEFAULT_PROMPT
from reelscribe.values import Clip, Request, RequestId, Work
from reelscribe.video.decode import decode
from reelscribe.video.sampling import FrameBudget, VisionLimits

RESULTS = Path(__file__).parent / "results"

_SHAPES: Final[dict[str, dict[str, Any]]] = {
    "tiny": {
        "text": (256, 768, 4, 4, 2, 64, 1024),
        "vision": (192, 576, 4, 3, [0, 1, 2]),
        "mrope": [12, 10, 10],
    },
    "small": {
        "text": (768, 2048, 10, 12, 4, 64, 8192),
        "vision": (384, 1536, 8, 6, [1, 3, 5]),
        "mrope": [12, 10, 10],
    },
    "qwen3-vl-8b": {
        "text": (4096, 12288, 36, 32, 8, 128, 151936),
        "vision": (1152, 4304, 27, 16, [8, 16, 24]),
        "mrope": [24, 20, 20],
    },
}
"""text: hidden, intermediate, layers, heads, key-value heads, head size, vocabulary; vision: hidden, intermediate,
depth, heads, layers of deepstack. The last is Qwen/Qwen3-VL-8B-Instruct's config.json."""


def build_model(name: str, folder: Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """Write a checkpoint of a named shape with random weights.

    It never says its end token, so that every candidate is as long as is allowed.
    """
    shape = _SHAPES[name]
    processor = AutoProcessor.from_pretrained(model_path("shapes"))
    processor.video_processor.max_video_tokens = 768
    processor.video_processor.min_frames, processor.video_processor.max_frames = 4, 768
    ids = processor.tokenizer.convert_tokens_to_ids
    hidden, inner, layers, heads, kv_heads, head, vocabulary = shape["text"]
    v_hidden, v_inner, depth, v_heads, deepstack = shape["vision"]
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": shape["mrope"], "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": hidden,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head,
            "max_position_embeddings": 262144,
            "rope_parameters": rope,
        },
        vision_config={
            "hidden_size": v_hidden,
            "intermediate_size": v_inner,
            "depth": depth,
            "num_heads": v_heads,
            "out_hidden_size": hidden,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": deepstack,
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen3VLForConditionalGeneration._from_config(config, dtype=dtype)
    model.generation_config = GenerationConfig(eos_token_id=vocabulary + 1, pad_token_id=0, max_new_tokens=64)
    target = folder / name
    model.save_pretrained(target)
    processor.save_pretrained(target)
    return target


def render_clips(
    folder: Path, count: int, *, width: int = 320, height: int = 240, fps: int = 24, seconds: float = 4.0
) -> list[Path]:
    """Render clips as H.264."""
    rng = np.random.default_rng(5)
    files = [folder / f"{number:05d}.mp4" for number in range(count)]
    for file in files:
        write_clip(file, random_scene(rng), width=width, height=height, fps=fps, seconds=seconds)
    return files


def requests_for(files: list[Path], settings: Settings) -> list[Request]:
    """One request a file, as the settings say."""
    return [
        Request(
            id=RequestId(row=number),
            clip=Clip(source=str(file)),
            prompt=DEFAULT_PROMPT,
            num_captions=settings.num_captions,
            sampling=settings.sampling_params(),
            seed=number,
        )
        for number, file in enumerate(files)
    ]


def prepared_for(files: list[Path], settings: Settings, limits: VisionLimits) -> list[Work]:
    """The same, with their clips decoded."""
    budget = FrameBudget.of(settings, limits)
    return [Work(requests=(item,), frames=decode(item.clip, budget)) for item in requests_for(files, settings)]


def interleaved(methods: dict[str, Callable[[], Any]], *, rounds: int) -> dict[str, dict[str, Any]]:
    """Time methods in turn (A, B, A, B, ...) after one untimed call of each, so that what drifts hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for method in methods.values():
        method()
    for _ in range(rounds):
        for name, method in methods.items():
            began = time.perf_counter()
            method()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - began)
    return {
        name: {"median_seconds": round(statistics.median(taken), 4), "seconds": [round(s, 4) for s in taken]}
        for name, taken in seconds.items()
    }


@contextmanager
def workspace() -> Iterator[Path]:
    """A folder that goes away."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def save_result(name: str, result: dict[str, Any]) -> None:
    """Print a result and keep it as results/NAME-HARDWARE.json."""
    machine = hardware()
    label = machine["gpus"][0].replace(" ", "-").lower() if machine["gpus"] else f"cpu{machine['cores']}"
    record = {
        "benchmark": name,
        "date": date.today().isoformat(),
        "hardware": machine,
        "versions": versions(),
        **result,
    }
    text = json.dumps(record, indent=1)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}-{label}.json").write_text(text + "\n")


def arguments(description: str | None, **defaults: Any) -> argparse.Namespace:
    """Command-line options, one for each default."""
    parser = argparse.ArgumentParser(description=description)
    for option, default in defaults.items():
        parser.add_argument(f"--{option.replace('_', '-')}", type=type(default), default=default)
    return parser.parse_args()
