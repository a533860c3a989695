"""The engine without a model."""

import itertools
from collections.abc import Iterator

import pytest
from flow import prepared

from reelscribe.config import Settings
from reelscribe.engines import fake
from reelscribe.engines.fake import FakeEngine
from reelscribe.errors import EngineError, SettingsError
from reelscribe.values import Failure, Generation, Work
from reelscribe.video.sampling import VisionLimits


def test_tells_what_it_was_shown() -> None:
    (answer,) = FakeEngine().generate(iter([prepared(key="7", num_captions=2, prompt="one two three")]))
    assert isinstance(answer, Generation)
    assert answer.id.task == "7"
    assert [item.text for item in answer.candidates] == [
        "Candidate 0: 4 frames of 64x32 over 2.0 s.",
        "Candidate 1: 4 frames of 64x32 over 2.0 s.",
    ]
    assert {item.stop_reason for item in answer.candidates} == {"stop"}
    assert answer.candidates[0].num_tokens == 9
    assert answer.prompt_tokens == 4 + 3


def test_says_what_the_script_says() -> None:
    engine = FakeEngine(lambda item, number: f"{item.requests[0].id.task}/{number}")
    answers = list(engine.generate(prepared(key=key, num_captions=2) for key in "ab"))
    texts = [[item.text for item in answer.candidates] for answer in answers if isinstance(answer, Generation)]
    assert texts == [["a/0", "a/1"], ["b/0", "b/1"]]


def test_candidates_are_judged_where_that_is_asked() -> None:
    engine = FakeEngine(lambda item, number: "ab"[number], judge=lambda item, text: 0.75 if text == "b" else None)
    plain, judged = engine.generate(
        prepared(key=judge, num_captions=2, keep="judged", judge=judge) for judge in ("", "{caption}?")
    )
    assert isinstance(plain, Generation)
    assert isinstance(judged, Generation)
    assert [candidate.scores for candidate in plain.candidates] == [{}, {}]
    assert [candidate.scores for candidate in judged.candidates] == [{}, {"judged": 0.75}]


def test_refused_prompt_is_a_failure_and_the_next_goes_on() -> None:
    engine = FakeEngine(refuse="bad")
    requests = [prepared(key="a"), prepared(key="b", prompt="a bad prompt"), prepared(key="c")]
    answers = list(engine.generate(iter(requests)))
    assert [type(answer) for answer in answers] == [Generation, Failure, Generation]
    failure = answers[1]
    assert isinstance(failure, Failure)
    assert (failure.id.task, failure.kind) == ("b", "engine")
    assert failure.message == "the prompt holds 'bad', which the fake engine refuses."


@pytest.mark.parametrize("count", [0, 2])
def test_breaks_when_it_was_told_to(count: int) -> None:
    answers = FakeEngine(break_after=count).generate(prepared(key=str(n)) for n in itertools.count())
    assert [next(answers).id.task for _ in range(count)] == [str(n) for n in range(count)]
    with pytest.raises(EngineError, match=f"the fake engine breaks after {count} requests, as it was told to"):
        next(answers)


def test_keeps_to_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("reelscribe.engines.fake.time.sleep", slept.append)
    assert len(list(FakeEngine(clips_per_second=4).generate(prepared() for _ in range(3)))) == 3
    assert slept == [0.25] * 3
    list(FakeEngine().generate(iter([prepared()])))
    assert len(slept) == 3


@pytest.mark.parametrize("rate", [0, -1.0, float("nan")])
def test_rate_must_be_one(rate: float) -> None:
    with pytest.raises(SettingsError, match=f"clips_per_second must be a number above 0; got {rate}"):
        FakeEngine(clips_per_second=rate)


def test_pulls_one_request_at_a_time() -> None:
    pulled = []

    def requests() -> Iterator[Work]:
        for number in itertools.count():
            pulled.append(number)
            yield prepared(key=str(number))

    answers = FakeEngine().generate(requests())
    next(answers)
    assert pulled == [0]


def test_stands_for_a_model_of_given_limits() -> None:
    limits = VisionLimits(token_pixels=28)
    assert FakeEngine(limits=limits).info.limits is limits
    assert FakeEngine().info.limits == VisionLimits()
    assert fake.load(Settings()).info.model == "fake"


def test_model_params_of_the_settings_are_its_script() -> None:
    engine = fake.load(Settings(engine="fake", model_params={"break_after": 0}))
    with pytest.raises(EngineError, match="breaks after 0 requests"):
        list(engine.generate(iter([prepared()])))
    with pytest.raises(SettingsError, match=r"model_params of the fake engine are clips_per_second, .*; got 'speed'"):
        fake.load(Settings(engine="fake", model_params={"speed": 1}))
