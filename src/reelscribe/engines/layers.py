"""The layers of a `BranchingCache`. There is a class for each kind of layer that a model may have.

A layer of a model attends to all earlier tokens (`FullLayer`) or to a window of them (`SlidingLayer`). Or it has states
instead of keys, which each token changes (`StateLayer`). Or it uses the keys of another layer (`BorrowingLayer`).
"""

import itertools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, TypeVar

import torch
from torch.nn import functional
from transformers.cache_utils import LinearAttentionLayer

from reelscribe.engines.moving import moved, numbers

ROOM: Final = 64
"""The room for the rows' own tokens grows by multiples of this many tokens, so that few steps copy the buffer."""


_Made = TypeVar("_Made")


class Branches:
    """Which row branches off from which prefix, and which tokens are padding. All layers of a cache share this.

    Lengths and owners are held as lists too, since reading them from a GPU would wait for all of its queued work.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.change([], [], [], (0, 0))

    def change(
        self,
        prefix_lengths: Sequence[int],
        own_lengths: Sequence[int],
        owners: Sequence[int],
        columns: tuple[int, int],
    ) -> None:
        """Replace all prefixes and rows.

        Args:
            prefix_lengths: the number of tokens of each prefix, without padding.
            own_lengths: the number of own tokens of each row, without padding.
            owners: the number of the prefix of each row, ascending.
            columns: the number of prefix tokens and of own tokens, padding included.
        """
        self.prefix_lengths, self.own_lengths, self.owner_numbers = prefix_lengths, own_lengths, owners
        self.prefix_mask = self._right(prefix_lengths, columns[0])
        """False for padding, which is on the left; bool, shape (prefixes, prefix tokens)."""
        self.own_mask = self._right(own_lengths, columns[1])
        """False for padding, bool, shape (rows, own tokens). After `change` padding is on the left."""
        self.owners = numbers(owners, self._device)
        """The number of the prefix of each row, ascending, int64, shape (rows,)."""
        ranks = [rank for _, line in itertools.groupby(owners) for rank, _ in enumerate(line)]
        self._rank = numbers(ranks, self._device)
        """The place of each row within its line of the table, int64, shape (rows,). The table has a line for each
        prefix, with the rows that branch off from it; see `table`."""
        self.width = max(ranks, default=-1) + 1
        """The number of places in each line of the table: as many as the prefix with the most rows needs."""
        self.even = len(owners) == len(prefix_lengths) * self.width
        """Whether the table has no gaps. Then it is the rows in their order."""
        self.padded = min(prefix_lengths, default=0) < columns[0] or min(own_lengths, default=0) < columns[1]
        """Whether there may be padding anywhere."""
        self._once: dict[Any, Any] = {}
        """Values that layers share in the present step; see `once`."""

    def _right(self, lengths: Sequence[int], columns: int) -> torch.Tensor:
        padding = numbers([columns - length for length in lengths], self._device)
        return torch.arange(columns, device=self._device) >= padding[:, None]

    @property
    def columns(self) -> tuple[int, int]:
        """The number of prefix tokens and of own tokens, padding included."""
        return self.prefix_mask.shape[1], self.own_mask.shape[1]

    def once(self, key: Hashable, make: Callable[[], _Made]) -> _Made:
        """Make a value that several layers need in a step only once: the first layer that asks makes it."""
        if key not in self._once:
            self._once[key] = make()
        made: _Made = self._once[key]
        return made

    def begin_step(self, mask: torch.Tensor | None) -> None:
        """Append new tokens to each row.

        Args:
            mask: False for padding, bool, on the CPU, shape (rows, tokens). None for one token in each row.
        """
        new = self.own_mask.new_ones(len(self.owners), 1) if mask is None else moved(mask, self._device)
        self.own_mask = torch.cat([self.own_mask, new], 1)
        added = itertools.repeat(1) if mask is None else mask.sum(1).tolist()
        self.own_lengths = [length + more for length, more in zip(self.own_lengths, added, strict=False)]
        self.padded = self.padded or mask is not None
        self._once = {}

    def table(self, rows: torch.Tensor) -> torch.Tensor:
        """Arrange rows by prefix: shape (rows, heads, ...) to (prefixes, heads, width, ...).

        A gap in the table holds a copy of some row; its result is not used.
        """
        prefixes = len(self.prefix_mask)
        if self.even:
            return rows.reshape(prefixes, self.width, *rows.shape[1:]).transpose(1, 2)
        heads, device = rows.shape[1], rows.device
        return rows.flatten(0, 1)[self.once(("table", heads, device), lambda: self._slots(heads).to(device))]

    def _slots(self, heads: int) -> torch.Tensor:
        """The index into the flattened heads of all rows for each place and head, shape (prefixes, heads, width)."""
        slots = self.owners.new_zeros(len(self.prefix_mask), self.width)
        slots[self.owners, self._rank] = torch.arange(len(self.owners), device=slots.device)
        return slots[:, None] * heads + torch.arange(heads, device=slots.device)[:, None]

    def rows(self, table: torch.Tensor) -> torch.Tensor:
        """The inverse of `table`: shape (prefixes, heads, width, ...) to (rows, heads, ...)."""
        rows = table.transpose(1, 2)
        if self.even:
            return rows.flatten(0, 1)
        device = table.device
        return rows[self.once(("rows", device), lambda: (self.owners.to(device), self._rank.to(device)))]


class FullLayer:
    """Keys and values of a layer with full causal attention.

    Args:
        branches: of the cache.
    """

    def __init__(self, branches: Branches) -> None:
        self._branches = branches
        self._window: int | None = None
        self.prefix: list[torch.Tensor] = []
        """Keys and values of prefixes, each of shape (prefixes, heads, prefix tokens, head size)."""
        self.own: list[torch.Tensor] = []
        """Keys and values of the rows' own tokens, each of shape (rows, heads, room, head size)."""

    def begin(self, filled: Any, owners: torch.Tensor) -> None:
        """Take over the keys and values of prefixes from a layer of a `DynamicCache`, which is emptied.

        Args:
            filled: the layer, with a row for each prefix.
            owners: the prefix of each row that branches off, shape (rows,).
        """
        self.prefix = [filled.keys, filled.values]
        filled.keys = filled.values = None
        self.own = [part.new_zeros(len(owners), part.shape[1], 0, part.shape[3]) for part in self.prefix]

    def branch(self, prefixes: torch.Tensor | None, branches: Branches, rows: int) -> "FullLayer":
        """Make a layer of another cache, for new rows that branch off from prefixes of this one.

        Args:
            prefixes: the numbers of the prefixes; None for all.
            branches: of the other cache.
            rows: the number of new rows.
        """
        made = self.fresh(branches)
        made._take(self, prefixes, rows)
        return made

    def fresh(self, branches: Branches) -> "FullLayer":
        """An empty layer of the same kind for another cache."""
        return type(self)(branches)

    def _take(self, other: "FullLayer", prefixes: torch.Tensor | None, rows: int) -> None:
        self.prefix = [_chosen(part, prefixes) for part in other.prefix]
        self.own = [part.new_zeros(rows, part.shape[1], 0, part.shape[3]) for part in other.prefix]

    def join(self, parts: Sequence["FullLayer"], copies: Sequence[torch.Tensor | None]) -> None:
        """Take over what several caches hold for this layer. The caches are emptied.

        Args:
            parts: the layer in each cache, perhaps this layer first.
            copies: for each cache, the numbers of the rows to take, repeated for copies; None to take each row once.
        """
        prefix = [left_padded(of_one) for of_one in zip(*(part.prefix for part in parts), strict=True)]
        own = [
            left_padded([copied(part, rows) for part, rows in zip(of_one, copies, strict=True)], room=ROOM)
            for of_one in zip(*(part.used() for part in parts), strict=True)
        ]
        for part in parts:
            part.prefix, part.own = [], []
        self.prefix, self.own = prefix, own

    def keep(self, prefixes: torch.Tensor | None, first: int, rows: torch.Tensor, own_first: int) -> None:
        """Drop all prefixes and rows but some, and padding on the left.

        Args:
            prefixes: the numbers of the prefixes to keep; None for all.
            first: the first column of the prefixes to keep.
            rows: the numbers of the rows to keep.
            own_first: the first column of the rows' own tokens to keep.
        """
        if prefixes is not None or first:
            self.prefix = [_chosen(part, prefixes)[:, :, first:] for part in self.prefix]
        self.own = [part[rows.to(part.device), :, own_first:] for part in self.own]

    def begin_step(self, mask: torch.Tensor | None) -> None:
        """Make room for the tokens of a step; see `BranchingCache.begin_step`."""
        missing = self._branches.own_mask.shape[1] - self.own[0].shape[2]
        if missing > 0:
            self.own = [functional.pad(part, (0, 0, 0, -(-missing // ROOM) * ROOM)) for part in self.own]

    def end_step(self) -> None:
        """Do nothing: masks hide padding from attention."""

    def used(self) -> list[torch.Tensor]:
        """The rows' own keys and values, without the room that is still free."""
        return [part[:, :, : self._branches.own_mask.shape[1]] for part in self.own]

    def update(self, keys: torch.Tensor, values: torch.Tensor) -> tuple["FullLayer", "FullLayer"]:
        """Write the keys and values of each row's new tokens.

        Returns this layer in place of keys and of values: the model passes them to the attention function, which calls
        `attend`.
        """
        end = self._branches.own_mask.shape[1]
        for buffer, new in zip(self.own, (keys, values), strict=True):
            buffer[:, :, end - new.shape[2] : end] = new
        return self, self

    def to(self, *_: Any) -> "FullLayer":
        """Do nothing. Older versions of Gemma 4 call this on the keys of another layer, to move them to a device."""
        return self

    def attend(self, query: torch.Tensor, scaling: float) -> torch.Tensor:
        """Causal attention of the last tokens of each row to the row's prefix and to its own tokens.

        Args:
            query: shape (rows, query heads, tokens, head size).
            scaling: the factor for the products of queries and keys.

        Returns:
            The results, shape (rows, tokens, query heads, value size).
        """
        branches = self._branches
        keys, values = self.prefix
        own_keys, own_values = self.used()
        heads, tokens = keys.shape[1], query.shape[2]
        grouped = query.reshape(len(query), heads, -1, keys.shape[3])
        group = grouped.shape[2]  # query heads that share a head, times tokens
        asked = branches.table(grouped).flatten(2, 3)  # (prefixes, heads, width x group, size)
        to_own = branches.table(_products(grouped, own_keys, scaling)).flatten(2, 3)
        scores = torch.cat([_products(asked, keys, scaling), to_own], -1)
        hidden = branches.once((self._window, tokens, query.device), lambda: self._hidden(tokens, query.device))
        if hidden is not None:
            scores.view(len(keys), heads, branches.width, -1, *hidden.shape[-2:]).masked_fill_(hidden, -torch.inf)
        weights = scores.softmax(-1, torch.float32).to(values.dtype)
        split = keys.shape[2]
        parts = weights[..., :split] @ values, weights[..., split:]
        mixed, own_weights = (
            branches.rows(part.reshape(len(keys), heads, branches.width, group, part.shape[3])).flatten(0, 1)
            for part in parts
        )
        mixed.baddbmm_(own_weights, own_values.flatten(0, 1))
        return mixed.reshape(len(query), -1, tokens, values.shape[3]).transpose(1, 2)

    def _hidden(self, tokens: int, device: torch.device) -> torch.Tensor | None:
        """Which prefix tokens and own tokens the last tokens of each row must not attend to.

        Returns:
            True for hidden ones, bool, shape (prefixes, 1, width, 1, tokens, prefix tokens + own tokens). None if
            nothing is hidden.
        """
        branches = self._branches
        if tokens == 1 and not branches.padded:
            return None
        length = branches.own_mask.shape[1]
        own = ~branches.own_mask[:, None].to(device)
        if tokens > 1:
            own = own | torch.ones(tokens, length, dtype=torch.bool, device=device).triu(length - tokens + 1)
        prefix = ~branches.prefix_mask[branches.owners, None].to(device)
        return self._tabled(prefix, own)

    def _tabled(self, prefix: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """Bring masks of rows into the shape that `_hidden` returns.

        Args:
            prefix: shape (rows, 1 or tokens, prefix tokens).
            own: shape (rows, tokens, own tokens).
        """
        hidden = torch.cat([prefix.expand(-1, own.shape[1], -1), own], -1)
        return self._branches.table(hidden[:, None])[:, :, :, None]


class SlidingLayer(FullLayer):
    """Keys and values of a layer with sliding-window attention.

    Only the last tokens of a prefix are held, as many as the window has. A row's own tokens are all held until the row
    leaves.

    Args:
        branches: of the cache.
        window: the number of tokens that a token attends to, itself included.
    """

    def __init__(self, branches: Branches, window: int) -> None:
        super().__init__(branches)
        self._window: int = window
        self._mask = torch.zeros(0, 0, dtype=torch.bool)
        """False for padding among the prefix tokens that are held, bool, shape (prefixes, prefix tokens)."""

    def begin(self, filled: Any, owners: torch.Tensor) -> None:
        super().begin(filled, owners)
        held = self.prefix[0]
        self._mask = torch.ones(len(held), held.shape[2], dtype=torch.bool, device=held.device)

    def fresh(self, branches: Branches) -> "SlidingLayer":
        return SlidingLayer(branches, self._window)

    def _take(self, other: Any, prefixes: torch.Tensor | None, rows: int) -> None:
        super()._take(other, prefixes, rows)
        self._mask = _chosen(other._mask, prefixes)

    def join(self, parts: Sequence["FullLayer"], copies: Sequence[torch.Tensor | None]) -> None:
        masks = [part._mask[:, None, :, None] for part in parts if isinstance(part, SlidingLayer)]
        self._mask = left_padded(masks)[:, 0, :, 0]
        super().join(parts, copies)

    def keep(self, prefixes: torch.Tensor | None, first: int, rows: torch.Tensor, own_first: int) -> None:
        # `first` counts columns of full layers. This layer holds fewer columns, and keeps its padding.
        super().keep(prefixes, 0, rows, own_first)
        self._mask = _chosen(self._mask, prefixes)

    def _hidden(self, tokens: int, device: torch.device) -> torch.Tensor:
        branches, window = self._branches, self._window
        held, length = self._mask.shape[1], branches.own_mask.shape[1]
        # The number of own tokens in the row up to and including each of the last tokens; 0 or less for padding.
        since = torch.arange(1 - tokens, 1, device=device) + branches.own_mask.sum(1).to(device)[:, None]
        before = torch.arange(held - 1, -1, -1, device=device)  # tokens after each prefix token: 0 for the last one
        prefix = (since[..., None] + before >= window) | ~self._mask[branches.owners.to(device), None]
        every = torch.ones(tokens, length, dtype=torch.bool, device=device)
        near = every.triu(length - tokens - window + 1).tril(length - tokens)
        return self._tabled(prefix, ~(branches.own_mask[:, None].to(device) & near))


class StateLayer(LinearAttentionLayer):  # type: ignore[misc]
    """The states of a layer of linear attention or of convolution, one set for each row. Each token changes them."""

    def begin(self, filled: Any, owners: torch.Tensor) -> None:
        """See `FullLayer.begin`."""
        self.__dict__.update(filled.__dict__)
        self._kept: tuple[torch.Tensor, list[torch.Tensor]] | None = None
        self.reorder_cache(owners)

    def fresh(self, _: Branches) -> "StateLayer":
        """See `FullLayer.fresh`."""
        return StateLayer()

    def join(self, parts: Sequence["StateLayer"], copies: Sequence[torch.Tensor | None]) -> None:
        """See `FullLayer.join`."""
        joined = [
            torch.cat([copied(state, rows) for state, rows in zip(of_one, copies, strict=True)])
            for of_one in zip(*(part._states() for part in parts), strict=True)
        ]
        self.__dict__.update(parts[-1].__dict__)
        self._set_states(joined)

    def keep(self, _: torch.Tensor | None, __: int, rows: torch.Tensor, ___: int) -> None:
        """See `FullLayer.keep`."""
        self.reorder_cache(rows)

    def begin_step(self, mask: torch.Tensor | None) -> None:
        """Remember the states of the rows that are all padding in this step.

        Raises:
            ValueError: a row has both tokens and padding. The padding would change its state.
        """
        self._kept = None
        if mask is None or bool(mask.all()):
            return
        if bool((mask.any(1) != mask.all(1)).any()):
            raise ValueError("rows of a step must be all padding, or have none.")
        idle = (~mask.any(1)).nonzero()[:, 0]
        self._kept = idle, [state[moved(idle, state.device)] for state in self._states()]

    def end_step(self) -> None:
        """Restore the states of the rows that were all padding."""
        if self._kept:
            idle, kept = self._kept
            pairs = zip(self._states(), kept, strict=True)
            self._set_states([now.index_copy(0, moved(idle, now.device), old) for now, old in pairs])
            self._kept = None

    def _states(self) -> list[torch.Tensor]:
        return [state for held in self._held() for state in held.values() if state is not None]

    def _set_states(self, states: Sequence[torch.Tensor]) -> None:
        new = iter(states)
        for held in self._held():
            held.update({number: next(new) for number, state in held.items() if state is not None})

    def _held(self) -> tuple[dict[int, torch.Tensor | None], ...]:
        return self.conv_states, self.recurrent_states


class BorrowingLayer:
    """A layer that attends to the keys of another layer, and holds nothing itself. All methods do nothing."""

    def begin(self, *_: Any) -> None: ...
    def branch(self, *_: Any) -> "BorrowingLayer":
        return self

    def fresh(self, _: Branches) -> "BorrowingLayer":
        return self

    def join(self, *_: Any) -> None: ...
    def keep(self, *_: Any) -> None: ...
    def begin_step(self, *_: Any) -> None: ...
    def end_step(self) -> None: ...


def copied(rows: torch.Tensor, which: torch.Tensor | None) -> torch.Tensor:
    """The rows with these numbers, in this order; all rows as they are if `which` is None."""
    return rows if which is None else rows[which.to(rows.device)]


def left_padded(parts: Sequence[torch.Tensor], *, room: int = 0) -> torch.Tensor:
    """Concatenate the rows of parts of shape (rows, heads, tokens, size). Shorter parts are padded on the left.

    Args:
        parts: the parts.
        room: the number of empty columns to add on the right.
    """
    length = max(part.shape[2] for part in parts)
    widened = [functional.pad(part, (0, 0, length - part.shape[2], room)) for part in parts]
    return torch.cat(widened) if len(widened) > 1 else widened[0]


def _products(queries: torch.Tensor, keys: torch.Tensor, scaling: float) -> torch.Tensor:
    """Scaled products of queries and keys.

    Args:
        queries: shape (many, heads, queries, size).
        keys: shape (many, heads, keys, size).
        scaling: the factor.

    Returns:
        Shape (many, heads, queries, keys).
    """
    nothing = queries.new_empty(1)  # `baddbmm` does not read its input if beta is 0
    flat = torch.baddbmm(nothing, queries.flatten(0, 1), keys.flatten(0, 1).transpose(1, 2), beta=0, alpha=scaling)
    return flat.reshape(*queries.shape[:2], *flat.shape[1:])


def _chosen(part: torch.Tensor, prefixes: torch.Tensor | None) -> torch.Tensor:
    return part if prefixes is None else part[prefixes.to(part.device)]
