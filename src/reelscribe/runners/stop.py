"""Ctrl-C and SIGTERM: once to finish what the engine has begun, twice to stop at once."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

from reelscribe.errors import StoppedError

_LAST_SECONDS: Final = 5.0
"""After the second signal, for threads and engines to come to their end. What was made is safe with or without it."""


def tell_stop(finishing: str = "finishing what is in flight") -> None:
    """Say that the first signal came, and what is still done."""
    with contextlib.suppress(OSError):
        os.write(2, f"\nreelscribe: {finishing}; once more stops at once.\n".encode())  # print may be at work


class Stop:
    """Whether a run is to stop.

    Args:
        tell: called at the first signal, wherever the program is just then.
        is_loading: whether nothing is to be finished, since the model is still being loaded.
    """

    def __init__(self, tell: Callable[[], None], is_loading: Callable[[], bool]) -> None:
        self._tell, self._is_loading = tell, is_loading
        self.while_loading = False
        """Whether the signal came then."""
        self.signal: int | None = None
        """Which signal said so."""

    def __call__(self) -> bool:
        return self.signal is not None

    def _take(self, number: int, _: FrameType | None) -> None:
        if self.signal is None:
            self.signal = number
            self.while_loading = self._is_loading()
            if self.while_loading:
                raise KeyboardInterrupt
            self._tell()
            return
        timer = threading.Timer(_LAST_SECONDS, os._exit, (128 + number,))
        timer.daemon = True
        timer.start()
        raise KeyboardInterrupt


@contextlib.contextmanager
def stop_at_signals(
    wanted: bool, tell: Callable[[], None] = tell_stop, is_loading: Callable[[], bool] = lambda: False
) -> Iterator[Stop]:
    """Take SIGINT and SIGTERM for as long as the context lasts, if wanted and where that is possible.

    The first one lets the run stop by itself, a second one raises KeyboardInterrupt.

    Raises:
        StoppedError: the first one came while a model was loaded.
    """
    stop = Stop(tell, is_loading)
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop._take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    except KeyboardInterrupt as exc:
        if stop.signal is None or not stop.while_loading:
            raise
        raise StoppedError("stopped while the model was loaded; what was made is kept.", stop.signal) from exc
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
