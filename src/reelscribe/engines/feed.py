"""Requests on their way into an engine that must not stand still while it waits for the next one."""

import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")
Ready = TypeVar("Ready")


class Feed(Generic[Item, Ready]):
    """Pulls items in a thread of its own, makes them ready there, and lets the engine choose among them.

    Args:
        items: to pull. Only the feed's thread touches them.
        ready: makes one item ready for the engine.
        size: of what is ready, in bytes.
        max_waiting: so many may wait.
        max_bytes: and so large may they be together; one item may always wait.
    """

    def __init__(
        self,
        items: Iterator[Item],
        ready: Callable[[Item], Ready],
        *,
        size: Callable[[Ready], int],
        max_waiting: int,
        max_bytes: int,
    ) -> None:
        self._items, self._ready, self._size = items, ready, size
        self._max_waiting, self._max_bytes = max_waiting, max_bytes
        self._waiting: list[Ready] = []
        self._bytes = 0
        self._ended = self._closed = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._pull, name="reelscribe-feed", daemon=True)

    def __enter__(self) -> "Feed[Item, Ready]":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _pull(self) -> None:
        try:
            while self._has_room():
                try:
                    item = next(self._items)
                except StopIteration:
                    return
                made = self._ready(item)
                del item
                with self._changed:
                    self._waiting.append(made)
                    self._bytes += self._size(made)
                    self._changed.notify_all()
        except BaseException as exc:  # raised again where the engine waits
            self._error = exc
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _has_room(self) -> bool:
        """Wait until there is room. False where the engine has enough."""

        def room() -> bool:
            fits = len(self._waiting) < self._max_waiting and self._bytes < self._max_bytes
            return self._closed or not self._waiting or fits

        with self._changed:
            self._changed.wait_for(room)
            return not self._closed

    def wait(self, count: int) -> list[Ready]:
        """What is ready, oldest first, once there are so many; fewer at the end, or where no more may wait.

        Args:
            count: 0 to look without waiting.

        Raises:
            BaseException: what went wrong while items were pulled; only to who waits, once those before are taken.
        """

        def enough() -> bool:
            full = len(self._waiting) >= min(count, self._max_waiting) or self._bytes >= self._max_bytes
            return self._ended or full

        with self._changed:
            self._changed.wait_for(enough)
            if self._error and count and not self._waiting:
                raise self._error
            return list(self._waiting)

    @property
    def ended(self) -> bool:
        """Whether all that will ever come is waiting."""
        with self._changed:
            return self._ended

    @property
    def full(self) -> bool:
        """Whether no more may wait."""
        with self._changed:
            return len(self._waiting) >= self._max_waiting or self._bytes >= self._max_bytes

    def take(self, taken: list[Ready]) -> None:
        """Take items out."""
        names = {id(item) for item in taken}
        with self._changed:
            self._waiting = [item for item in self._waiting if id(item) not in names]
            self._bytes -= sum(self._size(item) for item in taken)
            self._changed.notify_all()
