"""Films in tar files of stretches. A film is stored once, and the sample of each of its stretches refers to it.

    4f…c2.film.mp4               the film: a sample of its own, before all that refer to it, named by its content's hash
    000000000.film-stretch.json  {"film": "4f…c2.film.mp4", "start": 12.0, "end": 18.5}

For a row with a list of stretches the reference is a list. A row with a list of videos has one reference for each video
that is a stretch: `KEY.0.film-stretch.json`. An `end` of null means the end of the film.
"""

import hashlib
import json
import re
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reelscribe.dataset.files import VIDEO_SUFFIXES, open_binary
from reelscribe.dataset.tarfiles import Span
from reelscribe.errors import ClipError, DatasetError
from reelscribe.layouts import named_clip
from reelscribe.stretches import Stretch, in_list
from reelscribe.values import Clip, Row
from reelscribe.video.fetch import FetchLimits, local

_KEY: Final = re.compile(r"[0-9a-f]{32}")
_FILM: Final = re.compile(r"film\.[^.]+")
_REFERENCE: Final = re.compile(r"(?:\d{1,9}\.)?film-stretch\.json", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A sample's reference to stretches of a film, in the place of a video."""

    film: str
    """Name of the film's member."""
    stretches: tuple[Stretch, ...]
    is_list: bool
    """Whether the row has a list of stretches, even if there is only one."""


def film_in(key: str, names: Iterable[str]) -> str | None:
    """Name of the member of a sample that consists of a film only; None for any other sample."""
    match list(names):
        case [name] if _KEY.fullmatch(key) and _FILM.fullmatch(name) and name[len("film") :].lower() in VIDEO_SUFFIXES:
            return f"{key}.{name}"
    return None


def reference_member(film: str, clips: Sequence[Clip], *, is_list: bool) -> dict[str, bytes]:
    """The member that refers to a film: the part of its name after the key, and its content."""
    parts = [{"film": film, "start": clip.start_seconds, "end": clip.end_seconds} for clip in clips]
    return {"film-stretch.json": json.dumps(parts if is_list else parts[0]).encode()}


def references_in(members: Mapping[str, bytes]) -> dict[str, Reference]:
    """The references in a sample, by the part of their members' names after the key."""
    found = ((name, _reference(data)) for name, data in members.items() if _REFERENCE.fullmatch(name))
    return {name: reference for name, reference in found if reference}


def _reference(data: bytes) -> Reference | None:
    """The reference in a member's content; None if it is not one."""
    try:
        value = json.loads(data)
        parts = value if isinstance(value, list) else [value]
        [film] = {part["film"] for part in parts}
        key, _, name = film.partition(".")
        if film_in(key, [name]) is None:
            return None
        return Reference(film=film, stretches=tuple(in_list(parts, "")), is_list=isinstance(value, list))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, ClipError):
        return None


class Films:
    """The films of a tar file that is read from its start. Only the last one is in memory; others are read again.

    Args:
        location: path or URL of the tar file.
    """

    def __init__(self, location: str) -> None:
        self._location = location
        self._met: dict[str, tuple[tarfile.TarInfo, Span, str | None]] = {}
        self._last: tuple[str, bytes] = ("", b"")

    def add(self, name: str, info: tarfile.TarInfo, span: Span, data: bytes | None, problem: str | None) -> None:
        """Add a film.

        Args:
            name: name of its member.
            info: the member's header.
            span: its place in the file, up to the next sample.
            data: its content; None if there is a problem.
            problem: why its content was not read, else None.
        """
        self._met[name] = (info, span, problem)
        if data is not None:
            self._last = (name, data)

    def span(self, name: str) -> Span | None:
        """Place of a film in the file; None if it was not added."""
        return self._met[name][1] if name in self._met else None

    def content(self, name: str) -> tuple[bytes, bool]:
        """The bytes of a film, and whether this call had to read them again.

        Raises:
            ClipError: kind "row": the film was not added, or has a problem, such as its size.
            DatasetError: the film cannot be read again.
        """
        if name not in self._met:
            raise ClipError("row", f"its film {name} is not before it in the file")
        info, _, problem = self._met[name]
        if problem:
            raise ClipError("row", f"of its film {name}: {problem}")
        is_new = self._last[0] != name
        if is_new:
            with open_binary(self._location) as file:
                file.seek(info.offset_data)
                data = file.read(info.size)
            if len(data) < info.size:
                raise DatasetError(f"cannot read {self._location}: it is shorter than it was.")
            self._last = (name, data)
        return self._last[1], is_new


def stretch_columns(
    row: Row, references: Sequence[Reference | None], names: tuple[str, str, str], *, listed: bool
) -> Row:
    """Columns to set in a row so that it names the stretches of its references; empty if it already names stretches.

    Args:
        row: the row from the sample.
        references: reference of each video; None for a video that is not a stretch.
        names: names of the columns of starts, of ends, and of lists of stretches.
        listed: whether the row has a list of videos.

    Raises:
        ClipError: kind "row", if a column is needed whose name is empty in the settings.
    """
    start, end, stretches = names
    if any(row.get(name) is not None for name in names if name):
        return {}
    found = [reference.stretches if reference else (Stretch(),) for reference in references]
    if references[0] and references[0].is_list:
        times: Row = {stretches: [[part.start_seconds, part.end_seconds] for part in found[0]]}
    else:
        starts, ends = [part[0].start_seconds for part in found], [part[0].end_seconds for part in found]
        times = {start: starts if listed else starts[0], end: ends if listed else ends[0]}
    if "" in times:
        raise ClipError("row", "it is a stretch of a film, and start_key, end_key or stretches_key is empty")
    return times


def without_stretches(path: Any) -> Any:
    """Paths without the stretches (`#t=...`) after them, since columns name these. Other values are unchanged."""
    if isinstance(path, list):
        return [without_stretches(item) for item in path]
    try:
        return named_clip(path).source if isinstance(path, str) else path
    except ClipError:
        return path


class FilmNames:
    """Names of the films in a tar file that is being written: hashes of their contents. Each film is hashed once.

    Args:
        limits: folders in which local films may lie.
    """

    def __init__(self, limits: FetchLimits) -> None:
        self._limits = limits
        self._names: dict[tuple[str, int, int], str] = {}

    def name_of(self, film: Clip) -> str:
        """Name of the member of a film, which is given as a path or as bytes.

        Raises:
            ClipError, OSError, ValueError: the film cannot be read.
        """
        if isinstance(film.source, bytes):
            return _named(hashlib.sha256(film.source), ".mp4")
        path = self.path_of(film)
        stat = path.stat()
        known = (str(path), stat.st_size, stat.st_mtime_ns)
        if known not in self._names:
            with path.open("rb") as file:
                self._names[known] = _named(hashlib.file_digest(file, "sha256"), path.suffix.lower())
        return self._names[known]

    def path_of(self, film: Clip) -> Path:
        """Local path of a film.

        Raises:
            ClipError, ValueError: the film is missing, or must not be read.
        """
        path = local(film, self._limits).path
        if not path.is_file():  # opening a pipe could block forever
            raise ClipError("missing", f"{film.name} is not a file.")
        return path


def _named(digest: Any, suffix: str) -> str:
    return f"{digest.hexdigest()[:32]}.film{suffix if suffix in VIDEO_SUFFIXES else '.mp4'}"
