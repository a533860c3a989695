"""Parquet: read in batches within its row groups, written in row groups of bounded size."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from reelscribe.config import Settings
from reelscribe.dataset.files import open_raw, readable, root_of
from reelscribe.dataset.formats import Record
from reelscribe.dataset.formats.arrow import TableMaker, check_schema, rows_of
from reelscribe.errors import DatasetError
from reelscribe.values import RowResult

_GROUP_BYTES, _GROUP_ROWS = 1 << 25, 100_000
_BATCH_BYTES, _BATCH_ROWS = 1 << 24, 256
"""Maximum bytes and number of the rows that are read at once."""
_PAGE_BUFFER: Final = 1 << 20
"""Bytes that are read ahead of each column. Without such a buffer pyarrow reads whole columns of a row group."""


def check(location: str) -> None:
    """Raise DatasetError if this is not a Parquet file."""
    check_schema(schema(location), location)


def schema(location: str) -> pa.Schema:
    """The Arrow schema of the file."""
    with _opened(location) as file:
        return file.schema_arrow


def count(location: str, _: float) -> int | None:
    """Number of rows, from the file's metadata."""
    with _opened(location) as file:
        return int(file.metadata.num_rows)


def read(location: str, settings: Settings, _: Path) -> Iterator[Record]:
    """Rows, in batches that are small enough to take little memory."""
    with _opened(location) as file:
        yield from rows_of(_batches(file), settings, root_of(location, settings))


def _batches(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    """Batches, row group by row group, so that a damaged group does not affect the groups before it."""
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        first = next(file.iter_batches(1, row_groups=[number]), None)
        # The stated size is too small if values repeat, since Parquet stores them once: look at a first row as well.
        row_bytes = max(group.total_byte_size // max(group.num_rows, 1), first.nbytes if first else 0, 1)
        size = min(max(_BATCH_BYTES // row_bytes, 1), _BATCH_ROWS)
        yield from file.iter_batches(size, row_groups=[number])


@contextmanager
def _opened(location: str) -> Iterator[pq.ParquetFile]:
    with ExitStack() as stack, readable(location):
        try:
            file = open_raw(location, stack)
            yield pq.ParquetFile(file, buffer_size=_PAGE_BUFFER, pre_buffer=False)
        except pa.ArrowException as exc:
            raise DatasetError(f"cannot read {location}: {' '.join(str(exc).split())}.") from exc


class Writer:
    """Writes one Parquet file.

    Args:
        file: path to write to.
        name: final name of the file.
        settings: which column holds the videos.
        before: schema of the rows, if all of them come from Arrow; else None.

    Raises:
        DatasetError: Parquet cannot store one of the types in `before`.
    """

    def __init__(self, file: Path, name: str, settings: Settings, before: pa.Schema | None) -> None:
        if before is not None:
            _check_writable(before, name)
        self._file = file
        self._maker = TableMaker(before, settings)
        self._tables: list[pa.Table] = []
        self._sink: Any = None
        self._writer: Any = None

    def write(self, result: RowResult) -> None:
        """Add the rows of one input row."""
        if self._maker.add(result):
            self._tables.append(self._maker.make())
            held = sum(table.nbytes for table in self._tables)
            if held >= _GROUP_BYTES or sum(map(len, self._tables)) >= _GROUP_ROWS:
                self._write_group()

    def _write_group(self) -> None:
        """Write the collected tables as one row group."""
        if self._writer is None:
            self._sink = pa.OSFile(os.fsencode(self._file), "wb")  # as bytes, since a path need not be UTF-8
            self._writer = pq.ParquetWriter(self._sink, self._maker.schema, compression="zstd")
        if any(map(len, self._tables)):
            group = pa.concat_tables(self._tables)
            self._writer.write_table(group, row_group_size=len(group))
        self._tables = []

    def close(self) -> None:
        """Write the remaining rows, and the footer that completes the file."""
        self._tables.append(self._maker.make())
        self._write_group()
        self._writer.close()
        self._sink.close()


def _check_writable(before: pa.Schema, name: str) -> None:
    try:
        with pq.ParquetWriter(pa.BufferOutputStream(), before) as trial:
            trial.write_table(before.empty_table())
    except pa.ArrowException as exc:
        hint = "write .jsonl or a Hugging Face data set."
        raise DatasetError(f"cannot write {name}: {' '.join(str(exc).split())}; {hint}") from exc
