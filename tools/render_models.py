"""Writes the table of families in docs/models.md from what tiny checkpoints of them show. Tests hold it to that."""

import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- families: python tools/render_models.py -->", "<!-- end -->"
NAMES = {
    "qwen2_5_vl": "Qwen2.5-VL",
    "qwen3_vl": "Qwen3-VL",
    "qwen3_vl_moe": "Qwen3-VL, mixtures",
    "qwen3_5": "Qwen3.5, Qwen3.6",
    "qwen3_5_moe": "Qwen3.5, Qwen3.6, mixtures",
    "qwen3_omni_thinker": "Qwen3-Omni's thinker",
    "glm4v": "GLM-4.1V",
    "glm4v_moe": "GLM-4.5V",
    "glm46v": "GLM-4.6V",
    "video_llama_3": "VideoLLaMA3",
    "lfm3_vl": "LFM3-VL",
    "internvl": "InternVL3, InternVL3.5 (`-HF`)",
    "llava_onevision": "LLaVA-OneVision",
    "llava_next_video": "LLaVA-NeXT-Video",
    "molmo2": "Molmo2",
    "gemma4_small": "Gemma 4, small",
    "gemma4_large": "Gemma 4, large",
    "ernie4_5_vl": "Ernie 4.5 VL",
    "kimi_k2_5": "Kimi-K2.5",
    "smolvlm": "SmolVLM2",
    "perception_lm": "PerceptionLM",
    "minicpm_v4_6": "MiniCPM-V 4.6",
    "gemma3": "Gemma 3",
    "mistral3": "Mistral Small 3 (as `mistral3`)",
    "llava": "LLaVA 1.5",
}
TIMES = {"words": "in words", "positions": "by positions", "drawn": "drawn into frames", "none": "**not at all**"}
LAYERS = {
    "DynamicLayer": "full",
    "DynamicSlidingWindowLayer": "windows",
    "LinearAttentionLayer": "states",
}


def row(name: str, family: Any, config: Any) -> str:
    """A line of the table.

    Args:
        name: of the tiny checkpoint.
        family: what its processor showed.
        config: of its language model.
    """
    from transformers import DynamicCache

    from reelscribe.engines.branching import can_branch

    own = family.limits.own_size
    cost = "ours; a token for each square" if not own else "a constant a frame" if own.step is None else "by shape"
    held = DynamicCache(config=config).layers
    kinds = {LAYERS[type(layer).__name__] for layer in held if type(layer).__name__ in LAYERS}
    borrowed = ["borrowed keys"] if getattr(config, "num_kv_shared_layers", None) else []
    layers = ", ".join([*(kind for kind in LAYERS.values() if kind in kinds), *borrowed])
    layers = layers if can_branch(config, held) else "others: repeated"
    pixels = "cut here" if family.cut else "its processor's"
    shown = "images" if family.stills else "a video"
    return f"| {NAMES[name]} | {shown} | {TIMES[family.times]} | {cost} | {pixels} | {layers} |"


def render(rows: list[str]) -> str:
    """The page with these lines in its table."""
    head = [
        "| family | shown as | times | size and cost of frames | pixels | layers |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    before, rest = PAGE.read_text("utf-8").split(BEGIN)
    return before + "\n".join([BEGIN, "", *head, *rows, "", END]) + rest.partition(END)[2]


def main() -> None:
    """Make the checkpoints, and write the page."""
    sys.path.insert(0, str(ROOT / "tests"))
    import tiny_checkpoints

    from reelscribe.engines.checkpoint import Checkpoint

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in tiny_checkpoints.NAMES:
            made = Checkpoint.load(str(tiny_checkpoints.make(name, Path(folder) / name)), revision=None)
            rows.append(row(name, made.family, made.config.get_text_config()))
    PAGE.write_text(render(rows), "utf-8")


if __name__ == "__main__":
    main()
