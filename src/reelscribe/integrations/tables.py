"""An Arrow table of rows to the same with captions: what stages of other libraries' data sets are made of."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from reelscribe.config import Settings
from reelscribe.dataset.formats import Record
from reelscribe.dataset.formats.arrow import TableMaker, check_schema, rows_of
from reelscribe.dataset.read import input_row
from reelscribe.engines.base import Engine
from reelscribe.pipeline import caption_rows
from reelscribe.values import RowResult


def caption_records(records: Iterable[Record], settings: Settings, engine: Engine) -> Iterator[RowResult]:
    """Caption rows as those of a data set of their own; one result each, in their order."""
    return caption_rows((input_row(record, number) for number, record in enumerate(records)), settings, engine)


def caption_table(
    batch: pa.Table,
    settings: Settings,
    root: Path | None,
    caption: Callable[[list[Record]], Iterable[RowResult]],
) -> pa.Table:
    """Caption a table.

    Args:
        batch: rows, with the columns that a data set has.
        settings: what to do.
        root: folder that relative paths of videos start from.
        caption: one result for each row, in order.

    Returns:
        The rows, in order, with the columns that are added. Interleaved rows get that of failures alone: a list of
        them, empty where all videos have a caption.

    Raises:
        DatasetError: columns cannot be told apart.
        SettingsError: there is a column that would be added.
    """
    check_schema(batch.schema, "the batch")
    made, failures = TableMaker(batch.schema, settings), list[list[str]]()
    for result in caption(list(rows_of(batch.to_batches(), settings, root))):
        made.add(result)
        failures += [[f"{failure.kind}: {failure.message}" for failure in result.failures]] * len(result.rows)
    table = made.make()
    if "failure" in settings.column_kinds and not {*settings.added_columns} & {*table.column_names}:
        name = settings.text_task.column("failure")
        table = table.append_column(name, pa.array(failures, pa.list_(pa.string())))
    return table
