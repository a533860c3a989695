"""The queue of rows under way: rows that are read and not finished, the works to ask next, and the open requests.

Rows put works at the end of the queue. An answer may put works at its front: second tries, and tasks that depend on it.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from reelscribe.asking import RowPlan
from reelscribe.config import Settings
from reelscribe.errors import EngineError, SettingsError
from reelscribe.films import Film
from reelscribe.layouts import Layout
from reelscribe.outcomes import better_of, is_faulty, once_more, outcome_of
from reelscribe.schemas import Facts
from reelscribe.values import Answer, Caption, Failure, InputRow, Outcome, Request, RequestId, RowResult, Work

WAITING_ROWS, _WAITING_BYTES = 4096, 1 << 30
"""Maximum number and bytes of rows that are read and not yet written. 1 GiB holds some fifty rows with videos of 20 MB:
more than an engine has under way, so it seldom runs out of work."""


class InFlight:
    """Requests that the engine has, without their pixels. One thread adds requests, another one takes answered ones.

    Args:
        drop: returns True once requests that the engine has not begun are to be dropped.
        busy: returns True while answers of the engine are still being scored.
    """

    def __init__(self, drop: Callable[[], bool] = lambda: False, busy: Callable[[], bool] = lambda: False) -> None:
        self._drop, self._busy = drop, busy
        self._asked: dict[RequestId, tuple[Request, dict[str, Any], Facts]] = {}
        self._taking = False
        self._changed = threading.Condition()
        self._cancelled = False

    def __len__(self) -> int:
        return len(self._asked)

    def add(self, request: Request, told: dict[str, Any], facts: Facts) -> None:
        """Note a request that goes to the engine, with the metadata of its frames and the facts of its file."""
        self._asked[request.id] = request, told, facts

    def take(self, asked: RequestId) -> tuple[Request, dict[str, Any], Facts]:
        """Remove an answered request; returns what `add` noted.

        Raises:
            EngineError: the engine does not have this request: it was never asked it, or answered it before.
        """
        if asked not in self._asked:
            raise EngineError(f"the engine answered {asked}, which it was not asked, or had answered before.")
        self._taking = True
        return self._asked.pop(asked)

    def clear(self) -> list[Request]:
        """Remove and return all requests that are left."""
        left = [request for request, *_ in self._asked.values()]
        self._asked.clear()
        return left

    def tell(self) -> None:
        """Wake `wait` after an answer was taken and processed."""
        with self._changed:
            self._taking = False
            self._changed.notify_all()

    def wake(self) -> None:
        """Wake `wait` after anything else changed."""
        with self._changed:
            self._changed.notify_all()

    def wait(self, enough: Callable[[], bool]) -> None:
        """Wait for answers until `enough` returns True. Returns at once if no answer can come any more."""

        def over() -> bool:
            return not (self._asked or self._taking or self._busy()) or self.cancelled()

        with self._changed:
            self._changed.wait_for(lambda: enough() or over())

    def cancel(self) -> None:
        """Cancel the requests that are on their way to the engine."""
        self._cancelled = True
        self.tell()

    def cancelled(self) -> bool:
        """Whether the requests on their way to the engine are cancelled or dropped."""
        return self._cancelled or self._drop()


class Entry(Protocol):
    """Requests that leave the queue together when all have outcomes, such as those of a row."""

    num_bytes: int
    """Approximate memory that the entry takes."""

    def next_works(self) -> list[Work]:
        """Works that can be asked now and were not returned before."""

    def take(self, outcome: Outcome) -> None:
        """Store the outcome of a request."""

    def is_whole(self) -> bool:
        """Whether all requests have outcomes."""


E = TypeVar("E", bound=Entry)


@runtime_checkable
class Pausing(Protocol):
    """An iterator of works that may run out for a while, until answers bring new ones."""

    ended: bool
    """Whether this stream has no more works."""

    def go_on(self) -> bool:
        """Whether there are works to pull now, after a pause."""


class RequestEntry:
    """An entry of one request that belongs to no row."""

    def __init__(self, request: Request) -> None:
        self._request: Request | None = request
        self._outcome: Outcome | None = None
        self.num_bytes = 0

    def next_works(self) -> list[Work]:
        """A work of the request at the first call; an empty list afterwards."""
        request, self._request = self._request, None
        return [Work(requests=(request,))] if request else []

    def take(self, outcome: Outcome) -> None:
        """Store the outcome."""
        self._outcome = outcome

    def is_whole(self) -> bool:
        """Whether the request has its outcome."""
        return self._outcome is not None

    def outcome(self) -> Outcome:
        """The outcome. The entry must be whole."""
        assert self._outcome
        return self._outcome


class RowEntry:
    """An entry for a row: each task for each of its videos.

    Args:
        item: the row as it was read.
        plan: requests to make for the row.
        look_up: returns the outcome of a request if it is known; else the request to make.
    """

    def __init__(self, item: InputRow, plan: RowPlan, look_up: Callable[[Request], Outcome | Request]) -> None:
        self._item, self._plan, self._look_up = item, plan, look_up
        self._asked = plan.asked()
        self._left = list(self._asked)
        self._outcomes: dict[RequestId, Outcome] = {}
        self._films: dict[RequestId, Film] = {}
        self._known: set[RequestId] = set()
        self.num_bytes = item.num_bytes

    def next_works(self) -> list[Work]:
        """Works that can be asked now and were not returned before.

        There is one work for each clip; but each text stage, and each request of a task with its own engine, is a
        separate work. A known outcome may make other requests possible, so this loops until none follows.
        """
        works: dict[Any, list[Request]] = {}
        opens = True
        while opens:
            opens = False
            left, self._left = self._left, []
            for name in left:
                made = self._made(name)
                if name not in (each.id for each in made):
                    self._left.append(name)
                for each in made:
                    found = self._look_up(each) if isinstance(each, Request) else each
                    if isinstance(found, Request):
                        alone = not found.video or self._plan.task(name).engine
                        works.setdefault(found.id if alone else name.slot, []).append(found)
                        continue
                    self.take(found)
                    if self._was_known(each) and not found.id.part:
                        self._known.add(found.id)
                    opens = bool(self._left)
        return [Work(requests=tuple(requests)) for requests in works.values()]

    def _was_known(self, made: Request | Outcome) -> bool:
        """Whether the outcome found for this was made before this run."""
        if isinstance(made, Caption):  # the caption of another task, which a rewrite keeps: known if that one was
            return made.id._replace(task=self._plan.task(made.id).rewrites or "") in self._known
        return isinstance(made, Request)

    def _made(self, name: RequestId) -> list[Request | Outcome]:
        """The request with this id, or the requests for its parts. Empty while an answer that it depends on is missing.

        If no engine is needed, the list holds the outcome instead of the request.
        """
        plan, task = self._plan, self._plan.task(name)
        before = [plan.task(name._replace(task=other)) for other in task.after]
        alone = [other for other in before if other.is_over_video or not task.is_over_video]
        names = {other.name: plan.name_of(other, name.slot) for other in alone}
        if not self._outcomes.keys() >= set(names.values()):
            return []
        said = {other: self._outcomes[each] for other, each in names.items()}
        if not task.is_over_video:
            return [plan.kept_as_it_is(name, said) or plan.request(name, said)]
        of_clips = set(task.after) - names.keys()
        there = all(each in self._outcomes for each in self._asked if each.task in of_clips)
        return self._made_of_clips(name, said) if there else []

    def _made_of_clips(self, name: RequestId, said: dict[str, Outcome]) -> list[Request | Outcome]:
        """The request about a whole video whose clips are all done, or those for its parts; empty while parts wait."""
        plan = self._plan
        film = self._films.get(name) or plan.film(name, self._outcomes)
        if isinstance(film, Failure):
            return [film]
        self._films[name] = film
        if film.failure:
            message = f"part {film.failure.id.part} of what was said of its clips: {film.failure.message}"
            return [replace(film.failure, id=name, kind="after", message=message)]
        if film.waits:
            return []
        return [plan.request(name._replace(part=part), said, text) for part, text in film.texts().items()]

    def take(self, outcome: Outcome) -> None:
        """Store the outcome of a request, or of a part of one."""
        if outcome.id.part:
            self._films[outcome.id._replace(part=0)].take(outcome.id.part, outcome)
        else:
            self._outcomes[outcome.id] = outcome

    def is_whole(self) -> bool:
        """Whether all requests have outcomes."""
        return len(self._outcomes) == len(self._asked)

    def result(self, layout: Layout, settings: Settings) -> RowResult:
        """The row's result. The entry must be whole."""
        outcomes = tuple(self._outcomes[name] for name in self._asked)
        return RowResult(
            index=self._plan.index,
            rows=tuple(layout.fill(self._plan, outcomes, settings)),
            outcomes=(self._plan.problem,) if self._plan.problem else outcomes,
            origin=self._item,
            known=frozenset(self._known),
        )


@dataclass(kw_only=True)
class _Open:
    """A request that is under way."""

    entry: Entry
    request: Request
    """The request as it was asked last: the second try's, if there was one."""
    first: Answer | None = None
    """Answer of the first try, during the second."""


class Queue(Iterator[Work], Generic[E]):
    """The queue of entries under way. Works are pulled from it. Whole entries leave it in the order they came in.

    It runs out of works for a while if too many entries wait, or if more works may follow from open requests. Works are
    pulled in one thread. Answers are settled from any thread, in any order.

    Args:
        entries: source of entries. One is pulled when there is no other work to give.
        settings: whether to ask faulty answers once more, and which tasks come after others.
        record: called with each outcome as soon as there is one; returns the outcome that holds.
        max_entries: maximum number of entries that wait to leave.
        drop: once it returns True, no further work is given.
        on_whole: called when an entry has all outcomes; the argument is False if nothing had to be made for it.
    """

    def __init__(
        self,
        entries: Iterator[E],
        settings: Settings,
        *,
        record: Callable[[Outcome], Outcome] = lambda outcome: outcome,
        max_entries: int = WAITING_ROWS,
        drop: Callable[[], bool] = lambda: False,
        on_whole: Callable[[bool], None] = lambda made: None,
    ) -> None:
        self._entries, self._settings, self._record = entries, settings, record
        self._max_entries, self._drop, self._on_whole = max_entries, drop, on_whole
        self._waiting: deque[E] = deque()
        self._to_give: deque[Work] = deque()
        self._follow_ups: deque[Work] = deque()
        self._open: dict[RequestId, _Open] = {}
        self._changing = threading.RLock()
        # The bytes of waiting entries are the difference. Each is written by one thread only, so neither needs a lock.
        self._read_bytes = self._left_bytes = 0
        self._exhausted = False
        """Whether `entries` has no more."""
        self.ended = False
        """Whether this stream of works is over. Works that follow later belong to another stream; see `begin_again`."""

    def __next__(self) -> Work:
        self.ended = self.ended or self._drop()
        if self.ended:
            raise StopIteration
        if not self.has_work():
            self.ended = self._exhausted and not self._may_follow()
            raise StopIteration
        return (self._follow_ups or self._to_give).popleft()

    def has_work(self) -> bool:
        """Whether there is a work to give now. Reads entries until there is one, or no room for another entry."""
        while not (self._follow_ups or self._to_give or self._exhausted) and self.has_room():
            self._read()
        return bool(self._follow_ups or self._to_give)

    def _read(self) -> None:
        entry = next(self._entries, None)
        if entry is None:
            self._exhausted = True
            return
        works = entry.next_works()
        with self._changing:
            self._read_bytes += entry.num_bytes
            self._waiting.append(entry)
            self._to_give += self._opened(entry, works)
            if entry.is_whole():
                self._on_whole(False)

    def _opened(self, entry: Entry, works: list[Work]) -> list[Work]:
        """Note the requests of works as under way; returns the works."""
        for work in works:
            for request in work.requests:
                if request.id in self._open:
                    raise SettingsError(f"two requests have the name {request.id}; each needs one of its own.")
                self._open[request.id] = _Open(entry=entry, request=request)
        return works

    def has_room(self) -> bool:
        """Whether one more entry may be read."""
        return len(self._waiting) < self._max_entries and self._read_bytes - self._left_bytes < _WAITING_BYTES

    def _may_follow(self) -> bool:
        """Whether open requests may bring more works."""
        may = self._settings.retry_flagged or any(task.after for task in self._settings.all_tasks)
        return bool(self._open) and may

    def go_on(self) -> bool:
        """Whether there are works to pull, or entries to read, after a pause."""
        return bool(self._follow_ups or self._to_give) or (not self._exhausted and self.has_room())

    def begin_again(self) -> bool:
        """Begin another stream of works. False if there is nothing to make, or the rest is dropped."""
        self.ended = False
        return self.go_on() and not (self._waiting and self._drop())

    def settle(self, answer: Answer | Failure) -> None:
        """Take the answer to a request, of its first or second try. May be called from any thread."""
        with self._changing:
            asked = self._open[answer.id]
            request = asked.request
            may_retry = self._settings.retry_flagged and not (request.answered or request.verifies)
            # An answer that an earlier run made, and this one only verified, may have been a second try already.
            if may_retry and request.attempt == 1 and is_faulty(answer) and answer.meta.get("tries", 1) == 1:
                asked.request, asked.first = once_more(request, answer), answer
                self._follow_ups.append(Work(requests=(asked.request,)))
                return
            del self._open[answer.id]
            best = better_of(request, asked.first, answer) if asked.first else answer
            outcome = self._record(outcome_of(request, best))
            asked.entry.take(outcome)
            self._follow_ups += self._opened(asked.entry, asked.entry.next_works())
            if asked.entry.is_whole():
                self._on_whole(True)

    def finished(self) -> Iterator[E]:
        """Remove and yield entries from the front of the queue, up to the first one that is not whole."""
        while self._waiting and self._waiting[0].is_whole():
            entry = self._waiting.popleft()
            self._left_bytes += entry.num_bytes
            yield entry
