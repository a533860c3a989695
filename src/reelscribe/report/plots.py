"""Plots as SVG that takes its colours from the page."""

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_BAR, _INK, _LINE = "#010203", "#040506", "#070809"
"""Stand for the page's colours, which change between light and dark."""
_COLORS: Final = {_BAR: "var(--accent)", _INK: "var(--muted)", _LINE: "var(--line)"}
_STYLE: Final = {
    "svg.fonttype": "none",
    "svg.hashsalt": "reelscribe",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.formatter.useoffset": False,
}
_FEWEST_BINS, _MOST_BINS = 8, 24


def histogram(values: Sequence[float], *, whole: bool = True) -> str:
    """Draw how often values occur.

    Args:
        values: at least one.
        whole: whether they are whole numbers, so that no bin ends between two.

    Returns:
        An `<svg>` element without any identifier, so that a page can hold several.
    """
    with _axes() as (axes, drawn):
        axes.hist(values, bins=_edges(values, whole), color=_BAR, rwidth=0.92, clip_on=False)
        if min(values) == max(values):
            axes.set_xticks([values[0]])
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=whole, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    return _inline(drawn.getvalue())


def steps(edges: Sequence[float], values: Sequence[float]) -> str:
    """Draw what a value was from one moment to the next.

    Args:
        edges: moments, ascending, one more than there are values.
        values: at least one.

    Returns:
        As `histogram` does.
    """
    with _axes() as (axes, drawn):
        axes.stairs(values, edges, color=_BAR, fill=True, clip_on=False)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(3))
    return _inline(drawn.getvalue())


@contextmanager
def _axes() -> Iterator[tuple[Axes, io.StringIO]]:
    """Axes in the page's style to draw on, and where the drawing is in the end."""
    with rc_context(_STYLE):
        figure, drawn = Figure(figsize=(2.9, 1.25), layout="constrained"), io.StringIO()
        axes = figure.add_subplot()
        yield axes, drawn
        axes.spines[["top", "left", "right"]].set_visible(False)
        axes.spines["bottom"].set_color(_LINE)
        axes.tick_params(length=0, labelcolor=_INK)
        axes.grid(axis="y", color=_LINE, linewidth=0.5, clip_on=False)
        axes.set_axisbelow(True)
        axes.margins(y=0.08)
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})


def _edges(values: Sequence[float], whole: bool) -> list[float]:
    low, high = float(min(values)), float(max(values))
    most = min(max(2 * round(math.sqrt(len(values))), _FEWEST_BINS), _MOST_BINS)
    if whole:
        width = max(-(-int(high - low + 1) // most), 1)
        return [low - 0.5 + width * number for number in range(int(high - low) // width + 2)]
    step = (high - low) / most
    return [low + step * number for number in range(most + 1)] if high > low else [low - 0.5, low + 0.5]


def _inline(svg: str) -> str:
    svg = re.sub(r"<metadata>.*?</metadata>| id=\"[^\"]*\"", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", r'<svg \1 aria-hidden="true">', svg, count=1)
    for stand_in, color in _COLORS.items():
        svg = svg.replace(stand_in, color)
    return svg
