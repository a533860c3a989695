"""Opens tar files strictly, and copies parts of them unchanged."""

import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal, Self

from reelscribe.dataset.files import open_binary
from reelscribe.errors import DatasetError

_BUFFER = 1 << 16
_MOST_HEADER_BYTES = 1 << 20
_CONTINUING: Final = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


@dataclass(frozen=True, kw_only=True)
class Span:
    """A part of a tar file, from the header of a member to the end of one."""

    location: str
    start: int
    end: int
    """Offset of the byte after it, in the uncompressed file."""


class StrictInfo(tarfile.TarInfo):
    """A header, or an error: by itself, `tarfile` takes what is no header for the end of the file.

    A header may be continued by long names and the like, which are read at once: they must not be gigantic.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        info = super().frombuf(buf, encoding, errors)
        if info.type in _CONTINUING and info.size > _MOST_HEADER_BYTES:
            raise tarfile.HeaderError(f"a header of {info.size:,} bytes")
        return info

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined] # typeshed lacks it
            raise
        except tarfile.HeaderError as exc:
            raise tarfile.ReadError(f"it is damaged, or no tar file: {exc}") from exc


@contextmanager
def opened(location: str, mode: Literal["r|", "r:"] = "r|") -> Iterator[tarfile.TarFile]:
    """Open a tar file to read it from its start; with "r:" members are skipped where the file can be sought in.

    Raises:
        DatasetError: it is none, or breaks off within the context.
    """
    try:
        with (
            open_binary(location) as file,
            tarfile.open(fileobj=file, mode=mode, bufsize=_BUFFER, tarinfo=StrictInfo) as tar,
        ):
            yield tar
    except tarfile.TarError as exc:
        raise DatasetError(f"cannot read {location}: {exc}.") from exc


def renamed(header: tarfile.TarInfo, name: str) -> tarfile.TarInfo:
    """A member's header for another name and size: its time, rights and owner, and what else is told of it."""
    info = copy(header)
    info.name, info.type, info.sparse = name, tarfile.REGTYPE, None
    gone = ("path", "size", "linkpath")
    info.pax_headers = {
        key: value for key, value in header.pax_headers.items() if key not in gone and not key.startswith("GNU.sparse.")
    }
    return info


class Originals:
    """Tar files that were read, to copy parts of them as they are.

    Args:
        stack: closes the last one.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack.enter_context(ExitStack())
        self._location: str | None = None
        self._file: BinaryIO | None = None
        self._names: tuple[str | None, frozenset[str]] = (None, frozenset())

    def copy(self, span: Span, to: BinaryIO, tar: tarfile.TarFile) -> None:
        """Append a part to a tar file that is being written."""
        if self._file is None or span.location != self._location:
            self._stack.close()
            self._file, self._location = self._stack.enter_context(open_binary(span.location)), span.location
        self._file.seek(span.start)
        left = span.end - span.start
        while left:
            data = self._file.read(min(left, _BUFFER))
            if not data:
                raise DatasetError(f"cannot read {span.location}: it is shorter than it was.")
            to.write(data)
            tar.offset += len(data)
            left -= len(data)

    def names(self, location: str, wanted: Callable[[str], str | None]) -> frozenset[str]:
        """What is wanted of each name of a member of a file, as far as that can be read; remembers the last file's."""
        if self._names[0] != location:
            found: set[str] = set()
            with suppress(DatasetError), opened(location, "r:") as tar:
                while (info := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined] # or the list of all that was met would grow
                    found.update(filter(None, [wanted(info.name)]))
            self._names = location, frozenset(found)
        return self._names[1]
