"""Clips and answers as the templates of the page take them."""

from contextlib import suppress
from dataclasses import dataclass

from reelscribe.report.entries import Entry
from reelscribe.report.thumbnails import Filmstrip
from reelscribe.report.timeline import clock
from reelscribe.report.words import Difference


@dataclass(frozen=True, kw_only=True)
class Other:
    """A candidate that was not kept. Several with the same text are one."""

    place: int
    """Number of the first one among all candidates."""
    pieces: list[Difference]
    """Its text as pieces that mark the differences to the kept text."""
    count: int
    """Number of candidates with this text."""
    told: str
    """Stop reason and tokens of the first one, in words."""


@dataclass(frozen=True, kw_only=True)
class AnswerView:
    """An answer as the page shows it."""

    id: str
    entry: Entry
    texts: list[str]
    """Texts of its captions. If the first caption is shown as events, it is left out here."""
    flags: list[str]
    words: int
    frames: int
    """Number of frames that the model saw."""
    tokens: int | None
    """Tokens of all kept captions; None if not known."""
    others: list[Other]
    similar: list[tuple[str, str]]
    """Identifier and video of other answers with nearly the same text."""
    provenance: list[tuple[str, str]]
    """Names and values of metadata that are not shown elsewhere."""


@dataclass(frozen=True, kw_only=True)
class ClipView:
    """A clip as the page shows it."""

    id: str
    """Identifier on the page. If there is one task, it is that of the answer."""
    entry: Entry
    """One of its entries, for what all of them share."""
    name: str
    """Name of the video, without the times of a stretch."""
    times: str
    """Times of the stretch, as on a clock; empty for a whole video."""
    strip: Filmstrip
    href: str | None
    """Link to the video; None if there is none."""
    start: float
    """Where the clip begins in its file, in seconds."""
    seconds: float | None
    """Time of the last frame that the model saw; None if not known."""
    answers: list[AnswerView]


def name_and_times(name: str) -> tuple[str, str]:
    """Split a video's name into name and times: `film.mp4#t=4,5.5` gives `film.mp4`, and 0:04 to 0:05.5."""
    video, mark, times = name.rpartition("#t=")
    if mark:
        with suppress(ValueError):
            return video, "\N{EN DASH}".join(clock(float(time)) for time in times.split(",") if time)
    return name, ""
