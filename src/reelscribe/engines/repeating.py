"""A cache for models with layers that no `BranchingCache` holds: Transformers' own, one a question.

A clip is looked at once and its prefix is read once for each question's start, as elsewhere. But each candidate has a
copy of its whole prompt, and a step goes through the model once for each question.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import DynamicCache

from reelscribe.engines.moving import numbers


class RepeatingCache:
    """The cache of a running batch, with the methods of a `BranchingCache`.

    Args:
        device: of its rows' numbers.
    """

    has_states = True
    """As if it had: a piece of a question is all padding in a row, or has none."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._held: list[tuple[Any, int]] = []
        """A cache of Transformers for each question, and its rows."""
        self._live: list[bool] | None = None
        """Which questions have tokens in this step; None for all."""

    @classmethod
    def over(
        cls, filled: DynamicCache, _: Sequence[int], counts: Sequence[int], device: torch.device
    ) -> "RepeatingCache":
        """A cache whose questions go on from a prefix that was read.

        Args:
            filled: of one prefix, without padding.
            counts: questions of the prefix, of length 1.
            device: of rows' numbers.
        """
        made = cls(device)
        [count] = counts
        made._held = [*((copy.deepcopy(filled), 1) for _ in range(count - 1)), (filled, 1)]
        return made

    def add(self, joining: Sequence["RepeatingCache"], counts: Sequence[int]) -> None:
        """Let the questions of other caches join, each with a row for each candidate."""
        held = [each for cache in joining for each, _ in cache._held]
        for each, count in zip(held, counts, strict=True):
            each.reorder_cache(torch.zeros(count, dtype=torch.int64, device=self._device))
            self._held.append((each, count))

    def begin_step(self, mask: torch.Tensor | None = None) -> None:
        """Say which questions have tokens in the step that follows; see `BranchingCache.begin_step`."""
        self._live = None if mask is None else mask.any(1).tolist()

    def end_step(self) -> None:
        """Nothing is left to do: rows of padding did not go through the model."""

    def passes(self) -> Iterator[tuple[slice, Any]]:
        """Rows that go through the model together, with their cache."""
        start = 0
        for number, (each, count) in enumerate(self._held):
            if self._live is None or self._live[number]:
                yield slice(start, start + count), each
            start += count

    def keep(self, rows: Sequence[int]) -> None:
        """Keep some rows: which, ascending."""
        start, left = 0, []
        for each, count in self._held:
            mine = [row - start for row in rows if start <= row < start + count]
            if mine:
                if len(mine) < count:
                    each.reorder_cache(numbers(mine, self._device))
                left.append((each, len(mine)))
            start += count
        self._held = left
