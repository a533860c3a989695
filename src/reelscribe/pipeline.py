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
from typing import Any, Protocol

from reelscribe.config import Settings
from reelscribe.engines.base import Engine
from reelscribe.errors import ClipError, EngineError, SettingsError
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

    Args:
        requests: to caption.
        settings: which frames, and which candidates to keep.
        engine: that captions.
        record: called with each outcome as soon as there is one, in any order, from any thread.

    Raises:
        SettingsError: two requests that are on their way at one time have the same key.
        EngineError: the engine broke, or does not keep to its contract.
    """
    budget = FrameBudget.of(settings, engine.info.limits)
    order: deque[CaptionRequest] = deque()
    in_flight: dict[str, tuple[CaptionRequest, dict[str, Any]]] = {}  # without the pixels, which are the engine's now
    done: dict[str, Outcome] = {}
    limits = FetchLimits.of(settings)
    ahead: Iterable[tuple[CaptionRequest, Frames | Failure]] = (
        decode_ahead(
            requests,
            budget,
            max_bytes=settings.prefetch_bytes,
            decoders=settings.decoders,
            decode_seconds=settings.decode_seconds,
            decoder_bytes=settings.decoder_bytes,
            limits=limits,
        )
        if engine.info.wants_frames
        else (_as_file(request, limits) for request in requests)
    )

    def have(outcome: Outcome) -> Outcome:
        if record:
            record(outcome)
        done[outcome.key] = outcome
        return outcome

    def prepared() -> Iterator[PreparedRequest]:
        for request, decoded in ahead:
            if request.key in in_flight or request.key in done:
                raise SettingsError(f"two requests have the key {request.key!r}; each needs one of its own.")
            order.append(request)
            if isinstance(decoded, Failure):
                have(decoded)
            else:
                in_flight[request.key] = request, _told(decoded)
                yield PreparedRequest(request=request, frames=decoded)

    stream = prepared()
    for answer in engine.generate(stream):
        if answer.key not in in_flight:
            raise EngineError(f"the engine answered {answer.key!r}, which it was not asked, or had answered before.")
        asked, told = in_flight.pop(answer.key)
        have(_select(asked, told, answer, settings, engine) if isinstance(answer, Generation) else answer)
        while order and order[0].key in done:
            yield done.pop(order.popleft().key)
    if next(stream, None) is not None:
        raise EngineError("the engine stopped although there were requests left.")
    for request in order:
        yield done.get(request.key) or have(Failure.of(request, "the engine gave no answer to this request."))


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
    return {
        "frame_timestamps": [round(seconds, 3) for seconds in frames.timestamps],
        "frame_size": [frames.pixels.shape[2], frames.pixels.shape[1]],
        "video_tokens": frames.video_tokens,
    }


def _select(
    request: CaptionRequest, frames_told: dict[str, Any], generation: Generation, settings: Settings, engine: Engine
) -> Outcome:
    """Keep candidates. One without a word is never kept, one that was cut off only where there is no whole one."""
    candidates = generation.candidates
    if len(candidates) != request.num_captions:
        return Failure.of(
            request, f"the engine gave {len(candidates)} candidates; asked for were {request.num_captions}."
        )
    spoken = [number for number, candidate in enumerate(candidates) if candidate.text.strip()]
    if not spoken or (settings.keep == "all" and len(spoken) < len(candidates)):
        silent = len(candidates) - len(spoken)
        return Failure.of(request, f"the model gave no text for {silent} of {len(candidates)} candidates.")
    whole = [number for number in spoken if candidates[number].stop_reason == "stop"]
    usable = whole if whole and settings.keep != "all" else spoken
    picked, reason = SELECTORS[settings.keep]([candidates[number].text for number in usable], request)
    if len(usable) < len(candidates):
        reason += f"; left out before: {len(candidates) - len(usable)} cut off or empty"
    kept = tuple(usable[number] for number in picked)
    cut_off = any(candidates[number].stop_reason == "length" for number in kept)
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
        "flags": ["cut_off"] if cut_off else [],
    }
    return Caption(key=request.key, kept=kept, reason=reason, candidates=candidates, meta=meta)


def _prompt_sha256(request: CaptionRequest) -> str:
    text = f"{request.system_prompt or ''}\0{request.prompt}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
