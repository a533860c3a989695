"""Arrow code for Parquet and Hugging Face data sets: record batches to rows, and rows to tables of one schema.

Columns that were read as Arrow arrays are written unchanged, without conversion to Python. For rows of another format
the schema is inferred from the first table; later values that do not fit it are kept as JSON in the column `UNFIT`.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from reelscribe.config import Settings
from reelscribe.dataset.formats import Record
from reelscribe.dataset.formats.jsonl import as_json, to_json
from reelscribe.dataset.records import changed, full_row
from reelscribe.errors import DatasetError
from reelscribe.layouts import columns_used, video_column
from reelscribe.schemas import Schema
from reelscribe.splitting import CLIP, SCENE
from reelscribe.tasks import ColumnKind, Task
from reelscribe.values import Row, RowResult

TABLE_ROWS, TABLE_BYTES = 1000, 1 << 24
"""Maximum number and bytes of the rows in one table."""
UNFIT: Final = "reelscribe_unfit"
"""Column for values that do not fit their own columns' types, as a JSON object. Rows that come from Arrow lack it."""

_MOST_UNFIT: Final = 0.01
"""Maximum share of a column's first values that may fit no type. If more do not fit, the column holds JSON text."""
_UNREADABLE: Final = (ValueError, OverflowError, TypeError)  # of Arrow's own errors, those that a value can cause
_MOST_LEVELS: Final = 32
"""Maximum nesting depth of lists and structs that get a type. Parquet's readers support about a hundred levels."""
_AS_JSON: Final = {b"reelscribe": b"json"}
"""Arrow metadata that marks a column whose values are stored as JSON text."""
_TYPES: Final[dict[ColumnKind, pa.DataType]] = {
    "text": pa.string(),
    "candidates": pa.list_(pa.string()),
    "meta": pa.string(),
    "failure": pa.string(),
}
"""Types of the added columns for one video. Caption metadata is JSON text, since its keys may differ between rows."""
_EVENTS: Final = pa.list_(pa.struct([("start", pa.float64()), ("end", pa.float64()), ("text", pa.string())]))
"""Type of the text column of a task with times: a list of events."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ArrowRow:
    """One row of a record batch."""

    batch: pa.RecordBatch
    number: int

    def as_row(self) -> Row:
        """All columns, as Python values. Dates and times become text, since Python's types cannot hold all of them."""
        row = self.batch.slice(self.number, 1)
        columns = zip(row.schema, row.columns, strict=True)
        return {field.name: _cast(column, _plain(field.type))[0].as_py() for field, column in columns}

    def with_columns(self, values: Row, settings: Settings) -> "ArrowRow":
        """A copy of the row with columns set: existing ones, and those that `split` adds for clips."""
        row = self.batch.slice(self.number, 1)
        schema = with_clips(row.schema, settings)
        arrays = [
            pa.array([_as_type(values[field.name], field.type)], field.type)
            if field.name in values
            else row.column(field.name)
            if field.name in row.schema.names
            else pa.nulls(1, field.type)
            for field in schema
        ]
        return ArrowRow(batch=pa.RecordBatch.from_arrays(arrays, schema=schema), number=0)


def with_clips(schema: pa.Schema, settings: Settings) -> pa.Schema:
    """A schema with the columns in which `split` writes the times and numbers of clips."""
    scene = [pa.field(SCENE, pa.int64())] if settings.split == "scenes" else []
    times = [pa.field("start", pa.float64()), pa.field("end", pa.float64())]
    fields = [pa.field(name, pa.float64()) for name in (settings.start_key, settings.end_key)]
    fields += [*scene, pa.field(CLIP, pa.int64())]
    if settings.nested:
        fields = [pa.field(settings.stretches_key, pa.list_(pa.struct([*times, *scene])))]
    for field in fields:
        place = schema.get_field_index(field.name)
        if place < 0 or not pa.types.is_string(schema.field(place).type):  # times may be text as well
            schema = schema.append(field) if place < 0 else schema.set(place, field)
    return schema


def _as_type(value: Any, kind: pa.DataType) -> Any:
    return f"{value:g}" if isinstance(value, float) and pa.types.is_string(kind) else value


def _cast(column: Any, kind: pa.DataType) -> Any:
    """A column cast to another type.

    Nested columns are copied first: Arrow 26 fails to cast slices of structs with a field of only nulls.
    """
    if column.type.equals(kind):
        return column
    return (column.take(pa.array(range(len(column)))) if pa.types.is_nested(kind) else column).cast(kind)


def _plain(kind: pa.DataType) -> pa.DataType:
    """A type in which dates and times are replaced by text, and durations by integer counts of their unit."""
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind):
        return pa.string()
    if pa.types.is_duration(kind):
        return pa.int64()
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_plain(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type)) for field in kind])
    return kind


def check_schema(schema: pa.Schema, location: str) -> None:
    """Raise DatasetError if several columns have the same name."""
    doubles = {name for name in schema.names if schema.names.count(name) > 1}
    if doubles:
        raise DatasetError(f"{location} has several columns called {', '.join(sorted(doubles))}; rename them.")


def rows_of(batches: Iterable[pa.RecordBatch], settings: Settings, root: Path | None) -> Iterator[Record]:
    """Rows of record batches. They hold only the columns that the pipeline reads; the others stay in Arrow."""
    used = columns_used(settings)
    for batch in batches:
        looked_at = batch.select([name for name in batch.schema.names if name in used])
        rows: Iterable[tuple[Row, str | None]]
        try:
            rows = [(row, None) for row in looked_at.to_pylist()]
        except _UNREADABLE:
            rows = (_row(looked_at, number) for number in range(len(batch)))
        size = batch.nbytes // max(len(batch), 1)
        for number, (row, problem) in enumerate(rows):
            source = ArrowRow(batch=batch, number=number)
            yield Record(row=row, root=root, source=source, num_bytes=size, problem=problem)


def _row(batch: pa.RecordBatch, number: int) -> tuple[Row, str | None]:
    try:
        return batch.slice(number, 1).to_pylist()[0], None
    except _UNREADABLE as exc:
        return {}, f"this row cannot be read: {exc}."


def unify(schemas: Sequence[tuple[str, pa.Schema]]) -> pa.Schema:
    """The common schema of several data sets, which are given as pairs of name and schema.

    A column may be missing in some data sets or hold only nulls there; in all others it must have the same type.

    Raises:
        DatasetError: a column has several types.
    """
    first = schemas[0][1]
    for location, schema in schemas:
        if schema.equals(first):
            continue
        try:
            first = pa.unify_schemas([first, schema], promote_options="default")
        except pa.ArrowException as exc:
            hint = "caption it on its own, or write .jsonl."
            raise DatasetError(f"{location} has other types than the data sets before it ({exc}); {hint}") from exc
    return first


@dataclass(frozen=True, kw_only=True)
class _Added:
    """A column that a task adds."""

    kind: ColumnKind
    schema: Schema | None
    """Schema of its values, if the task has one."""
    type: pa.DataType
    """Arrow type of its value for one video."""
    is_single: bool
    """Whether it holds one value for all clips of a row."""
    lists: bool
    """Whether its value for one video is a list."""

    @classmethod
    def of(cls, task: Task, kind: ColumnKind) -> "_Added":
        if kind == "text" and task.times:
            return cls(kind=kind, schema=None, type=_EVENTS, lists=True, is_single=task.is_over_video)
        schema = task.schema if kind == "text" else None
        made = schema.arrow_type() if schema else _TYPES[kind]
        return cls(kind=kind, schema=schema, type=made, lists=kind == "candidates", is_single=task.is_over_video)

    def cell(self, value: Any) -> Any:
        """Its value for one video, as it is stored in Arrow."""
        if self.schema:
            return self.schema.arrow_value(value) if isinstance(value, dict) else value  # a list does not fit
        return value if self.lists else _text(value)

    def is_list(self, value: Any) -> bool:
        """Whether a value is a list with one entry for each of several videos."""
        if not isinstance(value, list):
            return False
        return not self.lists or all(item is None or isinstance(item, list) for item in value)


class TableMaker:
    """Collects results into tables of one schema. The first table determines the schema.

    Args:
        schema: schema of the rows that were read, if all of them come from Arrow; else None.
        settings: which columns hold videos and captions.
    """

    def __init__(self, schema: pa.Schema | None, settings: Settings) -> None:
        self._before = schema
        self._settings = settings
        self._added = {
            task.column(kind): _Added.of(task, kind) for task in settings.all_tasks for kind in settings.column_kinds
        }
        self._results: list[RowResult] = []
        self._bytes = 0
        self._listed = False
        self.schema: pa.Schema | None = None
        self._fitted: tuple[pa.RecordBatch, pa.RecordBatch] | None = None

    def add(self, result: RowResult) -> bool:
        """Add a result. Returns whether there are enough results for a table."""
        self._results.append(result)
        self._bytes += (result.origin.num_bytes if result.origin else 0) * max(len(result.rows), 1)
        return len(self._results) >= TABLE_ROWS or self._bytes >= TABLE_BYTES

    def make(self) -> pa.Table:
        """A table of the results since the last one; it may be empty."""
        pairs = [(result, row) for result in self._results for row in result.rows]
        self._results, self._bytes = [], 0
        if self.schema is None:  # interleaved rows may have their own columns with the names of added ones
            own = {name for result, _ in pairs if result.origin for name in result.origin.row}
            own.update(self._before.names if self._before else ())
            self._added = {name: added for name, added in self._added.items() if name not in own}
        if self._before is None:
            return self._convert([full_row(result, row) for result, row in pairs])
        return self._pass_through(pairs, self._before)

    # Rows that come from Arrow.

    def _pass_through(self, pairs: list[tuple[RowResult, Row]], before: pa.Schema) -> pa.Table:
        # A result without an Arrow row, such as one for the place where a file broke off, is only listed as a failure.
        pairs = [(result, row) for result, row in pairs if result.origin and isinstance(result.origin.source, ArrowRow)]
        if self.schema is None:
            column = video_column(before.names, self._settings)
            stretches = self._settings.stretches_key in before.names
            self._listed = stretches or (column in before.names and _is_list(before.field(column).type))
            self.schema = self._with_captions(before, (row for _, row in pairs))
        table = self._gather([result.origin.source for result, _ in pairs if result.origin], before)
        changes = [changed(result, row) for result, row in pairs]
        touched = {name for change in changes for name in change}
        arrays = []
        for field in self.schema:
            if field.name in self._added:
                cells = [self._cell(field.name, row.get(field.name)) for _, row in pairs]
                arrays.append(pa.array(cells, field.type))
            elif field.name in touched:
                arrays.append(_with_changes(table.column(field.name), [change.get(field.name) for change in changes]))
            else:
                arrays.append(_cast(table.column(field.name), field.type))
        return pa.Table.from_arrays(arrays, schema=self.schema)

    def _gather(self, rows: Sequence[ArrowRow], schema: pa.Schema) -> pa.Table:
        """The rows as a table of slices of their batches, without copying."""
        runs: list[tuple[pa.RecordBatch, int, int]] = []
        for row in rows:
            if runs and runs[-1][0] is row.batch and runs[-1][2] == row.number:
                runs[-1] = (row.batch, runs[-1][1], row.number + 1)
            else:
                runs.append((row.batch, row.number, row.number + 1))
        slices = [self._fit(batch, schema).slice(start, stop - start) for batch, start, stop in runs]
        return pa.Table.from_batches(slices, schema)

    def _fit(self, batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
        """A batch with the columns and types of the output's schema. The last batch is cached."""
        if self._fitted is None or self._fitted[0] is not batch:
            columns = [
                _cast(batch.column(field.name), field.type)
                if field.name in batch.schema.names
                else pa.nulls(len(batch), field.type)
                for field in schema
            ]
            self._fitted = (batch, pa.RecordBatch.from_arrays(columns, schema=schema))
        return self._fitted[1]

    # Rows that come from elsewhere.

    def _convert(self, rows: list[Row]) -> pa.Table:
        if self.schema is None:
            self._listed = any(
                added.is_list(value) and (value or not added.lists)
                for row in rows
                for name, added in self._added.items()
                if not added.is_single and (value := row.get(name)) is not None
            )
            names = dict.fromkeys(name for row in rows for name in row)
            fields = [_infer(name, [row.get(name) for row in rows]) for name in names]
            self.schema = self._with_captions(pa.schema(fields), rows)
            if rows:
                self.schema = self.schema.append(pa.field(UNFIT, pa.string()))
        unfit: list[Row] = [{name: row[name] for name in row if name not in self.schema.names} for row in rows]
        arrays = []
        for field in self.schema:
            if field.name == UNFIT:
                continue
            cells = [row.get(field.name) for row in rows]
            if field.name in self._added:
                cells = [self._cell(field.name, value) for value in cells]
            elif field.metadata == _AS_JSON:
                cells = [None if value is None else to_json(value) for value in cells]
            array = _column(cells, field.type)
            if array is None:
                fits = [_column([cell], field.type) is not None for cell in cells]
                array = pa.array([cell if fit else None for cell, fit in zip(cells, fits, strict=True)], field.type)
                for number in (number for number, fit in enumerate(fits) if not fit):
                    unfit[number][field.name] = rows[number][field.name]
            arrays.append(array)
        # The column of unfit values is last, since it is complete only after all others are converted.
        if UNFIT in self.schema.names:
            arrays.append(
                pa.array([json.dumps(cells, default=as_json) if cells else None for cells in unfit], pa.string())
            )
        return pa.Table.from_arrays(arrays, schema=self.schema)

    # The columns that are added.

    def _with_captions(self, schema: pa.Schema, rows: Iterable[Row]) -> pa.Schema:
        """A schema with the added columns that rows have. Their types are the same in every data set."""
        held = {name for row in rows for name in row}
        for name, added in self._added.items():
            if name in held:
                listed = self._listed and not added.is_single
                field = pa.field(name, pa.list_(added.type) if listed else added.type)
                place = schema.get_field_index(name)
                schema = schema.append(field) if place < 0 else schema.set(place, field)
        return schema

    def _cell(self, name: str, value: Any) -> Any:
        """Value of an added column, as it is stored in Arrow: for one video, or for a list of videos."""
        added = self._added[name]
        if not self._listed or added.is_single or value is None:
            return added.cell(value)
        return [added.cell(item) for item in (value if added.is_list(value) else [value])]


def _with_changes(column: pa.ChunkedArray, texts: Sequence[str | None]) -> pa.ChunkedArray:
    """A column in which the texts that are not None replace its values."""
    made = pa.array(texts, column.type)
    pieces = [(column if text is None else made).slice(number, 1) for number, text in enumerate(texts)]
    arrays = [array for piece in pieces for array in (piece.chunks if isinstance(piece, pa.ChunkedArray) else [piece])]
    return pa.chunked_array(arrays, column.type)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else to_json(value)


def _infer(name: str, values: Sequence[Any]) -> pa.Field:
    """The inferred field of a column of Python values. If they have no common type, it is a text column of JSON."""
    try:
        kind = settled(pa.array(values).type)
    except _UNREADABLE:
        kind = _widest(values)
    return pa.field(name, pa.string(), metadata=_AS_JSON) if kind is None else pa.field(name, kind)


def _widest(values: Sequence[Any]) -> pa.DataType | None:
    """A type for nearly all of some values for which Arrow infers none, for example because of one huge integer."""
    if all(value is None or (type(value) is int and 0 <= value < 1 << 64) for value in values):
        return pa.uint64()
    held = [value for value in values if _column([value], None)]
    try:
        return settled(pa.array(held).type) if len(values) - len(held) <= _MOST_UNFIT * len(values) else None
    except _UNREADABLE:
        return None


def settled(kind: pa.DataType, levels: int = _MOST_LEVELS) -> pa.DataType | None:
    """A type in which text replaces null types, of which only nulls were seen; None if the type cannot be stored."""
    if not levels:
        return None
    if pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_list(kind):
        inner = settled(kind.value_type, levels - 1)
        return inner and pa.list_(inner)
    if pa.types.is_struct(kind):
        fields = [(field.name, settled(field.type, levels - 1)) for field in kind]
        return pa.struct(fields) if fields and all(inner for _, inner in fields) else None
    return kind


def _column(values: Sequence[Any], kind: pa.DataType | None) -> pa.Array | None:
    """Values as an array of a type; None if they do not fit the type, or if the conversion would lose anything."""
    try:
        array = pa.array(values, kind)
        return array if all(map(_same, values, array.to_pylist())) else None
    except (*_UNREADABLE, RecursionError):
        return None


def _same(value: Any, held: Any) -> bool:
    """Whether the value that Arrow holds equals the original. A key that the original lacks may be null in Arrow."""
    if isinstance(value, dict) and isinstance(held, dict):
        return value.keys() <= held.keys() and all(_same(item, held[name]) for name, item in value.items())
    if isinstance(value, list | tuple) and isinstance(held, list):
        return len(value) == len(held) and all(map(_same, value, held))
    if isinstance(value, float) and isinstance(held, float) and math.isnan(value):
        return math.isnan(held)
    return bool(value == held) and isinstance(value, bool) == isinstance(held, bool)
