"""How fast the last run on an output was as time went on, from its record."""

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reelscribe.runners.status import record_of

_UNITS = ((2 * 3600.0, "hours", 3600.0), (120.0, "minutes", 60.0), (0.0, "seconds", 1.0))
"""From so many seconds on, what they are told in, and how many seconds it has."""


_FEWEST_RATES, _FEWEST_SECONDS = 5, 30.0
"""A shorter run tells how it started and nothing else."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """Clips a second from each moment to the next."""

    edges: list[float]
    """Moments, in `unit`, one more than there are rates."""
    unit: str
    rates: list[float]
    on_the_whole: float
    """Clips a second."""
    bottleneck: str
    """The stage that held it up."""
    seconds: float
    """How long it took."""

    @property
    def says_something(self) -> bool:
        """Whether the run was long enough for a drawing of its rates to say something."""
        return len(self.rates) >= _FEWEST_RATES and self.seconds >= _FEWEST_SECONDS

    @classmethod
    def of(cls, output: Path) -> "Course | None":
        """None where there is no record, or its run made nothing."""
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
    """From 0, ascending; none where the record holds something else."""
    points = [(0.0, 0.0)]
    course = told.get("course")
    for point in course if isinstance(course, list) else []:
        if not (isinstance(point, list) and len(point) == 2 and all(type(value) in (int, float) for value in point)):
            return []
        if point[0] > points[-1][0] and points[-1][1] <= point[1] < float("inf"):
            points.append((point[0], point[1]))
    return points
