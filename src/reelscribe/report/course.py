"""How the speed of the last run on an output changed over time, read from the run's record."""

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reelscribe.runners.status import record_of

_UNITS = ((2 * 3600.0, "hours", 3600.0), (120.0, "minutes", 60.0), (0.0, "seconds", 1.0))
"""Units of time: minimum length of a run in seconds to use this unit, its name, and its length in seconds."""
_FEWEST_RATES, _FEWEST_SECONDS = 5, 30.0
"""Minimum number of rates and of seconds for a plot: a shorter run shows only how it started."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """Clips per second between measured moments of a run."""

    edges: list[float]
    """Moments in `unit`, ascending; one more than there are rates."""
    unit: str
    """Unit of the moments: seconds, minutes or hours."""
    rates: list[float]
    """Clips per second between each two moments."""
    on_the_whole: float
    """Clips per second of the whole run."""
    bottleneck: str
    """The stage that limited the speed."""
    seconds: float
    """Length of the run in seconds."""

    @property
    def says_something(self) -> bool:
        """Whether the run was long enough for a plot of its rates."""
        return len(self.rates) >= _FEWEST_RATES and self.seconds >= _FEWEST_SECONDS

    @classmethod
    def of(cls, output: Path) -> "Course | None":
        """Read the course of the last run on an output; None if it has no record or made no clips."""
        try:
            told = json.loads(record_of(output).read_text("utf-8"))
        except (OSError, ValueError):
            return None
        points = _points(told) if isinstance(told, Mapping) else []
        if len(points) < 2:
            return None
        seconds, clips = points[-1]
        unit, length = next((unit, length) for least, unit, length in _UNITS if seconds >= least)
        return cls(
            edges=[moment / length for moment, _ in points],
            unit=unit,
            rates=[(more - less) / (later - sooner) for (sooner, less), (later, more) in itertools.pairwise(points)],
            on_the_whole=clips / seconds,
            bottleneck=str(told.get("bottleneck")),
            seconds=seconds,
        )


def _points(told: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Pairs of seconds and clips made by then, ascending from (0, 0). Empty if the record holds anything else."""
    points = [(0.0, 0.0)]
    course = told.get("course")
    for point in course if isinstance(course, list) else []:
        if not (isinstance(point, list) and len(point) == 2 and all(type(value) in (int, float) for value in point)):
            return []
        if point[0] > points[-1][0] and points[-1][1] <= point[1] < float("inf"):
            points.append((point[0], point[1]))
    return points
