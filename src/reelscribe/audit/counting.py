"""Finds the most frequent of very many texts, in bounded memory."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

import numpy as np

MOST: Final = 50_000
"""Number of different texts that are kept when rare ones are dropped; up to twice as many are held."""


class Common:
    """Counts texts, after Misra and Gries (1982), "Finding repeated elements", but drops many at a time.

    Up to `2 * most` different texts are counted exactly. Beyond that, only the `most` commonest are kept, and the
    count of the commonest dropped text is subtracted from each of them. Each time at least `most` counts lose that
    much, so no count is ever too low by more than `total / most`. A text that occurs more often than that is never
    missed.

    Args:
        most: number of texts that are kept when rare ones are dropped.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._counts: Counter[str] = Counter()
        self.total = 0
        """Number of texts that were counted."""
        self.missing = 0
        """Upper bound of how much each count is too low; 0 while all counts are exact."""

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, texts: Iterable[str]) -> None:
        """Count texts."""
        texts = list(texts)
        self._counts.update(texts)
        self.total += len(texts)
        if len(self._counts) > 2 * self._most:
            self._drop()

    def _drop(self) -> None:
        counts = np.fromiter(self._counts.values(), np.int64, len(self._counts))
        least = int(np.partition(counts, -self._most - 1)[-self._most - 1])
        self._counts = Counter({text: count - least for text, count in self._counts.items() if count > least})
        self.missing += least

    def above(self, count: float) -> list[tuple[str, int]]:
        """Texts that may occur more often than `count`, each with a lower bound of its count; the commonest first."""
        found = [(text, least) for text, least in self._counts.items() if least + self.missing > count]
        return sorted(found, key=lambda item: (-item[1], item[0]))

    def top(self, number: int) -> list[tuple[str, int]]:
        """The commonest texts, each with a lower bound of its count."""
        return self._counts.most_common(number)
