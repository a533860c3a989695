"""Several callers, one stream: so that an engine does not run dry between their batches."""

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
    """What one caller gave, and what came of it."""

    items: Sequence[T]
    results: list[R] = field(default_factory=list)
    done: Future[None] = field(default_factory=Future)


class SharedStream(Generic[T, R]):
    """Sends the items of several callers through as one stream, for as long as there are any.

    Where items run out the stream ends, so that everything on its way comes out, and the next items begin another.

    Args:
        make: gives one result for each item, in their order.
    """

    def __init__(self, make: Callable[[Iterator[T]], Iterator[R]]) -> None:
        self._make = make
        self._waiting: SimpleQueue[Batch[T, R]] = SimpleQueue()
        threading.Thread(target=self._work, name="reelscribe-stream", daemon=True).start()

    def send(self, items: Sequence[T]) -> list[R]:
        """Send items through, in any thread; one result each, in their order.

        Raises:
            BaseException: whatever ended the stream that they were in.
        """
        if not items:
            return []
        batch: Batch[T, R] = Batch(items=items)
        self._waiting.put(batch)
        batch.done.result()
        return batch.results

    def _work(self) -> None:
        while True:
            self._run(self._waiting.get())

    def _run(self, first: Batch[T, R]) -> None:
        """One stream. (A function of its own, so that nothing of an error's frames, as decoders, outlives it.)"""
        under_way: deque[Batch[T, R]] = deque()
        try:
            for result in self._make(self._items(first, under_way)):
                batch = under_way[0]
                batch.results.append(result)
                if len(batch.results) == len(batch.items):
                    under_way.popleft().done.set_result(None)
            error: BaseException = EngineError("the engine ended before all rows were done.")
        except BaseException as exc:  # whoever waits is told; the next batch may fare better
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
