"""Faster versions of parts of Transformers that compute the same, except for rounding."""

import functools
import inspect
import itertools
from collections.abc import Callable
from types import CodeType
from typing import Any, Final

import torch
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRMSNorm

_KNOWN: Final = ("Qwen3VL", "Qwen3_5", "Qwen3Omni", "Qwen2_5_VL")
"""Beginnings of the class names of vision encoders for which the features were compared with the original ones."""
_KNOWN_TEXT: Final = ("Qwen3VLTextModel", "Qwen3VLMoeTextModel")
"""Class names of language models whose attention `_attend_to_text` computes."""


def speed_up(model: Any) -> None:
    """Replace the parts of a loaded model that are known by faster ones, in place. All other parts stay as they are.

    In float32, results differ only by rounding. In bfloat16, a norm rounds once, after applying its weight, whereas
    Transformers rounds before and after. The same holds for a rotation.
    """
    speed_up_vision(model)
    for module in model.modules():
        if hasattr(module, "_hf_hook"):  # Accelerate wraps `forward` to move weights to the device: keep it
            continue
        if _has_code_of(type(module), LlamaRMSNorm):
            module.forward = functools.partial(_normalise, module)
        elif type(module).__name__ in _KNOWN_TEXT:
            module.rotary_emb.forward = functools.partial(_signed, module.rotary_emb.forward)
            for layer in module.layers:
                layer.self_attn.forward = functools.partial(_attend_to_text, layer.self_attn)


def _has_code_of(kind: type, original: type) -> bool:
    """Whether two classes have the same bytecode in `forward`: Transformers copies classes into each family's file."""
    codes: list[CodeType | None] = [
        getattr(inspect.unwrap(each.forward), "__code__", None) if hasattr(each, "forward") else None
        for each in (kind, original)
    ]
    mine, theirs = ((code.co_code, code.co_names, code.co_consts[1:]) if code else None for code in codes)
    return mine == theirs


def _normalise(norm: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """RMS norm in one GPU kernel instead of six."""
    weight = norm.weight
    return functional.rms_norm(hidden_states, weight.shape, weight, norm.variance_epsilon)


def _signed(
    embed: Callable[..., tuple[torch.Tensor, torch.Tensor]], *args: Any, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines for `_rotated`, computed once for all layers: the first half of the sines is negated."""
    cos, sin = embed(*args, **kwargs)
    sin[..., : sin.shape[-1] // 2].neg_()
    return cos.unsqueeze(1), sin.unsqueeze(1)


def _rotated(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of states. `_signed` has put the sign of the half that moves to the front into the sines."""
    return torch.addcmul(states * cos, states.roll(states.shape[-1] // 2, -1), sin)


def _attend_to_text(
    attention: Any,
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    attention_mask: torch.Tensor | None = None,
    cache: Any = None,
    past_key_values: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, Any]:
    """The attention of Qwen3-VL's language model, with position embeddings from `_signed`."""
    split = (*hidden_states.shape[:-1], -1, attention.head_dim)
    query = attention.q_norm(attention.q_proj(hidden_states).view(split)).transpose(1, 2)
    key = attention.k_norm(attention.k_proj(hidden_states).view(split)).transpose(1, 2)
    value = attention.v_proj(hidden_states).view(split).transpose(1, 2)
    query, key = (_rotated(states, *position_embeddings) for states in (query, key))
    held = cache if cache is not None else past_key_values  # its name before Transformers 5.23
    if held is not None:
        key, value = held.update(key, value, attention.layer_idx)
    attend = ALL_ATTENTION_FUNCTIONS[attention.config._attn_implementation]
    output, weights = attend(
        attention, query, key, value, attention_mask, dropout=0.0, scaling=attention.scaling, **kwargs
    )
    return attention.o_proj(output.flatten(2)), weights


def speed_up_vision(model: Any) -> None:
    """Let a loaded model's vision encoder embed patches by a matrix product, and frames of one size attend in one call.

    The weights of its queries and keys are reordered in place. An encoder that is not known stays as it is.
    """
    vision: Any = getattr(model, "visual", None) or getattr(model.model, "visual", None)
    if not type(vision).__name__.startswith(_KNOWN):
        return
    projection = vision.patch_embed.proj
    if isinstance(projection, torch.nn.Conv3d) and projection.stride == projection.kernel_size:
        # Patches do not overlap, so that the convolution is a matrix product.
        weight, bias = projection.weight.flatten(1), projection.bias
        vision.patch_embed.forward = lambda patches: functional.linear(patches.to(weight.dtype), weight, bias)
    if vision.config._attn_implementation == "sdpa":
        for block in vision.blocks:
            qkv = block.attn.qkv
            if type(qkv) is torch.nn.Linear and type(qkv.weight) is torch.nn.Parameter:  # neither quantised nor adapted
                _put_halves_side_by_side(block.attn)
                block.attn.forward = functools.partial(_attend, block.attn)


@torch.no_grad()
def _put_halves_side_by_side(attention: Any) -> None:
    """Reorder the channels of queries and keys so that each channel of the first half is followed by its partner.

    Rotary embeddings rotate pairs of one channel from each half. Side by side, a pair is a complex number, and the
    rotation is one multiplication. Products of queries and keys do not depend on the order of channels.
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
    """Attention within each frame, in one call for neighbouring frames of the same size."""
    mixed = attention.qkv(hidden_states).unflatten(-1, (3, attention.num_heads, -1))  # tokens, q k v, heads, channels
    cos, sin = (part[:, None, None, : part.shape[-1] // 2].float() for part in position_embeddings)
    pairs = torch.view_as_complex(mixed[:, :2].float().unflatten(-1, (-1, 2)))
    pairs.mul_(torch.complex(cos, sin))
    rotated = torch.view_as_real(pairs).flatten(-2).to(mixed.dtype)
    parts = (rotated[:, 0], rotated[:, 1], mixed[:, 2])
    seen, start = [], 0
    for length, count in _runs(cu_seqlens):
        end = start + count * length
        q, k, v = (part[start:end].unflatten(0, (count, length)).transpose(1, 2) for part in parts)
        frame = functional.scaled_dot_product_attention(q, k, v, scale=attention.scaling)
        seen.append(frame.transpose(1, 2).flatten(0, 1))
        start = end
    output: torch.Tensor = attention.proj(torch.cat(seen).flatten(1))
    return output


def _runs(cu_seqlens: torch.Tensor) -> list[tuple[int, int]]:
    """For each run of neighbouring frames of one size: the number of patches of a frame, and the number of frames.

    Reading `cu_seqlens` makes the host wait for the device. All blocks of a pass get the same tensor. So the result is
    kept as an attribute of the tensor.
    """
    runs: list[tuple[int, int]] | None = getattr(cu_seqlens, "runs", None)
    if runs is None:
        groups = itertools.groupby(cu_seqlens.diff().tolist())
        runs = cu_seqlens.runs = [(length, len(list(frames))) for length, frames in groups]  # type: ignore[attr-defined]
    return runs
