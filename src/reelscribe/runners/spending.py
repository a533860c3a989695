"""Tracks the cost of a run, and when it has to stop to stay within a budget."""

import time
from collections.abc import Callable

from reelscribe.config import LimitSettings
from reelscribe.errors import BudgetError


class Spending:
    """Counts the time that GPUs are kept, from when it is made: before the model is loaded.

    Args:
        settings: what a GPU hour costs, and the budget, where there is one.
        clock: seconds.
    """

    def __init__(self, settings: LimitSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._price, self._budget, self._clock = settings.price, settings.budget, clock
        self._began = self._started = clock()
        self._gpus = 1
        self.is_over = False
        """Whether the run has to stop because of the budget."""

    def start(self, gpus: int) -> None:
        """Say that the model is loaded, and how many GPUs it keeps."""
        self._gpus, self._started = gpus, self._clock()

    @property
    def cost(self) -> float | None:
        """Cost so far; None without a price."""
        return None if self._price is None else self._at(self._clock())

    def _at(self, moment: float) -> float:
        return (self._price or 0.0) * self._gpus * (moment - self._began) / 3600

    def must_stop(self, made: int, under_way: float) -> bool:
        """Whether to begin nothing new, so that what is under way can be finished within the budget.

        What is under way is taken to be as fast as the run was so far. Before the first clip is done there is nothing
        to go by, and the run stops when the budget is spent.

        Args:
            made: clips done in this run.
            under_way: clips that were begun.
        """
        if self._budget is None or self.is_over:
            return self.is_over
        now = self._clock()
        left = under_way * (now - self._started) / made if made else 0.0
        self.is_over = self._at(now + left) >= self._budget
        return self.is_over

    def error(self, rows: int) -> BudgetError:
        """What to raise where the run ended for it, after so many rows."""
        return BudgetError(
            f"stopped after {rows:,} rows, at a cost of {self.cost or 0:.2f}, before the budget of {self._budget:g} "
            "was passed; what was made is kept, and the same command goes on from there, with a budget of its own."
        )
