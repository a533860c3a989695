"""Answers that depend on nothing beside them, to the last bit."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import Prepare

from reelscribe.engines.repeatable import repeatable
from reelscribe.engines.running import RunningBatch
from reelscribe.engines.transformers import TransformersEngine
from reelscribe.sampling_params import SamplingParams
from reelscribe.values import Failure, Generation, Work

SAMPLED = SamplingParams(temperature=1.0, top_k=20, max_tokens=12)


def engine(*, deterministic: bool) -> TransformersEngine:
    """In bfloat16, whose sums show in what shapes they were taken."""
    return TransformersEngine("shapes", device="cpu", dtype="bfloat16", deterministic=deterministic)


@pytest.fixture
def works(prepare: Prepare) -> list[Work]:
    """A clip with two questions, and others."""
    asking: dict[str, Any] = {"num_captions": 2, "sampling": SAMPLED, "keep": "likeliest"}
    first, *others = [
        prepare(f"{number}", frames=4 + number, prompt="What?" * (number + 1), **asking) for number in range(4)
    ]
    [another] = prepare("0 more", prompt="What moves, and where?", **asking).requests
    return [replace(first, requests=(*first.requests, another)), *others]


def told(engine: TransformersEngine, works: list[Work]) -> dict[str, list[tuple[str, float | None]]]:
    """Texts and likelihoods of the candidates of each request."""
    made = {}
    for answer in engine.generate(iter(works)):
        assert isinstance(answer, Generation)
        made[answer.id.task] = [(each.text, each.mean_logprob) for each in answer.candidates]
    return made


@pytest.mark.parametrize("deterministic", [True, False])
def test_no_bit_depends_on_others(deterministic: bool, works: list[Work]) -> None:
    one = engine(deterministic=deterministic)
    alone = {name: said for work in works for each in work.singly() for name, said in told(one, [each]).items()}
    assert len(alone) == 5
    assert all(isinstance(score, float) for said in alone.values() for _, score in said)
    for order in (works, works[::-1]):
        assert (told(one, order) == alone) == deterministic


def test_a_request_that_fails_costs_only_itself(works: list[Work], monkeypatch: pytest.MonkeyPatch) -> None:
    one, join = engine(deterministic=True), RunningBatch.join

    def failing(batch: RunningBatch, group: Any) -> None:
        join(batch, group)
        assert torch.are_deterministic_algorithms_enabled()
        if [each.request.id.task for item in group for each in item.questions] == ["0 more"]:
            raise RuntimeError("made up")

    monkeypatch.setattr(RunningBatch, "join", failing)
    answers = {answer.id.task: answer for answer in one.generate(iter(works))}
    failures = {name: answer.message for name, answer in answers.items() if isinstance(answer, Failure)}
    assert failures == {"0 more": "RuntimeError: made up"}
    assert len(answers) == 5


def test_operations_are_held_to_repeat_only_for_a_while() -> None:
    def broken() -> None:
        with repeatable():
            assert torch.are_deterministic_algorithms_enabled()
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    assert not torch.are_deterministic_algorithms_enabled()
