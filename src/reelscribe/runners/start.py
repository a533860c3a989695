"""Decides which rows a run begins, and when it begins no more rows."""

from reelscribe.asking import RowPlan
from reelscribe.config import Shard
from reelscribe.runners.spending import Spending
from reelscribe.runners.stop import Stop
from reelscribe.runners.tally import Tally


class Start:
    """Decides for each row whether the run begins it: it must be of the run's shard, and the run must not be stopping.

    After a signal or at the end of the budget, the run reads on until it finds a row that it would have begun. If
    there is no such row, everything is done, and the run counts as finished rather than stopped.
    """

    def __init__(self, shard: Shard | None, stop: Stop, spending: Spending, tally: Tally) -> None:
        self._shard, self._stop, self._spending, self._tally = shard, stop, spending, tally
        self._begun = 0
        self._cut = False

    def may(self, plan: RowPlan) -> bool:
        """Whether to begin this row."""
        if self._shard and not self._shard.holds(plan.shard_hash):
            return False
        if self._is_enough():
            self._cut = True
            return False
        self._begun += 1
        return True

    def is_cut(self) -> bool:
        """Whether a row of the shard was not begun because the run is stopping."""
        return self._cut

    def is_unfinished(self) -> bool:
        """Whether rows are left at the end of the run: some were not begun, or were begun and then dropped."""
        return self._cut or self._begun > self._tally.rows

    def _is_enough(self) -> bool:
        tally = self._tally
        # Rows under way, including this one, times the average number of videos in a row.
        under_way = (self._begun + 1 - tally.rows) * tally.videos / max(tally.rows, 1)
        return bool(self._stop()) or self._spending.must_stop(tally.made, under_way)
