"""The memory that a model's cache takes. It is measured with one token, since configurations have no common names."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache


@dataclass(frozen=True, kw_only=True)
class CacheCost:
    """The memory that a key-value cache takes."""

    token_bytes: int
    """Bytes of the keys and values of one token, in all layers."""
    row_bytes: int
    """Bytes of the states of a row with any number of tokens, in layers of linear attention and of convolution."""

    @classmethod
    def of(cls, model: Any, device: torch.device) -> "CacheCost":
        """Run a model on one token, and measure its cache.

        Args:
            model: a loaded model, or one on the meta device, whose tensors have sizes but no values.
            device: the device of the model's inputs.
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
        """The number of tokens that take as much memory as the states of a row, rounded up."""
        return -(-self.row_bytes // max(self.token_bytes, 1))


def _states(layer: Any) -> Iterator[torch.Tensor]:
    for name in ("conv_states", "recurrent_states"):
        yield from (state for state in getattr(layer, name, {}).values() if state is not None)


def cache_name(model: Any) -> str:
    """The name of the argument for the cache in the model's `forward`. It is `cache` since Transformers 5.23."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
