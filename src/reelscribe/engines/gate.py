"""The limit on requests that a server gets at once, and the pauses after errors. All requests in flight share a gate.

The limit adapts as in TCP. It grows by one with each answer until the server is first overloaded, and after that by one
with each round of answers. It is halved whenever the server is overloaded. While the server is busy or away, all
requests wait together. If it is away, a single request tries to get an answer, and the others follow.
"""

import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import anyio

from reelscribe.errors import ClipError, EngineError

logger = logging.getLogger(__name__)

_FIRST_LIMIT: Final = 8
"""The limit on requests at once, at the beginning."""
_LONGEST_PAUSE_SECONDS: Final = 30.0
"""The longest pause after failures in a row, unless the server itself asks for a longer one."""

T = TypeVar("T")


class BusyError(Exception):
    """The server takes no requests at the moment, neither this one nor others.

    Args:
        message: what happened.
        retry_after: the seconds that the server asks to wait, if it does.
        away: whether the server cannot be reached at all, rather than being overloaded.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, away: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.away = away


class FailedError(Exception):
    """The server failed at this request, which may be tried again.

    Args:
        message: what happened.
        slow: whether the request took too long, so that the server may be overloaded.
    """

    def __init__(self, message: str, *, slow: bool = False) -> None:
        super().__init__(message)
        self.slow = slow


class RefusedError(Exception):
    """The server works, but does not accept this request."""


class DeniedError(RefusedError):
    """The server forbids this request, or does not know what it names: perhaps all requests, perhaps only this one.

    Args:
        message: what happened.
        for_all: the error to raise if the server denies all requests.
    """

    def __init__(self, message: str, *, for_all: EngineError) -> None:
        super().__init__(message)
        self.for_all = for_all


class Gate:
    """Lets attempts through to a server. Use it in one event loop only.

    Args:
        most: the largest number of attempts at once.
        patience_seconds: how long the server may give no answer at all before EngineError is raised.
        back_off_seconds: the first pause. Each further pause in a row is twice as long, with jitter.
    """

    def __init__(self, *, most: int, patience_seconds: float, back_off_seconds: float) -> None:
        self._most = most
        self._patience = patience_seconds
        self._back_off = back_off_seconds
        self._limit = float(min(_FIRST_LIMIT, most))
        self._active = 0
        self._round = 0  # counts halvings, so that attempts that began in the same round halve the limit only once
        self._misses = 0  # rounds in a row without an answer
        self._troubled_since: float | None = None
        self._resume_at = 0.0
        self._away = False
        self._last_trouble = ""
        self._changed = anyio.Event()

    @property
    def limit(self) -> int:
        """The number of attempts that are let through at once."""
        return int(self._limit)

    async def attempt(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do a piece of work when there is room, and repeat it while it raises BusyError.

        Raises:
            FailedError, RefusedError, ClipError: the work raised it.
            EngineError: the server was busy or away for too long, or the work raised it.
        """
        while True:
            await self._enter()
            began_in = self._round
            try:
                result = await work()
            except BusyError as exc:
                self._wait_together(exc, began_in)
            except FailedError as exc:
                if exc.slow:
                    self._halve(began_in)
                raise
            except (RefusedError, ClipError):
                self._grow()
                raise
            else:
                self._grow()
                return result
            finally:
                self._active -= 1
                self._tell()

    def pause(self, misses: int) -> float:
        """The seconds to wait after this many earlier failures in a row, with jitter."""
        longest = min(self._back_off * 2.0 ** min(misses, 16), _LONGEST_PAUSE_SECONDS)
        return longest * random.uniform(0.5, 1)

    async def _enter(self) -> None:
        while True:
            now = time.monotonic()
            if now < self._resume_at:
                self._check_patience(now)
                with anyio.move_on_after(self._resume_at - now):
                    await self._changed.wait()
            elif self._active >= (1 if self._away else self.limit):
                await self._changed.wait()
            else:
                self._active += 1
                return

    def _check_patience(self, now: float) -> None:
        """Raise EngineError if the pause lasts too long. Attempts that still run are waited for first."""
        since = now if self._troubled_since is None else self._troubled_since
        if not self._active and self._resume_at - since > self._patience:
            raise EngineError(
                f"the server has given no answer for {now - since:.0f} s, and is to be left alone for "
                f"{self._resume_at - now:.0f} s more; retry_seconds is {self._patience:g}. {self._last_trouble}"
            )

    def _wait_together(self, exc: BusyError, began_in: int) -> None:
        now = time.monotonic()
        if self._troubled_since is None:
            self._troubled_since = now
            level = logging.WARNING if exc.away else logging.INFO
            logger.log(level, "%s All requests wait, for at most %g s.", exc, self._patience)
        self._resume_at = max(self._resume_at, now + max(exc.retry_after or 0.0, self.pause(self._misses)))
        self._last_trouble = str(exc)
        self._misses += began_in == self._round
        self._halve(began_in)
        self._away = self._away or exc.away

    def _halve(self, began_in: int) -> None:
        if began_in != self._round:
            return
        self._round += 1
        if not self._away:  # if the server is away, fewer requests at once would not help
            self._limit = max(self._limit / 2, 1.0)
            logger.info("Going on with %d requests at once.", self.limit)

    def _grow(self) -> None:
        if self._away:
            logger.warning("The server answers again.")
        self._troubled_since, self._misses, self._away = None, 0, False
        if self._active >= self.limit:  # else the limit is not reached, and need not grow
            self._limit = min(self._limit + (1 / self._limit if self._round else 1), self._most)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
