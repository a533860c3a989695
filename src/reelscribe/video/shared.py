"""Memory that a decoder and its owner share: files in memory that both have open and mapped.

They have no name: whatever ends the two, nothing is left of them. Clips go in through one, from its start. Frames come
out through another, and stay where the decoder drew them for as long as the owner looks at them: to copy them would
cost a tenth of decoding. Each set of frames has a place of its own there; a place that nobody looks at any more is used
again, and since its pages are mapped already, it is faster than fresh memory.

A limit of the system's on the size of files (`ulimit -f`) holds for these as well. What finds no room in them goes the
other way: over the socket.
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
"""Of frames, as large as the largest: for so much, memory that is not in use is kept."""

Span = tuple[int, int]
"""Where a set of frames lies in the file: first byte, and the one behind the last."""


def nameless_file() -> IO[bytes]:
    """A file in memory, or, where the system has none, one on disk that is already deleted."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("reelscribe"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def write(file: int, data: bytes | memoryview, *, at: int = 0) -> None:
    """Put bytes into a file, from a place on; the start by default."""
    rest = memoryview(data)
    while rest:
        count = os.pwrite(file, rest, at)
        rest, at = rest[count:], at + count


def read(file: int, size: int) -> bytes:
    """The first bytes of a file."""
    data = bytearray(size)
    rest, at = memoryview(data), 0
    while at < size:
        at += os.preadv(file, [rest[at:]], at)
    return bytes(data)


class DrawnFrames:
    """The decoder's side of the file for frames.

    Args:
        file: its descriptor.
    """

    def __init__(self, file: int) -> None:
        self._file = file
        self._mapping: mmap.mmap | None = None

    def allocate(self, shape: tuple[int, ...], taken: Iterable[Span]) -> tuple[NDArray[np.uint8], Span | None]:
        """Allocate an array for frames, in the first gap of the file that is large enough.

        Args:
            shape: of the array.
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
        """Spans that nobody looks at any more. Arrays end in any thread, in the middle of anything: hence a queue."""
        self._largest = 0
        """Bytes of a set of frames."""

    def taken(self) -> set[Span]:
        """Where there are frames that somebody looks at. Memory beyond that, and some to spare, is given back."""
        self._drain()
        held = sum(end - start for start, end in self._taken)
        if os.fstat(self.file.fileno()).st_blocks * 512 > held + _SPARE_SETS * self._largest:
            self.trim()
        return self._taken.copy()

    def _drain(self) -> None:
        while self._left:
            self._taken.remove(self._left.popleft())

    def array(self, shape: tuple[int, ...], span: Span) -> NDArray[np.uint8]:
        """What the decoder drew: uint8. Its place is taken for as long as the array or a part of it lives."""
        start, end = span
        if self._mapping is None or len(self._mapping) < end:
            self._mapping = mmap.mmap(self.file.fileno(), 0)
        # NumPy's arrays let go of each other where one is a part of another; all of them keep what is below.
        memory = (ctypes.c_uint8 * (end - start)).from_buffer(self._mapping, start)
        self._taken.add(span)
        self._largest = max(self._largest, end - start)
        weakref.finalize(memory, self._left.append, span).atexit = False
        return np.frombuffer(memoryview(memory), np.uint8).reshape(shape)

    def trim(self) -> None:
        """Give memory back to the system, all but what is looked at."""
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
