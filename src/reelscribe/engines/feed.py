"""How requests come into an engine: pulled in a thread beside it, so that a slow clip holds back no answer."""

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
"""How long an engine that iterates may wait for an item while it owes answers."""
_END_SECONDS: Final = 1.0
"""How long closing waits for the source to let go. One that cannot is left to its thread, which ends with it."""


class Feed(Iterator[Item]):
    """Pulls items in a thread of its own: one at a time, and only when one is asked for.

    An engine with answers under way asks with `pull`, and waits for the future together with its answers. Any other
    iterates. An iteration that would have to wait for long while answers are owed stops early (`paused`): an engine
    that is blocked in it could not give the answers that it has.

    Args:
        items: to pull. Only the feed's thread touches them; it also closes them.
        owes: whether the engine has items that it has not answered.
        cancel: makes a pull that is under way come back soon. Called when the feed is closed before the end.
        drop: whether the engine is to give up what it has pulled and not begun. Then the source ends, too.
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
        """Items that the engine has pulled and not begun, as far as it tells."""
        self.around: Callable[[Callable[[], Item | None]], Item | None] = lambda pull: pull()
        """Called for each pull, with what pulls; for who takes times."""
        self.error: BaseException | None = None
        """What went wrong in the source. The items end there, so that the engine answers those before."""
        self.paused = False
        """Whether an iteration stopped although there may be more; see `resume`."""
        self._wanted: SimpleQueue[Future[Item | None] | None] = SimpleQueue()
        self._left: Future[Item | None] | None = None
        """The pull that a paused iteration did not wait for."""
        self.starved = False
        """Whether an engine has begun anew after a pause, and been given nothing since: what it owes will not come."""
        self.held_seconds = 0.0
        """How long the source has waited for answers, so far."""
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
        """Ask for the next item: a future of it, or of None at the end. Whoever asks has to take what comes."""
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
        """Let the next iteration go on where the last one paused. By now all is answered that will be."""
        self.paused, self.starved = False, True

    @contextmanager
    def holding(self) -> Iterator[None]:
        """For the source, while it waits for answers: an iteration that owes some pauses at once."""
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
        """Pull no more, and close the source. Waits only for a moment where a pull is under way."""
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
            del wanted  # it holds the item
        self._close_items()

    def _serve(self, wanted: "Future[Item | None]") -> None:
        item = None
        if not self._ended and not self._closed:
            try:
                item = self.around(lambda: next(self._items, None))
            except BaseException as exc:  # who closes the feed raises it
                self.error = exc
            self._ended = item is None
        wanted.set_result(item)

    def _wake(self, _: object) -> None:
        with self._changed:
            self._changed.notify_all()


def answers_to(
    engine: Engine, feed: Feed[Any], *, on_pause: Callable[[], None] = lambda: None
) -> Generator[Generation | Failure, None, None]:
    """What an engine answers to all that a feed has; in several streams if it pauses.

    Args:
        engine: that answers.
        feed: of works.
        on_pause: called whenever another stream begins.

    Raises:
        EngineError: the engine broke, or stopped before the end.
        BaseException: what went wrong where works come from, once the engine has answered those before.
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
    """The feed of these items: they themselves, if they are one, else a feed for as long as the context lasts.

    Raises:
        BaseException: what went wrong in a source that was no feed, once the items before it are answered.
    """
    if isinstance(items, Feed):
        yield items
        return
    with Feed(items) as feed:
        yield feed
        if feed.error:
            raise feed.error


class ReadyItems(Generic[Item, Made]):
    """Items of a feed, made ready ahead of the engine in the feed's thread. The engine chooses among them.

    Args:
        feed: to pull from.
        make: makes one item ready.
        size: of what is ready, in bytes.
        max_waiting: this many may wait.
        max_bytes: and this large may they be together; one item may always wait.
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
        """Ask for one more item if there is room, and none is on its way."""
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
        """What is ready, oldest first, once it is this many; fewer at the end, or if no more may wait.

        Args:
            count: 0 to look without waiting.
            patience_seconds: also fewer, once none has come for this long.

        Raises:
            BaseException: what went wrong while items were made ready; only when those before are taken.
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
        """Whether all that will ever come is waiting, or what waits is dropped."""
        with self._changed:
            return self._ended or self._feed.drop()

    @property
    def full(self) -> bool:
        """Whether no more may wait."""
        with self._changed:
            return self._is_full()

    def take(self, taken: list[Made]) -> None:
        """Take items out."""
        names = {id(item) for item in taken}
        with self._changed:
            self._waiting = [item for item in self._waiting if id(item) not in names]
            self._feed.num_waiting = len(self._waiting)
            self._bytes -= sum(self._size(item) for item in taken)
        self._ask()
