"""Stretches of videos, as rows name them: in columns of times, in a list of pairs, or at the end of a path."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from reelscribe.errors import ClipError

_FRAGMENT: Final = re.compile(r"(.+)#t=([^#&]*)\Z", re.DOTALL)
"""The end of a path, as W3C's Media Fragments URI 1.0 has it (section 4.2.1); of its dimensions only that of time."""
_CLOCK: Final = re.compile(r"(?:(\d+):)?([0-5]?\d):([0-5]?\d(?:[.,]\d*)?)", re.ASCII)
"""HH:MM:SS.mmm or MM:SS.mmm; subtitles have a comma there."""
_SECONDS: Final = re.compile(r"-?\d+(?:\.\d*)?s?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """From when to when, in seconds from the first frame of the file. It need not be in the file."""

    start_seconds: float = 0.0
    end_seconds: float | None = None
    """None for the end of the file."""


WHOLE: Final = Stretch()


def split_fragment(path: str) -> tuple[str, Stretch]:
    """A path or URL without its `#t=12,18`, and the stretch that this names; where there is none, the whole file.

    Raises:
        ClipError: kind "row", where it names no times.
    """
    found = _FRAGMENT.fullmatch(path)
    if not found:
        return path, WHOLE
    start, comma, end = found[2].removeprefix("npt:").partition(",")
    if not (start or end) or (comma and not end):
        raise ClipError("row", f"{path}: after #t= there must be times, as #t=12,18 or #t=,18; got {found[2]!r}.")
    return found[1], _stretch(start, end, path)


def in_columns(start: Any, end: Any, names: tuple[str, str]) -> Stretch:
    """The stretch that two columns name; either may hold nothing.

    Raises:
        ClipError: kind "row", where one holds no time.
    """
    return _stretch(start, end, f"columns {names[0]!r} and {names[1]!r}")


def in_list(pairs: Any, name: str) -> list[Stretch]:
    """The stretches in a column: pairs of times, or tables with `start` and `end`, in which other keys may stand.

    Raises:
        ClipError: kind "row", where it holds something else.
    """
    made = []
    for number, pair in enumerate(pairs if isinstance(pairs, list | tuple) else [pairs]):
        where = f"column {name!r}, entry {number}"
        if isinstance(pair, Mapping) and pair.keys() & {"start", "end"}:
            made.append(_stretch(pair.get("start"), pair.get("end"), where))
        elif isinstance(pair, Sequence) and not isinstance(pair, str | bytes) and len(pair) == 2:
            made.append(_stretch(pair[0], pair[1], where))
        else:
            raise ClipError("row", f"{where}: a stretch is a pair of times, [12, 18.5]; got {pair!r}.")
    return made


def _stretch(start: Any, end: Any, where: str) -> Stretch:
    return Stretch(start_seconds=_seconds(start, where) or 0.0, end_seconds=_seconds(end, where))


def _seconds(value: Any, where: str) -> float | None:
    """A time in seconds; None for none. What is missing is a number that is none in tables of pandas."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    seconds = time_of(value.strip()) if isinstance(value, str) else None
    if seconds is None:
        raise ClipError("row", f"{where}: a time is seconds, or HH:MM:SS.mmm; got {value!r}.")
    return seconds


def time_of(text: str) -> float | None:
    """The seconds of a time in a text: `2.5`, `2.5s`, `MM:SS` or `HH:MM:SS.mmm`; None if it is no time."""
    if clock := _CLOCK.fullmatch(text):
        hours, minutes, seconds = clock[1] or 0, clock[2], clock[3].replace(",", ".")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    return float(text.removesuffix("s")) if _SECONDS.fullmatch(text) else None
