"""A view of a run in progress, for progress lines, events and metrics."""

from dataclasses import dataclass
from typing import Any

from reelscribe.runners.spending import Spending
from reelscribe.runners.tally import Tally
from reelscribe.runners.watch import Watch


@dataclass(frozen=True, kw_only=True, eq=False)
class Live:
    """State of a run in progress. It may be read from any thread, at any time."""

    total: int | None
    """Number of rows in the input; None if counting them would take long."""
    unit: str = "row"
    """The word for a row in messages: "clip" if the inputs are videos, else "row"."""
    watch: Watch
    tally: Tally
    spending: Spending

    @property
    def seconds_left(self) -> float | None:
        """Seconds that the rest takes at the rate so far; None if the rate or the number of rows is not known."""
        return None if self.total is None else self.watch.seconds_for(max(self.total - self.watch.rows_done, 0))

    def finishing(self) -> str:
        """Say in words what a stopping run still finishes.

        It takes no lock, since a signal handler calls it: the interrupted code may hold any lock.
        """
        clips, rate = self.watch.clips_begun, self.watch.clips_per_second
        if not clips:
            return "finishing what is in flight"
        seconds = f", about {max(clips / rate, 1):,.0f} s" if rate else ""
        return f"finishing {clips} clip{'s'[: clips != 1]}{seconds}"

    def told(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        left = self.seconds_left
        return {
            "rows": self.tally.rows,
            "total": self.total,
            "captions": self.tally.captions,
            "failures": dict(self.tally.failures),  # a copy, since the run goes on counting in another thread
            **self.tally.by_task(),
            "seconds_left": None if left is None else round(left, 1),
            "cost": self.spending.cost,
            **self.watch.told(),
        }
