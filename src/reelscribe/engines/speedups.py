"""Parts of Transformers, made faster without changing what they compute."""

import itertools
from typing import Any, Final

import torch
from torch.nn import functional
from transformers import AttentionInterface


def speed_up_vision(model: Any) -> None:
    """Let a loaded model's vision encoder take patches by a matrix product, and all frames by one attention call."""
    vision = model.model.visual
    projection = vision.patch_embed.proj
    if isinstance(projection, torch.nn.Conv3d) and projection.stride == projection.kernel_size:
        weight, bias = projection.weight.flatten(1), projection.bias  # patches do not overlap: a matrix product does it
        vision.patch_embed.forward = lambda patches: functional.linear(patches.to(weight.dtype), weight, bias)
    if vision.config._attn_implementation == "sdpa":
        AttentionInterface.register(_FRAMES_ATTENTION, _frames_attention)
        model.set_attn_implementation({"vision_config": _FRAMES_ATTENTION})


_FRAMES_ATTENTION: Final = "reelscribe_flash_frames"
"""Transformers hands over all frames at once where an attention function has "flash" in its name, else one by one."""


def _frames_attention(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *_: Any,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **__: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within each frame, by one call for all frames of one size that stand together."""
    lengths = [query.shape[2]] if cu_seq_lens_q is None else cu_seq_lens_q.diff().tolist()
    packed = [part[0].transpose(0, 1) for part in (query, key, value)]  # tokens, heads, size of a head
    mixed, start = [], 0
    for length, frames in itertools.groupby(lengths):
        count = len(list(frames))
        end = start + count * length
        q, k, v = (part[start:end].reshape(count, length, *part.shape[1:]).transpose(1, 2) for part in packed)
        mixed.append(functional.scaled_dot_product_attention(q, k, v, scale=scaling).transpose(1, 2).flatten(0, 1))
        start = end
    return torch.cat(mixed)[None], None
