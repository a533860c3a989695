"""What is common among a great many texts, in bounded memory."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

import numpy as np

MOST: Final = 50_000
"""Different texts that are counted at once; twice as many are held in memory."""


class Common:
    """Counts texts. After Misra and Gries (1982), "Finding repeated elements", many at a time.

    Up to `2 * most` different texts are counted exactly. Of more, the rarest are dropped, and as much as the largest of
    those had is taken from all others. Each time at least `most` counts lose that much, so that nothing is ever counted
    too low by more than one in `most` of all that was counted. So what is commoner than that is never missed.

    Args:
        most: texts that are kept when rare ones are dropped.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._counts: Counter[str] = Counter()
        self.total = 0
        """Texts that were counted."""
        self.missing = 0
        """By at most so much each count is too low; 0 while all are exact."""

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
        """Texts that may be there more often than that, and how often they are at least; the commonest first."""
        found = [(text, least) for text, least in self._counts.items() if least + self.missing > count]
        return sorted(found, key=lambda item: (-item[1], item[0]))

    def top(self, number: int) -> list[tuple[str, int]]:
        """The commonest, and how often they are at least."""
        return self._counts.most_common(number)
