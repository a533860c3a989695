"""Renders entries as one self-contained HTML page."""

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
"""(entry) -> link from the page to the entry's video; None if there is no video to link to."""

_TOP: Final = 6
"""Maximum number of repeated phrases, and of near duplicates of an answer, that are listed."""
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
"""Keys of metadata that the page shows elsewhere, or not at all, and so not under provenance."""
_NEAR: Final = "near_duplicate"
"""Flag of answers that nearly repeat another one on the page."""


class Sheet:
    """A page without its frames, which are added when it is rendered.

    Args:
        overview: statistics of all videos.
        videos: the entries of each video to show.
        course: speed of the last run over time; None if not known.
        title: title of the page.
        link: links to the videos.
        editing: whether captions can be corrected on the page, which needs a server.
        unfinished: whether a run is still writing clips. With a server, the page asks for them.
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
            strips: frames of each video; by default the page has none.
            first: number of clips in the page itself; all by default. The page asks its server for the others.
        """
        clips = self._clips if strips is None else list(map(_with_strip, self._clips, strips))
        template = environment("report").get_template("page.html.j2")
        page = template.render(clips=clips, first=clips[:first], **self._told)
        return page.encode("utf-8", "xmlcharrefreplace")  # half a surrogate pair, which JSON may hold, has no UTF-8

    def piece(self, strips: Sequence[Filmstrip], start: int, count: int) -> list[str]:
        """Make the HTML of `count` clips from number `start` on, which a page asks its server for."""
        part = slice(start, start + count)
        return _html_of(list(map(_with_strip, self._clips[part], strips[part])), **self._told)


def render_clips(
    videos: Sequence[Sequence[Entry]], strips: Sequence[Filmstrip], *, link: VideoLink, several: bool
) -> list[str]:
    """Make the HTML of clips that a run wrote after the page was made; see `Sheet` for the arguments."""
    clips = list(map(_with_strip, _clips(videos, [], link, several=several), strips))
    return _html_of(clips, several=several, editing=True, film_of={})


def _with_strip(clip: ClipView, strip: Filmstrip) -> ClipView:
    return replace(clip, strip=strip)


def _html_of(clips: Sequence[ClipView], **told: Any) -> list[str]:
    template = environment("report").get_template("clip.html.j2")
    return [template.render(clip=clip, **told) for clip in clips]


def beside_page(page: Path) -> VideoLink:
    """Make links from a page in a file to video files: relative ones, or file:// URLs if on another drive."""
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
    """Title, summary in words, and SVG of each plot."""
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
    """The most frequent phrases that several captions share, with their counts."""
    counts: Counter[str] = Counter()
    for entry in entries:
        counts.update({phrase for text in entry.captions for phrase in phrases(words_of(text))})
    return [(phrase, count) for phrase, count in counts.most_common(_TOP) if count > 1]


def _near(entries: Sequence[Entry]) -> list[list[int]]:
    """Groups of entries whose captions are near duplicates within a task, as indexes in `entries`."""
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
    """Clips as the page shows them, without frames."""
    answers = _answers([entry for each in videos for entry in each], groups, several=several)
    return [_clip(list(itertools.islice(answers, len(each))), link, several=several) for each in videos]


def _clip(answers: list[AnswerView], link: VideoLink, *, several: bool) -> ClipView:
    """A clip as the page shows it, without frames."""
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
    """Yield answers as the page shows them."""
    names = identifiers(entries, several=several)
    similar = {place: [other for other in group if other != place] for group in groups for place in group}
    for place, entry in enumerate(entries):
        others = similar.get(place, [])
        tokens = caption_tokens_of(entry)
        yield AnswerView(
            id=names[place],
            entry=entry,
            # The first caption is shown as events. Further kept captions, with keep = "all", are shown as text.
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
    """Identifiers of answers on the page, made from their texts, so that a mark stays with the text that it is about.

    Args:
        entries: the answers.
        several: whether there are several tasks.
    """
    names = []
    for entry in entries:
        task = [entry.task] if several else []
        told = json.dumps([entry.row, entry.slot, entry.captions, entry.failure, *task])
        names.append(f"c{hashlib.sha256(told.encode()).hexdigest()[:12]}")
    return names


def _others(entry: Entry) -> Iterator[Other]:
    """Yield the candidates that were not kept, with equal texts as one."""
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
    """Names and values of a caption's metadata that are not shown elsewhere on the page."""
    if meta.get("failure"):
        return
    for name, value in meta.items():
        said = value not in (None, "") and not (isinstance(value, list) and all(item == "" for item in value))
        if name in _TOLD_ELSEWHERE or not said:
            continue
        if name == "sampling" and isinstance(value, str):
            with suppress(ValueError):
                value = json.loads(value)  # noqa: PLW2901 - a dict again
        size = name == "frame_size" and isinstance(value, list)
        yield name.replace("_", " "), " x ".join(map(_told, value)) if size else _told(value)
    for name in ("completion_tokens", "stop_reasons"):
        if listed(meta.get(name)):
            yield f"{name.replace('_', ' ')}, by candidate", _told(meta[name])


def _told(value: Any) -> str:
    """A value of metadata in words. An empty dict means the checkpoint's own sampling."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_told(item)}" for name, item in value.items()) or "as the checkpoint has it"
    if isinstance(value, list):
        return ", ".join(map(_told, value))
    return value if isinstance(value, str) else json.dumps(value)
