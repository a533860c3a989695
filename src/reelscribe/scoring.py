"""Answers on their way through scorers: beside the engine, in a thread, several clips a call."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Final, Self

from reelscribe.scores import Scorer, ToScore, scores_of
from reelscribe.values import Answer, Failure, Frames, Request, RequestId

logger = logging.getLogger(__name__)

_MOST_CLIPS: Final = 16
"""In one call of a scorer."""
_MOST_TOLD: Final = 3
"""Clips without scores that are warned of."""
_END_SECONDS: Final = 1.0
"""That a call is given to end if nobody wants it any more."""


class Scoring:
    """Holds the frames of requests that are to be scored, and gives answers to `settle` once they have scores.

    A scorer has a thread of its own. What comes while it is at work goes into its next call.

    Args:
        settle: takes answers, from any thread.
        changed: called after each that the scorer's thread gave.
        max_bytes: frames that may be held; those of one clip always may.
    """

    def __init__(
        self, settle: Callable[[Answer | Failure], None], changed: Callable[[], None], *, max_bytes: int
    ) -> None:
        self._settle, self._tell, self._max_bytes = settle, changed, max_bytes
        self._held: dict[RequestId, Frames] = {}
        self._waiting: deque[tuple[Request, Answer]] = deque()
        self._owed = 0
        """Answers that are not settled."""
        self._told = 0
        self._closed = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give up what is left."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread:
            self._thread.join(_END_SECONDS)

    @property
    def busy(self) -> bool:
        """Whether answers are on their way."""
        return self._owed > 0

    def has_room(self, frames: Frames) -> bool:
        """Whether these may be held, too."""
        with self._changed:
            held = {id(each): each.nbytes for each in self._held.values()}
        return not held or id(frames) in held or sum(held.values()) + frames.nbytes <= self._max_bytes

    def hold(self, request: Request, frames: Frames) -> None:
        """Hold the frames of a request that is to be scored, until its answer is."""
        with self._changed:
            self._held[request.id] = frames

    def take(self, request: Request, answer: Answer | Failure) -> None:
        """Take what a request came to.

        Raises:
            BaseException: what went wrong where answers were settled.
        """
        self._check()
        if request.scorer is None or isinstance(answer, Failure):
            with self._changed:
                self._held.pop(request.id, None)
            self._settle(answer)
            return
        with self._changed:
            self._waiting.append((request, answer))
            self._owed += 1
            if not self._thread:
                self._thread = threading.Thread(target=self._run, name="reelscribe-scorer", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait until all is settled.

        Raises:
            BaseException: what went wrong meanwhile.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self.busy or self._error)
        self._check()

    def _check(self) -> None:
        if self._error:
            raise self._error

    def _run(self) -> None:
        try:
            while batch := self._next_batch():
                for answer in self._scored(batch):
                    self._settle(answer)
                with self._changed:
                    self._owed -= len(batch)
                    self._changed.notify_all()
                self._tell()
        except BaseException as exc:  # raised where the answers are waited for
            self._error = exc
            with self._changed:
                self._changed.notify_all()
            self._tell()

    def _next_batch(self) -> list[tuple[Request, Answer]]:
        """Answers for one scorer, in the order in which they came; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            batch: list[tuple[Request, Answer]] = []
            while not self._closed and self._waiting and len(batch) < _MOST_CLIPS:
                if batch and self._waiting[0][0].scorer != batch[0][0].scorer:
                    break
                batch.append(self._waiting.popleft())
            return batch

    def _scored(self, batch: list[tuple[Request, Answer]]) -> list[Answer]:
        scorer = batch[0][0].scorer
        assert scorer
        with self._changed:
            frames = [self._held.pop(request.id) for request, _ in batch]
        texts = [tuple(each.text for each in answer.candidates if each.has_text) for _, answer in batch]
        asked = [
            ToScore(texts=said, frames=seen, row=request.row)
            for (request, _), said, seen in zip(batch, texts, frames, strict=True)
        ]
        given = iter(scores_of(scorer, [each for each in asked if each.texts]) if any(texts) else [])
        return [
            self._with_scores(request, answer, scorer, next(given) if said else ())
            for (request, answer), said in zip(batch, texts, strict=True)
        ]

    def _with_scores(self, request: Request, answer: Answer, scorer: Scorer, given: tuple[float, ...] | str) -> Answer:
        if isinstance(given, str):
            self._told += 1
            if self._told <= _MOST_TOLD:
                last = " Others are flagged `unscored` without a word." if self._told == _MOST_TOLD else ""
                logger.warning(
                    "The scorer %s gave no scores of %s (row %d), whose caption is flagged `unscored`: %s.%s",
                    *(scorer.name, request.clip.name, request.id.row, given, last),
                )
            return answer
        scores = iter(given)
        candidates = (
            replace(each, scores={**each.scores, scorer.name: next(scores)}) if each.has_text else each
            for each in answer.candidates
        )
        return replace(answer, candidates=tuple(candidates))
