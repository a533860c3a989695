"""Data sets in: rows of all formats, one after the other."""

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
    """Read rows, one by one. What breaks off in the middle ends with a row that says so, and the next source follows.

    Args:
        sources: as `find_sources` gives them.
        settings: which columns are looked at, limits, root.
        output: where the result will be; rows made for video files name them relative to it, unless there is a root.
            None if that is not on this machine: they name absolute paths then.
        is_own: tells files beside videos that runs on this output wrote, which are not read.
    """
    numbers = itertools.count()
    for source in sources:
        for record in _records(source, settings, output and output.parent, is_own):
            yield input_row(record, next(numbers))


def input_row(record: Record, index: int) -> InputRow:
    """A record as the flow takes it."""
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
    """How many rows `read_rows` will give; None where to tell takes longer than a moment."""
    deadline = time.monotonic() + _COUNT_SECONDS
    total = 0
    for source in sources:
        count = load_reader(source.format).count(source.location, deadline)
        if count is None:
            return None
        total += count
    return total
