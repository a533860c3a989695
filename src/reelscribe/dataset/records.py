"""What a writer asks of a result: which columns changed, and what the whole row is."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from reelscribe.values import InputRow, Row, RowResult


@runtime_checkable
class WholeRow(Protocol):
    """A source that holds more columns than the flow looks at."""

    def as_row(self) -> Row:
        """All columns, as Python values."""


@runtime_checkable
class Binary(Protocol):
    """A source of columns of bytes that have names."""

    def stand_ins(self, row: Row) -> Row:
        """What to write of a row's columns of bytes where bytes cannot be written."""


def whole_row(item: InputRow) -> Row:
    """A row with all its columns, also those at which the flow does not look."""
    return item.source.as_row() if isinstance(item.source, WholeRow) else item.row


def changed(result: RowResult, row: Mapping[str, Any]) -> Row:
    """The columns of a row to be written that are not those that were read."""
    before = result.origin.row if result.origin else {}
    return {name: value for name, value in row.items() if name not in before or value is not before[name]}


def full_row(result: RowResult, row: Mapping[str, Any]) -> Row:
    """A row to be written with all its columns, in their order."""
    source = result.origin.source if result.origin else None
    return {**source.as_row(), **changed(result, row)} if isinstance(source, WholeRow) else dict(row)
