"""Entries to one HTML page that needs nothing else."""

import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from markupsafe import Markup

from reelscribe.report.assets import environment, script_hash, text_of
from reelscribe.report.course import Course
from reelscribe.report.entries import Entry
from reelscribe.report.films import films_of
from reelscribe.report.overview import (
    Overview,
    caption_tokens_of,
    flags_of,
    frame_seconds_of,
    listed,
    seconds_of,
    shown_of,
    shown_text,
)
from reelscribe.report.plots import histogram, steps
from reelscribe.report.thumbnails import Filmstrip
from reelscribe.report.views import AnswerView, ClipView, Other
from reelscribe.report.words import differences, near_duplicates, phrases
from reelscribe.words import words_of

VideoLink = Callable[[Entry], str | None]
"""Where the page finds the video of an entry; None where it cannot be had."""

_TOP: Final = 6
_TOLD_ELSEWHERE: Final = frozenset(
    {
        "prompt",
        "flags",
        "frame_timestamps",
        "file_timestamps",
        "captions",
        "completion_tokens",
        "stop_reasons",
        "failure",
        "message",
    }
    | {"clip_flags", "unreadable_line"}
)
_NEAR: Final = "near_duplicate"


def render(
    overview: Overview,
    videos: Sequence[Sequence[Entry]],
    strips: Sequence[Filmstrip],
    *,
    course: Course | None,
    title: str,
    link: VideoLink,
    editing: bool = False,
    unfinished: bool = False,
) -> bytes:
    """Make the page, in UTF-8.

    Args:
        overview: of all videos.
        videos: those to show: the entries of each.
        strips: of each video.
        course: of the last run, where it is known.
        title: of the page.
        link: where the videos are.
        editing: whether captions are corrected on it, which takes a server.
        unfinished: whether there is more to come; with a server the page asks for it.
    """
    entries = [entry for answers in videos for entry in answers]
    groups = _near(entries)
    several = len(overview.tasks) > 1
    clips = _clips(videos, strips, groups, link, several=several)
    films = films_of(clips)
    names = ["page.js", *(["edit.js"] if editing else []), *(["follow.js"] if editing and unfinished else [])]
    scripts = [text_of("report", name) for name in names]
    page = (
        environment("report")
        .get_template("page.html.j2")
        .render(
            title=title,
            style=Markup(text_of("report", "page.css")),
            scripts=list(map(Markup, scripts)),
            script_hashes=list(map(script_hash, scripts)),
            editing=editing,
            unfinished=unfinished,
            several=several,
            overview=overview,
            plots=list(_plots(overview, course)),
            repeated=_repeated(entries),
            clips=clips,
            films=films,
            film_of={stop.clip: film.id for film in films for stop in film.stops},
            answers=[answer for clip in clips for answer in clip.answers],
            groups=len(groups),
            key=hashlib.sha256(title.encode("utf-8", "surrogatepass")).hexdigest()[:16],
        )
    )
    return page.encode("utf-8", "xmlcharrefreplace")  # half a surrogate pair, which JSON may hold, has no UTF-8


def render_clips(
    videos: Sequence[Sequence[Entry]], strips: Sequence[Filmstrip], *, link: VideoLink, several: bool
) -> list[str]:
    """Make the HTML of clips that come to a page of `view` later; see `render`."""
    template = environment("report").get_template("clip.html.j2")
    clips = _clips(videos, strips, [], link, several=several)
    return [template.render(clip=clip, several=several, editing=True, film_of={}) for clip in clips]


def beside_page(page: Path) -> VideoLink:
    """Links from a page in a file to videos on the same disk."""
    folder = Path(os.path.realpath(page.parent))

    def link(entry: Entry) -> str | None:
        path = entry.video.path
        if path is None:
            return None
        try:
            return "./" + quote(os.path.relpath(path, folder), errors="surrogateescape")
        except ValueError:  # on another drive
            return path.absolute().as_uri()

    return link


def _plots(overview: Overview, course: Course | None) -> Iterator[tuple[str, str, Markup]]:
    """Title, what it says in words, and drawing of each."""
    kinds: list[tuple[str, Sequence[float], bool]] = [
        ("Words in a caption", overview.lengths, True),
        ("Tokens of a caption", overview.caption_tokens, True),
        ("Seconds of video seen", overview.seconds, False),
        ("Vision tokens of a video", overview.video_tokens, True),
    ]
    for title, values, whole in kinds:
        if values:
            median = sorted(values)[len(values) // 2]
            said = f"{min(values):.4g} to {max(values):.4g}, median {median:.4g}"
            yield title, said, Markup(histogram(values, whole=whole))  # drawn from numbers alone
    if course:
        said = f"{course.on_the_whole:.3g}, over {course.unit}; limit: {course.bottleneck}"
        yield "Clips a second", said, Markup(steps(course.edges, course.rates))


def _repeated(entries: Sequence[Entry]) -> list[tuple[str, int]]:
    """Phrases that several of the captions have."""
    counts: Counter[str] = Counter()
    for entry in entries:
        counts.update({phrase for text in entry.captions for phrase in phrases(words_of(text))})
    return [(phrase, count) for phrase, count in counts.most_common(_TOP) if count > 1]


def _near(entries: Sequence[Entry]) -> list[list[int]]:
    """Groups of entries of one task whose captions are nearly the same; by their places."""
    by_task: dict[str, list[int]] = {}
    for place, entry in enumerate(entries):
        if not entry.failure:
            by_task.setdefault(entry.task, []).append(place)
    return [
        [places[member] for member in group]
        for places in by_task.values()
        for group in near_duplicates([" ".join(entries[place].captions) for place in places])
    ]


def _clips(
    videos: Sequence[Sequence[Entry]],
    strips: Sequence[Filmstrip],
    groups: list[list[int]],
    link: VideoLink,
    *,
    several: bool,
) -> list[ClipView]:
    answers = _answers([entry for each in videos for entry in each], groups, several=several)
    return [
        _clip(list(itertools.islice(answers, len(each))), strip, link, several=several)
        for each, strip in zip(videos, strips, strict=True)
    ]


def _clip(answers: list[AnswerView], strip: Filmstrip, link: VideoLink, *, several: bool) -> ClipView:
    entry = shown_of([answer.entry for answer in answers])
    href, clip = link(entry), entry.video.clip
    return ClipView(
        id=f"v{entry.row}-{entry.slot}" if several else answers[0].id,
        entry=entry,
        strip=strip,
        href=href and href + clip.fragment if clip else href,
        start=clip.start_seconds if clip else 0.0,
        seconds=seconds_of(entry),
        answers=answers,
    )


def _answers(entries: Sequence[Entry], groups: list[list[int]], *, several: bool) -> Iterator[AnswerView]:
    names = identifiers(entries, several=several)
    similar = {place: [other for other in group if other != place] for group in groups for place in group}
    for place, entry in enumerate(entries):
        others = similar.get(place, [])
        tokens = caption_tokens_of(entry)
        yield AnswerView(
            id=names[place],
            entry=entry,
            # What the first caption says is shown as events; others are there with keep = "all".
            texts=[shown_text(text, entry) for text in entry.captions[entry.events is not None :]],
            flags=[] if entry.failure else flags_of(entry) + ([_NEAR] if others else []),
            words=sum(len(words_of(text)) for text in entry.captions),
            frames=len(frame_seconds_of(entry)),
            tokens=sum(tokens) if tokens else None,
            others=list(_others(entry)),
            similar=[(names[other], entries[other].row) for other in others[:_TOP]],
            provenance=list(_provenance(entry.meta)),
        )


def identifiers(entries: Sequence[Entry], *, several: bool) -> list[str]:
    """Names for what was said of videos, so that a note stays with the caption that it is about.

    Args:
        entries: what was said.
        several: whether there are several tasks.
    """
    names = []
    for entry in entries:
        task = [entry.task] if several else []
        told = json.dumps([entry.row, entry.slot, entry.captions, entry.failure, *task])
        names.append(f"c{hashlib.sha256(told.encode()).hexdigest()[:12]}")
    return names


def _others(entry: Entry) -> Iterator[Other]:
    places: dict[str, list[int]] = {}
    for place, text in entry.others:
        places.setdefault(text, []).append(place)
    reasons, tokens = (listed(entry.meta.get(name)) for name in ("stop_reasons", "completion_tokens"))
    for text, (first, *more) in places.items():
        told = [f"{tokens[first]} tokens"] if first < len(tokens) and tokens[first] is not None else []
        told += [f"ended by {reasons[first]}"] if first < len(reasons) else []
        pieces = differences(shown_text(entry.captions[0], entry), shown_text(text, entry))
        yield Other(place=first, pieces=pieces, count=1 + len(more), told=", ".join(told))


def _provenance(meta: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """All that is recorded of a caption and not shown elsewhere, as names and values."""
    if meta.get("failure"):
        return
    for name, value in meta.items():
        said = value not in (None, "") and not (isinstance(value, list) and all(item == "" for item in value))
        if name in _TOLD_ELSEWHERE or not said:
            continue
        if name == "sampling" and isinstance(value, str):
            with suppress(ValueError):
                value = json.loads(value)  # noqa: PLW2901 - as it was before it became text
        size = name == "frame_size" and isinstance(value, list)
        yield name.replace("_", " "), " x ".join(map(_told, value)) if size else _told(value)
    for name in ("completion_tokens", "stop_reasons"):
        if listed(meta.get(name)):
            yield f"{name.replace('_', ' ')}, by candidate", _told(meta[name])


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_told(item)}" for name, item in value.items()) or "as the checkpoint has it"
    if isinstance(value, list):
        return ", ".join(map(_told, value))
    return value if isinstance(value, str) else json.dumps(value)
