"""Formats of data sets, by name. Each is a module that is loaded when it is needed, with what it needs.

A format that can be read has the functions of `Reader`, one that can be written has a class `Writer`.
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
    """What a format's reader found in the place of one row."""

    row: Row
    root: Path | None = None
    """Folder that its relative paths start from."""
    source: Any = None
    """The record as it was; see `InputRow.source`."""
    num_bytes: int = 0
    problem: str | None = None
    """Why it is no row."""
    kind: FailureKind = "row"
    """Of that problem."""


class Reader(Protocol):
    """How a format is read; a module with these functions."""

    def check(self, location: str) -> None:
        """Raise DatasetError where there is nothing of this format to be read. Costs little."""

    def count(self, location: str, deadline: float) -> int | None:
        """How many rows there are; None where that cannot be told by then (in seconds of the monotonic clock)."""

    def read(self, location: str, settings: Settings, base: Path) -> Iterator[Record]:
        """Read rows, one by one.

        Args:
            location: path or URL.
            settings: which columns are looked at, limits, root.
            base: folder from which made-up rows name local files.

        Raises:
            DatasetError: it cannot be read on; the rows before are good.
        """


class RowWriter(Protocol):
    """How a format is written: one file, from its first row to its last."""

    def write(self, result: RowResult) -> None:
        """Write the rows of one input row."""

    def close(self) -> None:
        """Write what is left, and close the file."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format by what files of it are called."""

    suffixes: tuple[str, ...] = ()
    """How names of its files end; the first is the one to write by default."""
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
"""Name of a module in this package, to its format."""


def first_suffixes(*, writable: bool = False) -> str:
    """How files of each format are called, in words; of those that can be written, if only these are meant."""
    return ", ".join(item.suffixes[0] for item in FORMATS.values() if item.suffixes and (item.writable or not writable))


def format_of(name: str) -> str | None:
    """The format of a file by its name; None where that says nothing."""
    return next((key for key, item in FORMATS.items() if name.lower().endswith(item.suffixes or ("\0",))), None)


def load_reader(name: str) -> Reader:
    """The reader of a format.

    Raises:
        MissingExtraError: what it needs is not installed.
    """
    return cast(Reader, _load(name))


def load_writer(name: str) -> Any:
    """The class `Writer` of a format.

    Raises:
        MissingExtraError: what it needs is not installed.
    """
    return _load(name).Writer


def _load(name: str) -> Any:
    with needs_extra(f"the format {name}"):
        return importlib.import_module(f"{__name__}.{name}")
