"""Lays out the stretches of a film on a timeline: the line, the position and the row of each."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

T = TypeVar("T")
E = TypeVar("E")

_MOST_IN_LINE: Final = 40
"""Maximum number of stretches that begin within a line. With 40, a link on a desktop is as wide as it is high."""
_MOST_LINES: Final = 60
"""Maximum number of lines of a film, even if more stretches than `_MOST_IN_LINE` then begin in one."""
_LINE_SECONDS: Final = (86400, 43200, 21600, 7200, 3600, 1800, 1200, 600, 300, 120, 60, 30, 20, 10, 5, 2, 1)
"""Lengths that a line may have, if the film does not fit into one line."""
_LEAST_PERCENT: Final = 1.0
"""Minimum width of a stretch, in percent of a line. Shorter ones are drawn, and placed in rows, with this width."""
_SLIVER_PERCENT: Final = 0.05
"""A stretch that reaches into the next line by less than this percentage is not drawn there, as times are rounded."""


@dataclass(frozen=True, kw_only=True)
class Span(Generic[T]):
    """Something with a start and a later end, in seconds from the first frame of the film."""

    start: float
    end: float
    what: T


@dataclass(frozen=True, kw_only=True)
class Piece(Generic[T]):
    """The part of a span that lies within one line."""

    what: T
    left: float
    """Start, in percent of the line's length."""
    width: float
    """Length, in percent of the line's length."""
    row: int
    """Row within the line, from 0. Overlapping pieces are in different rows."""
    is_first: bool
    """Whether the span begins in this line. If not, it continues from an earlier one."""


@dataclass(frozen=True, kw_only=True)
class Packed(Generic[T]):
    """Pieces within a line, ordered by start."""

    pieces: list[Piece[T]]
    rows: int
    """Number of rows that they fill."""


@dataclass(frozen=True, kw_only=True)
class Line(Generic[T, E]):
    """A line of the timeline. All lines of a film have the same length; the film may end within the last one."""

    start: float
    """In seconds from the first frame of the film."""
    filled: float
    """Part of the line before the end of the film, in percent of its length."""
    after_gap: bool
    """Whether empty lines before it were left out."""
    clips: Packed[T]
    events: Packed[E]


def lines_of(clips: Sequence[Span[T]], events: Sequence[Span[E]], seconds: float) -> list[Line[T, E]]:
    """Lay out clips and events of a film: in one line if there is room, else in lines of equal length.

    Args:
        clips: at least one; each begins before the film ends.
        events: drawn below the clips; each begins before the film ends.
        seconds: length of the film.
    """
    step = _line_seconds([clip.start for clip in clips], seconds)
    clip_pieces, event_pieces = _by_line(clips, step, seconds), _by_line(events, step, seconds)
    lines: list[Line[T, E]] = []
    last = -1
    for number in sorted(clip_pieces.keys() | event_pieces.keys()):
        start = number * step
        lines.append(
            Line(
                start=start,
                filled=round(min((seconds - start) / step, 1) * 100, 3),
                after_gap=number > last + 1,
                clips=_in_rows(clip_pieces.get(number, ())),
                events=_in_rows(event_pieces.get(number, ())),
            )
        )
        last = number
    return lines


def _line_seconds(starts: Sequence[float], seconds: float) -> float:
    """The longest line length with few enough clips in each line, unless that would make too many lines."""
    step = seconds
    for shorter in _LINE_SECONDS:
        fullest = max(Counter(start // step for start in starts).values())
        if shorter >= seconds:
            continue
        if fullest <= _MOST_IN_LINE or seconds / shorter > _MOST_LINES:
            break
        step = shorter
    return step


def _by_line(spans: Iterable[Span[T]], step: float, seconds: float) -> dict[int, list[tuple[float, float, bool, T]]]:
    """Cut spans at line ends: for each line number, (left in percent, width in percent, is_first, what)."""
    found: dict[int, list[tuple[float, float, bool, T]]] = {}
    for span in sorted(spans, key=lambda span: (span.start, span.end)):
        first, end = int(span.start // step), min(span.end, seconds)
        for number in range(first, max(math.ceil(end / step), first + 1)):
            left = max(span.start / step - number, 0.0) * 100
            width = min(end / step - number, 1.0) * 100 - left
            if number == first or width > _SLIVER_PERCENT:
                found.setdefault(number, []).append((left, width, number == first, span.what))
    return found


def _in_rows(found: Iterable[tuple[float, float, bool, T]]) -> Packed[T]:
    """Put each piece into the first row with room for it."""
    pieces: list[Piece[T]] = []
    ends: list[float] = []
    for left, width, is_first, what in found:
        width = max(width, _LEAST_PERCENT)  # noqa: PLW2901 - as wide as it is drawn
        left = min(left, 100 - width)  # noqa: PLW2901
        free = (number for number, end in enumerate(ends) if end <= left + _SLIVER_PERCENT)
        row = next(free, len(ends))
        ends[row : row + 1] = [left + width]
        pieces.append(Piece(what=what, left=round(left, 3), width=round(width, 3), row=row, is_first=is_first))
    return Packed(pieces=pieces, rows=len(ends))


def clock(seconds: float) -> str:
    """A time as M:SS or H:MM:SS, with as many decimals as it has, up to thousandths."""
    minutes, thousandths = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    rest = f"{thousandths // 1000:02d}" + (f".{thousandths % 1000:03d}".rstrip("0") if thousandths % 1000 else "")
    return f"{hours}:{minutes:02d}:{rest}" if hours else f"{minutes}:{rest}"
