"""What the page shows of clips and of what was said of them."""

from contextlib import suppress
from dataclasses import dataclass

from reelscribe.report.entries import Entry
from reelscribe.report.thumbnails import Filmstrip
from reelscribe.report.timeline import clock
from reelscribe.report.words import Difference


@dataclass(frozen=True, kw_only=True)
class Other:
    """A candidate that was not kept; several that say the same are one."""

    place: int
    """That of the first of them among all candidates."""
    pieces: list[Difference]
    """Its text, with the differences to the kept one."""
    count: int
    told: str
    """Stop reason and tokens of the first of them."""


@dataclass(frozen=True, kw_only=True)
class AnswerView:
    """What the page shows of an entry."""

    id: str
    entry: Entry
    texts: list[str]
    """Its captions, as they are shown."""
    flags: list[str]
    words: int
    frames: int
    """How many the model saw."""
    tokens: int | None
    others: list[Other]
    similar: list[tuple[str, str]]
    """Identifier and video of other answers that say nearly the same."""
    provenance: list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class ClipView:
    """What the page shows of a video."""

    id: str
    """That of its answer, where there is one task."""
    entry: Entry
    """One of its answers, for what they have in common."""
    name: str
    """Of the video, without the times of a stretch."""
    times: str
    """Those, as a clock shows them; empty for a whole video."""
    strip: Filmstrip
    href: str | None
    start: float
    """Where the clip begins in its file, in seconds."""
    seconds: float | None
    answers: list[AnswerView]


def name_and_times(name: str) -> tuple[str, str]:
    """A video's name, and the times of its stretch as a clock shows them: `film.mp4#t=4,5.5` is 0:04 to 0:05.5."""
    video, mark, times = name.rpartition("#t=")
    if mark:
        with suppress(ValueError):
            return video, "\N{EN DASH}".join(clock(float(time)) for time in times.split(",") if time)
    return name, ""
