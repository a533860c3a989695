"""Pulling items for an engine in a thread of its own, so that a slow source does not hold back finished answers."""

import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

from reelscribe.engines.base import Engine
from reelscribe.errors import EngineError
from reelscribe.values import Failure, Generation

Item = TypeVar("Item")
Made = TypeVar("Made")

_PATIENCE_SECONDS: Final = 1.0
"""The longest time in seconds that an iteration waits for an item while the engine owes answers. Then it pauses."""
_END_SECONDS: Final = 1.0
"""How long `close` waits for the feed's thread, in seconds. A source that blocks for longer is left to that thread,
which closes it later."""


class Feed(Iterator[Item]):
    """Pulls items from a source in a thread of its own: one at a time, and only when one is asked for.

    There are two ways to use it. An engine that answers while it waits calls `pull`, and waits for the future together
    with its answers. Any other engine iterates. Such an engine cannot hand out answers while the iteration blocks it.
    So an iteration that has to wait for long while answers are owed stops early; then `paused` is true.

    Args:
        items: the source. Only the feed's thread uses it, and that thread also closes it.
        owes: whether the engine has pulled items that it has not answered.
        cancel: makes a running pull return soon. Called when the feed is closed before the end.
        drop: whether the engine should discard items that it has pulled and not begun. Then the source ends, too.
    """

    def __init__(
        self,
        items: Iterator[Item],
        *,
        owes: Callable[[], bool] = lambda: False,
        cancel: Callable[[], None] = lambda: None,
        drop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._items, self._owes, self._cancel, self.drop = items, owes, cancel, drop
        self.num_waiting = 0
        """The number of items that the engine has pulled and not begun. `ReadyItems` sets it; other engines may not."""
        self.around: Callable[[Callable[[], Item | None]], Item | None] = lambda pull: pull()
        """A wrapper that is called with the function that pulls one item. Replace it to measure pulls."""
        self.error: BaseException | None = None
        """The exception that the source raised. The items end there, so that the engine answers the earlier ones."""
        self.paused = False
        """Whether the last iteration stopped although there may be more items; see `resume`."""
        self._wanted: SimpleQueue[Future[Item | None] | None] = SimpleQueue()
        self._left: Future[Item | None] | None = None
        """The pull that a paused iteration did not wait for."""
        self.starved = False
        """Whether the feed was resumed after a pause and no item has been asked for since. What the engine still owes
        from before will then not be answered, and must not cause another pause."""
        self.held_seconds = 0.0
        """The total time in seconds that the source has waited for answers."""
        self._ended = self._closed = self._held = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def pull(self) -> "Future[Item | None]":
        """Ask for the next item. Returns a future of the item, or of None at the end.

        The caller must use the item: it is not given out again.
        """
        with self._changed:
            left, self._left = self._left, None
            if left:
                return left
            self.starved = False
            wanted: Future[Item | None] = Future()
            if self._closed:
                wanted.set_result(None)
                return wanted
            if not self._thread:
                self._thread = threading.Thread(target=self._run, name="reelscribe-feed", daemon=True)
                self._thread.start()
            self._wanted.put(wanted)
            return wanted

    def __next__(self) -> Item:
        if self.paused:
            raise StopIteration
        wanted = self.pull()
        wanted.add_done_callback(self._wake)
        with self._changed:

            def owes() -> bool:
                return self._owes() and not self.starved

            while not self._changed.wait_for(lambda: wanted.done() or (self._held and owes()), _PATIENCE_SECONDS):
                if owes():
                    break
            if not wanted.done():
                self._left, self.paused = wanted, True
                raise StopIteration
        item = wanted.result()
        if item is None:
            raise StopIteration
        return item

    def resume(self) -> None:
        """Let the next iteration go on where the last one paused. Call it once the engine has ended its stream."""
        self.paused, self.starved = False, True

    @contextmanager
    def holding(self) -> Iterator[None]:
        """A context for the source while it waits for answers. An iteration that owes answers then pauses at once."""
        began = time.monotonic()
        self._hold(True)
        try:
            yield
        finally:
            self._hold(False)
            self.held_seconds += time.monotonic() - began

    def _hold(self, held: bool) -> None:
        with self._changed:
            self._held = held
            self._changed.notify_all()

    def close(self) -> None:
        """Stop pulling, and close the source. If a pull is running, wait for it for at most `_END_SECONDS`."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            thread = self._thread
        if not self._ended:
            self._cancel()
        if thread:
            self._wanted.put(None)
            thread.join(_END_SECONDS)
        else:
            self._close_items()

    def _close_items(self) -> None:
        close = getattr(self._items, "close", None)
        if close:
            close()

    def _run(self) -> None:
        while (wanted := self._wanted.get()) is not None:
            self._serve(wanted)
            del wanted  # it holds the item, whose memory must not wait for the next pull
        self._close_items()

    def _serve(self, wanted: "Future[Item | None]") -> None:
        item = None
        if not self._ended and not self._closed:
            try:
                item = self.around(lambda: next(self._items, None))
            except BaseException as exc:  # raised by `answers_to` or `feeding`
                self.error = exc
            self._ended = item is None
        wanted.set_result(item)

    def _wake(self, _: object) -> None:
        with self._changed:
            self._changed.notify_all()


def answers_to(
    engine: Engine, feed: Feed[Any], *, on_pause: Callable[[], None] = lambda: None
) -> Generator[Generation | Failure, None, None]:
    """The answers of an engine to all works of a feed. If the feed pauses, `engine.generate` is called again.

    Args:
        engine: the engine.
        feed: the works.
        on_pause: called before each further call of `generate`.

    Raises:
        EngineError: the engine broke, or stopped before the end of the works.
        BaseException: what the source of the works raised, after the answers to earlier works.
    """
    while True:
        yield from engine.generate(feed)
        if not feed.paused:
            break
        feed.resume()
        on_pause()
    if feed.pull().result() is not None:
        raise EngineError("the engine stopped although there were requests left.")
    if feed.error:
        raise feed.error


@contextmanager
def feeding(items: Iterator[Item]) -> Iterator[Feed[Item]]:
    """A context with a feed of these items. If they are a `Feed` already, it is used as it is and not closed.

    Raises:
        BaseException: what a source that was not a feed raised, at the end of the context.
    """
    if isinstance(items, Feed):
        yield items
        return
    with Feed(items) as feed:
        yield feed
        if feed.error:
            raise feed.error


class ReadyItems(Generic[Item, Made]):
    """Items of a feed, prepared ahead of the engine in the feed's thread. The engine chooses among them.

    Args:
        feed: the feed to pull from.
        make: prepares one item.
        size: the size of a prepared item, in bytes.
        max_waiting: the number of items at which no more are pulled.
        max_bytes: the total size in bytes at which no more items are pulled.
    """

    def __init__(
        self,
        feed: Feed[Item],
        make: Callable[[Item], Made],
        *,
        size: Callable[[Made], int],
        max_waiting: int,
        max_bytes: int,
    ) -> None:
        self._feed, self._make, self._size = feed, make, size
        self._max_waiting, self._max_bytes = max_waiting, max_bytes
        self._waiting: list[Made] = []
        self._bytes = 0
        self._arrived = 0
        self._asked = self._ended = self._closed = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        self._ask()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True

    def _ask(self) -> None:
        """Ask the feed for one more item if there is room and no pull is running."""
        with self._changed:
            if self._asked or self._ended or self._closed or (self._waiting and self._is_full()):
                return
            self._asked = True
        self._feed.pull().add_done_callback(self._take_in)

    def _take_in(self, pull: "Future[Item | None]") -> None:
        try:
            item = pull.result()
            made = None if item is None else self._make(item)
        except BaseException as exc:  # raised again where the engine waits
            self._error, made = exc, None
        with self._changed:
            self._asked = False
            if made is None:
                self._ended = True
            else:
                self._waiting.append(made)
                self._bytes += self._size(made)
                self._arrived += 1
                self._feed.num_waiting = len(self._waiting)
            self._changed.notify_all()
        self._ask()

    def _is_full(self) -> bool:
        return len(self._waiting) >= self._max_waiting or self._bytes >= self._max_bytes

    def wait(self, count: int, *, patience_seconds: float | None = None) -> list[Made]:
        """Wait until this many items are ready, and return all that are, oldest first.

        There may be fewer than `count` at the end, or if there is no room for more. The items stay until `take`.

        Args:
            count: how many to wait for; 0 to return at once.
            patience_seconds: return fewer items if none has arrived for this long.

        Raises:
            BaseException: what preparing an item raised, once all earlier items are taken and `count` is not 0.
        """

        def enough() -> bool:
            return self._ended or len(self._waiting) >= count or bool(self._waiting and self._is_full())

        def another(arrived: int) -> bool:
            return self._changed.wait_for(lambda: enough() or self._arrived > arrived, patience_seconds)

        with self._changed:
            while not enough() and another(self._arrived):
                pass
            if self._error and count and not self._waiting:
                raise self._error
            return [] if self._feed.drop() else list(self._waiting)

    @property
    def ended(self) -> bool:
        """Whether no more items will arrive, or the waiting ones are to be discarded; see `Feed`."""
        with self._changed:
            return self._ended or self._feed.drop()

    @property
    def full(self) -> bool:
        """Whether there is no room for more items."""
        with self._changed:
            return self._is_full()

    def take(self, taken: list[Made]) -> None:
        """Remove items that `wait` has returned, which makes room for others."""
        names = {id(item) for item in taken}
        with self._changed:
            self._waiting = [item for item in self._waiting if id(item) not in names]
            self._feed.num_waiting = len(self._waiting)
            self._bytes -= sum(self._size(item) for item in taken)
        self._ask()
