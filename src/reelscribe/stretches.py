"""Parses stretches of videos, which rows name in columns of times, in a list of pairs, or at the end of a path."""

import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from numbers import Real
from typing import Any, Final
from urllib.parse import unquote

from reelscribe.errors import ClipError, without_passwords

MOST_SECONDS: Final = 1e9
"""Times of this many seconds or more are rejected: no video is that long, but data may hold any number."""
_DIMENSION: Final = r"[a-z]+=[^#&]*"
_FRAGMENT: Final = re.compile(rf"(.+)#({_DIMENSION}(?:&{_DIMENSION})*)\Z", re.DOTALL)
"""Matches a path with a fragment as in W3C's Media Fragments URI 1.0 (section 4.2)."""
_CLOCK: Final = re.compile(r"(?:(\d+):(?=[0-5]?\d:))?(\d+):([0-5]?\d(?:[.,]\d*)?)", re.ASCII)
"""Matches HH:MM:SS.mmm or MM:SS.mmm, without a limit on minutes if there are no hours. Subtitles have a comma before
the milliseconds."""
_MOST_SHOWN: Final = 80
"""Maximum characters of a value in a message."""
_SECONDS: Final = re.compile(r"-?\d+(?:\.\d*)?s?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Start and end of a stretch, in seconds from the first frame of the file. They may lie outside of the file."""

    start_seconds: float = 0.0
    end_seconds: float | None = None
    """None for the end of the file."""


WHOLE: Final = Stretch()


def split_fragment(path: str) -> tuple[str, Stretch]:
    """Split a path or URL such as `a.mp4#t=12,18` into the path and its stretch; without a fragment, `WHOLE`.

    Raises:
        ClipError: kind "row", if the fragment has no valid times, or something else besides them.
    """
    found = _FRAGMENT.fullmatch(path)
    dimensions = found[2].split("&") if found else []
    if not found or not any(dimension.startswith("t=") for dimension in dimensions):
        return path, WHOLE
    where = without_passwords(path)
    if len(dimensions) > 1:
        message = f"behind # only times are read, as #t=12,18; got {_shown(found[2])}. Leave the rest out."
        raise ClipError("row", f"{where}: {message}")
    times = unquote(found[2].removeprefix("t="))
    start, comma, end = times.removeprefix("npt:").partition(",")
    if not (start or end) or (comma and not end):
        raise ClipError("row", f"{where}: after #t= there must be times, as #t=12,18 or #t=,18; got {_shown(times)}.")
    return found[1], Stretch(start_seconds=_seconds(start, where) or 0.0, end_seconds=_seconds(end, where))


def in_columns(start: Any, end: Any, names: tuple[str, str]) -> Stretch:
    """The stretch that the values of two columns name; either may be missing.

    Raises:
        ClipError: kind "row", if one holds a value that is not a time.
    """
    first, last = (
        _seconds(time, f"column {name!r}", f" If the column means something else, {setting} '' leaves it alone.")
        for time, name, setting in zip((start, end), names, ("start_key", "end_key"), strict=True)
    )
    return Stretch(start_seconds=first or 0.0, end_seconds=last)


def in_list(pairs: Any, name: str) -> list[Stretch]:
    """The stretches in a column: pairs of times, or objects with `start` and `end` and possibly other keys.

    Raises:
        ClipError: kind "row", if it holds something else.
    """
    made, else_ = [], " If the column means something else, stretches_key '' leaves it alone."
    for number, pair in enumerate(pairs if isinstance(pairs, list | tuple) else [pairs]):
        where = f"column {name!r}, entry {number}"
        if isinstance(pair, Mapping) and pair.keys() & {"start", "end"}:
            start, end = pair.get("start"), pair.get("end")
        elif isinstance(pair, Sequence) and not isinstance(pair, str | bytes) and len(pair) == 2:
            start, end = pair
        else:
            message = f"{where}: a stretch is a pair of times, [12, 18.5]; got {_shown(pair)}.{else_}"
            raise ClipError("row", message)
        made.append(
            Stretch(start_seconds=_seconds(start, where, else_) or 0.0, end_seconds=_seconds(end, where, else_))
        )
    return made


def _seconds(value: Any, where: str, advice: str = "") -> float | None:
    """A time in seconds; None if it is missing. NaN counts as missing, since pandas uses it for missing values."""
    if value is None or (isinstance(value, str) and not value):
        return None
    seconds = None
    if isinstance(value, str):
        seconds = time_of(value.strip())
    elif isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, Real | Decimal) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError, ValueError):  # beyond all floats, or a NaN that raises
            seconds = float(value)
    if seconds is not None and math.isnan(seconds):
        return None
    if seconds is None or abs(seconds) >= MOST_SECONDS:
        raise ClipError("row", f"{where}: a time is seconds, or HH:MM:SS.mmm; got {_shown(value)}.{advice}")
    return seconds


def _shown(value: Any) -> str:
    """A value for a message, shortened if it is long."""
    if isinstance(value, int) and abs(value) >= MOST_SECONDS:  # repr raises ValueError for ints of over 4300 digits
        return "a number that is too large"
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def time_of(text: str) -> float | None:
    """Parse a time in a text: `2.5`, `2.5s`, `MM:SS` or `HH:MM:SS.mmm`. Returns seconds; None if it is not a time."""
    if clock := _CLOCK.fullmatch(text):
        hours, minutes, seconds = clock[1] or 0, clock[2], clock[3].replace(",", ".")
        return float(hours) * 3600 + float(minutes) * 60 + float(seconds)
    return float(text.removesuffix("s")) if _SECONDS.fullmatch(text) else None
