"""Memory that a decoder process and its owner share: files in memory that both have open and mapped.

The files have no name, so nothing is left of them however the processes end. One file takes clips to the decoder.
Another takes frames back, which stay where the decoder drew them while the owner uses them: copying would cost a tenth
of decoding. Each set of frames has its own span of the file. A free span is reused, which is faster than fresh memory,
since its pages are mapped already.

The system's limit on file sizes (`ulimit -f`) applies to these files as well. Data that does not fit goes over the
socket.
"""

import contextlib
import ctypes
import math
import mmap
import os
import tempfile
import weakref
from collections import deque
from collections.abc import Iterable
from typing import IO, Final

import numpy as np
from numpy.typing import NDArray

_SPARE_SETS: Final = 2
"""Unused memory for this many sets of frames, of the largest size so far, is kept for reuse."""

Span = tuple[int, int]
"""Where a set of frames lies in the file: offset of its first byte, and of the byte after its last."""


def nameless_file() -> IO[bytes]:
    """A file in memory; on systems without `memfd_create`, a deleted file on disk."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("reelscribe"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def write(file: int, data: bytes | memoryview, *, at: int = 0) -> None:
    """Write bytes into a file at offset `at`.

    Raises:
        OSError: the file cannot grow.
    """
    rest = memoryview(data)
    while rest:
        count = os.pwrite(file, rest, at)
        rest, at = rest[count:], at + count


def read(file: int, size: int) -> bytes:
    """The first `size` bytes of a file."""
    data = bytearray(size)
    rest, at = memoryview(data), 0
    while at < size:
        at += os.preadv(file, [rest[at:]], at)
    return bytes(data)


class DrawnFrames:
    """The decoder's side of the file for frames.

    Args:
        file: descriptor of the file.
    """

    def __init__(self, file: int) -> None:
        self._file = file
        self._mapping: mmap.mmap | None = None

    def allocate(self, shape: tuple[int, ...], taken: Iterable[Span]) -> tuple[NDArray[np.uint8], Span | None]:
        """Allocate an array for frames, in the first gap of the file that is large enough.

        Args:
            shape: shape of the array.
            taken: spans of the file that are in use.

        Returns:
            A uint8 array that is not initialized, and its span in the file. The span is None if the file cannot grow
            (a limit on files, say): then the array lies in this process's own memory.
        """
        size = math.prod(shape)
        start = _first_gap(size, taken)
        if self._mapping is None or len(self._mapping) < start + size:
            # Each mapping keeps a file descriptor until its last frames are gone. Doubling the size keeps mappings few.
            try:
                os.ftruncate(self._file, max(start + size, 2 * os.fstat(self._file).st_size))
            except OSError:
                return np.empty(shape, np.uint8), None
            self._mapping = mmap.mmap(self._file, 0)
        return np.frombuffer(self._mapping, np.uint8, size, start).reshape(shape), (start, start + size)


class SeenFrames:
    """The owner's side of the file for frames."""

    def __init__(self) -> None:
        self.file = nameless_file()
        self._mapping: mmap.mmap | None = None
        self._taken: set[Span] = set()
        self._left: deque[Span] = deque()
        """Spans that became free. Finalizers of arrays run in any thread at any moment, so they only append here."""
        self._largest = 0
        """Size of the largest set of frames so far, in bytes."""

    def taken(self) -> set[Span]:
        """Spans in use. Memory beyond these and `_SPARE_SETS` is returned to the system."""
        self._drain()
        held = sum(end - start for start, end in self._taken)
        if os.fstat(self.file.fileno()).st_blocks * 512 > held + _SPARE_SETS * self._largest:
            self.trim()
        return self._taken.copy()

    def _drain(self) -> None:
        while self._left:
            self._taken.remove(self._left.popleft())

    def array(self, shape: tuple[int, ...], span: Span) -> NDArray[np.uint8]:
        """The frames that the decoder drew, uint8. Their span stays in use while the array or a view of it lives."""
        start, end = span
        if self._mapping is None or len(self._mapping) < end:
            self._mapping = mmap.mmap(self.file.fileno(), 0)
        # A NumPy view refers to the underlying buffer, not to the array that it was made from. So the finalizer is on
        # the buffer, which lives as long as any view.
        memory = (ctypes.c_uint8 * (end - start)).from_buffer(self._mapping, start)
        self._taken.add(span)
        self._largest = max(self._largest, end - start)
        weakref.finalize(memory, self._left.append, span).atexit = False
        return np.frombuffer(memoryview(memory), np.uint8).reshape(shape)

    def trim(self) -> None:
        """Return all memory to the system except the spans in use."""
        if self._mapping is None or not hasattr(mmap, "MADV_REMOVE"):
            return
        self._drain()
        at, end = 0, len(self._mapping)
        with contextlib.suppress(OSError):  # locked pages, or a file system without holes
            for start, behind in [*sorted(self._taken), (end, end)]:
                if start > at:
                    self._mapping.madvise(mmap.MADV_REMOVE, at, start - at)
                at = _next_page(behind)


def _first_gap(size: int, taken: Iterable[Span]) -> int:
    at = 0
    for start, end in sorted(taken):
        if at + size <= start:
            break
        at = _next_page(end)
    return at


def _next_page(at: int) -> int:
    return -(-at // mmap.PAGESIZE) * mmap.PAGESIZE
