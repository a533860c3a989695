"""Captions Arrow tables, for stages in the data pipelines of other libraries."""

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
    """Caption records as the rows of a data set. Yields one result for each, in order."""
    return caption_rows((input_row(record, number) for number, record in enumerate(records)), settings, engine)


def caption_table(
    batch: pa.Table,
    settings: Settings,
    root: Path | None,
    caption: Callable[[list[Record]], Iterable[RowResult]],
) -> pa.Table:
    """Caption a table.

    Args:
        batch: rows, with the columns of a data set.
        settings: settings of the captions.
        root: folder that relative paths of videos start from.
        caption: captions records; must yield one result for each, in order.

    Returns:
        The rows, in order, with added columns. Interleaved rows only get a column of failures: a list of strings,
        empty if all videos have a caption.

    Raises:
        DatasetError: several columns have the same name.
        SettingsError: the rows already have a column that would be added.
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
