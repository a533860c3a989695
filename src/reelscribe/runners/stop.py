"""Ctrl-C and SIGTERM: once to finish what is in flight, twice to stop at once."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

_LAST_SECONDS: Final = 5.0
"""After the second signal, for threads and engines to come to their end. What was made is safe with or without it."""
NOTICE: Final = "finishing what is in flight; once more stops at once."


def tell_stop() -> None:
    """Say that the first signal came."""
    with contextlib.suppress(OSError):
        os.write(2, f"\nreelscribe: {NOTICE}\n".encode())  # print may be in the middle of something


class Stop:
    """Whether a run is to stop.

    Args:
        tell: called at the first signal, wherever the program is just then.
    """

    def __init__(self, tell: Callable[[], None] = tell_stop) -> None:
        self._tell = tell
        self.signal: int | None = None
        """Which signal said so."""

    def __call__(self) -> bool:
        return self.signal is not None

    def _take(self, number: int, _: FrameType | None) -> None:
        if self.signal is None:
            self.signal = number
            self._tell()
            return
        timer = threading.Timer(_LAST_SECONDS, os._exit, (128 + number,))
        timer.daemon = True
        timer.start()
        raise KeyboardInterrupt


@contextlib.contextmanager
def stop_at_signals(wanted: bool, tell: Callable[[], None] = tell_stop) -> Iterator[Stop]:
    """Take SIGINT and SIGTERM for as long as the context lasts, if wanted and where that is possible.

    The first one lets the run stop by itself, a second one raises KeyboardInterrupt.
    """
    stop = Stop(tell)
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop._take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
