"""Parts of Transformers, made faster without changing what they compute."""

import functools
import itertools
from typing import Any, Final

import torch
from torch.nn import functional

_KNOWN: Final = ("Qwen3VL", "Qwen3_5", "Qwen3Omni", "Qwen2_5_VL")
"""What the class names of vision encoders begin with whose features were held against those without."""


def speed_up_vision(model: Any) -> None:
    """Let a loaded model's vision encoder take patches by a matrix product, and all frames by one attention call.

    The weights of its queries and keys are brought into another order, in place. An encoder that is not known stays as
    it is.
    """
    vision: Any = getattr(model, "visual", None) or getattr(model.model, "visual", None)
    if not type(vision).__name__.startswith(_KNOWN):
        return
    projection = vision.patch_embed.proj
    if isinstance(projection, torch.nn.Conv3d) and projection.stride == projection.kernel_size:
        weight, bias = projection.weight.flatten(1), projection.bias  # patches do not overlap: a matrix product does it
        vision.patch_embed.forward = lambda patches: functional.linear(patches.to(weight.dtype), weight, bias)
    if vision.config._attn_implementation == "sdpa":
        for block in vision.blocks:
            if type(block.attn.qkv) is torch.nn.Linear:  # neither quantized nor adapted
                _put_halves_side_by_side(block.attn)
                block.attn.forward = functools.partial(_attend, block.attn)


@torch.no_grad()
def _put_halves_side_by_side(attention: Any) -> None:
    """Bring the channels of queries and keys from (first half, second half) to pairs of one of each.

    Rotary embeddings rotate such pairs: side by side they are complex numbers, which are rotated in one go. A product
    of queries and keys does not depend on the order of channels.
    """
    for parameter in (attention.qkv.weight, attention.qkv.bias):
        heads = parameter[: 2 * attention.dim].unflatten(0, (2 * attention.num_heads, 2, -1))
        parameter[: 2 * attention.dim] = heads.transpose(1, 2).flatten(0, 2)


def _attend(
    attention: Any,
    hidden_states: torch.Tensor,
    cu_seqlens: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    **_: Any,
) -> torch.Tensor:
    """Attention within each frame, by one call for all frames of one size that stand together."""
    mixed = attention.qkv(hidden_states).unflatten(-1, (3, attention.num_heads, -1))  # tokens, q k v, heads, channels
    cos, sin = (part[:, None, None, : part.shape[-1] // 2].float() for part in position_embeddings)
    pairs = torch.view_as_complex(mixed[:, :2].float().unflatten(-1, (-1, 2)))
    pairs.mul_(torch.complex(cos, sin))
    rotated = torch.view_as_real(pairs).flatten(-2).to(mixed.dtype)
    parts = (rotated[:, 0], rotated[:, 1], mixed[:, 2])
    seen, start = [], 0
    for length, frames in itertools.groupby(cu_seqlens.diff().tolist()):
        count = len(list(frames))
        end = start + count * length
        q, k, v = (part[start:end].unflatten(0, (count, length)).transpose(1, 2) for part in parts)
        frame = functional.scaled_dot_product_attention(q, k, v, scale=attention.scaling)
        seen.append(frame.transpose(1, 2).flatten(0, 1))
        start = end
    output: torch.Tensor = attention.proj(torch.cat(seen).flatten(1))
    return output
