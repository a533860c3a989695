"""WebDataset: tar files in which neighbours of one name, but for what follows its first dot, are one sample.

In a row, the video is in the column `video` (`videos`, where names go on with a number: `a.0.mp4`, `a.1.mp4`), `a.txt`
is the column of the text, `a.json` holds columns, `a.NAME.txt` and `a.NAME.json` are the column NAME, and any other
member is a column called as its name goes on. A sample is written as it was, with a member for each new column. What
is no part of a sample, and samples that are no rows, are copied from the file that they are in.
"""

import io
import itertools
import json
import re
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from reelscribe.config import Settings
from reelscribe.dataset.files import VIDEO_SUFFIXES, create
from reelscribe.dataset.formats import Record
from reelscribe.dataset.formats.jsonl import row_line, splice, to_json
from reelscribe.dataset.records import changed, full_row
from reelscribe.dataset.tarfiles import Originals, Span, opened, renamed
from reelscribe.errors import ClipError
from reelscribe.layouts import clips_of, video_column, videos_of
from reelscribe.values import Clip, Row, RowResult
from reelscribe.video.fetch import FetchLimits, local, scheme_of

_NAME: Final = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
_COPY: Final = re.compile(r"_[0-9]+\Z")
_MOST_MEMBERS: Final = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class BrokenSample:
    """A sample that is no row."""

    span: Span
    """All of it, with what follows it."""
    before: Span | None
    """What is before the first sample."""
    names: frozenset[str]
    """Some of its members, by what their names have after the key."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TarSample:
    """One sample: its members, and which of them a column was read from."""

    key: str
    location: str
    members: dict[str, bytes]
    """What a member's name has after the key, to its content."""
    columns: dict[str, str]
    """Column to the member that is it, or that holds it."""
    told: Row
    """What JSON says in a column whose place the videos take."""
    headers: dict[str, tarfile.TarInfo]
    """Of its members."""
    before: Span | None
    """What is before the first sample."""
    others: tuple[Span, ...]
    """What is no member of a sample, as folders: between the members of this one, and behind it."""

    def stand_ins(self, row: Row) -> Row:
        """For the columns of a row that hold members' bytes: what JSON says in their place, or the members' names."""
        names = {id(data): f"{self.key}.{name}" for name, data in self.members.items()}
        single = {column: names[id(value)] for column, value in row.items() if id(value) in names}
        lists = {column: value for column, value in row.items() if isinstance(value, list)}
        several = {
            column: [names[id(item)] for item in value]
            for column, value in lists.items()
            if value and all(id(item) in names for item in value)
        }
        names_of_all = single | several
        return names_of_all | {
            column: value
            for column, value in self.told.items()
            if column in names_of_all and _names_as_many(value, names_of_all[column])
        }


def _names_as_many(value: Any, names: str | list[str]) -> bool:
    """Whether a value from JSON may stand for videos: a path for one, as many paths for several."""
    if isinstance(names, str):
        return isinstance(value, str) and bool(value)
    return isinstance(value, list) and len(value) == len(names) and all(isinstance(item, str) for item in value)


# Reading


def check(location: str) -> None:
    """Raise DatasetError where this is no tar file."""
    with opened(location) as tar:
        tar.next()


def count(_: str, __: float) -> int | None:
    """None: a tar file has no list of what it holds."""
    return None


def read(location: str, settings: Settings, _: Path) -> Iterator[Record]:
    """A row for each sample. One that is too large, or has a member twice, becomes a record with a problem."""
    with opened(location) as tar:
        for met in _samples(tar, location, settings.max_video_bytes):
            row, columns, told, problem = _as_row(met.members, settings)
            if problem := met.problem or problem:
                message = f"sample {met.key} of {Path(location).name} is not a row: {problem}."
                broken = BrokenSample(span=met.span(), before=met.before, names=frozenset(met.headers))
                yield Record(row={"__key__": met.key}, problem=message, source=broken)
                continue
            sample = TarSample(
                key=met.key,
                location=location,
                members=met.members,
                columns=columns,
                told=told,
                headers=met.headers,
                before=met.before,
                others=tuple(met.others),
            )
            row = {"__key__": met.key, "__url__": location, **row}
            yield Record(row=row, source=sample, num_bytes=sum(map(len, met.members.values())))


@dataclass(kw_only=True, eq=False)
class _Met:
    """A sample as far as it was read."""

    key: str
    location: str
    start: int
    end: int = 0
    before: Span | None = None
    members: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, tarfile.TarInfo] = field(default_factory=dict)
    others: list[Span] = field(default_factory=list)
    problem: str | None = None
    held: int = 0

    def span(self) -> Span:
        return Span(location=self.location, start=self.start, end=self.end)

    def add(self, name: str, info: tarfile.TarInfo, tar: tarfile.TarFile, max_bytes: int) -> None:
        """Take a member, unless the sample is no row."""
        self.held += info.size
        if name in self.headers:
            self.problem = f"it has the member {name!r} twice"
        elif self.held > max_bytes:
            self.problem = f"it holds more than {max_bytes:,} bytes (max_video_bytes)"
        elif len(self.headers) >= _MOST_MEMBERS:
            self.problem = f"it has more than {_MOST_MEMBERS:,} members"
        if len(self.headers) < _MOST_MEMBERS:
            self.headers[name] = info
        if self.problem is None:
            self.members[name] = cast(BinaryIO, tar.extractfile(info)).read()
        else:
            self.members = {}

    def add_other(self, start: int, end: int) -> None:
        """Take what is no member of a sample."""
        if self.others and self.others[-1].end == start:
            start = self.others.pop().start
        self.others.append(Span(location=self.location, start=start, end=end))
        self.end = end


def _samples(tar: tarfile.TarFile, location: str, max_bytes: int) -> Iterator[_Met]:
    """Each sample, once all of it is met."""
    sample: _Met | None = None
    before: Span | None = None
    end = 0
    while (info := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined] # or the list of all that was met would grow
        found = _NAME.fullmatch(info.name) if info.isfile() else None
        # A member's offset is that of its own extended headers, but not of global ones before it.
        start, others_end, end = end, info.offset if found else tar.offset, tar.offset
        if others_end > start and sample is None:
            before = Span(location=location, start=before.start if before else start, end=others_end)
        elif others_end > start and sample is not None:
            sample.add_other(start, others_end)
        if found is None:
            continue
        if sample is None or found[1] != sample.key:
            if sample is not None:
                yield sample
            sample, before = _Met(key=found[1], location=location, start=info.offset, before=before), None
        sample.add(found[2], info, tar, max_bytes)
        sample.end = end
    if sample is not None:
        yield sample


def _as_row(members: dict[str, bytes], settings: Settings) -> tuple[Row, dict[str, str], Row, str | None]:
    """The columns of a sample, where each comes from, what the videos take the place of, and why all cannot be had."""
    row: Row = {}
    told: Row = {}
    columns: dict[str, str] = {}
    videos = [name for name in members if f".{name.rpartition('.')[2].lower()}" in VIDEO_SUFFIXES]
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
    if videos and settings.video_key not in row:
        listed = len(videos) > 1 or "." in videos[0]
        column = settings.video_key or ("videos" if listed else "video")
        if column in row:
            told[column] = row[column]
        row[column] = [members[name] for name in videos] if listed else members[videos[0]]
    return row, columns, told, None


# Writing


class Writer:
    """Writes one tar file.

    Args:
        file: to write.
        name: of the file in the end; compressed if it says so.
        settings: which columns hold the text and the videos, where local videos may lie.
    """

    def __init__(self, file: Path, name: str, settings: Settings, *_: Any) -> None:
        self._settings = settings
        self._limits = FetchLimits.of(settings)
        self._stack = ExitStack()
        self._file = create(file, name, self._stack)
        self._tar = self._stack.enter_context(tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT))
        self._originals = Originals(self._stack)

    def write(self, result: RowResult) -> None:
        """Write the rows of one input row, each as a sample; local videos of other formats go in as they are."""
        source = result.origin.source if result.origin else None
        if isinstance(source, BrokenSample):
            self._write_broken(source, result)
            return
        if isinstance(source, TarSample) and source.before:
            self._originals.copy(source.before, self._file, self._tar)
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

    def _write_broken(self, source: BrokenSample, result: RowResult) -> None:
        """Copy a sample that is no row, and put what is told of it behind its members."""
        for span in (source.before, source.span):
            if span:
                self._originals.copy(span, self._file, self._tar)
        for row in result.rows:
            for column, value in changed(result, row).items():
                for name, data in _member(column, value).items():
                    if name not in source.names:
                        self._add(f"{row['__key__']}.{name}", io.BytesIO(data), len(data))

    def _keys(self, source: Any, index: int) -> Iterator[str]:
        """A name for each row of a sample: its own, and then such that no sample of the file has."""
        key = source.key if isinstance(source, TarSample) else f"{index:09d}"
        yield key
        taken = self._originals.names(source.location, _numbered) if isinstance(source, TarSample) else frozenset()
        copies = (f"{key}_{number}" for number in itertools.count(1))
        yield from (name for name in copies if name not in taken)

    def _from_row(self, key: str, result: RowResult, row: Row) -> dict[str, bytes]:
        """Write the videos of a row, and return the members that hold all else."""
        before, root = (result.origin.row, result.origin.root) if result.origin else ({}, None)
        added = {name: row[name] for name in self._settings.added_columns if name in row and name not in before}
        kept = {name: value for name, value in row.items() if name not in added}
        try:
            videos, listed = videos_of(row, self._settings)
            clips = clips_of(row, self._settings, root)
        except ClipError:
            videos, listed, clips = [], False, []
        for slot, video in enumerate(videos):
            prefix = f"{key}.{slot}." if listed else f"{key}."
            if isinstance(video, bytes):
                self._add(f"{prefix}mp4", io.BytesIO(video), len(video))
            elif scheme_of(video) in (None, "file") and clips[slot].is_whole:  # a film would be there for each stretch
                self._put_file(prefix, clips[slot])
        if any(isinstance(video, bytes) for video in videos):
            whole = full_row(result, kept)
            whole.pop(video_column(row, self._settings))
            members = {"json": to_json(whole).encode()}
        else:
            members = {"json": row_line(result, kept)}
        for name, value in added.items():
            members |= _member(name, value)
        return members

    def _put_file(self, prefix: str, clip: Clip) -> None:
        try:
            path = local(clip, self._limits).path
            if not path.is_file():  # opening a pipe could wait for ever
                return
            with path.open("rb") as opened:
                suffix = path.suffix.lower() if path.suffix.lower() in VIDEO_SUFFIXES else ".mp4"
                self._add(prefix + suffix[1:], opened, path.stat().st_size)
        except (ClipError, OSError, ValueError):
            return  # then it has no caption either, and that says why

    def _add(self, name: str, content: BinaryIO, size: int, header: tarfile.TarInfo | None = None) -> None:
        info = tarfile.TarInfo(name) if header is None else renamed(header, name)
        info.size = size
        self._tar.addfile(info, content)
        self._tar.members.clear()  # type: ignore[attr-defined] # or the list of all that was written would grow

    def close(self) -> None:
        """Write the end of the archive."""
        self._stack.close()


def _numbered(name: str) -> str | None:
    """The key of a member that ends in a number, as those of further rows do."""
    found = _NAME.fullmatch(name)
    return found[1] if found and _COPY.search(found[1]) else None


def _updated(sample: TarSample, changes: Row) -> dict[str, bytes]:
    """The members of a sample with columns changed, each where it was read from; new ones become members."""
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
    """A column as a member, or as none where it is null."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {f"{name}.txt": _utf8(value)}
    return {f"{name}.json": to_json(value).encode()}


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
