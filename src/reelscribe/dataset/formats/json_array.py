"""`.json` files: an array of objects, which is read element by element; or JSON Lines with this suffix."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final

from reelscribe.config import Settings
from reelscribe.dataset.files import count_until, is_url, open_binary, root_of
from reelscribe.dataset.formats import Record, jsonl
from reelscribe.errors import DatasetError

_CHUNK: Final = 1 << 16
_MARK: Final = re.compile(rb'["\[\]{},]')
_IN_STRING: Final = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_LINE_BREAKS: Final = re.compile(r"[ \t]*[\r\n]+[ \t\r\n]*")
_BOM: Final = b"\xef\xbb\xbf"


def check(location: str) -> None:
    """Raise DatasetError if the file is neither an array nor JSON Lines."""
    with open_binary(location) as file:
        start = _start(file)
    if not start or start.startswith(b"["):
        return
    told = "it holds no JSON objects"
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        told = "it is not in UTF-8"
    elif start.startswith(b"{"):
        first, _, rest = start.partition(b"\n")
        if not rest.strip() or rest.lstrip().startswith(b"{") or isinstance(jsonl.parse(first), tuple):
            return  # JSON Lines
        told = "it is one JSON object over several lines"
    raise DatasetError(
        f"cannot read {location}: {told}; rows are an array of objects, [{{...}}, {{...}}], or JSON Lines, one object "
        "a line. A list within an object comes out with jq -c '.NAME[]' FILE > rows.jsonl"
    )


def _start(file: BinaryIO) -> bytes:
    """The first bytes of a file, without a byte order mark and leading white space."""
    return file.read(_CHUNK).removeprefix(_BOM).lstrip()


def _is_array(location: str) -> bool:
    with open_binary(location) as file:
        return _start(file).startswith(b"[")


def count(location: str, deadline: float) -> int | None:
    """Number of elements or lines; None if the file is compressed or at a URL, or if counting takes too long."""
    if is_url(location) or location.lower().endswith((".gz", ".zst")):
        return None
    if not _is_array(location):
        return jsonl.count(location, deadline)
    with open_binary(location) as file:
        try:
            return count_until(_elements(file, location, _CHUNK), deadline)
        except DatasetError:  # the array breaks off; reading then ends with an extra row that says so
            return None


def read(location: str, settings: Settings, base: Path) -> Iterator[Record]:
    """Rows of a file. An element that is not a JSON object becomes a record with a problem, and keeps its text.

    Raises:
        DatasetError: the array breaks off; the rows before are valid.
    """
    if not _is_array(location):
        yield from jsonl.read(location, settings, base)
        return
    name, root, limit = Path(location).name, root_of(location, settings), settings.max_line_bytes
    with open_binary(location) as file:
        for number, (element, cut) in enumerate(_elements(file, location, limit), 1):
            record = jsonl.record(element, called=f"element {number} of {name}", cut=cut, limit=limit, root=root)
            if isinstance(record.source, jsonl.JsonLine):
                # In valid JSON line breaks occur only between values, so replacing them changes nothing.
                record = replace(record, source=jsonl.JsonLine(_LINE_BREAKS.sub(" ", record.source)))
            yield record


def _elements(file: BinaryIO, location: str, limit: int) -> Iterator[tuple[bytes, bool]]:
    """Each element of an array, and whether it exceeds `limit` bytes and was cut off. Memory is bounded by the limit.

    Raises:
        DatasetError: the file ends within the array, or continues after it.
    """
    scanner = _Scanner(file, limit)
    try:
        yield from scanner.elements()
    except EOFError as exc:
        raise DatasetError(f"cannot read on in {location}: the file ends within its array.") from exc
    if scanner.goes_on():
        raise DatasetError(f"cannot read on in {location}: its array ends, and more follows.")


class _Scanner:
    """Finds the ends of an array's elements by brackets and strings alone, without parsing.

    So an element that is invalid JSON or too long does not affect those after it.
    """

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file, self._limit = file, limit
        self._held = _start(file)[1:]
        self._start = self._at = 0
        """Offsets in `_held`: the start of the current element, and the end of what was scanned."""
        self._kept = b""
        """Beginning of the current element if it is too long, else empty."""

    def elements(self) -> Iterator[tuple[bytes, bool]]:
        """Each element without surrounding white space, and whether it is longer than the limit.

        Raises:
            EOFError: the file ends within the array.
        """
        depth = count = 0
        while True:
            try:
                mark = self._next_mark()
            except EOFError:
                last = self._held[self._start :].strip()
                if depth == 0 and last.endswith(b"}") and not self._kept:
                    yield last, len(last) > self._limit
                raise
            if depth or mark not in b",]":
                depth = max(depth + (mark in b"[{") - (mark in b"]}"), 0)
                continue
            element = self._kept or self._held[self._start : self._at - 1].strip()
            if element or mark == b"," or count:
                count += 1
                yield element, len(element) > self._limit
            self._start, self._kept = self._at, b""
            if mark == b"]":
                return

    def goes_on(self) -> bool:
        """Whether anything but white space follows the array."""
        return bool(self._held[self._at :].strip() or self._file.read(_CHUNK).strip())

    def _next_mark(self) -> bytes:
        """The next bracket or comma outside of strings."""
        while True:
            found = _MARK.search(self._held, self._at)
            if found is None:
                self._at = len(self._held)
                self._read_on()
                continue
            self._at = found.end()
            if found[0] != b'"':
                return bytes(found[0])
            self._pass_string()

    def _pass_string(self) -> None:
        while True:
            found = _IN_STRING.match(self._held, self._at)
            self._at = found.end() if found else self._at
            if self._held[self._at : self._at + 1] == b'"':
                self._at += 1
                return
            self._read_on()

    def _read_on(self) -> None:
        if self._at - self._start > self._limit:
            self._kept = self._kept or self._held[self._start : self._start + self._limit + 1].lstrip()
            self._start = self._at
        more = self._file.read(_CHUNK)
        if not more:
            raise EOFError
        self._held = self._held[self._start :] + more
        self._at, self._start = self._at - self._start, 0
