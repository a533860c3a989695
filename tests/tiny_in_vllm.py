"""Tiny checkpoints as vLLM is configured for them, without an engine that runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import tiny_checkpoints
from transformers import AutoConfig

from reelscribe.config import Settings
from reelscribe.engines import vllm_clips
from reelscribe.engines.checkpoint import Checkpoint
from reelscribe.video.sampling import FrameBudget

LONG: Final = 32768
"""Tokens that a prompt may have."""
WHOLE_OMNI: Final = "qwen3_omni"
NAMES: Final = (
    *(name for name in tiny_checkpoints.NAMES if name != "ernie4_5_vl"),
    WHOLE_OMNI,
)
"""Families, but for Ernie: its processor needs a font."""


def make(name: str, folder: Path) -> Path:
    """Save a checkpoint of a family; see `tiny_checkpoints.make`."""
    if name == WHOLE_OMNI:
        return _with_talker(tiny_checkpoints.make("qwen3_omni_thinker", folder))
    with pytest.MonkeyPatch.context() as patch:
        if name == "gemma3":  # for which vLLM looks up tokens of line breaks
            breaks = ["\n" * count for count in range(1, 5)]
            real = tiny_checkpoints._tokenizer
            patch.setattr(tiny_checkpoints, "_tokenizer", lambda special, **more: real([*special, *breaks], **more))
        return tiny_checkpoints.make(name, folder)


def _with_talker(folder: Path) -> Path:
    """Qwen3-Omni as vLLM takes it; the Transformers engine runs its thinker."""
    from transformers import Qwen3OmniMoeConfig

    thinker = AutoConfig.from_pretrained(folder)
    words = {"enable_audio_output": False, "architectures": ["Qwen3OmniMoeForConditionalGeneration"]}
    Qwen3OmniMoeConfig(thinker_config=thinker.to_dict(), **words).save_pretrained(folder)
    return folder


@contextmanager
def quick_look() -> Iterator[None]:
    """Let vLLM look at its classes in this process, and not each in another one, which takes ten seconds."""
    from vllm.model_executor.models import registry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_run_in_subprocess", lambda look: look())
        yield


def budget_of(checkpoint: Checkpoint, *, audio: bool = False) -> FrameBudget:
    """What a run looks at by default, and whether it hears."""
    return FrameBudget.of(Settings(audio=audio), checkpoint.limits)


def config_of(checkpoint: Checkpoint, *, audio: bool = False, **args: Any) -> Any:
    """What vLLM is configured with."""
    from vllm import AsyncEngineArgs

    told = {
        "dtype": "bfloat16",
        "mm_processor_cache_gb": 0,
        "max_model_len": LONG,
        "max_num_batched_tokens": 1024,
        "hf_overrides": _longer,
        "block_size": 32,
        "kv_cache_memory_bytes": 1 << 28,
    }
    largest = vllm_clips.largest_clip(checkpoint, budget_of(checkpoint, audio=audio))
    return AsyncEngineArgs(model=checkpoint.path, **{**told, **largest, **args}).create_engine_config()


def _longer(config: Any) -> Any:
    config.get_text_config().max_position_embeddings = LONG
    return config
