"""The one place where the stages meet.

    rows -> plans -> requests -> decoded ahead -> engine -> selected -> rows again

`caption_rows` is the whole walk, `caption` the part of it between request and caption. Both are generators: nothing
runs further ahead than the engine pulls.
"""

import hashlib
import itertools
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from reelscribe.config import Settings
from reelscribe.engines.base import Engine
from reelscribe.errors import ClipError, EngineError, SettingsError
from reelscribe.faults import Fault, find_faults
from reelscribe.prompts import Layout, Outcome, RowPlan, choose_layout
from reelscribe.schema import NO_FRAMES, Caption, CaptionRequest, Failure, Frames, Generation, PreparedRequest, Row
from reelscribe.selection import SELECTORS
from reelscribe.video.fetch import FetchLimits, checked
from reelscribe.video.prefetch import decode_ahead
from reelscribe.video.sampling import FrameBudget

logger = logging.getLogger(__name__)

_PEEK_ROWS, _PEEK_BYTES = 64, 1 << 26
"""Rows that the choice of a layout looks at; fewer where they are large."""
_WAITING_ROWS, _WAITING_BYTES = 4096, 1 << 28
"""Rows that may wait to be written, beside the last."""
_RETRY_TEMPERATURE, _RETRY_TOP_P = 0.7, 0.8
"""Sampling of Qwen3-VL as released."""


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
    engine: Engine,
    *,
    memory: Memory | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Generator[RowResult, None, None]:
    """Caption the videos of rows; one result a row, in the order of the rows.

    Rows that no engine sees, since nothing is to be captioned, nothing can be, or all is known, come when the next
    caption does. So that a long run of them does not pile up, the engine is drained where too many wait, and then goes
    on.

    Args:
        rows: as a reader gives them.
        settings: what to do with them.
        engine: that captions.
        memory: knows outcomes, and takes new ones.
        stop: asked before each row; once it says True, rows that are on their way are finished, and no other is begun.
    """
    source = iter(rows)
    peeked = _peek(source)
    layout = choose_layout((item.row for item in peeked), settings)
    replaced = [name for name in layout.adds if any(name in item.row for item in peeked)]
    if replaced:
        logger.warning("The rows have %s already: this run's results take their place.", " and ".join(replaced))
    pending: deque[_Waiting] = deque()
    chained = itertools.chain(peeked, source)
    # What waits is the difference: an engine may pull in a thread of its own, and each number has one who writes it.
    pulled_bytes, finished_bytes, exhausted = 0, 0, False

    def requests() -> Iterator[CaptionRequest]:
        nonlocal pulled_bytes, exhausted
        while (item := None if stop() else next(chained, None)) is not None:
            plan = (
                RowPlan(index=item.index, row=item.row, problem=item.problem)
                if item.problem
                else layout.plan(item.row, item.index, settings, item.root)
            )
            found = [memory.look_up(request) if memory else request for request in plan.requests]
            outcomes = [None if isinstance(each, CaptionRequest) else each for each in found]
            pending.append(_Waiting(item=item, plan=plan, outcomes=outcomes))
            pulled_bytes += item.num_bytes
            yield from (each for each in found if isinstance(each, CaptionRequest))
            if len(pending) >= _WAITING_ROWS or pulled_bytes - finished_bytes >= _WAITING_BYTES:
                return
        exhausted = True

    def finished() -> Iterator[RowResult]:
        nonlocal finished_bytes
        while pending and None not in pending[0].outcomes:
            row = pending.popleft()
            finished_bytes += row.item.num_bytes
            yield row.finish(layout, settings)

    while not exhausted:
        for outcome in caption(requests(), settings, engine, record=memory.record if memory else None):
            yield from finished()
            pending[0].fill(outcome)
            if None not in pending[0].outcomes:
                yield next(finished())
        yield from finished()


def _peek(rows: Iterator[InputRow]) -> list[InputRow]:
    peeked: list[InputRow] = []
    while len(peeked) < _PEEK_ROWS and sum(item.num_bytes for item in peeked) < _PEEK_BYTES:
        item = next(rows, None)
        if item is None:
            break
        peeked.append(item)
    return peeked


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
    source = iter(requests)
    order: deque[str] = deque()
    in_flight: dict[str, tuple[CaptionRequest, dict[str, Any]]] = {}  # without the pixels, which are the engine's now
    first: dict[str, Outcome] = {}  # of requests that are made once more
    again: deque[CaptionRequest] = deque()  # those of them that wait for it
    done: dict[str, Outcome] = {}

    def to_make() -> Iterator[CaptionRequest]:
        while (request := again.popleft() if again else next(source, None)) is not None:
            yield request

    def settle(request: CaptionRequest, outcome: Outcome, *, faulty: bool = False) -> None:
        """Take what one try came to."""
        if settings.retry_flagged and request.attempt == 1 and faulty:
            first[request.key] = outcome
            again.append(_once_more(request))
            return
        if request.attempt > 1:
            outcome = _better(first.pop(request.key), outcome, faulty=faulty)
        if record:
            record(outcome)
        done[request.key] = outcome

    def prepared() -> Iterator[PreparedRequest]:
        for request, decoded in _with_frames(to_make(), settings, engine):
            if request.attempt == 1:
                if any(request.key in known for known in (in_flight, first, done)):
                    raise SettingsError(f"two requests have the key {request.key!r}; each needs one of its own.")
                order.append(request.key)
            if isinstance(decoded, Failure):
                settle(request, decoded)
            else:
                in_flight[request.key] = request, _told(decoded)
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
                settle(asked, answer)
            else:
                outcome, faulty = _select(asked, told, answer, settings, engine)
                settle(asked, outcome, faulty=faulty)
            while order and order[0] in done:
                yield done.pop(order.popleft())
        if next(stream, None) is not None:
            raise EngineError("the engine stopped although there were requests left.")
        for asked, _ in in_flight.values():
            settle(asked, Failure.of(asked, "the engine gave no answer to this request."))
        in_flight.clear()
        if not again:  # a second stream leaves none: nothing is made a third time
            break
    yield from (done.pop(key) for key in order)


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


def _told(frames: Frames) -> dict[str, Any]:
    """What the record says of frames."""
    if frames is NO_FRAMES:
        return {}
    seen = (
        {}
        if frames.decoded_share is None
        else {"decoded_share": frames.decoded_share, "decoded_seconds": round(frames.duration_seconds, 3)}
    )
    return {
        "frame_timestamps": [round(seconds, 3) for seconds in frames.timestamps],
        "frame_size": [frames.pixels.shape[2], frames.pixels.shape[1]],
        "video_tokens": frames.video_tokens,
        **seen,
    }


def _once_more(request: CaptionRequest) -> CaptionRequest:
    """The second try: another seed and, where the likeliest tokens were or may have been taken, others, too."""
    seed = int.from_bytes(hashlib.sha256(f"{request.seed}, once more".encode()).digest()[:8], "big")
    told = request.sampling
    # Without a temperature several candidates are drawn at random; one may be or not, as the checkpoint says.
    greedy = told.temperature == 0 or (told.temperature is None and not told.do_sample and request.num_captions == 1)
    sampling = replace(told, temperature=_RETRY_TEMPERATURE, top_p=_RETRY_TOP_P) if greedy else told
    return replace(request, attempt=2, seed=seed, sampling=sampling)


def _better(first: Outcome, second: Outcome, *, faulty: bool) -> Outcome:
    """Which of two tries to have: the second, where it is without fault or the first had nothing to keep."""
    if isinstance(second, Caption) and (isinstance(first, Failure) or not faulty):
        return second
    if isinstance(first, Caption):
        return replace(first, meta={**first.meta, "tries": 2})
    return first if isinstance(second, Caption) else replace(first, message=f"{first.message} And: {second.message}")


def _select(
    request: CaptionRequest, frames_told: dict[str, Any], generation: Generation, settings: Settings, engine: Engine
) -> tuple[Outcome, bool]:
    """Keep candidates. One without words is never kept, one with faults only where there is none with fewer.

    Returns:
        What came of it, and whether that is nothing but candidates with faults.
    """
    candidates = generation.candidates
    if len(candidates) != request.num_captions:
        message = f"the engine gave {len(candidates)} candidates; asked for were {request.num_captions}."
        return Failure.of(request, message), False
    faults = [find_faults(candidate, request) for candidate in candidates]
    spoken = [number for number, found in enumerate(faults) if "empty" not in found]
    if not spoken or (settings.keep == "all" and len(spoken) < len(candidates)):
        silent = len(candidates) - len(spoken)
        return Failure.of(request, f"the model gave no text for {silent} of {len(candidates)} candidates."), True
    fewest = min(len(faults[number]) for number in spoken)
    usable = spoken if settings.keep == "all" else [number for number in spoken if len(faults[number]) == fewest]
    picked, reason = SELECTORS[settings.keep]([candidates[number].text for number in usable], request)
    if len(usable) < len(candidates):
        reason += f"; left out before: {len(candidates) - len(usable)} with faults"
    kept = tuple(usable[number] for number in picked)
    flags: set[Fault | Literal["truncated"]] = {fault for number in kept for fault in faults[number]}
    if "decoded_share" in frames_told:
        flags.add("truncated")
    meta: dict[str, Any] = {
        "engine": engine.info.engine,
        "model": engine.info.model,
        "revision": engine.info.revision,
        "prompt": request.prompt,
        "prompt_sha256": _prompt_sha256(request),
        "sampling": request.sampling.told(),
        "seed": request.seed,
        **frames_told,
        **engine.info.details,
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": [candidate.num_tokens for candidate in generation.candidates],
        "stop_reasons": [candidate.stop_reason for candidate in generation.candidates],
        "kept": list(kept),
        "reason": reason,
        "faults": [" ".join(found) for found in faults],
        "flags": sorted(flags),
        "try": request.attempt,
        "tries": request.attempt,
    }
    return Caption(key=request.key, kept=kept, reason=reason, candidates=candidates, meta=meta), all(faults)


def _prompt_sha256(request: CaptionRequest) -> str:
    text = f"{request.system_prompt or ''}\0{request.prompt}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
