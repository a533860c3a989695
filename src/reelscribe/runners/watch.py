"""Measures the speed of a run, and which stage limits it."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any, Final, TypeVar

from reelscribe.engines.base import Engine, ModelInfo
from reelscribe.engines.feed import Feed, feeding
from reelscribe.pipeline import Maker
from reelscribe.runners.on_demand import OnDemand
from reelscribe.values import Caption, Failure, Generation, RequestId, RowResult, Work

T = TypeVar("T")

_MOST_POINTS: Final = 120
"""Maximum number of points in the course of a run. If there are more, every second one is dropped."""

_SECOND_BATCH: Final = 1.5
"""An answer belongs to a second batch if it comes later than this factor times the time of the first answer."""

_HELD_UP: Final = 0.5
"""A stage is the bottleneck if the other stages wait for it for more than this share of the time."""


class Watch:
    """Wraps an engine, acts as an engine itself, and measures times.

    The clock starts when the first row is requested. For reading, decoding and writing it counts only the time in
    which another stage waits for them: work that nobody waits for costs nothing. (An engine may have work in flight
    while it waits for more.)

    Args:
        engine: the engine; or a `Maker`, whose results are only counted. An `OnDemand` engine is loaded when `info` is
            first read. The clock excludes the loading time.
        on_load: called with engine and model after loading.
        on_loading: called with a text before an engine is loaded on demand.
    """

    def __init__(
        self,
        engine: Engine | Maker | OnDemand,
        on_load: Callable[[ModelInfo], None] = lambda info: None,
        on_loading: Callable[[str], None] = lambda loading: None,
    ) -> None:
        self._engine, self._on_load, self._on_loading = engine, on_load, on_loading
        self._loaded: Engine | Maker | None = None
        self.load_seconds = 0.0
        """Seconds that it took to load the engine on demand."""
        self.is_loading = False
        self.rows_done = 0
        """Number of rows whose outcomes are all made or known. They may still wait to be written in order."""
        self._rows_made = 0
        self._last_made = self._first_answer = self._last_answer = 0.0
        """When the last row was made, and when the engine gave its first and its last answer: seconds of the clock."""
        self.clips = 0
        """Number of clips for which the engine has answered all requests that came with them, also with failures."""
        self.answers = 0
        """Number of answers, failures included. A clip may have several requests, and text stages have others."""
        self.tokens = 0
        """Number of generated tokens that the engine reports, including those of candidates that were not kept."""
        self._began: float | None = None
        self._reading = self._waiting = self._writing = 0.0
        self._lock = threading.Lock()  # requests are pulled in a thread of the feed's own
        self.in_flight = 0
        """Number of requests that the engine has taken and not answered yet."""
        self._feed: Feed[Work] | None = None
        self._unanswered: dict[RequestId, set[RequestId]] = {}
        """For each unanswered request about a clip: the unanswered requests of the same work. They share one set."""
        self._busy, self._busy_since = 0.0, 0.0
        self._course: list[tuple[float, int]] = []
        self._course_step = 0.1
        self.model = (engine.known if isinstance(engine, OnDemand) else None) or self.info
        """Engine and model as far as they are known; the limits are valid only after loading."""

    @property
    def info(self) -> ModelInfo:
        """Engine and model. Reading this loads the engine if it is not loaded yet."""
        return self._load().info

    def _load(self) -> Engine | Maker:
        if self._loaded:
            return self._loaded
        engine = self._engine
        if isinstance(engine, OnDemand):
            began = time.monotonic()
            self.is_loading = True
            self._on_loading(engine.loading)
            try:
                engine = engine.load()
            finally:
                self.is_loading = False
            self.load_seconds = time.monotonic() - began
            self._began = self._began and self._began + self.load_seconds
        self._loaded, self.model = engine, engine.info
        self._on_load(engine.info)
        return engine

    def generate(self, works: Iterator[Work]) -> Iterator[Generation | Failure]:
        """Pass works to the engine, and yield its answers."""
        engine = self._load()
        if isinstance(engine, Maker):
            raise TypeError("what makes captions elsewhere has no engine to drive")
        with feeding(works) as feed:
            self._feed = feed
            feed.around = partial(self._waited_for, feed)
            for answer in engine.generate(feed):
                self._count_in_flight(-1)
                self._count(answer, clips=self._is_last(answer.id))
                yield answer

    def count_row(self, made: bool) -> None:
        """Count a row whose outcomes are complete; `made` says whether any of them is new."""
        self.rows_done += 1
        if made:
            self._rows_made += 1
            self._last_made = self.seconds

    def seconds_for(self, rows: int) -> float | None:
        """Estimated seconds for this many more rows; None before the second batch.

        An engine may answer in batches, so the first batch alone says nothing of its rate.
        """
        if not self._rows_made or not self._last_answer > _SECOND_BATCH * self._first_answer:
            return None
        return max(rows * self._last_made / self._rows_made - (self.seconds - self._last_made), 0.0)

    @property
    def clips_begun(self) -> int:
        """Number of clips that the engine works on; those that it has pulled and not begun are not counted."""
        if isinstance(self._engine, Maker):
            return self._engine.clips_begun
        if self._feed is None:
            return 0
        shown = len({id(names) for names in list(self._unanswered.values())})
        return max(shown - self._feed.num_waiting, 0)

    def count(self, result: RowResult) -> None:
        """Count the outcomes of a row that a `Maker` made."""
        slots = set()
        for outcome in result.outcomes:
            if outcome.id not in result.known:
                self._count(outcome, clips=outcome.id.slot not in slots)
                slots.add(outcome.id.slot)

    def _is_last(self, answered: RequestId) -> bool:
        """Whether this was the last unanswered request of a work that shows a clip."""
        left = self._unanswered.pop(answered, None)
        if left is None:  # a text stage
            return False
        left.discard(answered)
        return not left

    def _count(self, made: Generation | Caption | Failure, *, clips: bool) -> None:
        self.answers += 1
        self.clips += clips
        self._last_answer = self.seconds
        self._first_answer = self._first_answer or self._last_answer
        if not isinstance(made, Failure):
            self.tokens += sum(candidate.num_tokens or 0 for candidate in made.candidates)
        if self.seconds - (self._course[-1][0] if self._course else 0.0) >= self._course_step:
            self._course.append((round(self.seconds, 3), self.clips))
            if len(self._course) > _MOST_POINTS:
                self._course, self._course_step = self._course[1::2], 2 * self._course_step

    def _waited_for(self, feed: Feed[Work], pull: Callable[[], Work | None]) -> Work | None:
        """Pull the next work, and count the time as waiting, except for the part in which the source waited for answers
        of the engine: that time is the engine's.
        """
        began, held = time.monotonic(), feed.held_seconds
        work = pull()
        self._waiting += time.monotonic() - began - (feed.held_seconds - held)
        if work is not None:
            names = {request.id for request in work.requests}
            self._unanswered |= dict.fromkeys(names, names) if work.shows else {}
            self._count_in_flight(len(names))
        return work

    def _count_in_flight(self, change: int) -> None:
        with self._lock:
            now = time.monotonic()
            if self.in_flight > 0:
                self._busy += now - self._busy_since
            self.in_flight += change
            self._busy_since = now

    def rows(self, rows: Iterable[T]) -> Iterator[T]:
        """Pass rows through, and measure the time of reading."""
        source = iter(rows)
        while True:
            began = time.monotonic()
            self._began = self._began or began
            row = next(source, None)
            self._reading += time.monotonic() - began
            if row is None:
                return
            yield row

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """A context that measures the time of writing."""
        began = time.monotonic()
        yield
        self._writing += time.monotonic() - began

    @property
    def seconds(self) -> float:
        """Seconds since the first row was requested, without loading time; 0 before that."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    @property
    def course(self) -> list[tuple[float, int]]:
        """Pairs of seconds since the first row was requested and clips done by then; at most some hundred points."""
        return [*self._course, (round(self.seconds, 3), self.clips)] if self.clips else []

    @property
    def clips_per_second(self) -> float:
        """Clips per second of the engine, so far."""
        return self.clips / max(self.seconds, 1e-9)

    @property
    def answers_per_second(self) -> float:
        """Answers per second of the engine, so far."""
        return self.answers / max(self.seconds, 1e-9)

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens per second, so far."""
        return self.tokens / max(self.seconds, 1e-9)

    @property
    def engine_busy_share(self) -> float | None:
        """Share of the time in which the engine had at least one request; None if a `Maker` makes the captions."""
        if isinstance(self._engine, Maker):
            return None
        with self._lock:
            now = time.monotonic() - self._busy_since if self.in_flight > 0 else 0.0
            return min((self._busy + now) / max(self.seconds, 1e-9), 1.0)

    def shares(self) -> dict[str, float]:
        """Share of the time that was spent waiting for each stage before and after the engine."""
        seconds = max(self.seconds, 1e-9)
        decoding = max(self._waiting - self._reading, 0.0)
        parts = {"reading": self._reading, "decoding": decoding, "writing": self._writing}
        return {stage: min(part / seconds, 1.0) for stage, part in parts.items()}

    def bottleneck(self) -> str:
        """The stage that limits the speed: "reading", "decoding", "engine" or "writing"."""
        stage, share = max(self.shares().items(), key=lambda item: item[1])
        return stage if share > _HELD_UP else "engine"

    def told_of_model(self) -> dict[str, Any]:
        """Engine and model, ready for JSON; `limits` is None before loading."""
        return {**asdict(self.model), **({} if self._loaded else {"limits": None})}

    def told(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        busy = self.engine_busy_share
        return {
            "seconds": round(self.seconds, 3),
            "clips": self.clips,
            "answers": self.answers,
            "tokens": self.tokens,
            "clips_per_second": round(self.clips_per_second, 3),
            "answers_per_second": round(self.answers_per_second, 3),
            "tokens_per_second": round(self.tokens_per_second, 1),
            "shares_waited_for": {stage: round(share, 3) for stage, share in self.shares().items()},
            "engine_busy_share": None if busy is None else round(busy, 3),
            "in_flight": self.in_flight,
            "bottleneck": self.bottleneck(),
        }
