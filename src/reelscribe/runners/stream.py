"""Joins the batches of several callers into one stream, so that an engine stays busy between batches."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from reelscribe.errors import EngineError

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch(Generic[T, R]):
    """The items of one caller, and their results so far."""

    items: Sequence[T]
    results: list[R] = field(default_factory=list)
    done: Future[None] = field(default_factory=Future)


class SharedStream(Generic[T, R]):
    """Passes the items of several callers, each in its own thread, through one call of `make`.

    When no caller has items left, the stream ends, so that `make` yields its last results. The next items start a new
    stream, with another call of `make`.

    Args:
        make: yields one result for each item, in the order of the items.
    """

    def __init__(self, make: Callable[[Iterator[T]], Iterator[R]]) -> None:
        self._make = make
        self._waiting: SimpleQueue[Batch[T, R]] = SimpleQueue()
        threading.Thread(target=self._work, name="reelscribe-stream", daemon=True).start()

    def send(self, items: Sequence[T]) -> list[R]:
        """Send items and wait for their results, one for each item, in order. May be called from any thread.

        Raises:
            BaseException: any error that `make` raised in the items' stream.
            EngineError: `make` ended before it gave a result for each item.
        """
        if not items:
            return []
        batch: Batch[T, R] = Batch(items=items)
        self._waiting.put(batch)
        batch.done.result()
        return batch.results

    def _work(self) -> None:
        while True:
            self._run_stream(self._waiting.get())

    def _run_stream(self, first: Batch[T, R]) -> None:
        """Run one stream to its end, beginning with the batch `first`.

        This is a function of its own, not a part of the loop in `_work`, so that decoders are released when it returns:
        an exception keeps the frames that it passed through alive, and these refer to decoders.
        """
        under_way: deque[Batch[T, R]] = deque()
        try:
            for result in self._make(self._items(first, under_way)):
                batch = under_way[0]
                batch.results.append(result)
                if len(batch.results) == len(batch.items):
                    under_way.popleft().done.set_result(None)
            error: BaseException = EngineError("the engine ended before all rows were done.")
        except BaseException as exc:  # raised in every waiting `send`; the next stream may succeed
            error = exc
        for batch in under_way:
            batch.done.set_exception(error)

    def _items(self, first: Batch[T, R], under_way: deque[Batch[T, R]]) -> Iterator[T]:
        batch = first
        while True:
            under_way.append(batch)
            yield from batch.items
            try:
                batch = self._waiting.get_nowait()
            except Empty:
                return
