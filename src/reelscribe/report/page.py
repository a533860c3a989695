"""Entries to one HTML page that needs nothing else."""

import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from markupsafe import Markup

from reelscribe.report.assets import environment, scripts, text_of
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
from reelscribe.report.views import AnswerView, ClipView, Other, name_and_times
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


class Sheet:
    """A page to be, of which all is known but the frames.

    Args:
        overview: of all videos.
        videos: those to show: the entries of each.
        course: of the last run, where it is known.
        title: of the page.
        link: where the videos are.
        editing: whether captions are corrected on it, which takes a server.
        unfinished: whether there is more to come; with a server the page asks for it.
    """

    def __init__(
        self,
        overview: Overview,
        videos: Sequence[Sequence[Entry]],
        *,
        course: Course | None,
        title: str,
        link: VideoLink,
        editing: bool = False,
        unfinished: bool = False,
    ) -> None:
        entries = [entry for answers in videos for entry in answers]
        groups = _near(entries)
        several = len(overview.tasks) > 1
        self._clips = _clips(videos, groups, link, several=several)
        films = films_of(self._clips)
        names = ["shared.js", "page.js", *(["edit.js"] if editing else [])]
        names += ["follow.js"] if editing and unfinished else []
        self._told: dict[str, Any] = {
            "title": title,
            "style": Markup(text_of("report", "page.css")),
            **scripts(*(("report", name) for name in names)),
            "editing": editing,
            "unfinished": unfinished,
            "several": several,
            "overview": overview,
            "plots": list(_plots(overview, course)),
            "repeated": _repeated(entries),
            "films": films,
            "film_of": {stop.clip: film.id for film in films for stop in film.stops},
            "answers": [answer for clip in self._clips for answer in clip.answers],
            "groups": len(groups),
            "key": hashlib.sha256(title.encode("utf-8", "surrogatepass")).hexdigest()[:16],
        }

    def page(self, strips: Sequence[Filmstrip] | None = None, first: int | None = None) -> bytes:
        """Make the page, in UTF-8.

        Args:
            strips: of each video; without them there are no frames.
            first: how many clips it has; all by default. For the others it asks its server.
        """
        clips = self._clips if strips is None else list(map(_with_strip, self._clips, strips))
        template = environment("report").get_template("page.html.j2")
        page = template.render(clips=clips, first=clips[:first], **self._told)
        return page.encode("utf-8", "xmlcharrefreplace")  # half a surrogate pair, which JSON may hold, has no UTF-8

    def piece(self, strips: Sequence[Filmstrip], start: int, count: int) -> list[str]:
        """Make the HTML of some clips, which a page without them asks for."""
        part = slice(start, start + count)
        return _html_of(list(map(_with_strip, self._clips[part], strips[part])), **self._told)


def render_clips(
    videos: Sequence[Sequence[Entry]], strips: Sequence[Filmstrip], *, link: VideoLink, several: bool
) -> list[str]:
    """Make the HTML of clips that a run wrote since the page was made; see `Sheet`."""
    clips = list(map(_with_strip, _clips(videos, [], link, several=several), strips))
    return _html_of(clips, several=several, editing=True, film_of={})


def _with_strip(clip: ClipView, strip: Filmstrip) -> ClipView:
    return replace(clip, strip=strip)


def _html_of(clips: Sequence[ClipView], **told: Any) -> list[str]:
    template = environment("report").get_template("clip.html.j2")
    return [template.render(clip=clip, **told) for clip in clips]


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
            yield title, said, Markup(histogram(values, title=title, said=said, whole=whole))
    if course and course.says_something:
        title = "Clips a second"
        said = f"{course.on_the_whole:.3g}, over {course.unit}; limit: {course.bottleneck}"
        yield title, said, Markup(steps(course.edges, course.rates, title=title, said=said))


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
    videos: Sequence[Sequence[Entry]], groups: list[list[int]], link: VideoLink, *, several: bool
) -> list[ClipView]:
    answers = _answers([entry for each in videos for entry in each], groups, several=several)
    return [_clip(list(itertools.islice(answers, len(each))), link, several=several) for each in videos]


def _clip(answers: list[AnswerView], link: VideoLink, *, several: bool) -> ClipView:
    entry = shown_of([answer.entry for answer in answers])
    href, clip = link(entry), entry.video.clip
    name, times = name_and_times(entry.video.name)
    return ClipView(
        id=f"v{entry.row}-{entry.slot}" if several else answers[0].id,
        entry=entry,
        name=name,
        times=times,
        strip=Filmstrip(),
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
            similar=[
                (names[other], " ".join(name_and_times(entries[other].video.name)).strip()) for other in others[:_TOP]
            ],
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
