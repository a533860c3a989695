"""Computes how a video is split into clips: the start and end of each."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from reelscribe.config import Settings
from reelscribe.errors import SettingsError

SCENE, CLIP = "scene", "clip"
"""Names of the columns with the numbers of the scene and of the clip in the video, from 0. `SCENE` is only added if
videos are split into scenes."""
_ROUNDED: Final = 0.0005
"""Tolerance in seconds: half a millisecond, since times are written in milliseconds."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A clip of a video, in seconds from its first frame."""

    start: float
    end: float
    scene: int | None = None
    """Number of its scene, from 0; None if videos are not split into scenes."""


@dataclass(frozen=True, kw_only=True)
class Splitting:
    """How to split videos. All lengths are in seconds."""

    every: float | None
    """Length of each clip; None to split into scenes."""
    overlap: float
    """Overlap of adjacent clips, with `every`."""
    shortest: float
    """Minimum length of a clip; shorter ones are left out."""
    longest: float | None
    """Maximum length of a clip of a scene; a longer scene is divided evenly. None for no limit."""

    @classmethod
    def of(cls, settings: Settings) -> "Splitting | None":
        """How the settings split videos; None if they do not.

        Raises:
            SettingsError: the settings contradict each other.
        """
        if settings.split is None:
            for name in ("overlap", "min_seconds", "max_seconds", "nested"):
                if getattr(settings, name) != getattr(Settings, name):
                    raise SettingsError(f"{name} is for clips that split makes; set split, too.")
            return None
        every = None if settings.split == "scenes" else _length(settings.split)
        if not (settings.start_key and settings.end_key):
            raise SettingsError("split names each clip in columns: start_key and end_key must be set.")
        if settings.nested and not settings.stretches_key:
            raise SettingsError("nested names clips in a column: stretches_key must be set.")
        if not settings.nested and any(task.is_over_video for task in settings.all_tasks):
            raise SettingsError("a task over the video needs its clips in one row: set nested, too.")
        if every is None and settings.overlap:
            raise SettingsError("overlap is for clips of one length; scenes do not overlap.")
        if every is not None and settings.max_seconds is not None:
            raise SettingsError("max_seconds is for scenes; clips of one length are as long as split says.")
        if every is not None and settings.overlap >= every:
            raise SettingsError(f"overlap ({settings.overlap:g} s) must be less than a clip ({every:g} s).")
        longest = settings.max_seconds if every is None else every
        if longest is not None and settings.min_seconds > longest:
            raise SettingsError(f"min_seconds ({settings.min_seconds:g}) must not exceed a clip's {longest:g} seconds.")
        return cls(every=every, overlap=settings.overlap, shortest=settings.min_seconds, longest=settings.max_seconds)

    def pieces(self, start: float, end: float, scenes: Sequence[tuple[float, float]] = ()) -> Iterator[Piece]:
        """The clips of a stretch, including those that are too short.

        Args:
            start: start of the stretch, in seconds.
            end: end of the stretch, in seconds.
            scenes: start and end of each scene of the whole file, ascending.
        """
        if self.every is not None:
            yield from self._windows(start, end, self.every)
            return
        for number, (first, last) in enumerate(scenes):
            first, last = max(first, start), min(last, end)  # noqa: PLW2901 - the part that is in the stretch
            if last - first > _ROUNDED:
                parts = 1 if self.longest is None else math.ceil((last - first) / self.longest - _ROUNDED)
                times = [first + (last - first) * part / parts for part in range(parts)] + [last]
                yield from (Piece(start=a, end=b, scene=number) for a, b in itertools.pairwise(times))

    def _windows(self, start: float, end: float, every: float) -> Iterator[Piece]:
        number, step = 0, every - self.overlap
        while start + number * step < end - _ROUNDED:
            first = start + number * step
            yield Piece(start=first, end=min(first + every, end))
            if first + every >= end - _ROUNDED:
                return
            number += 1

    def is_long_enough(self, piece: Piece) -> bool:
        """Whether a clip has the minimum length."""
        return piece.end - piece.start >= self.shortest - _ROUNDED


def _length(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise SettingsError(f"split must be scenes, or a length in seconds, as 10; got {text!r}.")
    return seconds
