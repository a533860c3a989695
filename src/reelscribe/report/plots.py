"""Plots as inline SVG. Colours are CSS variables of the page's style, so plots follow its light and dark themes."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Final

_WIDTH, _HEIGHT = 280, 120
"""Size of a plot in SVG units."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 10, 9, 22
"""Margins around the bars in SVG units, for the labels of the axes."""
_FEWEST_BINS, _MOST_BINS = 8, 24
"""Bounds of the number of bins of a histogram."""
_TEXT: Final = 'fill="var(--muted)" font-size="12"'
"""Attributes of labels."""


def histogram(values: Sequence[float], *, title: str, said: str, whole: bool = True) -> str:
    """Draw a histogram.

    Args:
        values: at least one.
        title: title of the plot, for screen readers.
        said: description in words, for screen readers.
        whole: whether all values are whole numbers, so that edges of bins lie halfway between them.

    Returns:
        An `<svg>` element without any identifier, so that a page can hold several.
    """
    edges = _edges(values, whole)
    width = edges[1] - edges[0]
    counts = Counter(min(int((value - edges[0]) / width), len(edges) - 2) for value in values)
    heights = [float(counts[place]) for place in range(len(edges) - 1)]
    low, high = min(values), max(values)
    ticks = [low] if low == high else _ticks(low, high, 5, whole=whole)
    return _drawn(edges, heights, ticks, title=title, said=said, whole=True)


def steps(edges: Sequence[float], values: Sequence[float], *, title: str, said: str) -> str:
    """Draw a value over time, as one bar from each moment to the next.

    Args:
        edges: moments, ascending, one more than there are values.
        values: at least one.
        title: see `histogram`.
        said: see `histogram`.

    Returns:
        An `<svg>` element, as `histogram` does.
    """
    ticks = _ticks(edges[0], edges[-1], 5, whole=False)
    return _drawn(edges, values, ticks, title=title, said=said, whole=False)


def _drawn(
    edges: Sequence[float], heights: Sequence[float], ticks: Sequence[float], *, title: str, said: str, whole: bool
) -> str:
    """Draw bars between neighbouring edges, with ticks below and lines at round heights."""
    floor, top = _HEIGHT - _BOTTOM, max(heights) or 1.0
    across = (_WIDTH - _LEFT - _RIGHT) / (edges[-1] - edges[0])
    up = (floor - _TOP) / top

    def x(value: float) -> float:
        return round(_LEFT + (value - edges[0]) * across, 2)

    parts = [f"<title>{escape(title)}</title><desc>{escape(said)}</desc>"]
    for level in _ticks(0, top, 3, whole=whole):
        y = round(floor - level * up, 2)
        parts.append(f'<path d="M{_LEFT} {y}H{_WIDTH - _RIGHT}" stroke="var(--line)"/>')
        parts.append(f'<text x="{_LEFT - 4}" y="{y + 4:g}" text-anchor="end" {_TEXT}>{level:.10g}</text>')
    for (begin, end), height in zip(itertools.pairwise(edges), heights, strict=True):
        if height:
            wide, high = max(round((end - begin) * across * 0.94, 2), 0.5), round(height * up, 2)
            bar = f'x="{x(begin)}" y="{round(floor - high, 2)}" width="{wide}" height="{high}"'
            parts.append(f'<rect {bar} fill="var(--accent)"/>')
    for tick in ticks:
        parts.append(f'<text x="{x(tick)}" y="{_HEIGHT - 6}" text-anchor="middle" {_TEXT}>{tick:.10g}</text>')
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(parts)}</svg>'


def _ticks(low: float, high: float, most: int, *, whole: bool) -> list[float]:
    """About `most` round numbers from low to high: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / most or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    step = max(step, 1.0) if whole else step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _edges(values: Sequence[float], whole: bool) -> list[float]:
    """Edges of equal bins that hold all values: about 2 * sqrt(number of values) bins, within bounds."""
    low, high = float(min(values)), float(max(values))
    most = min(max(2 * round(math.sqrt(len(values))), _FEWEST_BINS), _MOST_BINS)
    if whole:
        width = max(-(-int(high - low + 1) // most), 1)
        return [low - 0.5 + width * number for number in range(int(high - low) // width + 2)]
    step = (high - low) / most
    return [low + step * number for number in range(most + 1)] if high > low else [low - 0.5, low + 0.5]
