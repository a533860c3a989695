"""WebDataset: tar files in which adjacent members whose names agree up to the first dot form a sample.

The members of a sample become columns of a row:

- A video is the column `video`; videos with numbers, such as `a.0.mp4` and `a.1.mp4`, are the column `videos`.
- `a.txt` is the text column, and `a.json` holds columns.
- `a.NAME.txt` and `a.NAME.json` are the column NAME.
- Any other member is a column with the name of its suffix.

A sample is written with its original members and a member for each new column. Parts of a file that belong to no
sample, and samples that cannot be read, are copied unchanged. Samples of stretches refer to their film, which is stored
once; see `tar_films`.
"""

import io
import itertools
import json
import logging
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Final

from reelscribe.config import Settings
from reelscribe.dataset.files import VIDEO_SUFFIXES, create
from reelscribe.dataset.formats import Record
from reelscribe.dataset.formats.jsonl import row_line, splice, to_json
from reelscribe.dataset.records import changed, full_row
from reelscribe.dataset.tar_films import (
    FilmNames,
    Films,
    Reference,
    film_in,
    reference_member,
    references_in,
    stretch_columns,
    without_stretches,
)
from reelscribe.dataset.tar_samples import MEMBER, BrokenSample, Met, TarSample, samples
from reelscribe.dataset.tarfiles import Originals, Span, opened, renamed
from reelscribe.errors import ClipError
from reelscribe.layouts import clips_of, video_column, videos_of
from reelscribe.values import Clip, Row, RowResult
from reelscribe.video.fetch import FetchLimits, local, scheme_of

logger = logging.getLogger(__name__)

_COPY: Final = re.compile(r"_[0-9]+\Z")


# Reading


def check(location: str) -> None:
    """Raise DatasetError if this is not a tar file."""
    with opened(location) as tar:
        tar.next()


def count(_: str, __: float) -> int | None:
    """None: a tar file has no index, so counting would read all of it."""
    return None


def read(location: str, settings: Settings, _: Path) -> Iterator[Record]:
    """A row for each sample except films. A sample that is too large or malformed becomes a record with a problem."""
    films, new, before = Films(location), dict[str, Span](), None
    with opened(location) as tar:
        for met in samples(tar, location, settings.max_video_bytes):
            before = met.before or before
            if film := film_in(met.key, met.headers):
                [info] = met.headers.values()
                new[film] = met.span()
                films.add(film, info, new[film], next(iter(met.members.values()), None), met.problem)
                continue
            yield _record(met, films, new, before, settings)
            new, before = {}, None
    for film in new:
        logger.warning("%s ends with the film %s, to which no sample refers; it is left out.", location, film)


def _record(met: Met, films: Films, new: Mapping[str, Span], before: Span | None, settings: Settings) -> Record:
    """The record of a sample: its row, or the problem with it."""
    references = references_in(met.members)
    stored: dict[str, bytes] = {}
    size = sum(map(len, met.members.values()))
    row, columns, told, problem = dict[str, Any](), dict[str, str](), dict[str, Any](), met.problem
    try:
        for reference in references.values() if problem is None else ():
            stored[reference.film], is_new = films.content(reference.film)
            size += len(stored[reference.film]) * is_new
        if problem is None:
            row, columns, told, problem = _as_row(met.members, references, stored, settings)
    except ClipError as exc:
        problem = str(exc)
    if problem:
        message = f"sample {met.key} of {Path(met.location).name} is not a row: {problem}."
        broken = BrokenSample(span=met.span(), before=before, names=frozenset(met.headers), films=new)
        return Record(row={"__key__": met.key}, problem=message, source=broken)
    row = {"__key__": met.key, "__url__": met.location, **row}
    spans = {name: films.span(name) for name in stored}
    sample = TarSample(
        key=met.key,
        location=met.location,
        members=met.members,
        columns=columns,
        told=told,
        headers=met.headers,
        before=before,
        others=tuple(met.others),
        films={**new, **{name: span for name, span in spans.items() if span}},
        row=row,
        stored=stored,
    )
    return Record(row=row, source=sample, num_bytes=size)


def _as_row(
    members: dict[str, bytes], references: Mapping[str, Reference], stored: Mapping[str, bytes], settings: Settings
) -> tuple[Row, dict[str, str], Row, str | None]:
    """Read the members of a sample.

    Returns:
        The row; the member from which each column was read; the JSON values whose columns the videos take; and a
        problem, or None.
    """
    row: Row = {}
    told: Row = {}
    columns: dict[str, str] = {}
    videos = [name for name in members if f".{name.rpartition('.')[2].lower()}" in VIDEO_SUFFIXES or name in references]
    for name, data in members.items():
        if name in videos and name != settings.video_key:
            continue
        stem, _, suffix = name.rpartition(".")
        try:
            if suffix == "json":
                value = json.loads(data.decode("utf-8-sig"))
                found = {stem: value} if stem else value if isinstance(value, dict) else {"json": value}
            elif suffix == "txt":
                found = {stem or settings.text_key: data.decode("utf-8-sig").strip()}
            else:
                found = {name: data}
        except (ValueError, RecursionError) as exc:
            return {}, {}, {}, f"its member {name!r} cannot be read: {exc}"
        row |= found
        columns |= dict.fromkeys(found, name)
    if videos and (settings.video_key not in row or references):
        if references:
            videos.sort(key=_slot)
        listed = len(videos) > 1 or "." in videos[0].removesuffix("film-stretch.json")
        column = settings.video_key or ("videos" if listed else "video")
        if column in row:
            told[column] = without_stretches(row[column]) if references else row[column]
        held = [stored[references[name].film] if name in references else members[name] for name in videos]
        row[column] = held if listed else held[0]
        if references:
            names = settings.start_key, settings.end_key, settings.stretches_key
            row |= stretch_columns(row, [references.get(name) for name in videos], names, listed=listed)
    return row, columns, told, None


def _slot(name: str) -> int:
    """The number at the start of a video's suffix, such as 1 for `1.mp4`; 0 if there is none."""
    number = name.partition(".")[0]
    return int(number) if number.isdecimal() and len(number) < 10 else 0


# Writing


class Writer:
    """Writes one tar file.

    Args:
        file: path to write to.
        name: final name of the file. The file is compressed if the name says so.
        settings: which columns hold the text and the videos, and where local videos may lie.
    """

    def __init__(self, file: Path, name: str, settings: Settings, *_: Any) -> None:
        self._settings = settings
        self._limits = FetchLimits.of(settings)
        self._stack = ExitStack()
        self._file = create(file, name, self._stack)
        self._tar = self._stack.enter_context(tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT))
        self._originals = Originals(self._stack)
        self._film_names, self._films = FilmNames(self._limits), set[str]()

    def write(self, result: RowResult) -> None:
        """Write the rows of one input row, each as a sample. Local videos of rows from other formats are copied in."""
        source = result.origin.source if result.origin else None
        if isinstance(source, BrokenSample):
            self._write_broken(source, result)
            return
        if isinstance(source, TarSample):
            self._copy_before(source)
        for key, row in zip(self._keys(source, result.index), result.rows, strict=False):
            headers = source.headers if isinstance(source, TarSample) else {}
            if isinstance(source, TarSample):
                members = _updated(source, changed(result, row))
            else:
                members = self._from_row(key, result, row)
            for name, data in members.items():
                self._add(f"{key}.{name}", io.BytesIO(data), len(data), headers.get(name))
        for span in source.others if isinstance(source, TarSample) else ():
            self._originals.copy(span, self._file, self._tar)

    def _copy_before(self, source: BrokenSample | TarSample) -> None:
        """Copy the content before a sample, and the films that it refers to, unless they are written already."""
        if source.before:
            self._originals.copy(source.before, self._file, self._tar)
        for name, span in source.films.items():
            if name not in self._films:
                self._originals.copy(span, self._file, self._tar)
                self._films.add(name)

    def _write_broken(self, source: BrokenSample, result: RowResult) -> None:
        """Copy a sample that cannot be read, and add members for the new columns after it."""
        self._copy_before(source)
        self._originals.copy(source.span, self._file, self._tar)
        for row in result.rows:
            for column, value in changed(result, row).items():
                for name, data in _member(column, value).items():
                    if name not in source.names:
                        self._add(f"{row['__key__']}.{name}", io.BytesIO(data), len(data))

    def _keys(self, source: Any, index: int) -> Iterator[str]:
        """A key for each row of a sample: its own key, and then numbered ones that no sample of its file has."""
        key = source.key if isinstance(source, TarSample) else f"{index:09d}"
        yield key
        taken = self._originals.names(source.location, _numbered) if isinstance(source, TarSample) else frozenset()
        copies = (f"{key}_{number}" for number in itertools.count(1))
        yield from (name for name in copies if name not in taken)

    def _from_row(self, key: str, result: RowResult, row: Row) -> dict[str, bytes]:
        """Write the videos of a row, and return the members for everything else."""
        before, root = (result.origin.row, result.origin.root) if result.origin else ({}, None)
        added = {name: row[name] for name in self._settings.added_columns if name in row and name not in before}
        kept = {name: value for name, value in row.items() if name not in added}
        try:
            videos, listed = videos_of(row, self._settings)
            clips = clips_of(row, self._settings, root)
        except ClipError:
            videos, listed, clips = [], False, []
        of_videos = [clips] if len(videos) == 1 else [[clip] for clip in clips]
        prefixes = [f"{slot}." if listed else "" for slot in range(len(videos))]
        members = self._put_videos(key, list(zip(prefixes, videos, of_videos, strict=False)), row)
        if any(isinstance(video, bytes) for video in videos):
            whole = full_row(result, kept)
            whole.pop(video_column(row, self._settings))
            members["json"] = to_json(whole).encode()
        else:
            members["json"] = row_line(result, kept)
        for name, value in added.items():
            members |= _member(name, value)
        return members

    def _put_videos(
        self, key: str, videos: Sequence[tuple[str, str | bytes, Sequence[Clip]]], row: Row
    ) -> dict[str, bytes]:
        """Write the videos of a row, and return the members that refer to films.

        Args:
            key: key of the sample.
            videos: for each video: the beginning of its member's suffix, the video, and the row's clips of it.
            row: the row of the videos.
        """
        references: dict[str, bytes] = {}
        whole: list[tuple[str, str | bytes, Sequence[Clip]]] = []
        for prefix, video, clips in videos:
            if not isinstance(video, bytes) and scheme_of(video) not in (None, "file"):
                continue
            if all(clip.is_whole for clip in clips):
                whole.append((prefix, video, clips))
            else:
                references |= self._refer(prefix, clips, row)
        for prefix, video, clips in whole:  # after all films: these are samples, and would divide this one
            if isinstance(video, bytes):
                self._add(f"{key}.{prefix}mp4", io.BytesIO(video), len(video))
            elif clips:
                self._put_file(f"{key}.{prefix}", clips[0])
        return references

    def _refer(self, prefix: str, clips: Sequence[Clip], row: Row) -> dict[str, bytes]:
        """Write the film of some stretches if it is not in the file yet.

        Returns:
            The member that refers to the film; empty if the film cannot be read.
        """
        film = clips[0].whole
        try:
            name = self._film_names.name_of(film)
            if name not in self._films:
                if isinstance(film.source, bytes):
                    self._add(name, io.BytesIO(film.source), len(film.source))
                else:
                    path = self._film_names.path_of(film)
                    with path.open("rb") as opened:
                        self._add(name, opened, path.stat().st_size)
                self._films.add(name)
        except (ClipError, OSError, ValueError):
            return {}  # then there is no caption either, and its failure gives the reason
        is_list = row.get(self._settings.stretches_key) is not None
        [(member, data)] = reference_member(name, clips, is_list=is_list).items()
        return {prefix + member: data}

    def _put_file(self, prefix: str, clip: Clip) -> None:
        try:
            path = local(clip, self._limits).path
            if not path.is_file():  # opening a pipe could block forever
                return
            with path.open("rb") as opened:
                suffix = path.suffix.lower() if path.suffix.lower() in VIDEO_SUFFIXES else ".mp4"
                self._add(prefix + suffix[1:], opened, path.stat().st_size)
        except (ClipError, OSError, ValueError):
            return  # then there is no caption either, and its failure gives the reason

    def _add(self, name: str, content: BinaryIO, size: int, header: tarfile.TarInfo | None = None) -> None:
        info = tarfile.TarInfo(name) if header is None else renamed(header, name)
        info.size = size
        self._tar.addfile(info, content)
        self._tar.members.clear()  # type: ignore[attr-defined] # tarfile lists every member it has written

    def close(self) -> None:
        """Write the end of the archive."""
        self._stack.close()


def _numbered(name: str) -> str | None:
    """The key of a member if it ends in `_NUMBER`, as the keys of further rows do; else None."""
    found = MEMBER.fullmatch(name)
    return found[1] if found and _COPY.search(found[1]) else None


def _updated(sample: TarSample, changes: Row) -> dict[str, bytes]:
    """The members of a sample with columns changed: each in the member that it was read from, or in a new member."""
    members = dict(sample.members)
    inside = {name: value for name, value in changes.items() if sample.columns.get(name) == "json"}
    if inside:
        members["json"] = splice(members["json"].decode("utf-8-sig").strip(), inside)
    for name, value in changes.items():
        if name not in inside:
            held = sample.columns.get(name)
            members.pop(held or "", None)
            members |= {"txt": _utf8(value)} if held == "txt" else _member(name, value)
    return members


def _member(name: str, value: Any) -> dict[str, bytes]:
    """The member of a column: its suffix and content; empty if the value is None."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {f"{name}.txt": _utf8(value)}
    return {f"{name}.json": to_json(value).encode()}


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
