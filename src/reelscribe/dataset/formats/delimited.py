"""CSV and TSV: a line of names, then a row each. All values are text, as they stand there."""

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
"""What bytes that are no UTF-8 are read as."""


def check(location: str) -> None:
    """Raise DatasetError where there are no names of columns, or some that cannot be told apart."""
    with _opened(location) as (names, _):
        if _NOT_UTF8.search("".join(names)) or "\0" in "".join(names):
            raise DatasetError(f"cannot read {location}: it is not in UTF-8; save it as CSV UTF-8.")
        doubles = {name for name in names if names.count(name) > 1}
        if doubles:
            raise DatasetError(f"{location} has several columns called {', '.join(sorted(doubles))}; rename them.")


def count(location: str, deadline: float) -> int | None:
    """Number of rows; None for what is compressed or far away, or where it takes too long."""
    if is_url(location) or location.lower().endswith((".gz", ".zst")):
        return None
    with _opened(location) as (_, lines):
        try:
            return count_until((line for line in _rows(lines) if line != []), deadline)
        except DatasetError:  # of a line that may be longer here than where it is read
            return None


def read(location: str, settings: Settings, _: Path) -> Iterator[Record]:
    """Rows of a file. A line that does not fit the names of the columns becomes a record with a problem."""
    # The limit is one for the whole process. It may only grow, since others may have set it, too.
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
    """The cells of each row, or why it has none; no cells at an empty line. After a problem the next line is read."""
    while True:
        try:
            yield next(lines)
        except StopIteration:
            return
        except csv.Error as exc:
            yield str(exc)


@contextmanager
def _opened(location: str, limit: int = 1 << 20) -> Iterator[tuple[list[str], Any]]:
    """The names of the columns, and the reader of what follows."""
    with ExitStack() as stack:
        file = stack.enter_context(open_binary(location))
        # A wrapper that is thrown away would close the file, which is the stack's.
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
    """A tab in TSV; else a comma, unless semicolons or tabs stand between the names of the columns."""
    file = location.partition("?")[0] if is_url(location) else location
    if file.lower().endswith((".tsv", ".tsv.gz", ".tsv.zst")):
        return "\t"
    return max(",;\t", key=first.count)
