"""Timelines of films: videos of which several stretches were captioned."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal

from reelscribe.errors import ClipError
from reelscribe.report.entries import Entry
from reelscribe.report.timeline import Line, Span, clock, lines_of
from reelscribe.report.views import AnswerView, ClipView
from reelscribe.stretches import MOST_SECONDS, WHOLE, Stretch, split_fragment
from reelscribe.terminal import shortened

_FEWEST: Final = 2
"""Minimum number of stretches for a timeline."""
_MOST_LETTERS: Final = 120
"""Maximum letters of a caption on the timeline."""
_SHOWN_SECONDS: Final = 1.0
"""Length in seconds of a stretch that is drawn if its end is not known."""


@dataclass(frozen=True, kw_only=True)
class Stop:
    """A clip on a timeline."""

    clip: str
    """Identifier of its `ClipView`."""
    label: str
    """Label: times of the clip, failures or flags, and the caption's beginning."""
    words: str
    """Beginning of its caption."""
    state: Literal["captioned", "flagged", "failed"]


@dataclass(frozen=True, kw_only=True)
class Happening:
    """An event on a timeline."""

    clip: str
    """Identifier of the `ClipView` that it belongs to."""
    start: float
    """Seconds from the start of the film."""
    label: str


@dataclass(frozen=True, kw_only=True)
class FilmView:
    """A film as the page shows it."""

    id: str
    name: str
    length: str
    """Length as on a clock, such as 1:02:03; empty if not known."""
    lines: list[Line[Stop, Happening]]
    outside: list[Stop]
    """Clips that do not lie within the film."""
    answers: list[AnswerView]
    """Answers about the film as a whole."""
    stops: list[Stop]
    """All stretches of the film that the page shows."""

    def count(self, state: str) -> int:
        """Number of stretches in this state."""
        return sum(stop.state == state for stop in self.stops)


def films_of(clips: Sequence[ClipView]) -> list[FilmView]:
    """The films of which several stretches are shown, in the order of their first clips."""
    by_film: dict[str, list[ClipView]] = {}
    for clip in clips:
        if clip.entry.video.name:  # without a name, clips of different rows would be one film
            by_film.setdefault(clip.entry.video.film, []).append(clip)
    several = (found for found in by_film.values() if sum(not _is_whole(clip) for clip in found) >= _FEWEST)
    return [_film(f"film-{number}", found) for number, found in enumerate(several)]


def _film(identifier: str, clips: Sequence[ClipView]) -> FilmView:
    """Lay out the stretches of a film."""
    stretches = [clip for clip in clips if not _is_whole(clip)]
    known = max(_file_seconds(clips), default=None)
    times = [(clip, *_times(clip.entry)) for clip in stretches]
    ends = [end for _, start, end in times if end is not None and end > start]
    seconds = known or max((*ends, *(start + _SHOWN_SECONDS for _, start, _ in times)))
    spans = [
        Span(start=start, end=seconds if end is None else end, what=_stop(clip, start, end))
        for clip, start, end in times
    ]
    inside: list[Span[Stop]] = []
    outside: list[Span[Stop]] = []
    for span in spans:
        (inside if 0 <= span.start < min(span.end, seconds) else outside).append(span)
    events = [span for span in _events(stretches) if 0 <= span.start < seconds]
    first = stretches[0].entry.video
    return FilmView(
        id=identifier,
        name=first.clip.whole.name if first.clip else first.film,
        length=clock(known) if known else "",
        lines=lines_of(inside, events, seconds) if inside else [],
        outside=[span.what for span in outside],
        answers=[answer for clip in clips if _is_whole(clip) for answer in clip.answers],
        stops=[span.what for span in spans],
    )


def _is_whole(clip: ClipView) -> bool:
    video = clip.entry.video
    return video.clip.is_whole if video.clip else _stretch_in(video.name) == WHOLE


def _stretch_in(name: str) -> Stretch:
    """The stretch in the name of a video whose file cannot be reached."""
    with suppress(ClipError):
        return split_fragment(name)[1]
    return WHOLE


def _times(entry: Entry) -> tuple[float, float | None]:
    """Start and end of a clip in seconds. An end of None is the end of the file."""
    start, end = _time(entry.meta.get("clip_start")), _time(entry.meta.get("clip_end"))
    if start is not None and end is not None and end > start:
        return start, end
    clip = entry.video.clip
    named = clip or _stretch_in(entry.video.name)
    return named.start_seconds, named.end_seconds


def _file_seconds(clips: Iterable[ClipView]) -> Iterator[float]:
    found = (answer.entry.meta.get("file_seconds") for clip in clips for answer in clip.answers)
    return (seconds for seconds in map(_time, found) if seconds)


def _time(value: Any) -> float | None:
    """The value as seconds; None if it is no plausible time. A data set may hold anything."""
    return float(value) if isinstance(value, int | float) and 0 <= value < MOST_SECONDS else None


def _stop(clip: ClipView, start: float, end: float | None) -> Stop:
    """A clip as the timeline shows it."""
    failures = [answer.entry.failure.replace("_", " ") for answer in clip.answers if answer.entry.failure]
    flags = [flag.replace("_", " ") for answer in clip.answers for flag in answer.flags]
    texts = (_said(answer.entry) for answer in clip.answers if not answer.entry.failure)
    words = shortened(" ".join(next((text for text in texts if text), "").split()), _MOST_LETTERS)
    wrong = [f"failed: {', '.join(dict.fromkeys(failures))}"] if failures else []
    wrong += [", ".join(dict.fromkeys(flags))] if flags else []
    about = f"{clock(max(start, 0))}–{'end' if end is None else clock(max(end, 0))}"  # noqa: RUF001 - a range
    return Stop(
        clip=clip.id,
        label="; ".join(filter(None, (about, *wrong, words))),
        words=words,
        state="failed" if failures else "flagged" if flags else "captioned",
    )


def _said(entry: Entry) -> str:
    """The text of an answer: its events, or its first caption."""
    if entry.events is not None:
        return "; ".join(event.text for event in entry.events)
    return entry.captions[0] if entry.captions else ""


def _events(clips: Iterable[ClipView]) -> Iterator[Span[Happening]]:
    """Yield the events in clips."""
    for clip in clips:
        for answer in clip.answers:
            for event in answer.entry.events or ():
                about = f"{clock(event.start)}–{clock(event.end)}"  # noqa: RUF001 - a range
                label = f"{about}; {shortened(event.text, _MOST_LETTERS)}"
                what = Happening(clip=clip.id, start=event.start, label=label)
                yield Span(start=event.start, end=event.shown_until, what=what)
