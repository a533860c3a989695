"""Rows and requests that are under way: which of them the engine has, and which are made once more."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from reelscribe.config import Settings
from reelscribe.errors import EngineError, SettingsError
from reelscribe.outcomes import better_of, once_more
from reelscribe.prompts import Layout, RowPlan
from reelscribe.values import Failure, Generation, InputRow, Outcome, Request, RequestId, RowResult

WAITING_ROWS, _WAITING_BYTES = 4096, 1 << 30
"""Rows that may wait to be written, beside the last. The bytes are some fifty rows that hold videos of 20 MB: more than
an engine has under way, so that it seldom runs short."""


@runtime_checkable
class Pausing(Protocol):
    """Requests that may run out for a while, until outcomes have been taken."""

    paused: bool
    """Whether they ran out only for want of room."""

    def has_room(self) -> bool:
        """Whether they would go on now."""


class InFlight:
    """Requests that the engine has, without the pixels, which are its own now. Used by two threads, one at each end."""

    def __init__(self) -> None:
        self._asked: dict[RequestId, tuple[Request, dict[str, Any]]] = {}
        self._taking = False
        self._changed = threading.Condition()
        self.cancelled = threading.Event()
        """Set once nobody wants what is on its way to the engine."""

    def __len__(self) -> int:
        return len(self._asked)

    def add(self, request: Request, told: dict[str, Any]) -> None:
        """Note a request that goes to the engine, and what is told of its frames."""
        self._asked[request.id] = request, told

    def take(self, answer: Generation | Failure) -> tuple[Request, dict[str, Any]]:
        """The request of an answer, which the engine does not have any more.

        Raises:
            EngineError: it never had it, or has answered it before.
        """
        if answer.id not in self._asked:
            raise EngineError(f"the engine answered {answer.id}, which it was not asked, or had answered before.")
        self._taking = True
        return self._asked.pop(answer.id)

    def clear(self) -> list[Request]:
        """Take all that are left."""
        left = [request for request, _ in self._asked.values()]
        self._asked.clear()
        return left

    def tell(self) -> None:
        """Wake who waits: an answer was taken, and what came of it has left."""
        with self._changed:
            self._taking = False
            self._changed.notify_all()

    def wait(self, enough: Callable[[], bool]) -> None:
        """Wait for answers until there is enough room for more; not when none is to come."""

        def over() -> bool:
            return not (self._asked or self._taking) or self.cancelled.is_set()

        with self._changed:
            self._changed.wait_for(lambda: enough() or over())

    def cancel(self) -> None:
        """Give up what is on its way."""
        self.cancelled.set()
        self.tell()


class Tries(Iterator[Request]):
    """Requests, some of which are made once more, and what becomes of them. Used by two threads, one at each end.

    It gives what is to be made next. If requests run out only for a while (`Pausing`), so does it. Outcomes come in any
    order, and leave in that of the requests.

    Args:
        requests: to make.
        settings: whether to make some once more.
        record: called with each outcome as soon as there is one.

    Raises:
        SettingsError: two requests that are under way at one time have the same name.
    """

    def __init__(
        self, requests: Iterable[Request], settings: Settings, record: Callable[[Outcome], None] | None
    ) -> None:
        self._source = iter(requests)
        self._pausing = requests if isinstance(requests, Pausing) else None
        self._ended = False
        self._retry, self._record = settings.retry_flagged, record
        self._first: dict[RequestId, Outcome] = {}
        self.again: deque[Request] = deque()
        """Those that wait to be made once more."""
        self._order: deque[RequestId] = deque()
        """Names of the requests that are under way."""
        self._ids: set[RequestId] = set()
        """The same."""
        self._done: dict[RequestId, Outcome] = {}

    def __next__(self) -> Request:
        # What comes back after the end makes a stream of its own, in which clips are decoded again.
        if self.again and not self._ended:
            return self.again.popleft()
        request = None if self._ended else next(self._source, None)
        if request is None:
            self._ended = not self.paused
            raise StopIteration
        if request.id in self._ids:
            raise SettingsError(f"two requests have the name {request.id}; each needs one of its own.")
        self._ids.add(request.id)
        self._order.append(request.id)
        return request

    @property
    def paused(self) -> bool:
        """Whether requests ran out only for want of room."""
        return self._pausing is not None and self._pausing.paused

    def go_on(self) -> bool:
        """Whether there is something to make after a pause."""
        return bool(self.again) or (self._pausing is not None and self._pausing.has_room())

    def begin_again(self) -> bool:
        """Begin a stream of those that came back too late for the last one; False if there are none."""
        self._ended = False
        return bool(self.again)

    def settle(self, request: Request, outcome: Outcome, *, faulty: bool = False) -> None:
        """Take what one try came to."""
        if self._retry and request.attempt == 1 and faulty:
            self._first[request.id] = outcome
            self.again.append(once_more(request))
            return
        if request.attempt > 1:
            outcome = better_of(self._first.pop(request.id), outcome, faulty=faulty)
        if self._record:
            self._record(outcome)
        self._done[request.id] = outcome

    def finished(self) -> Iterator[Outcome]:
        """The first outcomes, as far as they are there. They leave."""
        while self._order and self._order[0] in self._done:
            key = self._order.popleft()
            self._ids.remove(key)
            yield self._done.pop(key)


@dataclass(kw_only=True)
class _Waiting:
    """A row that was read and is not finished."""

    item: InputRow
    plan: RowPlan
    outcomes: list[Outcome | None]
    """One for each request; None until there is one."""
    known: frozenset[RequestId] = field(init=False)

    def __post_init__(self) -> None:
        self.known = frozenset(outcome.id for outcome in self.outcomes if outcome)

    def fill(self, outcome: Outcome) -> None:
        """Take the next outcome; those of a row come in order."""
        self.outcomes[self.outcomes.index(None)] = outcome

    def finish(self, layout: Layout, settings: Settings) -> RowResult:
        """The result of a row whose outcomes are all there."""
        outcomes = [outcome for outcome in self.outcomes if outcome]
        return RowResult(
            index=self.plan.index,
            rows=tuple(layout.fill(self.plan, outcomes, settings)),
            outcomes=(self.plan.problem,) if self.plan.problem else tuple(outcomes),
            origin=self.item,
            known=self.known,
        )


class RowsUnderWay(Iterator[Request]):
    """Rows that were read and are not finished: requests are pulled at one end, results leave at the other.

    Requests run out (`paused`) if too many rows wait, and go on once some have left.

    Args:
        rows: to read.
        plan: what is to be asked for a row.
        look_up: the outcome of a request, if it is known; else the request to make.
        stop: asked before each row; once it says True, no other is read.
        wanted: asked about each row; one that is not is passed over.
        max_rows: this many may wait.
    """

    def __init__(
        self,
        rows: Iterator[InputRow],
        plan: Callable[[InputRow], RowPlan],
        look_up: Callable[[Request], Outcome | Request],
        *,
        stop: Callable[[], bool],
        wanted: Callable[[RowPlan], bool],
        max_rows: int,
    ) -> None:
        self._rows, self._plan, self._look_up = rows, plan, look_up
        self._stop, self._wanted = stop, wanted
        self._max_rows = max_rows
        self._pending: deque[_Waiting] = deque()
        self._to_give: deque[Request] = deque()
        # What waits is the difference: each number is written by one thread only.
        self._read_bytes = self._finished_bytes = 0
        self.exhausted = self.paused = False
        """Whether no row is left to read; and whether requests ran out only for want of room."""

    def __next__(self) -> Request:
        self.paused = False
        while not self._to_give:
            self.paused = not self.exhausted and not self.has_room()
            if self.exhausted or self.paused:
                raise StopIteration
            self._read()
        return self._to_give.popleft()

    def _read(self) -> None:
        item = None if self._stop() else next(self._rows, None)
        if item is None:
            self.exhausted = True
            return
        plan = self._plan(item)
        if not self._wanted(plan):
            return
        found = [self._look_up(request) for request in plan.requests]
        outcomes = [None if isinstance(each, Request) else each for each in found]
        self._read_bytes += item.num_bytes
        self._pending.append(_Waiting(item=item, plan=plan, outcomes=outcomes))
        self._to_give += (each for each in found if isinstance(each, Request))

    def has_room(self) -> bool:
        """Whether one more row may be read."""
        waiting_bytes = self._read_bytes - self._finished_bytes
        return len(self._pending) < self._max_rows and waiting_bytes < _WAITING_BYTES

    def fill(self, outcome: Outcome) -> None:
        """Take the next outcome; they come in the order of the requests."""
        self._pending[0].fill(outcome)

    def finished(self, layout: Layout, settings: Settings) -> Iterator[RowResult]:
        """The first rows, as far as their outcomes are all there. They leave."""
        while self._pending and None not in self._pending[0].outcomes:
            row = self._pending.popleft()
            self._finished_bytes += row.item.num_bytes
            yield row.finish(layout, settings)
