"""Reads the rows of data sets in all formats, one data set after the other."""

import itertools
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from reelscribe.config import Settings
from reelscribe.dataset.formats import Record, load_reader, videos
from reelscribe.dataset.sidecars import IsOwn
from reelscribe.dataset.sources import Source
from reelscribe.errors import DatasetError
from reelscribe.values import Failure, InputRow

_COUNT_SECONDS = 0.5


def read_rows(
    sources: Sequence[Source],
    settings: Settings,
    *,
    output: Path | None,
    is_own: IsOwn = lambda file, content: False,
) -> Generator[InputRow, None, None]:
    """Read rows, one by one.

    If a source cannot be read to its end, its last row has a problem that says so, and the next source follows.

    Args:
        sources: sources from `find_sources`.
        settings: which columns are read, limits, `root`.
        output: path of the output. Rows that are made for video files name them relative to its folder, unless `root`
            is set. None if the output is not on this machine: then these rows name absolute paths.
        is_own: whether a run on this output wrote a file beside a video; such files are not read.
    """
    numbers = itertools.count()
    for source in sources:
        for record in _records(source, settings, output and output.parent, is_own):
            yield input_row(record, next(numbers))


def input_row(record: Record, index: int) -> InputRow:
    """A record as an `InputRow`; its problem, if any, becomes a failure."""
    problem = Failure.of_row(index, record.problem, record.kind) if record.problem else None
    return InputRow(
        index=index,
        row=record.row,
        root=record.root,
        problem=problem,
        source=record.source,
        num_bytes=record.num_bytes,
    )


def _records(source: Source, settings: Settings, base: Path | None, is_own: IsOwn) -> Iterator[Record]:
    try:
        if source.format == "videos":
            yield from videos.read(source.location, settings, base, is_own)
        else:
            yield from load_reader(source.format).read(source.location, settings, base or Path())
    except DatasetError as exc:
        yield Record(row={}, problem=f"{exc} What it holds from here on is left out.")


def count_rows(sources: Sequence[Source]) -> int | None:
    """Number of rows that `read_rows` will yield; None if counting takes longer than `_COUNT_SECONDS`."""
    deadline = time.monotonic() + _COUNT_SECONDS
    total = 0
    for source in sources:
        count = load_reader(source.format).count(source.location, deadline)
        if count is None:
            return None
        total += count
    return total
