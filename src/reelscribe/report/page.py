"""Entries to one HTML page that needs nothing else."""

import base64
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from reelscribe.report.course import Course
from reelscribe.report.entries import Entry
from reelscribe.report.overview import Overview, caption_tokens_of, flags_of, frame_seconds_of, listed, seconds_of
from reelscribe.report.plots import histogram, steps
from reelscribe.report.thumbnails import Filmstrip
from reelscribe.report.words import Difference, differences, near_duplicates, phrases, words_of

VideoLink = Callable[[Entry], str | None]
"""Where the page finds the video of an entry; None where it cannot be had."""

_TOP: Final = 6
_TOLD_ELSEWHERE: Final = frozenset(
    {"prompt", "flags", "frame_timestamps", "captions", "completion_tokens", "stop_reasons", "failure", "message"}
    | {"clip_flags", "unreadable_line"}
)
_NEAR: Final = "near_duplicate"


@dataclass(frozen=True, kw_only=True)
class Other:
    """A candidate that was not kept; several that say the same are one."""

    pieces: list[Difference]
    """Its text, with the differences to the kept one."""
    count: int
    told: str
    """Stop reason and tokens of the first of them."""


@dataclass(frozen=True, kw_only=True)
class ClipView:
    """What the page shows of an entry."""

    id: str
    entry: Entry
    strip: Filmstrip
    flags: list[str]
    href: str | None
    words: int
    frames: int
    """How many the model saw."""
    seconds: float | None
    tokens: int | None
    others: list[Other]
    similar: list[tuple[str, int]]
    """Identifier and row of other clips whose caption is nearly the same."""
    provenance: list[tuple[str, str]]


def render(
    overview: Overview,
    entries: Sequence[Entry],
    strips: Sequence[Filmstrip],
    *,
    course: Course | None,
    title: str,
    link: VideoLink,
) -> bytes:
    """Make the page, in UTF-8.

    Args:
        overview: of all videos.
        entries: those to show.
        strips: of each.
        course: of the last run, where it is known.
        title: of the page.
        link: where the videos are.
    """
    environment = Environment(
        loader=PackageLoader("reelscribe", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = lambda name: name.replace("_", " ")
    groups = near_duplicates([" ".join(entry.captions) for entry in entries if not entry.failure])
    script = _file("page.js")
    page = environment.get_template("page.html.j2").render(
        title=title,
        style=Markup(_file("page.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        overview=overview,
        plots=list(_plots(overview, course)),
        repeated=_repeated(entries),
        clips=list(_views(entries, strips, groups, link)),
        groups=len(groups),
        key=hashlib.sha256(title.encode("utf-8", "surrogatepass")).hexdigest()[:16],
    )
    return page.encode("utf-8", "xmlcharrefreplace")  # half a surrogate pair, which JSON may hold, has no UTF-8


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


def _file(name: str) -> str:
    return files("reelscribe.report").joinpath(name).read_text("utf-8")


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


def _views(
    entries: Sequence[Entry], strips: Sequence[Filmstrip], groups: list[list[int]], link: VideoLink
) -> Iterator[ClipView]:
    captioned = [place for place, entry in enumerate(entries) if not entry.failure]
    identifiers = [_identifier(entry) for entry in entries]
    similar: dict[int, list[int]] = {}
    for group in groups:
        places = [captioned[member] for member in group]
        similar |= {place: [other for other in places if other != place] for place in places}
    for place, (entry, strip) in enumerate(zip(entries, strips, strict=True)):
        others = similar.get(place, [])
        tokens = caption_tokens_of(entry)
        yield ClipView(
            id=identifiers[place],
            entry=entry,
            strip=strip,
            flags=[] if entry.failure else flags_of(entry) + ([_NEAR] if others else []),
            href=link(entry),
            words=sum(len(words_of(text)) for text in entry.captions),
            frames=len(frame_seconds_of(entry)),
            seconds=seconds_of(entry),
            tokens=sum(tokens) if tokens else None,
            others=list(_others(entry)),
            similar=[(identifiers[other], entries[other].row) for other in others[:_TOP]],
            provenance=list(_provenance(entry.meta)),
        )


def _identifier(entry: Entry) -> str:
    """Names what was said of a video, so that a note stays with the caption that it is about."""
    told = json.dumps([entry.row, entry.slot, entry.captions, entry.failure])
    return f"c{hashlib.sha256(told.encode()).hexdigest()[:12]}"


def _others(entry: Entry) -> Iterator[Other]:
    places: dict[str, list[int]] = {}
    for place, text in entry.others:
        places.setdefault(text, []).append(place)
    reasons, tokens = (listed(entry.meta.get(name)) for name in ("stop_reasons", "completion_tokens"))
    for text, (first, *more) in places.items():
        told = [f"{tokens[first]} tokens"] if first < len(tokens) and tokens[first] is not None else []
        told += [f"ended by {reasons[first]}"] if first < len(reasons) else []
        yield Other(pieces=differences(entry.captions[0], text), count=1 + len(more), told=", ".join(told))


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
