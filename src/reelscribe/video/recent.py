"""A cache of what was read from files, so that it is not read again for each stretch of a film."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from reelscribe.errors import ClipError
from reelscribe.values import Clip

T = TypeVar("T")

_MOST_BYTES: Final = 128 << 20
"""Maximum memory of each cache, in bytes: enough for the indices of six hours of film at 25 frames a second."""
_FILE_BYTES, _PACKET_BYTES = 2000, 250
"""Memory of an index, and for each packet, in bytes: 242 to 245 were measured in MP4, MPEG-TS, Matroska and AVI."""
_LEAST: Final = 2
"""Number of files that are kept however long they are."""


class Recent(Generic[T]):
    """A cache of results by file, least recently used first out, with a bound on memory. Safe for several threads."""

    def __init__(self, num_packets: Callable[[T], int]) -> None:
        """`num_packets`: how many packets what was made of a file has; its memory is estimated by that."""
        self._num_packets = num_packets
        self._made: OrderedDict[Any, T | ClipError] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def of(self, clip: Clip, make: Callable[[], T]) -> T:
        """The cached result if the clip's file is unchanged; else that of `make`, cached if it is a stretch.

        Raises:
            ClipError: as `make` does, or did.
        """
        key = stamp_of(clip)
        if key is None:
            return make()
        made = self._take(key)
        if made is None:
            try:
                made = make()
            except ClipError as exc:
                made = ClipError(exc.kind, str(exc))  # without the traceback, which holds all that was read
        self._keep(key, made)
        if isinstance(made, ClipError):
            raise ClipError(made.kind, str(made))
        return made

    def _take(self, key: Any) -> T | ClipError | None:
        with self._lock:
            made = self._made.pop(key, None)
            if made is not None:
                self._bytes -= self._size(made)
            return made

    def _keep(self, key: Any, made: T | ClipError) -> None:
        """Keep a result, and drop the least recently used ones."""
        with self._lock:
            if key in self._made:  # another thread made it, too
                self._bytes -= self._size(self._made.pop(key))
            self._made[key] = made
            self._bytes += self._size(made)
            while len(self._made) > _LEAST and self._bytes > _MOST_BYTES:
                self._bytes -= self._size(self._made.popitem(last=False)[1])

    def _size(self, made: T | ClipError) -> int:
        return _FILE_BYTES + (0 if isinstance(made, ClipError) else _PACKET_BYTES * self._num_packets(made))


def stamp_of(clip: Clip) -> Any:
    """Identity of a file's present content; None for a whole clip, and for bytes, which are not cached."""
    if clip.is_whole or isinstance(clip.source, bytes):
        return None
    try:
        stat = clip.path.stat()
    except (OSError, ValueError):
        return None
    return str(clip.path), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
