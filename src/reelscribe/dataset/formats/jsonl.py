"""JSON Lines, plain or compressed. New columns are inserted into a line's text, so the rest stays byte for byte."""

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
"""Number of bytes that are kept of a line that is too long."""
_CHUNK = 1 << 20
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


class JsonLine(str):
    """The text of one line as it was read: a JSON object, without surrounding white space."""

    __slots__ = ()


# Reading


def check(location: str) -> None:
    """Raise DatasetError if the file cannot be read, or if it is one JSON array."""
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
    """Number of non-blank lines; None if the file is compressed or at a URL, or if counting takes too long."""
    if is_url(location) or location.lower().endswith((".gz", ".zst")):
        return None
    with open_binary(location) as file:
        return count_until((line for line, _ in _lines(file, _CHUNK) if line.strip()), deadline)


def read(location: str, settings: Settings, _: Path) -> Iterator[Record]:
    """Rows of a file. A line that is not a JSON object becomes a record with a problem, and keeps its text."""
    name, root, limit = Path(location).name, root_of(location, settings), settings.max_line_bytes
    with open_binary(location) as file:
        for number, (line, cut) in enumerate(_lines(file, limit), 1):
            if line.strip():
                yield record(line, called=f"line {number} of {name}", cut=cut, limit=limit, root=root)


def record(line: bytes, *, called: str, cut: bool, limit: int, root: Path | None) -> Record:
    """The record of one row.

    Args:
        line: JSON of the row, or its beginning if `cut`.
        called: name of the row in messages.
        cut: whether the line was cut off at the limit.
        limit: maximum bytes of a line.
        root: folder from which the row's relative paths start.
    """
    parsed: tuple[dict[str, Any], str] | str = f"it is longer than {limit:,} bytes (max_line_bytes)"
    if cut:
        line = line[:_KEPT_BYTES]  # free the rest
    else:
        parsed = parse(line)
    if isinstance(parsed, tuple):
        row, text = parsed
        return Record(row=row, root=root, source=JsonLine(text), num_bytes=len(line))
    kept = line.decode("utf-8", "replace").rstrip("\r\n") + ("..." if cut else "")
    return Record(row={UNREADABLE: kept}, problem=f"{called} is not a row: {parsed}.", num_bytes=len(line))


def _lines(file: BinaryIO, limit: int) -> Iterator[tuple[bytes, bool]]:
    """Each line, and whether it was cut off at `limit` bytes. Never more than that is held in memory."""
    while line := file.readline(limit + 1):
        end = line
        while len(end) and not end.endswith(b"\n") and len(line) > limit:
            end = file.readline(_CHUNK)
        yield line, len(line) > limit and not line.endswith(b"\n")


def parse(line: bytes) -> tuple[dict[str, Any], str] | str:
    """Parse a line. Returns the row and its text, or a message that says why it is not a row."""
    try:
        text = line.decode("utf-8-sig").strip()
        row = json.loads(text)
    except json.JSONDecodeError as exc:
        return f"{exc.msg.removesuffix(' at')} at column {exc.colno}"
    except (ValueError, RecursionError) as exc:  # not UTF-8, a number with too many digits, nested too deeply
        return str(exc)
    return (row, text) if isinstance(row, dict) else f"it must be a JSON object; got {type(row).__name__}"


# Writing


class Writer:
    """Writes one file of lines, compressed if its name says so.

    Args:
        file: path to write to.
        name: final name of the file.
    """

    def __init__(self, file: Path, name: str, *_: Any) -> None:
        self._stack = ExitStack()
        self._file = create(file, name, self._stack)
        self._flush = not name.lower().endswith((".gz", ".zst"))  # flushing a compressed file makes it larger

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
    """A row to write, as a line of JSON in UTF-8. If the row was read as a line, only changed columns are replaced."""
    source = result.origin.source if result.origin else None
    if isinstance(source, JsonLine):
        return splice(source, changed(result, row))
    whole = full_row(result, row)
    return to_json(whole | source.stand_ins(whole) if isinstance(source, Binary) else whole).encode()


def to_json(value: Any) -> str:
    """A value as JSON. Other types become text: times in ISO 8601, decimals as digits, bytes in base64."""
    text = json.dumps(value, ensure_ascii=False, default=as_json)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON allows and UTF-8 does not: write escapes
        return json.dumps(value, default=as_json)
    return text


def as_json(value: Any) -> Any:
    """The text that represents a value of a type that JSON lacks."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if isinstance(value, date | datetime | time) else str(value)


def splice(text: str, changes: Mapping[str, Any]) -> bytes:
    """Set members of a JSON object in its text: existing ones in their places, new ones at the end."""
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
    """Quick check whether the text may have a member of these names. Escapes may spell any name."""
    return "\\" in text or any(f'"{name}"' in text for name in names)


def _members(text: str) -> Iterator[tuple[str, int, int]]:
    """For each member of an object: its name, and the start and end of its value in the text."""

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
