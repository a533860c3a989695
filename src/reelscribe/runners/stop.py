"""Ctrl-C and SIGTERM: the first signal finishes what the engine has begun, the second one stops at once."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

from reelscribe.errors import StoppedError

_LAST_SECONDS: Final = 5.0
"""Seconds that threads and engines get to end after the second signal, before the process exits by force. The ledger
keeps what was made either way."""


def tell_stop(finishing: str = "finishing what is in flight") -> None:
    """Print to standard error that the first signal came, and what is still being finished."""
    with contextlib.suppress(OSError):
        # Not print: the signal may have interrupted a print, whose buffer is not reentrant.
        os.write(2, f"\nreelscribe: {finishing}; once more stops at once.\n".encode())


class Stop:
    """Whether a signal told the run to stop; calling it returns that.

    Args:
        tell: called from the signal handler at the first signal.
        is_loading: whether the model is still loading. Then there is nothing to finish, and the first signal raises
            KeyboardInterrupt.
    """

    def __init__(self, tell: Callable[[], None], is_loading: Callable[[], bool]) -> None:
        self._tell, self._is_loading = tell, is_loading
        self.while_loading = False
        """Whether the first signal came while the model was loading."""
        self.signal: int | None = None
        """Number of the first signal; None if none came."""

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
    """Handle SIGINT and SIGTERM within the context, if wanted. Python allows this only in the main thread.

    The first signal sets `Stop.signal`, and the run stops by itself; the second one raises KeyboardInterrupt.

    Raises:
        StoppedError: the first signal came while a model was loading.
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
