"""Data sets as Hugging Face `datasets` saves them: a folder of Arrow streams, and `state.json`, which lists them.

They are read and written with pyarrow alone. Reading holds one batch in memory; a memory map would count in full as
memory of the process.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from reelscribe.config import Settings
from reelscribe.dataset.files import count_until, readable, root_of
from reelscribe.dataset.formats import Record
from reelscribe.dataset.formats.arrow import TableMaker, check_schema, rows_of
from reelscribe.dataset.formats.jsonl import as_json
from reelscribe.dataset.records import changed
from reelscribe.errors import DatasetError
from reelscribe.values import RowResult


def check(location: str) -> None:
    """Raise DatasetError if this is not a data set that `datasets` saved."""
    for file in _files(location):
        if not file.is_file():
            raise DatasetError(f"cannot read {location}: its state.json lists {file.name}, which is not there.")
    check_schema(schema(location), location)


def schema(location: str) -> pa.Schema:
    """The Arrow schema of the data set."""
    files = _files(location)
    if not files:
        return pa.schema([])
    with readable(location), _stream(files[0], location) as stream:
        return stream.schema


def count(location: str, deadline: float) -> int | None:
    """Number of rows: the sum of the batches' lengths, without reading their contents."""

    def rows() -> Iterator[None]:
        for file in _files(location):
            with readable(location), pa.memory_map(os.fsencode(file)) as mapped, pa.ipc.open_stream(mapped) as stream:
                for batch in stream:
                    yield from [None] * len(batch)

    return count_until(rows(), deadline)


def read(location: str, settings: Settings, _: Path) -> Iterator[Record]:
    """Rows, batch by batch."""
    yield from rows_of(_batches(location), settings, root_of(location, settings))


def _batches(location: str) -> Iterator[pa.RecordBatch]:
    for file in _files(location):
        try:
            with readable(location), _stream(file, location) as stream:
                for batch in stream:
                    batch.validate(full=True)  # offsets in a damaged batch could point outside of its memory
                    yield batch
        except pa.ArrowException as exc:
            raise DatasetError(f"cannot read {file}: {' '.join(str(exc).split())}.") from exc


def _stream(file: Path, location: str) -> Any:
    try:
        return pa.ipc.open_stream(pa.OSFile(os.fsencode(file)))
    except pa.ArrowException as exc:
        raise DatasetError(f"cannot read {location}: {file.name}: {' '.join(str(exc).split())}.") from exc


def _files(location: str) -> list[Path]:
    """The files that hold the rows, in order."""
    folder = Path(location)
    try:
        state = json.loads((folder / "state.json").read_bytes())
        names = [str(item["filename"]) for item in state["_data_files"]]
    except OSError as exc:
        raise DatasetError(f"cannot read {location}: {exc.strerror}.") from exc
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise DatasetError(f"cannot read {location}: its state.json lists no data files.") from exc
    if state.get("_indices_data_files"):
        raise DatasetError(
            f"{location} holds its rows in another order (indices); save it again with flatten_indices()."
        )
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise DatasetError(f"cannot read {location}: its state.json lists {outside[0]!r}, which is not in the folder.")
    return [folder / name for name in names]


class Writer:
    """Writes one folder, in files of `shard_rows` rows if that is set.

    Args:
        folder: folder to write, which is created.
        name: final name of the folder.
        settings: which column holds the videos, and how many rows a file has.
        before: schema of the rows, if all of them come from Arrow; else None.
    """

    def __init__(self, folder: Path, name: str, settings: Settings, before: pa.Schema | None) -> None:
        folder.mkdir()
        self._folder = folder
        self._maker = TableMaker(before, settings)
        self._limit = settings.shard_rows
        self._in_file = 0
        self._digest = hashlib.sha256()  # `datasets` identifies a data set in its caches by this fingerprint
        self._names: list[str] = []
        self._writer: Any = None
        self._file: Any = None

    def write(self, result: RowResult) -> None:
        """Add the rows of one input row."""
        if self._limit and self._in_file >= self._limit:
            self._write_table()
            self._end_file()
        self._in_file += len(result.rows)
        made = [changed(result, row) for row in result.rows]
        self._digest.update(json.dumps([result.index, made], default=as_json).encode())
        if self._maker.add(result):
            self._write_table()

    def _write_table(self) -> None:
        table = self._maker.make()
        if self._writer is None:
            self._names.append(f"data-{len(self._names):05d}.arrow")
            self._file = pa.OSFile(os.fsencode(self._folder / self._names[-1]), "wb")
            self._writer = pa.ipc.new_stream(self._file, self._maker.schema)
        if len(table):
            self._writer.write_table(table.combine_chunks())
        else:  # `datasets` cannot load a file without any batch
            self._writer.write_batch(pa.RecordBatch.from_pylist([], schema=table.schema))

    def _end_file(self) -> None:
        self._writer.close()
        self._file.close()
        self._writer, self._in_file = None, 0

    def close(self) -> None:
        """Write the remaining rows, and the JSON files that make the folder a data set."""
        self._write_table()
        self._end_file()
        state: dict[str, Any] = {
            "_data_files": [{"filename": name} for name in self._names],
            "_fingerprint": self._digest.hexdigest()[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        }
        for name, value in {"state.json": state, "dataset_info.json": {}}.items():
            (self._folder / name).write_text(json.dumps(value, indent=2, sort_keys=True), "utf-8")
