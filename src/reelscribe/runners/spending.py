"""Tracks the cost of a run, and decides when it must stop to stay within a budget."""

import time
from collections.abc import Callable

from reelscribe.config import LimitSettings
from reelscribe.errors import BudgetError


class Spending:
    """Computes the cost of the GPUs' time. Time counts from construction, so loading the model is included.

    Args:
        settings: the price of a GPU hour and the budget, both optional.
        clock: function that returns seconds on a monotonic clock.
    """

    def __init__(self, settings: LimitSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._price, self._budget, self._clock = settings.price, settings.budget, clock
        self._began = self._started = clock()
        self._gpus = 1
        self.is_over = False
        """Whether the run must stop because of the budget."""

    def start(self, gpus: int) -> None:
        """Note that the model is loaded, and how many GPUs it occupies."""
        self._gpus, self._started = gpus, self._clock()

    @property
    def cost(self) -> float | None:
        """Cost so far; None without a price."""
        return None if self._price is None else self._at(self._clock())

    def _at(self, moment: float) -> float:
        return (self._price or 0.0) * self._gpus * (moment - self._began) / 3600

    def must_stop(self, made: int, under_way: float) -> bool:
        """Whether the run must begin no more clips, so that those under way can be finished within the budget.

        The clips under way are assumed to take as long as those so far. Before the first clip is done there is no
        estimate, so the run stops only when the budget is spent.

        Args:
            made: number of clips done in this run.
            under_way: number of clips that were begun and are not done.
        """
        if self._budget is None or self.is_over:
            return self.is_over
        now = self._clock()
        left = under_way * (now - self._started) / made if made else 0.0
        self.is_over = self._at(now + left) >= self._budget
        return self.is_over

    def error(self, rows: int) -> BudgetError:
        """The error to raise if the run stopped because of the budget after this many rows."""
        return BudgetError(
            f"stopped after {rows:,} rows, at a cost of {self.cost or 0:.2f}, before the budget of {self._budget:g} "
            "was passed; what was made is kept, and the same command goes on from there, with a budget of its own."
        )
