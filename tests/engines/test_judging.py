"""Whether candidates hold for the clip, as the model says: behind what it has read, and the same as from the start."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import Prepare
from flow import named
from generating import WILD, variant

from reelscribe.claims import claims_in
from reelscribe.engines.branching import BranchingCache
from reelscribe.engines.judging import YesNo, chance_in_words
from reelscribe.engines.transformers import TransformersEngine
from reelscribe.sampling_params import SamplingParams
from reelscribe.values import Answer, Candidate, Failure, Generation, Work

SENTENCE = SamplingParams(temperature=0.0)
JUDGE = "Is this statement true: {caption} Answer yes or no."


def judged(prepare: Prepare, key: str, **request: Any) -> Work:
    return prepare(key, **{"num_captions": 3, "sampling": WILD, "keep": "judged", "judge": JUDGE, **request})


@pytest.fixture(scope="module")
def works(prepare: Prepare) -> list[Work]:
    """Clips of several lengths, of which the first ends last; it has a question of another kind beside."""
    several = [
        judged(prepare, f"{frames}", frames=frames, seed=frames, sampling=replace(WILD, max_tokens=tokens))
        for frames, tokens in ((2, 12), (5, 4), (8, 4))
    ]
    beside = prepare("beside", frames=2, prompt="Where is it, and why?", sampling=WILD)
    return [replace(several[0], requests=(several[0].requests[0], beside.requests[0])), *several[1:]]


def from_the_start(engine: TransformersEngine, model: Any, work: Work, caption: str) -> float:
    """P(yes) from one pass over the whole prompt, by Transformers."""
    request = work.requests[0].judging(caption)
    scores = model(**engine.inputs([replace(work, requests=(request,))])).logits[:, -1]
    return YesNo(engine._processor.tokenizer).chances(scores)[0]


@torch.inference_mode()
def check(engine: TransformersEngine, model: Any, works: list[Work], made: list[Any]) -> None:
    """See that all judged candidates have the chance that they have from the start."""
    answers = {answer.id: answer for answer in made if isinstance(answer, Generation)}
    for work in works:
        answer = answers[work.requests[0].id]
        for candidate in answer.candidates:
            expected = from_the_start(engine, model, work, candidate.text)
            assert candidate.scores["judged"] == pytest.approx(expected, abs=1e-5)
    said = (candidate for answer in answers.values() for candidate in answer.candidates)
    chances = {candidate.scores["judged"] for candidate in said if candidate.scores}
    assert len(chances) > len(works)


def test_p_yes_is_that_of_one_pass_over_the_whole_prompt_and_the_clip_is_looked_at_once(
    lively_engine: TransformersEngine, plain_model: Any, works: list[Work]
) -> None:
    looks = []
    hook = lively_engine._model.model.visual.register_forward_pre_hook(lambda *_: looks.append(1))
    batch = variant(lively_engine)._new_batch()
    made = []
    for work in works:  # they join, and leave, while others are under way
        batch.join([lively_engine._inputs.prepare(work)])
        batch.step()
        made += batch.finished()
    while batch.works:
        batch.step()
        made += batch.finished()
    hook.remove()
    assert len(looks) == len(works)
    check(lively_engine, plain_model, works, made)
    [beside] = [answer for answer in made if answer.id == works[0].requests[1].id]
    assert isinstance(beside, Generation)
    assert not beside.candidates[0].scores


def test_where_nothing_is_left_of_a_prefix_it_is_the_same(
    lively_engine: TransformersEngine, plain_model: Any, works: list[Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = variant(lively_engine)

    def alike(batch: Any) -> None:
        batch._branches = batch._together = False
        batch._empty()

    new = engine._new_batch

    def without() -> Any:
        batch = new()
        alike(batch)
        return batch

    monkeypatch.setattr(engine, "_new_batch", without)
    monkeypatch.setattr(BranchingCache, "branch", None)
    check(lively_engine, plain_model, works, list(engine.generate(iter(works))))


TOLD = "A small red ring moves left. Dogs bark; it stops."
CLAIMS = ["A small red ring moves left.", "Dogs bark", "it stops."]


def given(*texts: str) -> Answer:
    candidates = tuple(Candidate(text=text, stop_reason="stop", num_tokens=None) for text in texts)
    return Answer(id=named("given"), candidates=candidates, meta={})


@torch.inference_mode()
def test_claims_of_what_is_given_and_of_what_is_said_are_judged_one_by_one(
    lively_engine: TransformersEngine, plain_model: Any, prepare: Prepare
) -> None:
    verified: dict[str, Any] = {"keep": "all", "judge": JUDGE, "verify": True}
    told = prepare("given", frames=4, given=given(TOLD, "It stops."), **verified)
    told = replace(told, requests=(told.requests[0].for_engine(),))
    asked = judged(prepare, "said", frames=6, num_captions=2, verify=True)
    made = {answer.id: answer for answer in variant(lively_engine).generate(iter([told, asked]))}
    for work in (told, asked):
        answer = made[work.requests[0].id]
        assert isinstance(answer, Generation)
        for candidate in answer.candidates:
            assert list(candidate.claims) == list(claims_in(candidate.text))
            assert ("judged" in candidate.scores) == (work is asked)
            for claim, chance in candidate.claims.items():
                assert chance == pytest.approx(from_the_start(lively_engine, plain_model, work, claim), abs=1e-5)
    answer = made[told.requests[0].id]
    assert isinstance(answer, Generation)
    first, second = answer.candidates
    assert [first.text, second.text] == [TOLD, "It stops."]
    assert list(first.claims) == CLAIMS


def test_a_judge_that_fails_once_costs_nothing(
    lively_engine: TransformersEngine, plain_model: Any, works: list[Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    check(lively_engine, plain_model, works, list(variant(lively_engine).generate(iter(works))))
    expected = {answer.id: answer for answer in variant(lively_engine).generate(iter(works))}
    calls = []
    branch = BranchingCache.branch

    def failing(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("the card is full")
        return branch(*args)

    monkeypatch.setattr(BranchingCache, "branch", failing)
    made = {answer.id: answer for answer in variant(lively_engine).generate(iter(works))}
    assert made.keys() == expected.keys()
    for name, answer in made.items():
        before = expected[name]
        assert isinstance(answer, Generation)
        assert isinstance(before, Generation)
        assert [each.text for each in answer.candidates] == [each.text for each in before.candidates]
        assert all(each.scores for each in answer.candidates) == (name.task != "beside")


def test_the_built_in_model_tells_what_is_true(shapes_engine: TransformersEngine, prepare: Prepare) -> None:
    [right] = variant(shapes_engine).generate(iter([judged(prepare, "a", frames=8, num_captions=1, sampling=SENTENCE)]))
    assert isinstance(right, Generation)
    [candidate] = right.candidates
    assert candidate.scores["judged"] > 0.9
    wrong = from_the_start(
        shapes_engine,
        shapes_engine._model,
        judged(prepare, "a", frames=8),
        candidate.text.replace("black", "gray").replace("white", "black").replace("gray", "white"),
    )
    assert wrong < 0.1


def test_a_text_without_the_clip_is_not_judged_but_fails(lively_engine: TransformersEngine, prepare: Prepare) -> None:
    [made] = variant(lively_engine).generate(iter([judged(prepare, "a", video=False)]))
    assert isinstance(made, Failure)
    assert made.message.startswith("a judge needs a chat template that puts the video before the question")


def test_yes_and_no_are_found_in_whatever_case_and_blanks() -> None:
    told = [("Yes", -1.0), (" yes", -2.0), ("NO", -1.5), ("Maybe", -0.1)]
    yes, no = (torch.tensor([-1.0, -2.0]).exp().sum(), torch.tensor(-1.5).exp())
    assert chance_in_words(told) == pytest.approx(float(yes / (yes + no)))
    assert chance_in_words([("Maybe", -0.1)]) is None
