"""Which rows of a data set a run begins, and when it begins no more."""

from reelscribe.asking import RowPlan
from reelscribe.config import Shard
from reelscribe.runners.spending import Spending
from reelscribe.runners.stop import Stop
from reelscribe.runners.tally import Tally


class Start:
    """Whether a row is to be begun; asked before each.

    Once it is enough, rows are read on until there is one that this run would have begun: where there is none, all are
    done, and the run has come to its end.
    """

    def __init__(self, shard: Shard | None, stop: Stop, spending: Spending, tally: Tally) -> None:
        self._shard, self._stop, self._spending, self._tally = shard, stop, spending, tally
        self._begun = 0
        self._cut = False

    def may(self, plan: RowPlan) -> bool:
        """Whether this row is to be begun: one of the shard, while it is not enough."""
        if self._shard and not self._shard.holds(plan.shard_hash):
            return False
        if self._is_enough():
            self._cut = True
            return False
        self._begun += 1
        return True

    def is_cut(self) -> bool:
        """Whether there was a row that was not begun, as it was enough."""
        return self._cut

    def is_unfinished(self) -> bool:
        """Whether rows are left for another run, now that this one is over: not begun, or begun and dropped."""
        return self._cut or self._begun > self._tally.rows

    def _is_enough(self) -> bool:
        tally = self._tally
        under_way = (self._begun + 1 - tally.rows) * tally.videos / max(tally.rows, 1)  # with this one
        return bool(self._stop()) or self._spending.must_stop(tally.made, under_way)
