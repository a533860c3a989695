"""A key-value cache in which rows branch off from the prefix that their prompts share.

The keys and values of a prefix are held once, however many rows branch off from it. A step attends to them with the
queries of all these rows together, and separately to the own tokens of each row. (This is shared-prefix attention; see
Juravsky et al., "Hydragen", 2024.)

A row is first a question, whose own tokens are read in one or a few steps. Then the row is copied for each candidate,
which adds one token a step. Questions are short, so that copying them costs less than a third level of sharing would.
More rows may join while candidates are being decoded.
"""

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionLayer
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from reelscribe.engines.layers import (
    BorrowingLayer,
    Branches,
    FullLayer,
    SlidingLayer,
    StateLayer,
)
from reelscribe.engines.moving import numbers, repeated
from reelscribe.engines.packed import PackedLayer, packs

_CHANGES: Final = ("softcap", "s_aux")
"""Arguments of attention functions that change what is computed: capped scores and attention sinks. `FullLayer.attend`
supports neither."""
_EAGER: Final = "reelscribe_eager"
"""The name under which the eager attention of a model is registered with Transformers."""


def enable_branching(model: Any) -> None:
    """Enable a loaded model's language model to decode with a `BranchingCache`. Other caches work as before.

    The attention function is wrapped under the name that it has, since Transformers finds flash attention's kernels by
    that name. Only eager attention is registered under a new name: it is in no table of Transformers, each model's
    module has its own.
    """
    name: str = model.config.get_text_config()._attn_implementation
    attend = ALL_ATTENTION_FUNCTIONS.get(name)
    if attend is None:
        attend, name = sys.modules[type(model).__module__].eager_attention_forward, _EAGER
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
    if not isinstance(attend, _Attention):
        AttentionInterface.register(name, _Attention(attend))
    if name == _EAGER:
        model.set_attn_implementation({"text_config": name})


def can_branch(config: Any, kinds: Sequence[Any]) -> bool:
    """Whether a language model can decode with a `BranchingCache`.

    Args:
        config: of the language model.
        kinds: the layers of a `DynamicCache` for it.
    """
    # Latent attention caches neither keys nor values. Capped scores are not implemented here.
    if any(getattr(config, name, None) for name in ("kv_lora_rank", "attn_logit_softcapping")):
        return False
    # Chunked attention has the same class of cache layer as a sliding window, but other tokens are visible.
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        return False
    return all(layer_for(kind, Branches(torch.device("cpu"))) is not None for kind in kinds)


def layer_for(kind: Any, branches: Branches) -> FullLayer | StateLayer | BorrowingLayer | None:
    """An empty layer of a `BranchingCache` for a layer of a `DynamicCache`; None if its kind is not supported."""
    if type(kind) is DynamicLayer:
        return (PackedLayer if packs(kind.keys, kind.values) else FullLayer)(branches)
    if type(kind) is DynamicSlidingWindowLayer:
        return SlidingLayer(branches, kind.sliding_window)
    if type(kind) is LinearAttentionLayer:
        return StateLayer()
    if type(kind).__name__ == "DummyLayer":  # compared by name: older releases of Transformers lack the class
        return BorrowingLayer()
    return None


class _Attention:
    """An attention function of Transformers that also accepts the layers of a `BranchingCache` as keys."""

    def __init__(self, attend: Callable[..., Any]) -> None:
        self._attend = attend

    def __call__(
        self, module: torch.nn.Module, query: torch.Tensor, key: Any, value: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if isinstance(key, FullLayer):
            unknown = [name for name in _CHANGES if kwargs.get(name) is not None]
            if unknown:
                raise NotImplementedError(f"the model's attention has {unknown[0]}, which this engine does not know.")
            return key.attend(query, kwargs["scaling"]), None
        return self._attend(module, query, key, value, *args, **kwargs)


class BranchingCache:
    """The cache of a running batch, passed to the model as a cache of Transformers.

    New questions are read into a cache of their own (`over`), which then joins with `add`. Candidates that are not kept
    by `keep` leave.

    Args:
        kinds: the layers of a `DynamicCache` for the language model.
        device: the device of the model's first layer.

    Raises:
        ValueError: a layer is of a kind that the cache cannot hold; see `can_branch`.
    """

    is_initialized = True
    """Models read this when they make masks. The cache is always ready."""
    is_compileable = False
    """Whether Transformers may compile the model with this cache."""

    def __init__(self, kinds: Sequence[Any], device: torch.device) -> None:
        self._kinds = kinds
        self._branches = Branches(device)
        self.layers: list[Any] = [layer_for(kind, self._branches) for kind in kinds]
        if None in self.layers:
            raise ValueError("the model has a kind of layer that cannot branch.")
        self.has_states = any(isinstance(layer, StateLayer) for layer in self.layers)
        """Whether any layer has states. Then each row of a step must be either all padding or have none."""

    @classmethod
    def over(
        cls, filled: DynamicCache, lengths: Sequence[int], counts: Sequence[int], device: torch.device
    ) -> "BranchingCache":
        """Make a cache whose rows branch off from prefixes that were prefilled.

        Args:
            filled: the cache of the prefill, a row for each prefix, padded on the left. It is emptied.
            lengths: the number of tokens of each prefix, without padding. Padding is allowed only for models that
                attend to all tokens in every layer.
            counts: the number of rows of each prefix.
            device: the device of the model's first layer.
        """
        made = cls(filled.layers, device)
        owners = repeated(counts)
        made._branches.change(lengths, [0] * len(owners), owners, (max(lengths), 0))
        for layer, read in zip(made.layers, filled.layers, strict=True):
            layer.begin(read, made._branches.owners)
        return made

    def branch(self, rows: Sequence[int], counts: Sequence[int]) -> "BranchingCache":
        """Make a second cache with new rows that branch off from the prefixes of some rows. This cache does not change.

        Args:
            rows: numbers of rows, ascending.
            counts: for each of `rows`, how many new rows branch off from its prefix.

        Raises:
            ValueError: a layer has states, of which none are kept for a prefix; see `has_states`.
        """
        if self.has_states:
            raise ValueError("of a prefix no states are kept.")
        old, device = self._branches, self._branches.owners.device
        prefixes, each = _renumbered([old.owner_numbers[row] for row in rows])
        owners = [each[number] for number in repeated(counts)]
        made = BranchingCache(self._kinds, device)
        chosen = None if len(prefixes) == len(old.prefix_lengths) else numbers(prefixes, device)
        made.layers = [layer.branch(chosen, made._branches, len(owners)) for layer in self.layers]
        lengths = [old.prefix_lengths[prefix] for prefix in prefixes]
        made._branches.change(lengths, [0] * len(owners), owners, (old.columns[0], 0))
        return made

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any) -> Any:
        """Called by each attention layer of the model before its attention, with the keys and values of new tokens."""
        return self.layers[layer].update(keys, values)

    def get_seq_length(self, *_: Any) -> int:
        """The number of tokens of a row, padding included."""
        return sum(self._branches.columns)

    def get_conv_state(self, layer: int, state_idx: int = 0) -> Any:
        """Called, like the methods below, by layers of linear attention and convolution."""
        return self.layers[layer].conv_states[state_idx]

    def get_recurrent_state(self, layer: int, state_idx: int = 0) -> Any:
        return self.layers[layer].recurrent_states[state_idx]

    def update_conv_state(self, states: torch.Tensor, layer: int, *args: Any, **kwargs: Any) -> Any:
        return self.layers[layer].update_conv_state(states, *args, **kwargs)

    def update_recurrent_state(self, states: torch.Tensor, layer: int, *args: Any, **kwargs: Any) -> Any:
        return self.layers[layer].update_recurrent_state(states, *args, **kwargs)

    def has_previous_state(self, *_: Any, **__: Any) -> bool:
        return True

    def is_recording_past(self, *_: Any) -> bool:
        """Always false: no states are recorded to go back to."""
        return False

    def add(self, joining: Sequence["BranchingCache"], counts: Sequence[int]) -> None:
        """Add the rows of other caches, which are emptied.

        Args:
            joining: the other caches.
            counts: how many copies of each of their rows to add: one for each candidate of the question.
        """
        number = iter(counts)
        often = [[next(number) for _ in cache._branches.owner_numbers] for cache in joining]
        caches = list(joining)
        if self._branches.owner_numbers:
            caches, often = [self, *caches], [[1] * len(self._branches.owner_numbers), *often]
        else:  # this cache is empty: its layers were made without keys, by which `layer_for` chooses their kind
            self.layers = [layer.fresh(self._branches) for layer in joining[0].layers]
        branches, device = [cache._branches for cache in caches], self._branches.owners.device
        copies = [None if set(each) == {1} else numbers(repeated(each), device) for each in often]
        for layer, *parts in zip(self.layers, *(cache.layers for cache in caches), strict=True):
            layer.join(parts, copies)
        starts = itertools.accumulate((len(each.prefix_lengths) for each in branches[:-1]), initial=0)
        rows = [
            (each, start, row)
            for each, start, some in zip(branches, starts, often, strict=True)
            for row in repeated(some)
        ]
        self._branches.change(
            [length for each in branches for length in each.prefix_lengths],
            [each.own_lengths[row] for each, _, row in rows],
            [each.owner_numbers[row] + start for each, start, row in rows],
            (max(each.columns[0] for each in branches), max(each.columns[1] for each in branches)),
        )

    def begin_step(self, mask: torch.Tensor | None = None) -> None:
        """Make room for the new tokens of each row. The forward pass that follows fills it.

        Args:
            mask: True for tokens, False for padding; bool, on the CPU, shape (rows, tokens). None for one token in each
                row.

        Raises:
            ValueError: a layer has states, and a row has both tokens and padding.
        """
        self._branches.begin_step(mask)
        for layer in self.layers:
            layer.begin_step(mask)

    def passes(self) -> Iterator[tuple[slice, "BranchingCache"]]:
        """The rows that go through the model together, with the cache for them: all rows at once, with this cache."""
        yield slice(None), self

    def end_step(self) -> None:
        """Undo the changes that padding made to states. Not needed after a step without padding."""
        for layer in self.layers:
            layer.end_step()

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but some, the prefixes without rows, and the padding that is no longer needed.

        Args:
            rows: the numbers of the rows to keep, ascending.
        """
        old, device = self._branches, self._branches.owners.device
        prefixes, owners = _renumbered([old.owner_numbers[row] for row in rows])
        prefix_lengths = [old.prefix_lengths[prefix] for prefix in prefixes]
        own_lengths = [old.own_lengths[row] for row in rows]
        columns = max(prefix_lengths), max(own_lengths)
        first, own_first = (before - now for before, now in zip(old.columns, columns, strict=True))
        chosen = None if len(prefixes) == len(old.prefix_lengths) else numbers(prefixes, device)
        staying = numbers(rows, device)
        for layer in self.layers:
            layer.keep(chosen, first, staying, own_first)
        old.change(prefix_lengths, own_lengths, owners, columns)


def _renumbered(owners: Sequence[int]) -> tuple[list[int], list[int]]:
    """The distinct numbers in order of appearance, and for each element of `owners` its place among them."""
    places = {owner: place for place, owner in enumerate(dict.fromkeys(owners))}
    return list(places), [places[owner] for owner in owners]
