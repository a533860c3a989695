"""The one place where the stages meet.

    rows -> plans -> requests -> decoded ahead -> engine -> selected -> rows again

`caption_rows` is the whole walk, `caption` the part of it between request and caption. Both are generators: nothing
runs further ahead than the engine pulls.
"""

import contextlib
import itertools
import logging
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar, runtime_checkable

from reelscribe.config import Settings
from reelscribe.engines.base import Engine, ModelInfo
from reelscribe.engines.feed import Feed
from reelscribe.errors import ClipError, EngineError
from reelscribe.outcomes import select, tell_frames
from reelscribe.prompts import Layout, RowPlan, choose_layout
from reelscribe.under_way import WAITING_ROWS, InFlight, RowsUnderWay, Tries
from reelscribe.values import (
    NO_FRAMES,
    Failure,
    Frames,
    Generation,
    InputRow,
    Outcome,
    Request,
    Row,
    RowResult,
    Work,
)
from reelscribe.video.fetch import FetchLimits, checked
from reelscribe.video.prefetch import decode_ahead
from reelscribe.video.sampling import FrameBudget

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PEEK_ROWS, _PEEK_BYTES = 64, 1 << 26
"""Rows that the choice of a layout looks at; fewer where they are large."""


@runtime_checkable
class Maker(Protocol):
    """Makes outcomes of requests elsewhere: what the flow takes in place of an engine that it drives itself."""

    info: ModelInfo
    waiting_rows: int
    """Rows that may wait to be written, beside the last; more than are on their way."""

    def make(
        self, requests: Iterable[Request], *, record: Callable[[Outcome], None] | None = None
    ) -> Iterator[Outcome]:
        """One outcome for each request, in their order; `record` is told of each as soon as there is one."""


class Memory(Protocol):
    """What is known of requests before they are made, and who is told of what comes out. Called from any thread."""

    def look_up(self, request: Request) -> Outcome | Request:
        """The outcome of a request, where it is known; else the request to make in its place, under the same key."""

    def record(self, outcome: Outcome) -> None:
        """Take the outcome of a request that was made, as soon as there is one."""


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
    _tell_missing([item.row for item in peeked if not item.problem], settings)
    under_way = RowsUnderWay(
        itertools.chain(peeked, source),
        lambda item: plan_row(item, layout, settings),
        memory.look_up if memory else lambda request: request,
        stop=stop,
        wanted=wanted,
        max_rows=engine.waiting_rows if isinstance(engine, Maker) else WAITING_ROWS,
    )
    record = memory.record if memory else None
    while not under_way.exhausted:
        made = (
            engine.make(under_way, record=record)
            if isinstance(engine, Maker)
            else caption(under_way, settings, engine, record=record)
        )
        with _closing(made) as outcomes:
            for outcome in outcomes:
                yield from under_way.finished(layout, settings)
                under_way.fill(outcome)
                yield from under_way.finished(layout, settings)
        yield from under_way.finished(layout, settings)


@contextlib.contextmanager
def _closing(stream: Iterator[T]) -> Iterator[Iterator[T]]:
    """Close a stream at the end if it can be closed, as generators can."""
    try:
        yield stream
    finally:
        close = getattr(stream, "close", None)
        if close:
            close()


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
    requests: Iterable[Request],
    settings: Settings,
    engine: Engine,
    *,
    record: Callable[[Outcome], None] | None = None,
) -> Generator[Outcome, None, None]:
    """Caption requests; one Caption or Failure for each, in their order.

    With `settings.retry_flagged` a request is made once more where the first try left no good candidate. It takes its
    place in the stream before requests that are new, so that no more are under way than without; what comes too late
    for that makes a stream of its own in the end. Its clip is decoded again, so that no frames are held for it.

    Args:
        requests: to caption; pulled in a thread of their own, with the decoding.
        settings: which frames, which candidates to keep, and whether to ask once more.
        engine: that captions.
        record: called with each outcome as soon as there is one, in any order, from any thread.

    Raises:
        SettingsError: two requests that are on their way at one time have the same key.
        EngineError: the engine broke, or does not keep to its contract.
    """
    tries = Tries(requests, settings, record)
    in_flight = InFlight()

    def prepared() -> Iterator[Work]:
        while True:
            for request, decoded in _with_frames(tries, settings, engine, in_flight.cancelled):
                if isinstance(decoded, Failure):
                    tries.settle(request, decoded)
                else:
                    in_flight.add(request, tell_frames(decoded))
                    yield Work(requests=(request,), frames=decoded)
            if not tries.paused:
                return
            with feed.holding():
                in_flight.wait(lambda: tries.go_on() or feed.starved)
            if in_flight.cancelled.is_set() or not tries.go_on():  # nor ever: no answer is to come that makes room
                return

    while True:
        with (
            Feed(prepared(), owes=lambda: len(in_flight) > 0, cancel=in_flight.cancel) as feed,
            contextlib.closing(_answers(engine, feed, in_flight)) as answers,
        ):
            for answer in answers:
                asked, told = in_flight.take(answer)
                if isinstance(answer, Failure):
                    tries.settle(asked, answer)
                else:
                    outcome, faulty = select(asked, told, answer, settings, engine)
                    tries.settle(asked, outcome, faulty=faulty)
                yield from tries.finished()
                in_flight.tell()
        for asked in in_flight.clear():
            tries.settle(asked, Failure.of(asked, "the engine gave no answer to this request."))
        if not tries.begin_again():  # a second stream leaves none: nothing is made a third time
            break
    yield from tries.finished()


def _answers(engine: Engine, feed: Feed[Work], in_flight: InFlight) -> Generator[Generation | Failure, None, None]:
    """What the engine answers to all that the feed has; in several streams if it pauses.

    Raises:
        EngineError: the engine broke, or stopped before the end.
        BaseException: what went wrong where requests come from, once the engine has answered those before.
    """
    while True:
        yield from engine.generate(feed)
        if not feed.paused:
            break
        feed.resume()
        in_flight.tell()
    if feed.pull().result() is not None:
        raise EngineError("the engine stopped although there were requests left.")
    if feed.error:
        raise feed.error


def _with_frames(
    requests: Iterable[Request], settings: Settings, engine: Engine, cancelled: threading.Event
) -> Iterable[tuple[Request, Frames | Failure]]:
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
        cancelled=cancelled,
    )


def _as_file(request: Request, limits: FetchLimits) -> tuple[Request, Frames | Failure]:
    """A request for an engine that takes the clip itself, which may be only where the limits let it be."""
    try:
        return replace(request, clip=checked(request.clip, limits)), NO_FRAMES
    except ClipError as exc:
        return request, Failure.of(request, str(exc), exc.kind)
