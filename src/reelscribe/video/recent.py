"""What was read of the files whose stretches were asked for last, so that it is not read for each of them."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from reelscribe.errors import ClipError
from reelscribe.values import Clip

T = TypeVar("T")

_MOST: Final = 2
"""Files. The index of two hours of film takes some 40 MB."""


class Recent(Generic[T]):
    """What functions made of files. May be used from several threads."""

    def __init__(self) -> None:
        self._made: OrderedDict[Any, T | ClipError] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, clip: Clip, make: Callable[[], T]) -> T:
        """What was made of the clip's file, if that is as it was; else what `make` makes, which is kept for a stretch.

        Raises:
            ClipError: as `make` does, or did.
        """
        key = _key(clip)
        if key is None:
            return make()
        with self._lock:
            made = self._made.pop(key, None)
        if made is None:
            try:
                made = make()
            except ClipError as exc:
                made = exc
        with self._lock:
            self._made[key] = made  # as the latest
            while len(self._made) > _MOST:
                self._made.popitem(last=False)
        if isinstance(made, ClipError):
            raise ClipError(made.kind, str(made))
        return made


def _key(clip: Clip) -> Any:
    """What tells a file from any other and from what it was before; None for a whole clip, and for bytes."""
    if clip.is_whole or isinstance(clip.source, bytes):
        return None
    try:
        stat = clip.path.stat()
    except (OSError, ValueError):
        return None
    return str(clip.path), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
