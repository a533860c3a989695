"""WebDataset: tar files in which neighbours of one name, but for what follows its first dot, are one sample.

In a row, the video is in the column `video` (`videos`, where names go on with a number: `a.0.mp4`, `a.1.mp4`), `a.txt`
is the column of the text, `a.json` holds columns, `a.NAME.txt` and `a.NAME.json` are the column NAME, and any other
member is a column called as its name goes on. A sample is written as it was, with a member for each new column.
"""

import io
import json
import re
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Self, cast

from reelscribe.config import Settings
from reelscribe.dataset.files import VIDEO_SUFFIXES, create, open_binary
from reelscribe.dataset.formats import Record
from reelscribe.dataset.formats.jsonl import row_line, splice, to_json
from reelscribe.dataset.records import changed, full_row
from reelscribe.errors import ClipError, DatasetError
from reelscribe.pipeline import RowResult
from reelscribe.prompts import video_column, videos_of
from reelscribe.schema import Clip, Row
from reelscribe.video.fetch import FetchLimits, local, scheme_of

_NAME: Final = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
_MOST_MEMBERS: Final = 1000
_BUFFER = 1 << 16
_MOST_HEADER_BYTES = 1 << 20
_CONTINUING: Final = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class TarSample:
    """One sample: its members, and which of them a column was read from."""

    key: str
    members: dict[str, bytes]
    """What a member's name has after the key, to its content."""
    columns: dict[str, str]
    """Column to the member that is it, or that holds it."""
    told: Row
    """What JSON says in a column whose place the videos take."""

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
    with _opened(location) as tar:
        tar.next()


def count(_: str, __: float) -> int | None:
    """None: a tar file has no list of what it holds."""
    return None


def read(location: str, settings: Settings, _: Path) -> Iterator[Record]:
    """A row for each sample. One that is too large, or has a member twice, becomes a record with a problem."""
    with _opened(location) as tar:
        for key, members, problem in _samples(tar, settings.max_video_bytes):
            if problem is None:
                row, columns, told, problem = _as_row(members, settings)  # noqa: PLW2901 - one problem or the other
            if problem is not None:
                message = f"sample {key} of {Path(location).name} is not a row: {problem}."
                yield Record(row={"__key__": key}, problem=message)
                continue
            sample = TarSample(key=key, members=members, columns=columns, told=told)
            row = {"__key__": key, "__url__": location, **row}
            yield Record(row=row, source=sample, num_bytes=sum(map(len, members.values())))


class _StrictInfo(tarfile.TarInfo):
    """A header, or an error: by itself, `tarfile` takes what is no header for the end of the file.

    A header may be continued by long names and the like, which are read at once: they must not be gigantic.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        info = super().frombuf(buf, encoding, errors)
        if info.type in _CONTINUING and info.size > _MOST_HEADER_BYTES:
            raise tarfile.HeaderError(f"a header of {info.size:,} bytes")
        return info

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined] # typeshed lacks it
            raise
        except tarfile.HeaderError as exc:
            raise tarfile.ReadError(f"it is damaged, or no tar file: {exc}") from exc


@contextmanager
def _opened(location: str) -> Iterator[tarfile.TarFile]:
    try:
        with (
            open_binary(location) as file,
            tarfile.open(fileobj=file, mode="r|", bufsize=_BUFFER, tarinfo=_StrictInfo) as tar,
        ):
            yield tar
    except tarfile.TarError as exc:
        raise DatasetError(f"cannot read {location}: {exc}.") from exc


def _samples(tar: tarfile.TarFile, max_bytes: int) -> Iterator[tuple[str, dict[str, bytes], str | None]]:
    """Each sample's key and members, and what is wrong with it."""
    key: str | None = None
    members: dict[str, bytes] = {}
    problem: str | None = None
    held = 0
    while (info := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined] # or the list of all that was met would grow
        found = _NAME.fullmatch(info.name)
        if not info.isfile() or found is None:
            continue
        if found[1] != key:
            if key is not None:
                yield key, members, problem
            key, members, problem, held = found[1], {}, None, 0
        held += info.size
        name = found[2]
        if name in members:
            problem = f"it has the member {name!r} twice"
        elif held > max_bytes:
            problem = f"it holds more than {max_bytes:,} bytes (max_video_bytes)"
        elif len(members) >= _MOST_MEMBERS:
            problem = f"it has more than {_MOST_MEMBERS:,} members"
        if problem is None:
            members[name] = cast(BinaryIO, tar.extractfile(info)).read()
        else:
            members = {}
    if key is not None:
        yield key, members, problem


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
        opened = create(file, name, self._stack)
        self._tar = self._stack.enter_context(tarfile.TarFile(fileobj=opened, mode="w", format=tarfile.PAX_FORMAT))

    def write(self, result: RowResult) -> None:
        """Write the rows of one input row, each as a sample; local videos of other formats go in as they are."""
        source = result.origin.source if result.origin else None
        for number, row in enumerate(result.rows):
            key = source.key if isinstance(source, TarSample) else f"{result.index:09d}"
            key = f"{key}_{number}" if number else key
            if isinstance(source, TarSample):
                members = _updated(source, changed(result, row))
            else:
                members = self._from_row(key, result, row)
            for name, data in members.items():
                self._add(f"{key}.{name}", io.BytesIO(data), len(data))

    def _from_row(self, key: str, result: RowResult, row: Row) -> dict[str, bytes]:
        """Write the videos of a row, and return the members that hold all else."""
        before = result.origin.row if result.origin else {}
        added = {name: row[name] for name in self._settings.caption_columns if name in row and name not in before}
        kept = {name: value for name, value in row.items() if name not in added}
        try:
            videos, listed = videos_of(row, self._settings)
        except ClipError:
            videos, listed = [], False
        for slot, video in enumerate(videos):
            prefix = f"{key}.{slot}." if listed else f"{key}."
            if isinstance(video, bytes):
                self._add(f"{prefix}mp4", io.BytesIO(video), len(video))
            elif scheme_of(video) in (None, "file"):
                self._put_file(prefix, Clip(source=video, root=result.origin.root if result.origin else None))
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

    def _add(self, name: str, content: BinaryIO, size: int) -> None:
        info = tarfile.TarInfo(name)
        info.size = size
        self._tar.addfile(info, content)
        self._tar.members.clear()  # type: ignore[attr-defined] # or the list of all that was written would grow

    def close(self) -> None:
        """Write the end of the archive."""
        self._stack.close()


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
