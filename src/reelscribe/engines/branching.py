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
    copied,
    left_padded,
)
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
    def over(cls, filled: DynamicCache, mask: torch.Tensor, counts: Sequence[int]) -> "BranchingCache":
        """A cache whose rows go on from prefixes that were read.

        Args:
            filled: of the prefixes, padded on the left; it is emptied.
            mask: shape (prefixes, tokens); 0 where there is padding. Only models that attend to all tokens in every
                layer may have some.
            counts: rows of each prefix.
        """
        made = cls(filled.layers, mask.device)
        owners = torch.arange(len(counts), device=mask.device).repeat_interleave(_tensor(counts, mask.device))
        made._branches.change(mask.bool(), mask.new_zeros(len(owners), 0, dtype=torch.bool), owners)
        for layer, read in zip(made.layers, filled.layers, strict=True):
            layer.begin(read, owners)
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
        old = self._branches
        device = old.owners.device
        prefixes, each = torch.unique_consecutive(old.owners[_tensor(rows, device)], return_inverse=True)
        owners = each.repeat_interleave(_tensor(counts, device))
        made = BranchingCache(self._kinds, device)
        chosen = None if len(prefixes) == len(old.prefix_mask) else prefixes
        made.layers = [layer.branch(chosen, made._branches, len(owners)) for layer in self.layers]
        made._branches.change(old.prefix_mask[prefixes], old.own_mask.new_zeros(len(owners), 0), owners)
        return made

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any) -> Any:
        """What a layer of the model calls before its attention."""
        return self.layers[layer].update(keys, values)

    def get_seq_length(self, *_: Any) -> int:
        """Tokens of a row, padding included."""
        return self._branches.prefix_mask.shape[1] + self._branches.own_mask.shape[1]

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
        sizes = [len(cache._branches.owners) for cache in joining]
        copies = [_rows([next(number) for _ in range(size)], self._branches.owners) for size in sizes]
        caches = list(joining)
        if len(self._branches.owners):
            caches, copies = [self, *caches], [None, *copies]
        else:  # of layers without keys it is not known how they are held best
            self.layers = [layer.fresh(self._branches) for layer in joining[0].layers]
        branches = [cache._branches for cache in caches]
        for layer, *parts in zip(self.layers, *(cache.layers for cache in caches), strict=True):
            layer.join(parts, copies)
        starts = itertools.accumulate((len(each.prefix_mask) for each in branches[:-1]), initial=0)
        owners = [copied(each.owners + start, rows) for each, start, rows in zip(branches, starts, copies, strict=True)]
        own_masks = [copied(each.own_mask, rows) for each, rows in zip(branches, copies, strict=True)]
        self._branches.change(
            left_padded([each.prefix_mask[:, None, :, None] for each in branches])[:, 0, :, 0],
            left_padded([mask[:, None, :, None] for mask in own_masks])[:, 0, :, 0],
            torch.cat(owners),
        )

    def begin_step(self, mask: torch.Tensor | None = None) -> None:
        """Make room for more tokens of each row; the forward pass that follows fills it.

        Args:
            mask: which of them count, bool, shape (rows, tokens); one token each, if there is none.

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

    def keep(self, rows: torch.Tensor) -> None:
        """Keep some rows, the prefixes that they go on from, and no more padding than they need.

        Args:
            rows: which, ascending, int64.
        """
        old = self._branches
        prefixes, owners = torch.unique_consecutive(old.owners[rows], return_inverse=True)
        prefix_mask, own_mask = old.prefix_mask[prefixes], old.own_mask[rows]
        first, own_first = (_first_column(mask) for mask in (prefix_mask, own_mask))
        everyone = len(prefixes) == len(old.prefix_mask)
        for layer in self.layers:
            layer.keep(None if everyone else prefixes, first, rows, own_first)
        old.change(prefix_mask[:, first:], own_mask[:, own_first:], owners)


def _tensor(numbers: Sequence[int], device: torch.device) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int64, device=device)


def _rows(often: Sequence[int], like: torch.Tensor) -> torch.Tensor | None:
    """Each row as often as is said, one copy after the other; None for all once."""
    if set(often) == {1}:
        return None
    return torch.arange(len(often), device=like.device).repeat_interleave(_tensor(often, like.device))


def _first_column(mask: torch.Tensor) -> int:
    """The first column that is not padding in every row."""
    used = mask.any(0)
    return int(used.to(torch.uint8).argmax()) if bool(used.any()) else mask.shape[1]
