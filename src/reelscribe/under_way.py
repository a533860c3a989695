"""What is under way: rows that were read and are not finished, what is asked next, and what the engine has.

There is one queue. Rows put requests at its end; what comes of a request may put others at its front: second tries.
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
"""Rows that may wait to be written, beside the last. The bytes are some fifty rows that hold videos of 20 MB: more than
an engine has under way, so that it seldom runs short."""


class InFlight:
    """Requests that the engine has, without the pixels, which are its own now. Used by two threads, one at each end.

    Args:
        drop: whether nobody wants any more what is on its way to the engine.
        busy: whether answers are on their way that the engine has given already.
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
        """Note a request that goes to the engine, what is told of its frames, and what its file says of itself."""
        self._asked[request.id] = request, told, facts

    def take(self, asked: RequestId) -> tuple[Request, dict[str, Any], Facts]:
        """What was noted of the request that is answered, which the engine does not have any more.

        Raises:
            EngineError: it never had it, or has answered it before.
        """
        if asked not in self._asked:
            raise EngineError(f"the engine answered {asked}, which it was not asked, or had answered before.")
        self._taking = True
        return self._asked.pop(asked)

    def clear(self) -> list[Request]:
        """Take all that are left."""
        left = [request for request, *_ in self._asked.values()]
        self._asked.clear()
        return left

    def tell(self) -> None:
        """Wake who waits: an answer was taken, and what came of it has left."""
        with self._changed:
            self._taking = False
            self._changed.notify_all()

    def wake(self) -> None:
        """Wake who waits, if something else has changed."""
        with self._changed:
            self._changed.notify_all()

    def wait(self, enough: Callable[[], bool]) -> None:
        """Wait for answers until there is enough room for more; not when none is to come."""

        def over() -> bool:
            return not (self._asked or self._taking or self._busy()) or self.cancelled()

        with self._changed:
            self._changed.wait_for(lambda: enough() or over())

    def cancel(self) -> None:
        """Give up what is on its way."""
        self._cancelled = True
        self.tell()

    def cancelled(self) -> bool:
        """Whether nobody wants what is on its way to the engine."""
        return self._cancelled or self._drop()


class Entry(Protocol):
    """Requests that leave together, once there is an outcome of each: those of a row."""

    num_bytes: int
    """About how much memory it takes."""

    def next_works(self) -> list[Work]:
        """What can be asked now, and was not before."""

    def take(self, outcome: Outcome) -> None:
        """Take the outcome of a request."""

    def is_whole(self) -> bool:
        """Whether there is an outcome of each."""


E = TypeVar("E", bound=Entry)


@runtime_checkable
class Pausing(Protocol):
    """Works that may run out for a while, until answers have been settled."""

    ended: bool
    """Whether no more will come in this stream."""

    def go_on(self) -> bool:
        """Whether there are some now."""


class RequestEntry:
    """One request, of no row."""

    def __init__(self, request: Request) -> None:
        self._request: Request | None = request
        self._outcome: Outcome | None = None
        self.num_bytes = 0

    def next_works(self) -> list[Work]:
        """The request, once."""
        request, self._request = self._request, None
        return [Work(requests=(request,))] if request else []

    def take(self, outcome: Outcome) -> None:
        """Take its outcome."""
        self._outcome = outcome

    def is_whole(self) -> bool:
        """Whether it is there."""
        return self._outcome is not None

    def outcome(self) -> Outcome:
        """It, of an entry that is whole."""
        assert self._outcome
        return self._outcome


class RowEntry:
    """A row that was read, and is not finished: each task for each of its videos.

    Args:
        item: as it was read.
        plan: what is to be asked.
        look_up: the outcome of a request, if it is known; else the request to make.
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
        """What can be asked now, and was not before: of each clip in one work.

        Text stages, and tasks with an engine of their own, are in works of their own.

        What is known may open others at once.
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
        """Whether what was found for it was made before this run."""
        if isinstance(made, Caption):  # another task's, which stays as it is
            return made.id._replace(task=self._plan.task(made.id).rewrites or "") in self._known
        return isinstance(made, Request)

    def _made(self, name: RequestId) -> list[Request | Outcome]:
        """The request of this name, or of parts that come before it; nothing while what they name is not known.

        In its place what it comes to, if that is known without asking.
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
        """The request over a video, or those of parts; nothing while parts are asked. All its clips have outcomes."""
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
        """Take the outcome of a request."""
        if outcome.id.part:
            self._films[outcome.id._replace(part=0)].take(outcome.id.part, outcome)
        else:
            self._outcomes[outcome.id] = outcome

    def is_whole(self) -> bool:
        """Whether there is an outcome of each."""
        return len(self._outcomes) == len(self._asked)

    def result(self, layout: Layout, settings: Settings) -> RowResult:
        """That of a row that is whole."""
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
    """The one that was asked last."""
    first: Answer | None = None
    """What its first try came to, if there is a second."""


class Queue(Iterator[Work], Generic[E]):
    """Entries under way: works are pulled at one end, whole entries leave at the other, in the order of the entries.

    Works run out for a while if too many entries wait, or more may follow from answers that are to come.
    Pulled in one thread; answers come in any, in any order.

    Args:
        entries: to open, one after the other.
        settings: whether to ask once more, and which tasks come after others.
        record: called with each outcome as soon as there is one; gives the one that holds.
        max_entries: this many may wait.
        drop: once it says True, no other work is given.
        on_whole: called when an entry is whole: with True, or with False if nothing had to be made for it.
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
        # What waits is the difference: each number is written by one thread only.
        self._read_bytes = self._left_bytes = 0
        self._exhausted = False
        """Whether no entry is left to open."""
        self.ended = False
        """Whether the stream of works has come to its end; what follows later makes another one."""

    def __next__(self) -> Work:
        self.ended = self.ended or self._drop()
        if self.ended:
            raise StopIteration
        if not self.has_work():
            self.ended = self._exhausted and not self._may_follow()
            raise StopIteration
        return (self._follow_ups or self._to_give).popleft()

    def has_work(self) -> bool:
        """Whether there is something to make now. Entries are opened until there is, or no other may be."""
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
        """Works of an entry, noted to be under way."""
        for work in works:
            for request in work.requests:
                if request.id in self._open:
                    raise SettingsError(f"two requests have the name {request.id}; each needs one of its own.")
                self._open[request.id] = _Open(entry=entry, request=request)
        return works

    def has_room(self) -> bool:
        """Whether one more entry may be opened."""
        return len(self._waiting) < self._max_entries and self._read_bytes - self._left_bytes < _WAITING_BYTES

    def _may_follow(self) -> bool:
        """Whether more may follow from answers that are to come."""
        may = self._settings.retry_flagged or any(task.after for task in self._settings.all_tasks)
        return bool(self._open) and may

    def go_on(self) -> bool:
        """Whether there is something to make, after a pause."""
        return bool(self._follow_ups or self._to_give) or (not self._exhausted and self.has_room())

    def begin_again(self) -> bool:
        """Begin another stream; False if there is nothing to make, or what is left is dropped."""
        self.ended = False
        return self.go_on() and not (self._waiting and self._drop())

    def settle(self, answer: Answer | Failure) -> None:
        """Take what a request came to, or what its first try did. From any thread."""
        with self._changing:
            asked = self._open[answer.id]
            request = asked.request
            may_retry = self._settings.retry_flagged and not (request.answered or request.verifies)
            # What an earlier run made, and this one only verified, may have been the second try.
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
        """The first entries, as far as they are whole. They leave."""
        while self._waiting and self._waiting[0].is_whole():
            entry = self._waiting.popleft()
            self._left_bytes += entry.num_bytes
            yield entry
