"""The stretches of a film on its clock: in which line each is drawn, where in it, and in which of its rows."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

T = TypeVar("T")
E = TypeVar("E")

_MOST_IN_LINE: Final = 40
"""Stretches that begin within a line: on a desktop a link is then as wide as it is high."""
_MOST_LINES: Final = 60
_LINE_SECONDS: Final = (86400, 43200, 21600, 7200, 3600, 1800, 1200, 600, 300, 120, 60, 30, 20, 10, 5, 2, 1)
"""How long a line may be, if the film does not fit into one."""
_LEAST_PERCENT: Final = 1.0
"""Of a line's length: what is shorter is drawn as long as this, and counts as that long when rows are filled."""
_SLIVER_PERCENT: Final = 0.05
"""What reaches into the next line by less is not drawn there: times are rounded."""


@dataclass(frozen=True, kw_only=True)
class Span(Generic[T]):
    """Something from when to when, in seconds from the first frame of the film; it ends after it begins."""

    start: float
    end: float
    what: T


@dataclass(frozen=True, kw_only=True)
class Piece(Generic[T]):
    """The part of a span that is in one line."""

    what: T
    left: float
    """Where it begins, in percent of the line's length."""
    width: float
    """How long it is, in percent of that as well."""
    row: int
    """From 0: what overlaps is in rows of its own."""
    is_first: bool
    """Whether the span begins here. If not, it goes on from the line before."""


@dataclass(frozen=True, kw_only=True)
class Packed(Generic[T]):
    """What is drawn in a line, in the order of their starts."""

    pieces: list[Piece[T]]
    rows: int
    """How many rows they fill."""


@dataclass(frozen=True, kw_only=True)
class Line(Generic[T, E]):
    """A part of the film's clock. All lines of a film are as long; the film may end within the last one."""

    start: float
    """In seconds from the first frame of the film."""
    filled: float
    """How far the film reaches, in percent of the line's length."""
    after_gap: bool
    """Whether lines before it were left out, in which nothing is."""
    clips: Packed[T]
    events: Packed[E]


def lines_of(clips: Sequence[Span[T]], events: Sequence[Span[E]], seconds: float) -> list[Line[T, E]]:
    """Lay out what lies in a film: in one line if there is room, else in lines of equal length.

    Args:
        clips: at least one; each begins before the film ends.
        events: to be drawn below the clips; each begins before the film ends.
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
    """The longest line in which not too many clips begin; but there are not too many lines either."""
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
    """By the number of a line, what is in it: left and width in percent, whether it begins there, and what it is."""
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
    """Put each into the first row that has room for it."""
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
