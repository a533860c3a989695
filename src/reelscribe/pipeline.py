"""The one place where the stages meet.

    rows -> plans -> requests -> decoded ahead -> engine -> selected -> rows again

`caption_rows` is the whole walk, `caption` the part of it between request and caption. Both are generators: nothing
runs further ahead than the engine pulls.
"""

import itertools
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from reelscribe.config import Settings
from reelscribe.engines.base import Engine, ModelInfo
from reelscribe.errors import ClipError, EngineError, SettingsError
from reelscribe.outcomes import better_of, kept_anew, once_more, select, tell_frames
from reelscribe.prompts import Layout, Outcome, RowPlan, choose_layout
from reelscribe.schema import NO_FRAMES, Caption, CaptionRequest, Failure, Frames, PreparedRequest, Row
from reelscribe.video.fetch import FetchLimits, checked
from reelscribe.video.prefetch import decode_ahead
from reelscribe.video.sampling import FrameBudget

logger = logging.getLogger(__name__)

_PEEK_ROWS, _PEEK_BYTES = 64, 1 << 26
"""Rows that the choice of a layout looks at; fewer where they are large."""
_WAITING_ROWS, _WAITING_BYTES = 4096, 1 << 28
"""Rows that may wait to be written, beside the last."""


@dataclass(frozen=True, kw_only=True)
class InputRow:
    """A row as a reader gives it."""

    index: int
    """Its place in the data set, from 0."""
    row: Row
    root: Path | None = None
    """Folder that its relative paths start from."""
    problem: Failure | None = None
    """Set by a reader that found no row here."""
    source: Any = None
    """The record as its reader had it, where that is more than `row` holds: then `row` has the columns that the flow
    looks at, and a writer takes the others from here, unchanged."""
    num_bytes: int = 0
    """About how much memory it takes; bounds how many are read ahead."""


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """What became of one row."""

    index: int
    rows: tuple[Row, ...]
    """The rows to write in its place."""
    outcomes: tuple[Outcome, ...]
    """One for each of its videos, in order; or the one Failure that the row is as a whole."""
    origin: InputRow | None = None
    """The row that was read."""
    known: frozenset[str] = frozenset()
    """Keys of those outcomes that were known before."""

    @property
    def captions(self) -> tuple[Caption, ...]:
        """Its videos that have a caption."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, Caption))

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Why the others have none."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, Failure))


@runtime_checkable
class Maker(Protocol):
    """Makes outcomes of requests elsewhere: what the flow takes in place of an engine that it drives itself."""

    info: ModelInfo
    waiting_rows: int
    """Rows that may wait to be written, beside the last; more than are on their way."""

    def make(
        self, requests: Iterable[CaptionRequest], *, record: Callable[[Outcome], None] | None = None
    ) -> Iterator[Outcome]:
        """One outcome for each request, in their order; `record` is told of each as soon as there is one."""


class Memory(Protocol):
    """What is known of requests before they are made, and who is told of what comes out. Called from any thread."""

    def look_up(self, request: CaptionRequest) -> Outcome | CaptionRequest:
        """The outcome of a request, where it is known; else the request to make in its place, under the same key."""

    def record(self, outcome: Outcome) -> None:
        """Take the outcome of a request that was made, as soon as there is one."""


@dataclass(kw_only=True)
class _Waiting:
    """A row that was read and is not finished."""

    item: InputRow
    plan: RowPlan
    outcomes: list[Outcome | None]
    """One for each request; None until there is one."""
    known: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self.known = frozenset(outcome.key for outcome in self.outcomes if outcome)

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


def caption_rows(
    rows: Iterable[InputRow],
    settings: Settings,
    engine: Engine | Maker,
    *,
    memory: Memory | None = None,
    stop: Callable[[], bool] = lambda: False,
    wanted: Callable[[RowPlan], bool] = lambda plan: True,
) -> Generator[RowResult, None, None]:
    """Caption the videos of rows; one result a row, in the order of the rows.

    Rows that no engine sees, since nothing is to be captioned, nothing can be, or all is known, come when the next
    caption does. So that a long run of them does not pile up, the engine is drained where too many wait, and then goes
    on.

    Args:
        rows: as a reader gives them.
        settings: what to do with them.
        engine: that captions; or what does so elsewhere.
        memory: knows outcomes, and takes new ones.
        stop: asked before each row; once it says True, rows that are on their way are finished, and no other is begun.
        wanted: asked about each row; one that is not has no result.
    """
    source = iter(rows)
    peeked = peek(source)
    layout = choose_layout([item.row for item in peeked], settings)
    added = settings.caption_columns if layout.adds else ()
    replaced = [name for name in added if any(name in item.row for item in peeked)]
    if replaced:
        logger.warning(
            "The rows have %s already: this run's results take their place, unless caption_key names another column.",
            " and ".join(replaced),
        )
    pending: deque[_Waiting] = deque()
    _tell_missing([item.row for item in peeked if not item.problem], settings)
    chained = itertools.chain(peeked, source)
    # What waits is the difference: an engine may pull in a thread of its own, and each number has one who writes it.
    pulled_bytes, finished_bytes, exhausted = 0, 0, False

    def requests() -> Iterator[CaptionRequest]:
        nonlocal pulled_bytes, exhausted
        while (item := None if stop() else next(chained, None)) is not None:
            plan = plan_row(item, layout, settings)
            if not wanted(plan):
                continue
            found = [_known(request, settings, memory) if memory else request for request in plan.requests]
            outcomes = [None if isinstance(each, CaptionRequest) else each for each in found]
            pending.append(_Waiting(item=item, plan=plan, outcomes=outcomes))
            pulled_bytes += item.num_bytes
            yield from (each for each in found if isinstance(each, CaptionRequest))
            if len(pending) >= waiting_rows or pulled_bytes - finished_bytes >= _WAITING_BYTES:
                return
        exhausted = True

    def finished() -> Iterator[RowResult]:
        nonlocal finished_bytes
        while pending and None not in pending[0].outcomes:
            row = pending.popleft()
            finished_bytes += row.item.num_bytes
            yield row.finish(layout, settings)

    waiting_rows = engine.waiting_rows if isinstance(engine, Maker) else _WAITING_ROWS
    record = memory.record if memory else None

    def make(requests: Iterator[CaptionRequest]) -> Iterator[Outcome]:
        if isinstance(engine, Maker):
            return engine.make(requests, record=record)
        return caption(requests, settings, engine, record=record)

    while not exhausted:
        for outcome in make(requests()):
            yield from finished()
            pending[0].fill(outcome)
            if None not in pending[0].outcomes:
                yield next(finished())
        yield from finished()


def _known(request: CaptionRequest, settings: Settings, memory: Memory) -> Outcome | CaptionRequest:
    """What is known of a request, with the candidates that are to be kept now; or the request to make."""
    found = memory.look_up(request)
    return kept_anew(found, request, settings) if isinstance(found, Caption) else found


def peek(rows: Iterator[InputRow]) -> list[InputRow]:
    """The first rows, from which the layout is told; taken from the iterator."""
    peeked: list[InputRow] = []
    while len(peeked) < _PEEK_ROWS and sum(item.num_bytes for item in peeked) < _PEEK_BYTES:
        item = next(rows, None)
        if item is None:
            break
        peeked.append(item)
    return peeked


def _tell_missing(rows: Sequence[Row], settings: Settings) -> None:
    """Say where a column that is needed is in none of the first rows: most often it is misspelt."""
    if not settings.video_key and rows and not any("video" in row or "videos" in row for row in rows):
        logger.warning("None of the first rows has a column 'video' or 'videos'; video_key names another one.")
    for option, name in settings.named_columns.items():
        if rows and not any(name in row for row in rows):
            logger.warning("None of the first rows has a column %r, which %s names.", name, option)
    if settings.keep == "similar_one_simhash" and rows and not any(row.get(settings.text_key) for row in rows):
        logger.warning("None of the first rows has a text for captions to be near to; text_key names its column.")


def plan_row(item: InputRow, layout: Layout, settings: Settings) -> RowPlan:
    """What is to be asked for a row; of one that is none, its problem."""
    if item.problem:
        return RowPlan(index=item.index, row=item.row, problem=item.problem)
    return layout.plan(item.row, item.index, settings, item.root)


def caption(
    requests: Iterable[CaptionRequest],
    settings: Settings,
    engine: Engine,
    *,
    record: Callable[[Outcome], None] | None = None,
) -> Iterator[Outcome]:
    """Caption requests; one Caption or Failure for each, in their order.

    With `settings.retry_flagged` a request is made once more where the first try left no good candidate. It takes its
    place in the stream before requests that are new, so that no more are under way than without; what comes too late
    for that makes a stream of its own in the end. Its clip is decoded again, so that no frames are held for it.

    Args:
        requests: to caption.
        settings: which frames, which candidates to keep, and whether to ask once more.
        engine: that captions.
        record: called with each outcome as soon as there is one, in any order, from any thread.

    Raises:
        SettingsError: two requests that are on their way at one time have the same key.
        EngineError: the engine broke, or does not keep to its contract.
    """
    tries = _Tries(requests, settings, record)
    order: deque[str] = deque()
    in_flight: dict[str, tuple[CaptionRequest, dict[str, Any]]] = {}  # without the pixels, which are the engine's now

    def prepared() -> Iterator[PreparedRequest]:
        for request, decoded in _with_frames(tries.to_make(), settings, engine):
            if request.attempt == 1:
                if request.key in in_flight or tries.knows(request.key):
                    raise SettingsError(f"two requests have the key {request.key!r}; each needs one of its own.")
                order.append(request.key)
            if isinstance(decoded, Failure):
                tries.settle(request, decoded)
            else:
                in_flight[request.key] = request, tell_frames(decoded)
                yield PreparedRequest(request=request, frames=decoded)

    while True:
        stream = prepared()
        for answer in engine.generate(stream):
            if answer.key not in in_flight:
                raise EngineError(
                    f"the engine answered {answer.key!r}, which it was not asked, or had answered before."
                )
            asked, told = in_flight.pop(answer.key)
            if isinstance(answer, Failure):
                tries.settle(asked, answer)
            else:
                outcome, faulty = select(asked, told, answer, settings, engine)
                tries.settle(asked, outcome, faulty=faulty)
            while order and order[0] in tries.done:
                yield tries.done.pop(order.popleft())
        if next(stream, None) is not None:
            raise EngineError("the engine stopped although there were requests left.")
        for asked, _ in in_flight.values():
            tries.settle(asked, Failure.of(asked, "the engine gave no answer to this request."))
        in_flight.clear()
        if not tries.again:  # a second stream leaves none: nothing is made a third time
            break
    yield from (tries.done.pop(key) for key in order)


class _Tries:
    """Requests, some of which are made once more, and what becomes of them. Used by two threads, one at each end."""

    def __init__(
        self, requests: Iterable[CaptionRequest], settings: Settings, record: Callable[[Outcome], None] | None
    ) -> None:
        self._source = iter(requests)
        self._retry, self._record = settings.retry_flagged, record
        self._first: dict[str, Outcome] = {}
        self.again: deque[CaptionRequest] = deque()
        """Those that wait to be made once more."""
        self.done: dict[str, Outcome] = {}

    def to_make(self) -> Iterator[CaptionRequest]:
        """What is to be made next, as far as that is known now."""
        while (request := self.again.popleft() if self.again else next(self._source, None)) is not None:
            yield request

    def knows(self, key: str) -> bool:
        """Whether a request of this key has an outcome that nobody has taken yet, or waits for another."""
        return key in self._first or key in self.done

    def settle(self, request: CaptionRequest, outcome: Outcome, *, faulty: bool = False) -> None:
        """Take what one try came to."""
        if self._retry and request.attempt == 1 and faulty:
            self._first[request.key] = outcome
            self.again.append(once_more(request))
            return
        if request.attempt > 1:
            outcome = better_of(self._first.pop(request.key), outcome, faulty=faulty)
        if self._record:
            self._record(outcome)
        self.done[request.key] = outcome


def _with_frames(
    requests: Iterable[CaptionRequest], settings: Settings, engine: Engine
) -> Iterable[tuple[CaptionRequest, Frames | Failure]]:
    """Requests with what their engine takes."""
    limits = FetchLimits.of(settings)
    if not engine.info.wants_frames:
        return (_as_file(request, limits) for request in requests)
    return decode_ahead(
        requests,
        FrameBudget.of(settings, engine.info.limits),
        max_bytes=settings.prefetch_bytes,
        decoders=settings.decoders,
        decode_seconds=settings.decode_seconds,
        decoder_bytes=settings.decoder_bytes,
        limits=limits,
    )


def _as_file(request: CaptionRequest, limits: FetchLimits) -> tuple[CaptionRequest, Frames | Failure]:
    """A request for an engine that takes the clip itself, which may be only where the limits let it be."""
    try:
        return replace(request, clip=checked(request.clip, limits)), NO_FRAMES
    except ClipError as exc:
        return request, Failure.of(request, str(exc), exc.kind)
