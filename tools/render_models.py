"""Writes the tables of families in docs/models.md from what tiny checkpoints of them show. Tests hold it to that.

In an environment with vLLM it writes the table of what vLLM makes of them, else the one of the Transformers engine.
"""

import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- families: python tools/render_models.py -->", "<!-- end -->"
BEGIN_VLLM = "<!-- vLLM: .venv-vllm/bin/python tools/render_models.py -->"
NAMES = {
    "qwen2_5_vl": "Qwen2.5-VL",
    "qwen3_vl": "Qwen3-VL",
    "qwen3_vl_moe": "Qwen3-VL, mixtures",
    "qwen3_5": "Qwen3.5, Qwen3.6",
    "qwen3_5_moe": "Qwen3.5, Qwen3.6, mixtures",
    "qwen3_omni_thinker": "Qwen3-Omni's thinker",
    "qwen3_omni": "Qwen3-Omni, whole",
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


def row_in_vllm(name: str, family: Any, fault: str | None) -> str:
    """A line of vLLM's table.

    Args:
        name: of the tiny checkpoint.
        family: what its processor showed.
        fault: that vLLM's clips have, with sound if the model takes it; see `vllm_clips.fault_of`.
    """
    shown = "images" if family.stills else "a video, with sound beside it" if family.sound else "a video"
    said = f"refused: {fault.partition(' (')[0]}" if fault else shown
    return f"| {NAMES[name]} | {said} |"


def render(begin: str, columns: list[str], rows: list[str]) -> str:
    """The page with these lines in one of its tables."""
    head = [f"| {' | '.join(each)} |" for each in (columns, ["---"] * len(columns))]
    before, rest = PAGE.read_text("utf-8").split(begin)
    end = rest.index(END)
    return before + "\n".join([begin, "", *head, *rows, "", ""]) + rest[end:]


def main() -> None:
    """Make the checkpoints, and write the page."""
    sys.path.insert(0, str(ROOT / "tests"))
    with tempfile.TemporaryDirectory() as folder:
        if importlib.util.find_spec("vllm"):
            page = render(BEGIN_VLLM, ["family", "shown as"], _rows_in_vllm(Path(folder)))
        else:
            columns = ["family", "shown as", "times", "size and cost of frames", "pixels", "layers"]
            page = render(BEGIN, columns, _rows(Path(folder)))
    PAGE.write_text(page, "utf-8")


def _rows(folder: Path) -> list[str]:
    import tiny_checkpoints

    from reelscribe.engines.checkpoint import Checkpoint

    rows = []
    for name in tiny_checkpoints.NAMES:
        made = Checkpoint.load(str(tiny_checkpoints.make(name, folder / name)), revision=None)
        rows.append(row(name, made.family, made.config.get_text_config()))
    return rows


def _rows_in_vllm(folder: Path) -> list[str]:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    import tiny_in_vllm

    from reelscribe.engines.checkpoint import Checkpoint
    from reelscribe.engines.vllm_clips import fault_of

    rows = []
    with tiny_in_vllm.quick_look():
        for name in tiny_in_vllm.NAMES:
            made = Checkpoint.load(str(tiny_in_vllm.make(name, folder / name)), revision=None)
            hearing = made.limits.hearing
            fault = fault_of(tiny_in_vllm.config_of(made, audio=bool(hearing)), made, hearing)
            rows.append(row_in_vllm(name, made.family, fault))
    return rows


if __name__ == "__main__":
    main()
