"""Renders compared clips as one self-contained HTML page."""

import base64
import hashlib
import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from reelscribe.compare.figures import SideFigures
from reelscribe.compare.gathering import Compared, Gathered
from reelscribe.report.assets import environment, scripts, text_of
from reelscribe.report.entries import Entry
from reelscribe.report.overview import frame_seconds_of
from reelscribe.report.page import VideoLink
from reelscribe.report.thumbnails import Filmstrip
from reelscribe.report.views import name_and_times
from reelscribe.report.words import own_pieces


@dataclass(frozen=True, kw_only=True)
class ComparedView:
    """A clip as the page shows it."""

    id: str
    entry: Entry
    """The entry of one side, for what all sides share."""
    name: str
    """Name of the video, without the times of a stretch."""
    times: str
    """Times of the stretch, as on a clock; empty for a whole video."""
    strip: Filmstrip
    href: str | None
    start: float
    """Where the clip begins in its file, in seconds."""
    order: list[int]
    """Numbers of the sides, in the order in which their texts are shown."""
    texts: list[list[tuple[bool, str]]]
    """The texts in this order, as pieces, each with whether it is unique to its text."""
    facts: list[str]
    """Figures of each text in words, in this order."""
    same: bool
    """Whether all texts are the same."""


def shown_of(clip: Compared) -> Entry:
    """The entry whose frames are shown: that of the side that saw the most frames."""
    return max(clip.entries, key=lambda entry: len(frame_seconds_of(entry)))


def render(
    gathered: Gathered, strips: Sequence[Filmstrip], *, title: str, blind: bool, seed: int, link: VideoLink
) -> bytes:
    """Make the page, in UTF-8.

    Args:
        gathered: the data of the comparison.
        strips: frames of each clip.
        title: title of the page.
        blind: whether names of sides are hidden until the voter ends the voting, and sides are shuffled for each clip.
        seed: seed of the shuffling.
        link: links to the videos.
    """
    templates = environment("compare", "report")
    clips = [
        _view(clip, strip, link, seed if blind else None) for clip, strip in zip(gathered.clips, strips, strict=True)
    ]
    figures = templates.get_template("figures.html.j2").render(gathered=gathered, rows=_rows(gathered.figures))
    name = hashlib.sha256(json.dumps([sorted(gathered.names), blind, seed]).encode()).hexdigest()[:16]
    told: dict[str, Any] = {"sides": gathered.names, "orders": {clip.id: clip.order for clip in clips}}
    if blind:
        told |= {"figures": figures, "facts": {clip.id: clip.facts for clip in clips}}
    page = templates.get_template("compare.html.j2").render(
        title="Comparison, blind" if blind else title,
        style=Markup(text_of("report", "page.css") + text_of("compare", "compare.css")),
        **scripts(("report", "shared.js"), ("compare", "compare.js")),
        name=name,
        told=_hidden(told, name),
        blind=blind,
        gathered=gathered,
        figures=Markup(figures),
        clips=clips,
    )
    return page.encode("utf-8", "xmlcharrefreplace")  # half a surrogate pair, which JSON may hold, has no UTF-8


def _view(clip: Compared, strip: Filmstrip, link: VideoLink, seed: int | None) -> ComparedView:
    """A clip as the page shows it; with a seed, its texts are shuffled."""
    entry, order = shown_of(clip), list(range(len(clip.texts)))
    if seed is not None:
        random.Random(f"{seed} {clip.id}").shuffle(order)
    href, stretch = link(entry), entry.video.clip
    pieces = own_pieces(clip.texts)
    name, times = name_and_times(entry.video.name)
    return ComparedView(
        id=clip.id,
        entry=entry,
        name=name,
        times=times,
        strip=strip,
        href=href and href + stretch.fragment if stretch else href,
        start=stretch.start_seconds if stretch else 0.0,
        order=order,
        texts=[pieces[place] for place in order],
        facts=[" · ".join(clip.figures[place].lines()) for place in order],
        same=len(set(clip.texts)) == 1,
    )


def _rows(figures: Sequence[SideFigures]) -> dict[str, list[str]]:
    """Rows of the table of figures, by label: one cell for each side."""
    rows = [side.rows() for side in figures]
    names = dict.fromkeys(itertools.chain.from_iterable(rows))
    return {name: [row.get(name, "unknown") for row in rows] for name in names}


def _hidden(told: dict[str, Any], key: str) -> str:
    """Obscure JSON with XOR and base64, so that a voter who looks at the page's source learns nothing by chance.

    It is no encryption: the key is on the page, whose script decodes it.
    """
    text = json.dumps(told).encode()
    return base64.b64encode(bytes(a ^ b for a, b in zip(text, itertools.cycle(key.encode()), strict=False))).decode()
