"""A cache for models with layers that a `BranchingCache` cannot hold: one cache of Transformers for each question.

As elsewhere, a clip is encoded once, and each prefix is prefilled once. But each candidate has a copy of its whole
prompt, and a step runs the model once for each question.
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
        device: the device for indices of rows.
    """

    has_states = True
    """As in a `BranchingCache` with states, each row of a step must be either all padding or have none. Rows that are
    all padding are left out of the step."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._held: list[tuple[Any, int]] = []
        """For each question, a cache of Transformers and its number of rows."""
        self._live: list[bool] | None = None
        """Whether each question has tokens in this step; None if all have."""

    @classmethod
    def over(
        cls, filled: DynamicCache, _: Sequence[int], counts: Sequence[int], device: torch.device
    ) -> "RepeatingCache":
        """Make a cache whose questions branch off from a prefix that was prefilled.

        Args:
            filled: the cache of one prefix, without padding.
            counts: the number of questions of the prefix, as a list of length 1.
            device: the device for indices of rows.
        """
        made = cls(device)
        [count] = counts
        made._held = [*((copy.deepcopy(filled), 1) for _ in range(count - 1)), (filled, 1)]
        return made

    def add(self, joining: Sequence["RepeatingCache"], counts: Sequence[int]) -> None:
        """Add the questions of other caches. `counts` are the numbers of candidates, each of which gets a row."""
        held = [each for cache in joining for each, _ in cache._held]
        for each, count in zip(held, counts, strict=True):
            each.reorder_cache(torch.zeros(count, dtype=torch.int64, device=self._device))
            self._held.append((each, count))

    def begin_step(self, mask: torch.Tensor | None = None) -> None:
        """Note which questions have tokens in the next step; see `BranchingCache.begin_step`."""
        self._live = None if mask is None else mask.any(1).tolist()

    def end_step(self) -> None:
        """Do nothing: rows of padding did not go through the model."""

    def passes(self) -> Iterator[tuple[slice, Any]]:
        """For each question with tokens in this step, its rows and its cache. They go through the model together."""
        start = 0
        for number, (each, count) in enumerate(self._held):
            if self._live is None or self._live[number]:
                yield slice(start, start + count), each
            start += count

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but some. `rows` are the numbers of those to keep, ascending."""
        start, left = 0, []
        for each, count in self._held:
            mine = [row - start for row in rows if start <= row < start + count]
            if mine:
                if len(mine) < count:
                    each.reorder_cache(numbers(mine, self._device))
                left.append((each, len(mine)))
            start += count
        self._held = left
