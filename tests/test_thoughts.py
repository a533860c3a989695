"""Where a thought ends and the caption begins, and what becomes of either."""

import pytest
from flow import ScriptedEngine, named, request, said

from reelscribe.config import Settings
from reelscribe.layouts import caption_cells
from reelscribe.outcomes import choose
from reelscribe.pipeline import caption
from reelscribe.tasks import Task
from reelscribe.thoughts import set_apart
from reelscribe.values import Answer, Candidate, Caption, Failure, Outcome

RAW = "<think>\nA ring? Yes.\n</think>\n\nA red ring."


def _only(*texts: str, keep: str = "random_any") -> Outcome:
    engine = ScriptedEngine(lambda _: said(*texts))
    (outcome,) = caption([request(num_captions=len(texts), keep=keep)], Settings(), engine)
    return outcome


@pytest.mark.parametrize(
    ("raw", "thought", "text", "unclosed"),
    [
        (" A red ring. ", "", " A red ring. ", False),
        (RAW, "A ring? Yes.", "A red ring.", False),
        (RAW.removeprefix("<think>"), "A ring? Yes.", "A red ring.", False),
        ("<think>\n\n</think>\n\nA red ring.", "", "A red ring.", False),
        ("\n<think>A ring?", "A ring?", "", True),
        ("<think>", "", "", True),
        ("<think></think>", "", "", False),
        ("<think>A ring?</think>", "A ring?", "", False),
        ("<think>A ring?</think>A cat?</think>A red ring.", "A ring?</think>A cat?", "A red ring.", False),
        ("<think>A ring?</think><think>Or a cat", "A ring?</think><think>Or a cat", "", True),
        ("A screen says <think> in white.", "", "A screen says <think> in white.", False),
    ],
)
def test_thought_and_text_are_set_apart(raw: str, thought: str, text: str, unclosed: bool) -> None:
    made = set_apart(Candidate(text=raw, stop_reason="stop", num_tokens=20))
    assert made == Candidate(text=text, stop_reason="stop", num_tokens=20, thought=thought, unclosed=unclosed)
    assert set_apart(made) == made


def test_caption_is_what_stands_behind_the_thought() -> None:
    outcome = _only(RAW, "A blue ring.", keep="all")
    assert isinstance(outcome, Caption)
    assert outcome.texts == ("A red ring.", "A blue ring.")
    cells = caption_cells(outcome, Task())
    meta = cells["meta"]
    assert (cells["text"], cells["candidates"]) == ("A red ring.", ["A red ring.", "A blue ring."])
    assert meta["thoughts"] == ["A ring? Yes.", ""]
    assert meta["completion_tokens"] == [len(RAW.split()), 3], "all tokens are counted"


def test_no_caption_has_null_for_thoughts() -> None:
    meta = {"faults": [""], "seed": 0, "flags": [], "sampling": {}, "frame_timestamps": None}
    old = Caption(id=named("0"), kept=(0,), reason="", candidates=said("A ring."), meta=meta)
    assert caption_cells(old, Task())["meta"]["thoughts"] == [""]


@pytest.mark.parametrize("keep", ["random_any", "similar_one_simhash", "all"])
def test_candidate_that_was_still_thinking_is_never_kept(keep: str) -> None:
    outcome = _only("<think>A ring ...", "A red ring ...", keep=keep)
    assert isinstance(outcome, Caption)
    assert (outcome.kept, outcome.meta["faults"], outcome.meta["flags"]) == ((1,), ["unclosed", "cut_off"], ["cut_off"])
    assert caption_cells(outcome, Task())["candidates"] == ["", "A red ring ..."]
    again = choose(request(keep=keep), Answer(id=outcome.id, candidates=outcome.candidates, meta=outcome.meta))
    assert again.kept == (1,)


def test_nothing_but_thoughts_is_a_failure_that_says_what_to_do() -> None:
    outcome = _only("<think>A ring ...", "<think></think>")
    assert isinstance(outcome, Failure)
    assert outcome.message == (
        "the model gave no text for 2 of 2 candidates. It was still thinking at the end of 1: raise max_tokens in "
        "sampling."
    )


def test_thought_without_an_end_is_made_once_more_where_that_is_asked_for() -> None:
    engine = ScriptedEngine(lambda item: said("<think>A ring ..." if item.requests[0].attempt == 1 else RAW))
    (outcome,) = caption([request()], Settings(retry_flagged=True), engine)
    assert isinstance(outcome, Caption)
    assert (outcome.texts, outcome.meta["try"]) == (("A red ring.",), 2)
