"""A key-value cache in which rows branch off from the prefix that their prompts share.

The keys and values of a prefix are held and read once, however many rows go on from it: a step attends to them with the
queries of all rows of the prefix together, and to each row's own tokens beside. (The idea is that of shared-prefix
attention; see Juravsky et al., "Hydragen", 2024.)

A row is first a question, whose own tokens are read in one step or a few. Then it is copied for each candidate, which
goes on by a token a step: questions are short, so that a copy costs less than a third level would.
Others may join while candidates are under way.
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
"""Arguments by which some models have their attention changed."""
_EAGER: Final = "reelscribe_eager"


def enable_branching(model: Any) -> None:
    """Let a loaded model's language model decode with a `BranchingCache`; with other caches it does what it did.

    An attention keeps its name, by which flash attention finds its kernels. Only eager attention gets one of ours: it
    is in no table, since each family has its own beside its model.
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
    # Of latent attention neither keys nor values are cached; capped scores are not computed here.
    if any(getattr(config, name, None) for name in ("kv_lora_rank", "attn_logit_softcapping")):
        return False
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()):  # whose cache is that of a window
        return False
    return all(layer_for(kind, Branches(torch.device("cpu"))) is not None for kind in kinds)


def layer_for(kind: Any, branches: Branches) -> FullLayer | StateLayer | BorrowingLayer | None:
    """The layer of ours for one of a `DynamicCache`; None if there is none of its kind."""
    if type(kind) is DynamicLayer:
        return (PackedLayer if packs(kind.keys, kind.values) else FullLayer)(branches)
    if type(kind) is DynamicSlidingWindowLayer:
        return SlidingLayer(branches, kind.sliding_window)
    if type(kind) is LinearAttentionLayer:
        return StateLayer()
    if type(kind).__name__ == "DummyLayer":  # which older releases of Transformers leave out
        return BorrowingLayer()
    return None


class _Attention:
    """An attention of Transformers that knows a `BranchingCache` as well."""

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
    """The cache of a running batch, as a model takes it.

    Questions begin in a cache of their own (`over`), and join by `add`; candidates leave by `keep`.

    Args:
        kinds: the layers of a `DynamicCache` for the language model.
        device: of its first layer.

    Raises:
        ValueError: there is a kind of layer that it cannot hold; see `can_branch`.
    """

    is_initialized = True
    """As models ask, who make their masks by it. There is nothing to set up."""
    is_compileable = False

    def __init__(self, kinds: Sequence[Any], device: torch.device) -> None:
        self._kinds = kinds
        self._branches = Branches(device)
        self.layers: list[Any] = [layer_for(kind, self._branches) for kind in kinds]
        if None in self.layers:
            raise ValueError("the model has a kind of layer that cannot branch.")
        self.has_states = any(isinstance(layer, StateLayer) for layer in self.layers)
        """Whether rows of a step must be all padding, or have none."""

    @classmethod
    def over(
        cls, filled: DynamicCache, lengths: Sequence[int], counts: Sequence[int], device: torch.device
    ) -> "BranchingCache":
        """A cache whose rows go on from prefixes that were read.

        Args:
            filled: of the prefixes, padded on the left; it is emptied.
            lengths: tokens of each prefix, without padding. Only models that attend to all tokens in every layer may
                have some.
            counts: rows of each prefix.
            device: of the model's first layer.
        """
        made = cls(filled.layers, device)
        owners = repeated(counts)
        made._branches.change(lengths, [0] * len(owners), owners, (max(lengths), 0))
        for layer, read in zip(made.layers, filled.layers, strict=True):
            layer.begin(read, made._branches.owners)
        return made

    def branch(self, rows: Sequence[int], counts: Sequence[int]) -> "BranchingCache":
        """A cache for others that go on from the prefixes of some rows, which all stay as they are.

        Args:
            rows: ascending, one for each request that others go on beside.
            counts: how many they are, for each.

        Raises:
            ValueError: there are states, and so nothing of the prefixes; see `has_states`.
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
        """What a layer of the model calls before its attention."""
        return self.layers[layer].update(keys, values)

    def get_seq_length(self, *_: Any) -> int:
        """Tokens of a row, padding included."""
        return sum(self._branches.columns)

    def get_conv_state(self, layer: int, state_idx: int = 0) -> Any:
        """What a layer of linear attention or of a convolution asks for, and below."""
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
        return False

    def add(self, joining: Sequence["BranchingCache"], counts: Sequence[int]) -> None:
        """Let the rows of other caches join, which are emptied.

        Args:
            joining: their caches.
            counts: how often each of their rows is copied: the candidates of each question.
        """
        number = iter(counts)
        often = [[next(number) for _ in cache._branches.owner_numbers] for cache in joining]
        caches = list(joining)
        if self._branches.owner_numbers:
            caches, often = [self, *caches], [[1] * len(self._branches.owner_numbers), *often]
        else:  # of layers without keys it is not known how they are held best
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
        """Make room for more tokens of each row; the forward pass that follows fills it.

        Args:
            mask: which of them count, bool, on the CPU, shape (rows, tokens); one token each, if there is none.

        Raises:
            ValueError: see `has_states`.
        """
        self._branches.begin_step(mask)
        for layer in self.layers:
            layer.begin_step(mask)

    def passes(self) -> Iterator[tuple[slice, "BranchingCache"]]:
        """Rows that go through the model together, with their cache: all."""
        yield slice(None), self

    def end_step(self) -> None:
        """Take back what padding has done to states. Not needed after a step without."""
        for layer in self.layers:
            layer.end_step()

    def keep(self, rows: Sequence[int]) -> None:
        """Keep some rows, the prefixes that they go on from, and no more padding than they need.

        Args:
            rows: which, ascending.
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
    """Those that occur, in order, and for each of all its place among these."""
    places = {owner: place for place, owner in enumerate(dict.fromkeys(owners))}
    return list(places), [places[owner] for owner in owners]
