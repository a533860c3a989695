"""What writers need from a result: the columns that changed, and the whole row."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from reelscribe.values import InputRow, Row, RowResult


@runtime_checkable
class WholeRow(Protocol):
    """A row's source that holds more columns than the pipeline reads."""

    def as_row(self) -> Row:
        """All columns, as Python values."""


@runtime_checkable
class Binary(Protocol):
    """A row's source whose columns of bytes have names."""

    def stand_ins(self, row: Row) -> Row:
        """Replacements for a row's columns of bytes, for formats that cannot hold bytes."""


def whole_row(item: InputRow) -> Row:
    """A row with all its columns, also those that the pipeline does not read."""
    return item.source.as_row() if isinstance(item.source, WholeRow) else item.row


def changed(result: RowResult, row: Mapping[str, Any]) -> Row:
    """The columns of a row to write that are new, or differ from the row that was read."""
    before = result.origin.row if result.origin else {}
    return {name: value for name, value in row.items() if name not in before or value is not before[name]}


def full_row(result: RowResult, row: Mapping[str, Any]) -> Row:
    """A row to write with all its columns, in their order."""
    source = result.origin.source if result.origin else None
    return {**source.as_row(), **changed(result, row)} if isinstance(source, WholeRow) else dict(row)
