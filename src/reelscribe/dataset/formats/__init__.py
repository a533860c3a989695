"""Formats of data sets, by name. Each format is a module, which is imported with its dependencies when it is needed.

The module of a readable format has the functions of `Reader`; that of a writable one has a class `Writer`.
"""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, cast

from reelscribe.config import Settings
from reelscribe.dataset.files import needs_extra
from reelscribe.errors import FailureKind
from reelscribe.values import Row, RowResult


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a reader found in the place of one row: the row, or a problem."""

    row: Row
    root: Path | None = None
    """Folder from which the row's relative paths start."""
    source: Any = None
    """The original record; see `InputRow.source`."""
    num_bytes: int = 0
    """Approximate memory that the record takes."""
    problem: str | None = None
    """Why it cannot be read as a row, else None."""
    kind: FailureKind = "row"
    """Kind of the problem."""


class Reader(Protocol):
    """Reader of a format: a module with these functions."""

    def check(self, location: str) -> None:
        """Raise DatasetError if the location cannot be read in this format. This check is cheap."""

    def count(self, location: str, deadline: float) -> int | None:
        """Number of rows; None if it is not known by `deadline`, in seconds of the monotonic clock."""

    def read(self, location: str, settings: Settings, base: Path) -> Iterator[Record]:
        """Read rows, one by one.

        Args:
            location: path or URL.
            settings: which columns are read, limits, `root`.
            base: folder from which rows that the reader makes for local files name these.

        Raises:
            DatasetError: reading fails in the middle; the rows before are valid.
        """


class RowWriter(Protocol):
    """Writer of a format. It writes one file, from its first row to its last."""

    def write(self, result: RowResult) -> None:
        """Write the rows of one input row."""

    def close(self) -> None:
        """Write the remaining rows, and close the file."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format, with the names of its files."""

    suffixes: tuple[str, ...] = ()
    """Suffixes of its files; the first is the default for writing."""
    writable: bool = True


FORMATS: Final[dict[str, Format]] = {
    "jsonl": Format(
        suffixes=(".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson", ".ndjson.gz", ".ndjson.zst"),
    ),
    "parquet": Format(suffixes=(".parquet",)),
    "hf": Format(),
    "webdataset": Format(suffixes=(".tar", ".tar.gz", ".tgz")),
    "json_array": Format(suffixes=(".json", ".json.gz", ".json.zst"), writable=False),
    "delimited": Format(
        suffixes=(".csv", ".tsv", ".csv.gz", ".tsv.gz", ".csv.zst", ".tsv.zst"),
        writable=False,
    ),
    "videos": Format(writable=False),
}
"""Formats by the names of their modules in this package."""


def first_suffixes(*, writable: bool = False) -> str:
    """The first suffix of each format, as a text for messages; with `writable`, only of formats that can be written."""
    return ", ".join(item.suffixes[0] for item in FORMATS.values() if item.suffixes and (item.writable or not writable))


def format_of(name: str) -> str | None:
    """The format of a file, by its name; None if no format has its suffix."""
    return next((key for key, item in FORMATS.items() if name.lower().endswith(item.suffixes or ("\0",))), None)


def load_reader(name: str) -> Reader:
    """The reader of a format.

    Raises:
        MissingExtraError: it needs a package that is not installed.
    """
    return cast(Reader, _load(name))


def load_writer(name: str) -> Any:
    """The class `Writer` of a format.

    Raises:
        MissingExtraError: it needs a package that is not installed.
    """
    return _load(name).Writer


def _load(name: str) -> Any:
    with needs_extra(f"the format {name}"):
        return importlib.import_module(f"{__name__}.{name}")
