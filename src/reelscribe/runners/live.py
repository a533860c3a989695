"""A run while it goes on, for whoever wants to watch it."""

from dataclasses import dataclass
from typing import Any

from reelscribe.runners.spending import Spending
from reelscribe.runners.tally import Tally
from reelscribe.runners.watch import Watch


@dataclass(frozen=True, kw_only=True, eq=False)
class Live:
    """What there is to see of a run. May be read from any thread, at any time."""

    total: int | None
    """Rows; None where to count them takes long."""
    watch: Watch
    tally: Tally
    spending: Spending

    @property
    def seconds_left(self) -> float | None:
        """At the rate so far; None where the number of rows is not known, or none is done."""
        if not self.total or not self.tally.rows:
            return None
        return self.watch.seconds * max(self.total - self.tally.rows, 0) / self.tally.rows

    def told(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        left = self.seconds_left
        return {
            "rows": self.tally.rows,
            "total": self.total,
            "captions": self.tally.captions,
            "failures": dict(self.tally.failures),  # a copy, made at once: the run goes on counting
            **self.tally.by_task(),
            "seconds_left": None if left is None else round(left, 1),
            "cost": self.spending.cost,
            **self.watch.told(),
        }
