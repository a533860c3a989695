"""Passing answers through scorers, in a thread beside the engine, with several clips in a call."""

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
"""The most clips in one call of a scorer."""
_MOST_TOLD: Final = 3
"""The number of clips without scores that are warned of. Further ones are not."""
_END_SECONDS: Final = 1.0
"""How long leaving waits for a running call of a scorer."""


class Scoring:
    """Holds the frames of requests that need scores, and gives answers to `settle` once they have them.

    Scorers run in one thread. Answers that arrive while a scorer runs go into the next call.

    Args:
        settle: takes finished answers. It is called from any thread.
        changed: called each time the scorer's thread has settled answers.
        max_bytes: bytes of frames that may be held. The frames of one clip are always allowed.
    """

    def __init__(
        self, settle: Callable[[Answer | Failure], None], changed: Callable[[], None], *, max_bytes: int
    ) -> None:
        self._settle, self._tell, self._max_bytes = settle, changed, max_bytes
        self._held: dict[RequestId, Frames] = {}
        self._waiting: deque[tuple[Request, Answer]] = deque()
        self._owed = 0
        """The number of answers that wait for scores or are being scored."""
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
        """Give up the answers that are not settled."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread:
            self._thread.join(_END_SECONDS)

    @property
    def busy(self) -> bool:
        """Whether any answers are not settled."""
        return self._owed > 0

    def has_room(self, frames: Frames) -> bool:
        """Whether these frames may be held in addition to those that already are."""
        with self._changed:
            held = {id(each): each.nbytes for each in self._held.values()}
        return not held or id(frames) in held or sum(held.values()) + frames.nbytes <= self._max_bytes

    def hold(self, request: Request, frames: Frames) -> None:
        """Hold the frames of a request that needs scores, until its answer is scored."""
        with self._changed:
            self._held[request.id] = frames

    def take(self, request: Request, answer: Answer | Failure) -> None:
        """Take an answer. If it needs no scores, it is settled at once.

        Raises:
            BaseException: what the scorer's thread raised while it settled earlier answers.
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
        """Wait until all answers are settled.

        Raises:
            BaseException: what the scorer's thread raised.
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
        except BaseException as exc:  # raised again by `take` and `wait`
            self._error = exc
            with self._changed:
                self._changed.notify_all()
            self._tell()

    def _next_batch(self) -> list[tuple[Request, Answer]]:
        """Wait for answers, and return those for the next call of one scorer, in order of arrival. Empty at the end."""
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
