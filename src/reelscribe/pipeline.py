"""Joins the stages of captioning.

    rows -> entries of a queue -> works -> decoded ahead -> engine -> answers -> outcomes -> rows again

`caption_rows` runs all stages, `caption` does the same for requests that belong to no rows, and `make` runs the stages
from works to answers. All are generators: no stage runs further ahead than the engine pulls.
"""

import contextlib
import itertools
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from reelscribe.asking import RowPlan, with_facts
from reelscribe.config import Settings
from reelscribe.engines.base import Engine, ModelInfo
from reelscribe.engines.feed import Feed, answers_to
from reelscribe.errors import ClipError, SettingsError
from reelscribe.layouts import Layout, choose_layout
from reelscribe.outcomes import answer_of, tell_frames
from reelscribe.scoring import Scoring
from reelscribe.under_way import WAITING_ROWS, E, InFlight, Pausing, Queue, RequestEntry, RowEntry
from reelscribe.values import (
    NO_FRAMES,
    Answer,
    Failure,
    Frames,
    InputRow,
    Outcome,
    Request,
    RequestId,
    Row,
    RowResult,
    Work,
)
from reelscribe.video.fetch import FetchLimits, checked
from reelscribe.video.prefetch import decode_ahead
from reelscribe.video.sampling import FrameBudget

logger = logging.getLogger(__name__)

T = TypeVar("T")
Settle = Callable[[Answer | Failure], None]
"""Called with the answer to a request, or its failure. May be called from any thread."""
Answers = tuple[Answer | Failure, ...]
"""The answers of a work: one for each of its requests, in order."""

_PEEK_ROWS, _PEEK_BYTES = 64, 1 << 26
"""Maximum number and bytes of the first rows, which are read ahead to choose the layout."""


class Maker(ABC):
    """Makes answers outside of this process, for example on Ray. It takes the place of an engine."""

    info: ModelInfo
    waiting_rows: int
    """Maximum number of rows that wait to be written. It must be more than the `Maker` has under way."""

    @property
    def clips_begun(self) -> int:
        """Estimated number of clips that its engines work on; 0 if that is not known."""
        return 0

    @abstractmethod
    def make(self, works: Iterator[Work], settle: Settle, drop: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Call `settle` with the answer to each request of the works, in any order; yield after some calls.

        Once `drop` returns True, requests that no engine has begun get no answer.
        """


class Memory(Protocol):
    """Outcomes of earlier runs, such as a ledger. Methods are called from any thread."""

    def look_up(self, request: Request) -> Outcome | Request:
        """The outcome of a request if it is known; else the request to make in its place, with the same id."""

    def record(self, outcome: Outcome) -> Outcome:
        """Store the outcome of a request that was made; returns the outcome that holds, which may be an earlier one."""


def caption_rows(
    rows: Iterable[InputRow],
    settings: Settings,
    engine: Engine | Maker,
    *,
    memory: Memory | None = None,
    retry_settings: Settings | None = None,
    stop: Callable[[], bool] = lambda: False,
    wanted: Callable[[RowPlan], bool] = lambda plan: True,
    drop: Callable[[], bool] = lambda: False,
    on_whole: Callable[[bool], None] = lambda made: None,
    is_batch: bool = False,
) -> Generator[RowResult, None, None]:
    """Caption the videos of rows. Yields one result for each row, in the order of the rows.

    Some rows need no engine: they have no video, cannot be captioned, or their captions are known. Their results come
    with the next caption. If too many rows wait for an earlier one, the engine finishes what it has, all results up to
    there are yielded, and the engine goes on.

    Args:
        rows: rows from a reader.
        settings: tasks, choice of frames, and which candidates to keep.
        engine: makes the captions. A `Maker` decodes and captions outside of this process, for example on Ray.
        memory: looks up known outcomes and records new ones.
        retry_settings: settings that a retry asks with in place of `settings`, if `memory` wants a request made again.
            Frames are chosen by them, too.
        stop: called before each row. Once it returns True, no further row is begun; rows under way are finished.
        wanted: called for each row. A row for which it returns False has no result.
        drop: once it returns True, the engine gets nothing more and finishes only what it works on. Then results end
            before the first row that lacks an outcome.
        on_whole: called when a row has all its outcomes, which may be long before its result is given. The argument
            is False if nothing had to be made. Called from any thread, one call at a time.
        is_batch: whether the rows are one batch of a data set. Then there are no warnings about missing columns, since
            these would be repeated for each batch.
    """
    source = iter(rows)
    peeked = peek(source)
    layout = choose_layout([item.row for item in peeked], settings)
    if layout.adds:
        check_added({name for item in peeked for name in item.row}, settings)
    if not is_batch:
        _tell_missing([item.row for item in peeked if not item.problem], settings)

    def entries() -> Iterator[RowEntry]:
        rows = itertools.chain(peeked, source)
        while not stop() and (item := next(rows, None)):
            plan = plan_row(item, layout, settings)
            plan = plan if retry_settings is None else replace(plan, retry_settings=retry_settings)
            if wanted(plan):
                yield RowEntry(item, plan, memory.look_up if memory else lambda request: request)

    making = retry_settings or settings
    queue = Queue(
        entries(),
        making,
        record=memory.record if memory else lambda outcome: outcome,
        max_entries=engine.waiting_rows if isinstance(engine, Maker) else WAITING_ROWS,
        drop=drop,
        on_whole=on_whole,
    )
    for entry in _through(queue, making, engine, drop):
        yield entry.result(layout, settings)


def caption(
    requests: Iterable[Request],
    settings: Settings,
    engine: Engine,
    *,
    record: Callable[[Outcome], None] = lambda outcome: None,
) -> Generator[Outcome, None, None]:
    """Caption requests. Yields one Caption or Failure for each, in order.

    With `settings.retry_flagged`, a request whose candidates all have faults is tried a second time. The second try
    comes before new requests, so that no more requests are under way than without it. Its clip is decoded again, so
    that no frames are held for it.

    Args:
        requests: requests to caption. They are pulled in a separate thread, which also waits for decoding.
        settings: choice of frames, which candidates to keep, and whether to try faulty answers again.
        engine: makes the captions.
        record: called with each outcome as soon as there is one, in any order, from any thread.

    Raises:
        SettingsError: two requests that are under way have the same id.
        EngineError: the engine broke, or violates its contract.
    """

    def recorded(outcome: Outcome) -> Outcome:
        record(outcome)
        return outcome

    queue = Queue(map(RequestEntry, requests), settings, record=recorded)
    for entry in _through(queue, settings, engine):
        yield entry.outcome()


def _through(
    queue: Queue[E], settings: Settings, engine: Engine | Maker, drop: Callable[[], bool] = lambda: False
) -> Generator[E, None, None]:
    """Make all works of a queue. Yields its entries as they leave it. The engine is used only if there is work."""
    while queue.begin_again():
        if queue.has_work():
            made = (
                engine.make(queue, queue.settle, drop)
                if isinstance(engine, Maker)
                else make(queue, queue.settle, settings, engine, drop)
            )
            with _closing(made) as settled:
                for _ in settled:
                    yield from queue.finished()
        yield from queue.finished()


@contextlib.contextmanager
def _closing(stream: Iterator[T]) -> Iterator[Iterator[T]]:
    """Close a stream at the end, if it has a method `close`, as generators do."""
    try:
        yield stream
    finally:
        close = getattr(stream, "close", None)
        if close:
            close()


def check_added(names: Container[str], settings: Settings) -> None:
    """Check that rows do not have any column that a run adds.

    Raises:
        SettingsError: they have one.
    """
    there = [name for name in settings.added_columns if name in names]
    if there:
        raise SettingsError(
            f"the rows have a column {' and '.join(map(repr, there))} already, which would be lost; give the task "
            "another name, as --task described=PROMPT."
        )


def peek(rows: Iterator[InputRow]) -> list[InputRow]:
    """Take the first rows from an iterator. The layout is chosen by them."""
    peeked: list[InputRow] = []
    while len(peeked) < _PEEK_ROWS and sum(item.num_bytes for item in peeked) < _PEEK_BYTES:
        item = next(rows, None)
        if item is None:
            break
        peeked.append(item)
    return peeked


def _tell_missing(rows: Sequence[Row], settings: Settings) -> None:
    """Warn if none of the first rows has a column that the settings name, usually because of a misspelt name."""
    if not settings.video_key and rows and not any("video" in row or "videos" in row for row in rows):
        logger.warning("None of the first rows has a column 'video' or 'videos'; video_key names another one.")
    for option, name in settings.named_columns.items():
        if rows and not any(name in row for row in rows):
            logger.warning("None of the first rows has a column %r, which %s names.", name, option)
    near = any(task.keep == "similar_one_simhash" for task in settings.all_tasks)
    if near and rows and not any(row.get(settings.text_key) for row in rows):
        logger.warning("None of the first rows has a text for captions to be near to; text_key names its column.")


def plan_row(item: InputRow, layout: Layout, settings: Settings) -> RowPlan:
    """Plan what to ask about a row. If the reader could not read the row, the plan holds the problem."""
    if item.problem:
        return RowPlan(
            index=item.index, row=item.row, settings=settings, problem=item.problem, known_shard_hash=item.shard_hash
        )
    plan = layout.plan(item.row, item.index, settings, item.root)
    return plan if item.shard_hash is None else replace(plan, known_shard_hash=item.shard_hash)


def make(
    works: Iterator[Work],
    settle: Settle,
    settings: Settings,
    engine: Engine,
    drop: Callable[[], bool] = lambda: False,
) -> Generator[None, None, None]:
    """Decode the clips of works, and pass the works to an engine.

    Args:
        works: works to answer. They are pulled in a separate thread, which also waits for decoding. If they are
            `Pausing` and run out for a while, that thread waits for answers, which may bring more works.
        settle: called with the answer to each request. Failures of decoding come from the thread of the works.
        settings: choice of frames, and limits of decoding.
        engine: answers the requests.
        drop: once it returns True, the engine gets nothing more, and requests that it has not begun get no answer.

    Yields:
        None, after each answer that was passed to `settle`.

    Raises:
        EngineError: the engine broke, or violates its contract.
    """
    model = engine.info
    in_flight = InFlight(drop, busy=lambda: scoring.busy)

    def hold(requests: Iterable[Request], frames: Frames) -> None:
        """Hold frames for scorers, and score known answers. Waits for memory if anything can still free some."""
        to_score = [request for request in requests if request.scorer]
        if to_score and not scoring.has_room(frames):
            with feed.holding():
                in_flight.wait(lambda: scoring.has_room(frames) or (feed.starved and not scoring.busy))
        for request in to_score:
            scoring.hold(request, frames)
            if request.answered:
                scoring.take(request, request.answered)

    def prepared() -> Iterator[Work]:
        while True:
            for work, decoded in _with_frames(works, settings, model, in_flight.cancelled):
                if isinstance(decoded, ClipError):
                    for request in work.requests:
                        settle(Failure.of(request, str(decoded), decoded.kind))
                    continue
                if drop():
                    continue
                told, ready = tell_frames(decoded, work.clip), tuple(_with_facts(work, decoded, settle))
                hold(ready, decoded)
                to_ask = tuple(request for request in ready if not request.answered)
                for request in to_ask:
                    in_flight.add(request, told, decoded.facts)
                if to_ask:
                    yield Work(requests=tuple(request.for_engine() for request in to_ask), frames=decoded)
            if not isinstance(works, Pausing) or works.ended:
                return
            with feed.holding():
                in_flight.wait(lambda: works.go_on() or feed.starved)
            if in_flight.cancelled() or not works.go_on():  # no answer is under way that could bring more works
                return

    with (
        Scoring(settle, in_flight.wake, max_bytes=settings.prefetch_bytes) as scoring,
        Feed(prepared(), owes=lambda: len(in_flight) > 0, cancel=in_flight.cancel, drop=drop) as feed,
        contextlib.closing(answers_to(engine, feed, on_pause=in_flight.tell)) as answers,
    ):
        for answer in answers:
            request, told, facts = in_flight.take(answer.id)
            info = model.of(request.id.task)
            made = answer if isinstance(answer, Failure) else answer_of(request, told, facts, answer, info)
            scoring.take(request, made)
            yield
            in_flight.tell()
        for request in [] if drop() else in_flight.clear():
            scoring.take(request, Failure.of(request, "the engine gave no answer to this request."))
        scoring.wait()
    yield


def _with_facts(work: Work, frames: Frames, settle: Settle) -> Iterator[Request]:
    """The requests of a work, with facts of the clip in their prompts. If a fact is missing, the request fails."""
    for request in work.requests:
        try:
            yield with_facts(request, frames.facts)
        except ClipError as exc:
            settle(Failure.of(request, str(exc), exc.kind))


def answers_in_order(
    works: Iterable[Work], settings: Settings, engine: Engine, drop: Callable[[], bool] = lambda: False
) -> Generator[Answers, None, None]:
    """Like `make`, but yields the answers to each work, in the order of the works and of their requests.

    Once `drop` returns True, empty tuples are yielded for works that the engine has not begun.
    """
    source = iter(works)
    asked: deque[Work] = deque()
    there: dict[RequestId, Answer | Failure] = {}

    def noted() -> Iterator[Work]:
        for work in source:
            asked.append(work)
            yield work

    def settle(answer: Answer | Failure) -> None:
        there[answer.id] = answer

    for _ in make(noted(), settle, settings, engine, drop):
        while asked and all(request.id in there for request in asked[0].requests):
            yield tuple(there.pop(request.id) for request in asked.popleft().requests)
    if drop():
        for work in itertools.chain(asked, source):
            yield tuple(there[request.id] for request in work.requests if request.id in there)


def _with_frames(
    works: Iterator[Work], settings: Settings, model: ModelInfo, cancelled: Callable[[], bool]
) -> Iterable[tuple[Work, Frames | ClipError]]:
    """Works, each with its decoded frames, or with `NO_FRAMES` for an engine that takes files."""
    limits = FetchLimits.of(settings)
    if not model.wants_frames:
        return (_as_file(work, limits) for work in works)
    return decode_ahead(
        works,
        FrameBudget.of(settings, model.limits),
        max_bytes=settings.prefetch_bytes,
        decoders=settings.decoders,
        decode_seconds=settings.decode_seconds,
        decoder_bytes=settings.decoder_bytes,
        limits=limits,
        cancelled=cancelled,
    )


def _as_file(work: Work, limits: FetchLimits) -> tuple[Work, Frames | ClipError]:
    """A work for an engine that takes files. The file is checked against the limits here."""
    if not work.shows:
        return work, NO_FRAMES
    try:
        clip = checked(work.clip, limits)
    except ClipError as exc:
        return work, exc
    return Work(requests=tuple(replace(request, clip=clip) for request in work.requests)), NO_FRAMES
