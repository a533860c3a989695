"""What a model's cache takes of memory, found out with a token: no two configurations have the same words for it."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache


@dataclass(frozen=True, kw_only=True)
class CacheCost:
    """Bytes of a cache."""

    token_bytes: int
    """Keys and values of a token, in all layers."""
    row_bytes: int
    """States of a row, however many tokens it has: of linear attention, and of convolutions."""

    @classmethod
    def of(cls, model: Any, device: torch.device) -> "CacheCost":
        """Let a model read a token, and measure what its cache then holds.

        Args:
            model: a loaded one, or one on the meta device, whose tensors have sizes and no numbers.
            device: where it takes tokens.
        """
        config = model.config.get_text_config()
        filled = DynamicCache(config=config)
        ids = torch.zeros(1, 1, dtype=torch.int64, device=device)
        with torch.inference_mode():
            model(input_ids=ids, **{cache_name(model): filled}, use_cache=True)
        parts = [getattr(layer, name, None) for layer in filled.layers for name in ("keys", "values")]
        return cls(
            token_bytes=sum(part.nbytes for part in parts if part is not None),
            row_bytes=sum(state.nbytes for layer in filled.layers for state in _states(layer)),
        )

    @property
    def row_tokens(self) -> int:
        """Tokens that take as much memory as the states of a row, rounded up."""
        return -(-self.row_bytes // max(self.token_bytes, 1))


def _states(layer: Any) -> Iterator[torch.Tensor]:
    for name in ("conv_states", "recurrent_states"):
        yield from (state for state in getattr(layer, name, {}).values() if state is not None)


def cache_name(model: Any) -> str:
    """What the model calls its cache: another name since Transformers 5.23."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
