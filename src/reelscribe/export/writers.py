"""Writes the files that trainers read: lists of samples in several formats, texts beside videos, tar files."""

import csv
import io
import tarfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

from reelscribe.dataset.files import create, needs_extra
from reelscribe.dataset.formats.jsonl import to_json
from reelscribe.errors import DatasetError
from reelscribe.export.folder import ExportFolder
from reelscribe.export.samples import Sample
from reelscribe.export.videos import Placer, clip_of
from reelscribe.values import Clip, Row
from reelscribe.video.headers import Header, read_header

_GROUP_ROWS: Final = 10_000
"""Rows of a row group in Parquet files."""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A sample whose video has been placed."""

    sample: Sample
    number: int
    """Number of the sample, from 0."""
    name: str
    """Unique name of the sample, without a suffix."""
    video: str
    """Path of the video in lists: relative to the list's folder, or absolute."""
    file: Path | None
    """Path of the video; None if it goes into a tar file."""
    is_part: bool = False
    """Whether the sample is a stretch of that file."""

    @property
    def clip(self) -> Clip:
        """The clip, to open or to download.

        Raises:
            ClipError: kind "missing", if it cannot be had.
        """
        return clip_of(self.sample)

    @property
    def header(self) -> Header:
        """The header of the placed video.

        Raises:
            ClipError: it cannot be read.
        """
        return read_header(self.clip if self.is_part or self.file is None else Clip(source=str(self.file)))

    @property
    def text(self) -> str:
        """The first caption."""
        return self.sample.texts[0].text

    @property
    def texts(self) -> list[str]:
        """All captions."""
        return [item.text for item in self.sample.texts]


@dataclass(frozen=True, kw_only=True)
class Job:
    """Arguments of all writers."""

    folder: ExportFolder
    placer: Placer
    tasks: tuple[str, ...]
    """Tasks whose answers are exported."""
    columns: tuple[str, ...]
    """Columns that the user chose."""
    clips_per_tar: int
    """Number of clips in each tar file."""


class Writer(Protocol):
    """Writes the files that a trainer reads, sample by sample."""

    def write(self, placed: Placed) -> None:
        """Write a sample."""

    def close(self) -> None:
        """Finish the files, and move them to their names."""


MakeRow = Callable[[Placed, Job], Row]
"""(sample, job) -> its item in a list."""


# Lists


class ListWriter:
    """Writes a list of samples as JSON Lines, a JSON array, CSV or Parquet.

    Args:
        job: the arguments of all writers.
        name: name of the file; its suffix chooses the format.
        make: makes the item of a sample.
    """

    def __init__(self, job: Job, name: str, make: MakeRow) -> None:
        self._job, self._name, self._make = job, name, make
        self._partial = job.folder.partial(name)
        self._rows = _SINKS[Path(name).suffix](self._partial)

    def write(self, placed: Placed) -> None:
        """Write a sample."""
        self._rows.add(self._make(placed, self._job))

    def close(self) -> None:
        """Finish the list, and move it to its name."""
        self._rows.close()
        self._job.folder.put_list(self._name, self._partial)


class _Sink(Protocol):
    def add(self, row: Row) -> None: ...

    def close(self) -> None: ...


class _JsonLines:
    def __init__(self, file: Path) -> None:
        self._file = file.open("wb")

    def add(self, row: Row) -> None:
        self._file.write(f"{to_json(row)}\n".encode())

    def close(self) -> None:
        self._file.close()


class _JsonArray:
    def __init__(self, file: Path) -> None:
        self._file = file.open("wb")
        self._first = True

    def add(self, row: Row) -> None:
        self._file.write(f"{'[' if self._first else ','}\n{to_json(row)}".encode())
        self._first = False

    def close(self) -> None:
        self._file.write(b"\n]\n")
        self._file.close()


class _JsonObject:
    """One JSON object, to which each row (a dict with one key) adds a member."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("wb")
        self._first = True

    def add(self, row: Row) -> None:
        self._file.write(f"{'{' if self._first else ','}\n{to_json(row)[1:-1]}".encode())
        self._first = False

    def close(self) -> None:
        self._file.write(b"\n}\n")
        self._file.close()


class _Csv:
    def __init__(self, file: Path) -> None:
        self._file = file.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        self._writer: Any = None

    def add(self, row: Row) -> None:
        if self._writer is None:
            self._writer = csv.DictWriter(self._file, list(row), lineterminator="\n")
            self._writer.writeheader()
        self._writer.writerow({name: _cell(value) for name, value in row.items()})

    def close(self) -> None:
        self._file.close()


def _cell(value: Any) -> Any:
    """A value as a CSV cell: lists, dicts and booleans become JSON."""
    return to_json(value) if isinstance(value, list | dict | tuple | bool) else value


def check_installed(form: str) -> None:
    """Raise MissingExtraError if a package that a form needs is not installed."""
    if form == "parquet":
        with needs_extra("writing Parquet"):
            import pyarrow.parquet  # noqa: F401


_KINDS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("start", "end", "seconds"), "float64"),
    **dict.fromkeys(("words", "chars", "tokens", "frames", "width", "height", "row_number"), "int64"),
}
"""Arrow types of columns whose first values are all null."""


def _kind_of(field: Any) -> Any:
    """The Arrow type of a column: as Arrow infers it from the first rows or, if these are null, by its name."""
    import pyarrow as pa

    from reelscribe.dataset.formats.arrow import settled

    if pa.types.is_null(field.type) and field.name in _KINDS:
        return pa.type_for_alias(_KINDS[field.name])
    return settled(field.type) or pa.string()


class _Parquet:
    def __init__(self, file: Path) -> None:
        import pyarrow.parquet as pq

        self._make, self._file = pq.ParquetWriter, file
        self._rows: list[Row] = []
        self._writer: Any = None

    def add(self, row: Row) -> None:
        self._rows.append({name: to_json(value) if isinstance(value, dict) else value for name, value in row.items()})
        if len(self._rows) >= _GROUP_ROWS:
            self._write_group()

    def _write_group(self) -> None:
        """Write the collected rows as a row group. The first group settles the types of columns."""
        import pyarrow as pa

        try:
            table = pa.Table.from_pylist(self._rows, None if self._writer is None else self._writer.schema)
            if self._writer is None:
                table = table.cast(pa.schema([(field.name, _kind_of(field)) for field in table.schema]))
                self._writer = self._make(self._file, table.schema, compression="zstd")
        except pa.ArrowException as exc:
            why = " ".join(str(exc).split())
            raise DatasetError(f"a column has values of several types ({why}); leave it out, or write jsonl.") from exc
        self._writer.write_table(table)
        self._rows = []

    def close(self) -> None:
        if self._rows or self._writer is None:
            self._write_group()
        self._writer.close()


_SINKS: Final[Mapping[str, Callable[[Path], _Sink]]] = {
    ".jsonl": _JsonLines,
    ".json": _JsonArray,
    ".csv": _Csv,
    ".parquet": _Parquet,
}
"""Writers of lists by the suffix of the file."""


class CaptionsByName(ListWriter):
    """Writes one JSON object: the name of each video, and the list of its captions."""

    def __init__(self, job: Job, name: str) -> None:
        super().__init__(job, name, lambda placed, _: {placed.video: placed.texts})
        self._rows.close()
        self._rows = _JsonObject(self._partial)


class Lines:
    """Writes two files with matching lines: one of captions, and one of videos."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._stack = ExitStack()
        self._partials = {name: job.folder.partial(name) for name in ("prompts.txt", "videos.txt")}
        self._files = [create(file, name, self._stack) for name, file in self._partials.items()]

    def write(self, placed: Placed) -> None:
        """Write a sample."""
        for file, line in zip(self._files, (placed.text, placed.video), strict=True):
            file.write(line.encode("utf-8", "backslashreplace") + b"\n")

    def close(self) -> None:
        """Finish both files, and move them to their names."""
        self._stack.close()
        for name, partial in self._partials.items():
            self._job.folder.put_list(name, partial)


# Files of samples


class TextFiles:
    """Writes a text file beside each video, with one caption a line.

    There is no newline at the end: it would begin another, empty caption.
    """

    def __init__(self, job: Job) -> None:
        self._job = job

    def write(self, placed: Placed) -> None:
        """Write a sample."""
        self._job.folder.put_text(f"{placed.name}.txt", "\n".join(placed.texts))

    def close(self) -> None:
        """Do nothing: all files have their names already."""


class Tars:
    """Writes tar files. Each sample has KEY.mp4, KEY.txt with the caption, and KEY.json with further values.

    An existing tar file is kept, unless one of its samples failed when it was written.
    """

    def __init__(self, job: Job, make: MakeRow) -> None:
        self._job, self._make = job, make
        self._stack = ExitStack()
        self._tar: tarfile.TarFile | None = None
        self._shard, self._partial = -1, Path()

    def _has(self, shard: int) -> bool:
        """Whether a tar file exists and lacks no sample."""
        size = self._job.clips_per_tar
        failed = any(number // size == shard for number in self._job.folder.failed)
        return self._job.folder.has(_tar_name(shard)) and not failed

    def write(self, placed: Placed) -> None:
        """Write a sample.

        Raises:
            ClipError: its video cannot be had.
        """
        shard = placed.number // self._job.clips_per_tar
        if shard != self._shard:
            self._end()
            self._shard = shard
        if self._has(shard):
            return
        with self._job.placer.content(placed.clip, self._job.folder.partial("sample")) as path:
            tar = self._open()
            with path.open("rb") as opened:
                _add(tar, f"{placed.name}{Path(placed.video).suffix}", opened, path.stat().st_size)
        texts = {"txt": placed.text, "json": to_json(self._make(placed, self._job))}
        for kind, text in texts.items():
            data = text.encode("utf-8", "backslashreplace")
            _add(tar, f"{placed.name}.{kind}", io.BytesIO(data), len(data))

    def _open(self) -> tarfile.TarFile:
        """The tar file that is being written; it is created when first needed."""
        if self._tar is None:
            name = _tar_name(self._shard)
            self._partial = self._job.folder.partial(name)
            opened = create(self._partial, name, self._stack)
            self._tar = self._stack.enter_context(tarfile.TarFile(fileobj=opened, mode="w", format=tarfile.PAX_FORMAT))
        return self._tar

    def _end(self) -> None:
        """Finish the present tar file, if there is one, and move it to its name."""
        self._stack.close()
        if self._tar is not None:
            self._job.folder.replace(_tar_name(self._shard), self._partial)
        self._tar = None

    def close(self) -> None:
        """End the last tar file."""
        self._end()


def _add(tar: tarfile.TarFile, name: str, content: BinaryIO, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    tar.addfile(info, content)
    tar.members.clear()  # type: ignore[attr-defined] # else it keeps a list of all members in memory


def _tar_name(shard: int) -> str:
    return f"{shard:05d}.tar"
