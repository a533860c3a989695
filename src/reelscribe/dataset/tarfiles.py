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
    """A part of a tar file, by offsets in the uncompressed file. It begins and ends at borders of members."""

    location: str
    start: int
    end: int
    """Offset of the first byte after the part."""


class StrictInfo(tarfile.TarInfo):
    """A member's header that raises an error if it is invalid. `tarfile` itself takes that for the end of the file.

    Extended headers, such as those of long names, are read into memory at once, so their size is limited.
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
    """Open a tar file to read it from its start. With "r:" contents of members are skipped by seeking, if possible.

    Raises:
        DatasetError: it is not a tar file, or reading fails within the context.
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
    """A copy of a member's header with another name, for content of another size: time, mode and owner are kept."""
    info = copy(header)
    info.name, info.type, info.sparse = name, tarfile.REGTYPE, None
    gone = ("path", "size", "linkpath")
    info.pax_headers = {
        key: value for key, value in header.pax_headers.items() if key not in gone and not key.startswith("GNU.sparse.")
    }
    return info


class Originals:
    """Copies parts of tar files that were read, unchanged. One file is open at a time.

    Args:
        stack: exit stack that closes the last file.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack.enter_context(ExitStack())
        self._location: str | None = None
        self._file: BinaryIO | None = None
        self._names: tuple[str | None, frozenset[str]] = (None, frozenset())

    def copy(self, span: Span, to: BinaryIO, tar: tarfile.TarFile) -> None:
        """Append a part to a tar file that is being written.

        Args:
            span: the part.
            to: file object under `tar`.
            tar: the tar file, whose offset is moved on.

        Raises:
            DatasetError: the file that was read is shorter than it was.
        """
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
        """The results of `wanted` for all member names of a file, without None. The last file's results are cached.

        If the file is damaged, only the names before the damage count.
        """
        if self._names[0] != location:
            found: set[str] = set()
            with suppress(DatasetError), opened(location, "r:") as tar:
                while (info := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined] # tarfile lists every member it has read
                    found.update(filter(None, [wanted(info.name)]))
            self._names = location, frozenset(found)
        return self._names[1]
