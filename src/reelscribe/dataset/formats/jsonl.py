"""JSON Lines, plain or compressed. What a line held before stays byte for byte: new columns are set into its text."""

import base64
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, BinaryIO, Final

from reelscribe.config import Settings
from reelscribe.dataset.files import count_until, create, is_url, open_binary, root_of
from reelscribe.dataset.formats import Record
from reelscribe.dataset.records import Binary, changed, full_row
from reelscribe.errors import DatasetError
from reelscribe.values import UNREADABLE, RowResult

_KEPT_BYTES: Final = 1000
"""How much of a line that is too long is kept."""
_CHUNK = 1 << 20
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


class JsonLine(str):
    """The text of one line, as it was read: a JSON object without anything around it."""

    __slots__ = ()


# Reading


def check(location: str) -> None:
    """Raise DatasetError where nothing can be read, or where the file is one array."""
    with open_binary(location) as file:
        if file.read(1) != b"[":
            return
        first, _, rest = file.read(_KEPT_BYTES).partition(b"\n")
    if not first.strip() or not rest.lstrip().startswith(b"{"):
        raise DatasetError(
            f"cannot read {location}: it is a JSON array, where each line should be an object; call it .json, and its "
            "elements are rows."
        )


def count(location: str, deadline: float) -> int | None:
    """Number of lines that hold something; None for what is compressed or far away, or where it takes too long."""
    if is_url(location) or location.lower().endswith((".gz", ".zst")):
        return None
    with open_binary(location) as file:
        return count_until((line for line, _ in _lines(file, _CHUNK) if line.strip()), deadline)


def read(location: str, settings: Settings, _: Path) -> Iterator[Record]:
    """Rows of a file. A line that is no JSON object becomes a record with a problem, and keeps its text."""
    name, root, limit = Path(location).name, root_of(location, settings), settings.max_line_bytes
    with open_binary(location) as file:
        for number, (line, cut) in enumerate(_lines(file, limit), 1):
            if line.strip():
                yield record(line, called=f"line {number} of {name}", cut=cut, limit=limit, root=root)


def record(line: bytes, *, called: str, cut: bool, limit: int, root: Path | None) -> Record:
    """The record of one row.

    Args:
        line: its JSON.
        called: what to call it in messages.
        cut: whether that was cut off at the limit.
        limit: most bytes that it may have.
        root: folder that its relative paths start from.
    """
    parsed: tuple[dict[str, Any], str] | str = f"it is longer than {limit:,} bytes (max_line_bytes)"
    if cut:
        line = line[:_KEPT_BYTES]  # the rest can go
    else:
        parsed = parse(line)
    if isinstance(parsed, tuple):
        row, text = parsed
        return Record(row=row, root=root, source=JsonLine(text), num_bytes=len(line))
    kept = line.decode("utf-8", "replace").rstrip("\r\n") + ("..." if cut else "")
    return Record(row={UNREADABLE: kept}, problem=f"{called} is not a row: {parsed}.", num_bytes=len(line))


def _lines(file: BinaryIO, limit: int) -> Iterator[tuple[bytes, bool]]:
    """Each line, and whether it was cut off at the limit. Never holds more than that of it."""
    while line := file.readline(limit + 1):
        end = line
        while len(end) and not end.endswith(b"\n") and len(line) > limit:
            end = file.readline(_CHUNK)
        yield line, len(line) > limit and not line.endswith(b"\n")


def parse(line: bytes) -> tuple[dict[str, Any], str] | str:
    """A line as a row and its text; or why it is none."""
    try:
        text = line.decode("utf-8-sig").strip()
        row = json.loads(text)
    except json.JSONDecodeError as exc:
        return f"{exc.msg.removesuffix(' at')} at column {exc.colno}"
    except (ValueError, RecursionError) as exc:  # no UTF-8, a number of too many digits, too many levels
        return str(exc)
    return (row, text) if isinstance(row, dict) else f"it must be a JSON object; got {type(row).__name__}"


# Writing


class Writer:
    """Writes one file of lines; compressed if its name says so.

    Args:
        file: to write.
        name: of the file in the end.
    """

    def __init__(self, file: Path, name: str, *_: Any) -> None:
        self._stack = ExitStack()
        self._file = create(file, name, self._stack)
        self._flush = not name.lower().endswith((".gz", ".zst"))  # a flush there would cost compression

    def write(self, result: RowResult) -> None:
        """Write the rows of one input row, each in a line."""
        for row in result.rows:
            self._file.write(row_line(result, row) + b"\n")
        if self._flush:
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._stack.close()


def row_line(result: RowResult, row: Mapping[str, Any]) -> bytes:
    """A row to be written, as a line of JSON in UTF-8. A line that was read is changed only where it must be."""
    source = result.origin.source if result.origin else None
    if isinstance(source, JsonLine):
        return splice(source, changed(result, row))
    whole = full_row(result, row)
    return to_json(whole | source.stand_ins(whole) if isinstance(source, Binary) else whole).encode()


def to_json(value: Any) -> str:
    """A value as JSON. What JSON does not know becomes text: times in ISO 8601, decimals in digits, bytes in base64."""
    text = json.dumps(value, ensure_ascii=False, default=as_json)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON may hold, has no UTF-8: it is put in escapes
        return json.dumps(value, default=as_json)
    return text


def as_json(value: Any) -> Any:
    """What stands in JSON for a value that it does not know."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if isinstance(value, date | datetime | time) else str(value)


def splice(text: str, changes: Mapping[str, Any]) -> bytes:
    """Set members of a JSON object in its text: known ones where they stand, others at its end."""
    left = dict(changes)
    known = [item for item in (_members(text) if _may_hold(text, changes) else ()) if item[0] in changes]
    for name, start, end in reversed(known):
        text = text[:start] + to_json(changes[name]) + text[end:]
        left.pop(name, None)
    if left:
        head = text[: text.rindex("}")].rstrip()
        text = head + ("" if head == "{" else ", ") + to_json(left)[1:]
    return text.encode()


def _may_hold(text: str, names: Mapping[str, Any]) -> bool:
    """Whether a member of these names may be there: quick, where none is."""
    return "\\" in text or any(f'"{name}"' in text for name in names)


def _members(text: str) -> Iterator[tuple[str, int, int]]:
    """Names of an object's members, and where the value of each begins and ends."""

    def skip(at: int) -> int:
        found = _SPACE.match(text, at)
        return found.end() if found else at

    at = skip(1)
    while text[at] == '"':
        name, at = _DECODER.raw_decode(text, at)
        start = skip(skip(at) + 1)
        _value, end = _DECODER.raw_decode(text, start)
        yield name, start, end
        at = skip(end)
        if text[at] == ",":
            at = skip(at + 1)
