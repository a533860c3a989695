"""Tokens that are read one step late, as they are on a GPU: nothing of that shows in the answers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Prepare
from flow import fail_at
from generating import GREEDY, WILD, answers, variant

from reelscribe.engines import sampling
from reelscribe.engines.branching import BranchingCache
from reelscribe.engines.running import RunningBatch
from reelscribe.engines.sampling import Sampler
from reelscribe.engines.transformers import TransformersEngine
from reelscribe.sampling_params import SamplingParams
from reelscribe.schemas import Schema
from reelscribe.values import Candidate, Failure, Generation, RequestId, Work

Answers = dict[RequestId, Generation | Failure]


@pytest.fixture(scope="module")
def works(prepare: Prepare) -> list[Work]:
    """Answers that end by an end token, a stop string or a limit, and some that are judged or scored."""
    sampled = SamplingParams(temperature=1.5, max_tokens=12)
    asked: list[dict[str, Any]] = [
        {"sampling": replace(sampled, repetition_penalty=1.1), "num_captions": 3},
        {"sampling": replace(sampled, stop=("e", "o")), "num_captions": 2},
        {"sampling": GREEDY},
        {"sampling": WILD, "num_captions": 4, "keep": "likeliest"},
        {"sampling": replace(WILD, top_p=0.9), "num_captions": 3, "keep": "judged", "judge": "Is it: {caption}?"},
        {"sampling": replace(sampled, stop_token_ids=tuple(range(40, 200))), "num_captions": 2},
        {"sampling": replace(sampled, temperature=1.0, top_k=20, max_tokens=20), "num_captions": 2},
    ]
    made = [prepare(f"{number}", frames=2 + 2 * (number % 3), seed=number, **each) for number, each in enumerate(asked)]
    requests = [request for number in (0, 1, 4) for request in made[number].requests]
    return [replace(made[0], requests=tuple(requests)), made[2], made[3], *made[5:]]


@pytest.fixture(scope="module")
def expected(lively_engine: TransformersEngine, works: list[Work]) -> Answers:
    return together(lively_engine, works)


def together(engine: TransformersEngine, works: list[Work], batch_size: int = 8) -> Answers:
    """Answers, with scores such that what rounding does in batches of other sizes does not show."""
    made = variant(engine, batch_size=batch_size).generate(iter(works))
    return {
        each.id: replace(each, candidates=tuple(map(rounded, each.candidates)))
        if isinstance(each, Generation)
        else each
        for each in made
    }


def rounded(candidate: Candidate) -> Candidate:
    mean = candidate.mean_logprob
    scores = {name: round(score, 4) for name, score in candidate.scores.items()}
    return replace(candidate, mean_logprob=None if mean is None else round(mean, 4), scores=scores)


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lets tokens be read late. Holds how many steps were not read yet after each one."""
    seen: list[int] = []
    step = Sampler.step

    def see(sampler: Sampler, logits: torch.Tensor) -> torch.Tensor:
        tokens = step(sampler, logits)
        seen.append(len(sampler._drawn))
        return tokens

    monkeypatch.setattr(sampling, "_LATE", ("cpu",))
    monkeypatch.setattr(Sampler, "step", see)
    return seen


def test_answers_are_those_of_tokens_that_are_read_at_once(
    lively_engine: TransformersEngine, works: list[Work], expected: Answers, waiting: list[int]
) -> None:
    made = [answer for answer in expected.values() if isinstance(answer, Generation)]
    assert len(made) == len(expected) == 7
    assert {candidate.stop_reason for answer in made for candidate in answer.candidates} == {"stop", "length"}
    assert together(lively_engine, works, 2) == expected
    assert sum(waiting) > len(waiting) / 2
    assert max(waiting) == 1


def test_a_row_with_a_schema_has_its_tokens_at_once(
    lively_engine: TransformersEngine, prepare: Prepare, waiting: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("llguidance")
    pair = Schema.of({"type": "object", "properties": {"a": {"enum": ["x", "yes"]}}, "required": ["a"]}, folder=Path())
    long = SamplingParams(temperature=1.5, max_tokens=40)
    works = [prepare("a", schema=pair, num_captions=2, sampling=long), prepare("b", num_captions=2, sampling=long)]
    late = answers(lively_engine, *works)
    assert 0 in waiting
    assert waiting[-2:] != [0, 0]  # the other one goes on without it
    monkeypatch.setattr(sampling, "_LATE", ())
    assert answers(lively_engine, *works) == late


def test_a_step_that_fails_does_not_cost_what_ended_in_the_one_before(
    shapes_engine: TransformersEngine, prepare: Prepare, waiting: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is whole, but that is not known yet when the next step fails, and fails again."""
    work = prepare("a", sampling=SamplingParams(temperature=0.0, max_tokens=64))
    [answer] = shapes_engine.generate(iter([work]))
    assert isinstance(answer, Generation)
    tokens = answer.candidates[0].num_tokens or 0
    steps = tokens + 1  # with the end token
    failed = fail_at(monkeypatch, RunningBatch, "_score", torch.OutOfMemoryError("full"), calls=range(steps, 999))
    assert list(shapes_engine.generate(iter([work]))) == [answer]
    assert failed == [steps]


@pytest.mark.parametrize("name", ["keep", "branch"])
def test_an_operation_that_fails_once_costs_nothing(
    lively_engine: TransformersEngine,
    works: list[Work],
    expected: Answers,
    waiting: list[int],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed = fail_at(monkeypatch, BranchingCache, name, torch.OutOfMemoryError("full"), calls={1})
    assert together(lively_engine, works, 2) == expected
    assert failed
