"""An engine without a model, for trying things out and for testing the code around engines."""

import time
from collections.abc import Callable, Iterator
from typing import Final

from reelscribe.config import ModelSettings
from reelscribe.engines.base import ModelInfo
from reelscribe.engines.judging import to_judge, with_chances, with_given
from reelscribe.errors import EngineError, SettingsError
from reelscribe.values import Candidate, Failure, Generation, Work
from reelscribe.video.sampling import VisionLimits

Reply = Callable[[Work, int], str]
"""Makes the text of a candidate from a work of one request and the candidate's number."""
Judge = Callable[[Work, str], float | None]
"""The probability that a candidate or a claim is true, from 0 to 1, from a work of one request and the text. None for
neither yes nor no."""


def _describe(work: Work, number: int) -> str:
    count, height, width, _ = work.frames.pixels.shape
    return f"Candidate {number}: {count} frames of {width}x{height} over {work.frames.duration_seconds:.1f} s."


class FakeEngine:
    """An engine that answers by a script.

    Args:
        reply: makes each candidate's text. By default the text gives the number and the size of the frames.
        judge: judges candidates and claims, if a request wants that. By default all get 0.5.
        clips_per_second: the largest rate of answers; None for as fast as possible.
        refuse: a request whose prompt contains this text fails.
        break_after: the engine breaks once it has answered this many requests.
        break_on: the engine breaks at a request whose prompt contains this text.
        limits: the sizes of clips that the engine takes.
    """

    def __init__(
        self,
        reply: Reply = _describe,
        *,
        judge: Judge = lambda work, text: 0.5,
        clips_per_second: float | None = None,
        refuse: str | None = None,
        break_after: int | None = None,
        break_on: str | None = None,
        limits: VisionLimits | None = None,
    ) -> None:
        if clips_per_second is not None and not clips_per_second > 0:
            raise SettingsError(f"clips_per_second must be a number above 0; got {clips_per_second!r}.")
        self.info = ModelInfo(engine="fake", model="fake", revision=None, limits=limits or VisionLimits())
        self._reply, self._judge = reply, judge
        self._seconds = 1 / clips_per_second if clips_per_second else 0.0
        self._refuse = refuse
        self._break_after = break_after
        self._break_on = break_on

    def generate(self, works: Iterator[Work]) -> Iterator[Generation | Failure]:
        """Answer each request as the script says."""
        for answered, work in enumerate(one for several in works for one in several.singly()):
            if self._break_after is not None and answered >= self._break_after:
                raise EngineError(f"the fake engine breaks after {answered} requests, as it was told to.")
            if self._seconds:
                time.sleep(self._seconds)
            [request] = work.requests
            if self._break_on is not None and self._break_on in request.prompt:
                raise EngineError(f"the prompt holds {self._break_on!r}, at which the fake engine breaks.")
            if self._refuse is not None and self._refuse in request.prompt:
                message = f"the prompt holds {self._refuse!r}, which the fake engine refuses."
                yield Failure.of(request, message)
                continue
            count = 0 if request.given else request.num_captions
            texts = [self._reply(work, number) for number in range(count)]
            candidates = tuple(Candidate(text=text, stop_reason="stop", num_tokens=len(text.split())) for text in texts)
            prompt_tokens = work.frames.video_tokens + len(request.prompt.split())
            made = Generation(id=request.id, candidates=candidates, prompt_tokens=prompt_tokens)
            made = with_given(request, made)
            yield with_chances(request, made, {text: self._judge(work, text) for text in to_judge(request, made)})


_PARAMS: Final = ("clips_per_second", "refuse", "break_after", "break_on")


def load(settings: ModelSettings) -> FakeEngine:
    """Load the engine for `--engine fake`. `model_params` may set its rate, what it refuses and when it breaks.

    Raises:
        SettingsError: `model_params` has another name, or a wrong rate.
    """
    for name in settings.model_params:
        if name not in _PARAMS:
            raise SettingsError(f"model_params of the fake engine are {', '.join(_PARAMS)}; got {name!r}.")
    return FakeEngine(**settings.model_params)
