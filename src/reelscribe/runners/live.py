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
    unit: str = "row"
    """What a row is called: a "clip", if the inputs are videos."""
    watch: Watch
    tally: Tally
    spending: Spending

    @property
    def seconds_left(self) -> float | None:
        """At the rate so far; None while it is not known, or if the number of rows is not."""
        return None if self.total is None else self.watch.seconds_for(max(self.total - self.watch.rows_done, 0))

    def finishing(self) -> str:
        """What is still done once the run is told to stop, in words. Takes no lock: a signal may come at any time."""
        clips, rate = self.watch.clips_begun, self.watch.clips_per_second
        if not clips:
            return "finishing what is in flight"
        seconds = f", about {max(clips / rate, 1):,.0f} s" if rate else ""
        return f"finishing {clips} clip{'s'[: clips != 1]}{seconds}"

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
