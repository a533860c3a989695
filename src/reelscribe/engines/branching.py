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
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_ROOM: Final = 64
"""Tokens by which the room for rows' own tokens grows, so that few steps copy what is there."""
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


class _Attention:
    """An attention of Transformers that knows a `BranchingCache` as well."""

    def __init__(self, attend: Callable[..., Any]) -> None:
        self._attend = attend

    def __call__(
        self, module: torch.nn.Module, query: torch.Tensor, key: Any, value: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if isinstance(key, _Layer):
            return key.attend(query, kwargs["scaling"]), None
        return self._attend(module, query, key, value, *args, **kwargs)


class _Branches:
    """Who goes on from which prefix, and what counts as padding: the same for all layers."""

    def __init__(self, device: torch.device) -> None:
        self.prefix_mask = torch.zeros(0, 0, dtype=torch.bool, device=device)
        """bool, shape (prefixes, prefix tokens)."""
        self.own_mask = torch.zeros(0, 0, dtype=torch.bool, device=device)
        """bool, shape (rows, own tokens)."""
        self.owners = torch.zeros(0, dtype=torch.int64, device=device)
        """The prefix of each row, ascending, int64, shape (rows,)."""
        self._lay_out()

    def _lay_out(self) -> None:
        """Rows as a table with a line for each prefix; lines are as long as the longest."""
        counts = self.owners.bincount(minlength=len(self.prefix_mask))
        self.width = int(counts.max()) if len(counts) else 0
        starts = counts.cumsum(0) - counts
        rank = torch.arange(len(self.owners), device=self.owners.device) - starts[self.owners]
        self.place = self.owners * self.width + rank
        """Where in the table each row stands, int64, shape (rows,)."""
        self.even = len(self.owners) == len(self.prefix_mask) * self.width
        """Whether the table has no gaps, so that it is the rows in their order."""
        self.padded = not bool(self.prefix_mask.all())

    def change(self, prefix_mask: torch.Tensor, own_mask: torch.Tensor, owners: torch.Tensor) -> None:
        self.prefix_mask, self.own_mask, self.owners = prefix_mask, own_mask, owners
        self._lay_out()

    def table(self, rows: torch.Tensor) -> torch.Tensor:
        """Shape (rows, ...) to (prefixes, width, ...); gaps hold zeros."""
        prefixes = len(self.prefix_mask)
        if not self.even:
            place = self.place.to(rows.device)
            rows = rows.new_zeros(prefixes * self.width, *rows.shape[1:]).index_copy_(0, place, rows)
        return rows.reshape(prefixes, self.width, *rows.shape[1:])

    def rows(self, table: torch.Tensor) -> torch.Tensor:
        """The way back."""
        flat = table.flatten(0, 1)
        return flat if self.even else flat[self.place.to(flat.device)]


class _Layer:
    """Keys and values of one layer of the model."""

    def __init__(self, branches: _Branches) -> None:
        self._branches = branches
        self.prefix: list[torch.Tensor] = []
        """Keys and values, each of shape (prefixes, heads, prefix tokens, size of a head)."""
        self.own: list[torch.Tensor] = []
        """Keys and values, each of shape (rows, heads, room, size of a head)."""

    def make_room(self, tokens: int) -> None:
        """For this many own tokens."""
        missing = tokens - self.own[0].shape[2]
        if missing > 0:
            self.own = [functional.pad(part, (0, 0, 0, -(-missing // _ROOM) * _ROOM)) for part in self.own]

    def used(self) -> list[torch.Tensor]:
        """Own keys and values without the room that is left."""
        return [part[:, :, : self._branches.own_mask.shape[1]] for part in self.own]

    def update(self, keys: torch.Tensor, values: torch.Tensor) -> tuple["_Layer", "_Layer"]:
        """Write the keys and values of each row's new tokens. What comes back is for `attend`."""
        end = self._branches.own_mask.shape[1]
        for buffer, new in zip(self.own, (keys, values), strict=True):
            buffer[:, :, end - new.shape[2] : end] = new
        return self, self

    def attend(self, query: torch.Tensor, scaling: float) -> torch.Tensor:
        """Attention of the last tokens of each row, of each to those before it and to itself.

        Args:
            query: shape (rows, query heads, tokens, size of a head).
            scaling: of the products.

        Returns:
            Shape (rows, tokens, query heads, size of a head).
        """
        branches = self._branches
        keys, values = self.prefix
        own_length = branches.own_mask.shape[1]
        own_keys, own_values = self.used()
        heads, size, tokens = keys.shape[1], keys.shape[3], query.shape[2]
        grouped = query.reshape(len(query), heads, -1, size) * scaling
        group = grouped.shape[2]  # query heads of a head, each with all tokens
        # (prefixes, width, heads, group, size) -> (prefixes, heads, width x group, size)
        asked = branches.table(grouped).transpose(1, 2).flatten(2, 3)
        to_prefix = asked @ keys.transpose(2, 3)
        if branches.padded:
            to_prefix = to_prefix.masked_fill(~branches.prefix_mask[:, None, None].to(query.device), -torch.inf)
        hidden = ~branches.own_mask[:, None, None].to(query.device)
        if tokens > 1:
            later = torch.ones(tokens, own_length, dtype=torch.bool, device=query.device).triu(own_length - tokens + 1)
            hidden = hidden | later.repeat(group // tokens, 1)
        to_own = (grouped @ own_keys.transpose(2, 3)).masked_fill(hidden, -torch.inf)
        to_own = branches.table(to_own).transpose(1, 2).flatten(2, 3)
        weights = torch.cat([to_prefix, to_own], -1).softmax(-1, torch.float32).to(values.dtype)
        split = keys.shape[2]
        parts = weights[..., :split] @ values, weights[..., split:]
        # ... and back again
        from_prefix, own_weights = (
            branches.rows(part.reshape(len(keys), heads, -1, group, part.shape[3]).transpose(1, 2)) for part in parts
        )
        mixed = from_prefix + own_weights @ own_values
        return mixed.reshape(len(query), -1, tokens, size).transpose(1, 2)


class BranchingCache:
    """The cache of a running batch, as a language model takes it.

    Questions begin in a cache of their own (`over`), and join by `add`; candidates leave by `keep`.

    Args:
        layers: of the language model.
        device: of its first layer.
    """

    def __init__(self, layers: int, device: torch.device) -> None:
        self._branches = _Branches(device)
        self.layers = [_Layer(self._branches) for _ in range(layers)]

    @classmethod
    def over(cls, filled: DynamicCache, mask: torch.Tensor, counts: Sequence[int]) -> "BranchingCache":
        """A cache whose rows go on from prefixes that were read.

        Args:
            filled: keys and values of the prefixes, padded on the left; it is emptied.
            mask: shape (prefixes, tokens); 0 where there is padding.
            counts: rows of each prefix.
        """
        made = cls(len(filled.layers), mask.device)
        for layer, read in zip(made.layers, filled.layers, strict=True):
            layer.prefix = [read.keys, read.values]
            read.keys = read.values = None
            heads, size = layer.prefix[0].shape[1], layer.prefix[0].shape[3]
            layer.own = [part.new_zeros(sum(counts), heads, 0, size) for part in layer.prefix]
        owners = torch.arange(len(counts), device=mask.device).repeat_interleave(_tensor(counts, mask.device))
        made._branches.change(mask.bool(), mask.new_zeros(len(owners), 0, dtype=torch.bool), owners)
        return made

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any) -> Any:
        """What a layer of the model calls before its attention."""
        return self.layers[layer].update(keys, values)

    def add(self, joining: Sequence["BranchingCache"], counts: Sequence[int]) -> None:
        """Let the rows of other caches join, which are emptied.

        Args:
            joining: their caches.
            counts: how often each of their rows is copied: the candidates of each question.
        """
        number = iter(counts)
        copies = [[next(number) for _ in range(len(cache._branches.owners))] for cache in joining]
        caches = list(joining)
        if len(self._branches.owners):
            caches, copies = [self, *caches], [[1] * len(self._branches.owners), *copies]
        branches = [cache._branches for cache in caches]
        for layer, *parts in zip(self.layers, *(cache.layers for cache in caches), strict=True):
            prefix = [_left_padded(of_one) for of_one in zip(*(part.prefix for part in parts), strict=True)]
            own = [
                _left_padded([_copied(part, often) for part, often in zip(of_one, copies, strict=True)], room=_ROOM)
                for of_one in zip(*(part.used() for part in parts), strict=True)
            ]
            for part in parts:
                part.prefix, part.own = [], []
            layer.prefix, layer.own = prefix, own
        starts = itertools.accumulate((len(each.prefix_mask) for each in branches[:-1]), initial=0)
        owners = [
            _copied(each.owners + start, often) for each, start, often in zip(branches, starts, copies, strict=True)
        ]
        own_masks = [_copied(each.own_mask, often) for each, often in zip(branches, copies, strict=True)]
        self._branches.change(
            _left_padded([each.prefix_mask[:, None, :, None] for each in branches])[:, 0, :, 0],
            _left_padded([mask[:, None, :, None] for mask in own_masks])[:, 0, :, 0],
            torch.cat(owners),
        )

    def begin_step(self, mask: torch.Tensor | None = None) -> None:
        """Make room for more tokens of each row; the forward pass that follows fills it.

        Args:
            mask: which of them count, bool, shape (rows, tokens); one token each, if there is none.
        """
        branches = self._branches
        new = branches.own_mask.new_ones(len(branches.owners), 1) if mask is None else mask
        branches.own_mask = torch.cat([branches.own_mask, new], 1)
        for layer in self.layers:
            layer.make_room(branches.own_mask.shape[1])

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
            if not everyone or first:
                layer.prefix = [part[prefixes.to(part.device), :, first:] for part in layer.prefix]
            layer.own = [part[rows.to(part.device), :, own_first:] for part in layer.own]
        old.change(prefix_mask[:, first:], own_mask[:, own_first:], owners)


def _tensor(numbers: Sequence[int], device: torch.device) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int64, device=device)


def _copied(rows: torch.Tensor, often: Sequence[int]) -> torch.Tensor:
    """Each row as often as is said, one copy after the other."""
    return rows if set(often) == {1} else rows.repeat_interleave(_tensor(often, rows.device), 0)


def _left_padded(parts: Sequence[torch.Tensor], *, room: int = 0) -> torch.Tensor:
    """Parts of shape (rows, heads, tokens, size) one after the other, the shorter filled up on the left.

    Args:
        parts: to put together.
        room: filler on the right of all.
    """
    length = max(part.shape[2] for part in parts)
    widened = [functional.pad(part, (0, 0, length - part.shape[2], room)) for part in parts]
    return torch.cat(widened) if len(widened) > 1 else widened[0]


def _first_column(mask: torch.Tensor) -> int:
    """The first column that is not padding in every row."""
    used = mask.any(0)
    return int(used.to(torch.uint8).argmax()) if bool(used.any()) else mask.shape[1]
