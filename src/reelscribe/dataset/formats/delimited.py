"""CSV and TSV: a line of column names, then one row per record. All values are read as text, unchanged."""

import csv
import io
import itertools
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from reelscribe.config import Settings
from reelscribe.dataset.files import count_until, is_url, open_binary, root_of
from reelscribe.dataset.formats import Record
from reelscribe.errors import DatasetError

_NOT_UTF8: Final = re.compile("[\udc80-\udcff]")
"""Matches the characters that `surrogateescape` decodes from bytes that are not UTF-8."""


def check(location: str) -> None:
    """Raise DatasetError if the column names cannot be read, are not UTF-8, or are not unique."""
    with _opened(location) as (names, _):
        if _NOT_UTF8.search("".join(names)) or "\0" in "".join(names):
            raise DatasetError(f"cannot read {location}: it is not in UTF-8; save it as CSV UTF-8.")
        doubles = {name for name in names if names.count(name) > 1}
        if doubles:
            raise DatasetError(f"{location} has several columns called {', '.join(sorted(doubles))}; rename them.")


def count(location: str, deadline: float) -> int | None:
    """Number of rows; None if the file is compressed or at a URL, or if counting takes too long."""
    if is_url(location) or location.lower().endswith((".gz", ".zst")):
        return None
    with _opened(location) as (_, lines):
        try:
            return count_until((line for line in _rows(lines) if line != []), deadline)
        except DatasetError:  # a line exceeds the limit used here, which may be lower than that of `read`
            return None


def read(location: str, settings: Settings, _: Path) -> Iterator[Record]:
    """Rows of a file. A row that does not match the column names becomes a record with a problem."""
    # csv's limit is global to the process. Only raise it, since other code may have set it as well.
    csv.field_size_limit(max(csv.field_size_limit(), settings.max_line_bytes))
    name, root = Path(location).name, root_of(location, settings)
    with _opened(location, settings.max_line_bytes) as (names, lines):
        for cells in _rows(lines):
            if cells == []:
                continue
            problem = cells if isinstance(cells, str) else _problem(cells, names)
            if problem:
                message = f"the row that ends in line {lines.line_num} of {name} is not a row: {problem}."
                yield Record(row={}, problem=message)
            else:
                yield Record(row=dict(zip(names, cells, strict=True)), root=root, num_bytes=sum(map(len, cells)))


def _problem(cells: list[str], names: list[str]) -> str | None:
    if len(cells) != len(names):
        return f"it has {len(cells)} cells, and the names are {len(names)}"
    return "it is not in UTF-8" if any(map(_NOT_UTF8.search, cells)) else None


def _rows(lines: Any) -> Iterator[list[str] | str]:
    """The cells of each row, or a problem as a text. An empty line has no cells. After a problem reading goes on."""
    while True:
        try:
            yield next(lines)
        except StopIteration:
            return
        except csv.Error as exc:
            yield str(exc)


@contextmanager
def _opened(location: str, limit: int = 1 << 20) -> Iterator[tuple[list[str], Any]]:
    """Open a file. Gives the column names, and the reader of the rows after them."""
    with ExitStack() as stack:
        file = stack.enter_context(open_binary(location))
        # A TextIOWrapper closes its file when it is garbage-collected, but the stack owns the file: detach it.
        text = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")
        stack.callback(text.detach)
        lines = _lines(text, location, limit)
        first = next(lines, "")
        rows = csv.reader(itertools.chain([first], lines), delimiter=_delimiter(location, first), strict=True)
        try:
            names = next(rows, [])
        except csv.Error as exc:
            raise DatasetError(f"cannot read {location}: its first line holds no names of columns: {exc}.") from exc
        yield names, rows


def _lines(text: io.TextIOWrapper, location: str, limit: int) -> Iterator[str]:
    while line := text.readline(limit + 1):
        if len(line) > limit:
            raise DatasetError(f"cannot read on in {location}: it has a line of more than {limit:,} characters.")
        yield line


def _delimiter(location: str, first: str) -> str:
    """The delimiter: a tab for TSV; else the most frequent of comma, semicolon and tab in the first line."""
    file = location.partition("?")[0] if is_url(location) else location
    if file.lower().endswith((".tsv", ".tsv.gz", ".tsv.zst")):
        return "\t"
    return max(",;\t", key=first.count)
