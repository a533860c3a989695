"""Candidates with faults: preferred against, flagged, and asked for once more, with the order and the bounds kept."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from flow import (
    AskingEngine,
    KeepingEngine,
    ScriptedEngine,
    ThreadedEngine,
    as_input,
    clip_bytes,
    named,
    put_clip,
    put_rows,
    read_rows_of,
    request,
    said,
)

from reelscribe.config import Settings
from reelscribe.engines.base import Engine
from reelscribe.engines.fake import FakeEngine
from reelscribe.errors import EngineError
from reelscribe.pipeline import caption, caption_rows
from reelscribe.runners.local import run
from reelscribe.sampling_params import SamplingParams
from reelscribe.values import Caption, Clip, Failure, Outcome, Request, Work
from reelscribe.video.sampling import VisionLimits

if TYPE_CHECKING:
    from reelscribe.engines.transformers import TransformersEngine

LOOP = "The man walks. " * 8
NO_CLIP = Clip(source=b"this is no video")
Script = Callable[[Work], Any]


ENGINES: dict[str, Callable[[Script], Engine]] = {
    "one by one": ScriptedEngine,
    "in threes": lambda answer: ScriptedEngine(answer, batch_size=3),
    "all at once": lambda answer: ScriptedEngine(answer, batch_size=1000),
    "in a thread": lambda answer: ThreadedEngine(answer, batch_size=2),
    "asking": AskingEngine,
    "keeping some": lambda answer: KeepingEngine(answer, most=3),
}


def _caption(requests: Iterable[Request], engine: Engine, **settings: Any) -> list[Outcome]:
    return list(caption(requests, Settings(retry_flagged=True, **settings), engine))


def _only(script: Script, settings: dict[str, Any] | None = None, **asked: Any) -> Outcome:
    (outcome,) = _caption([request(**asked)], ScriptedEngine(script), **settings or {})
    return outcome


def _in_turn(*answers: Any) -> Script:
    """First this, then that."""
    return lambda item: answers[item.requests[0].attempt - 1]


# Which candidates


@pytest.mark.parametrize("bad", ["", "...", LOOP, "What happens in this video?", "a sheep ..."])
def test_candidate_with_a_fault_is_avoided_where_there_is_one_without(bad: str) -> None:
    asked = request(num_captions=3, prompt="What happens in this video?")
    for keep in ("random_any", "similar_one_simhash"):
        engine = ScriptedEngine(lambda _: said(bad, "a whole one", bad))
        (outcome,) = caption([replace(asked, keep=keep)], Settings(), engine)
        assert isinstance(outcome, Caption)
        assert outcome.kept == (1,)
        assert outcome.reason.endswith("; left out before: 2 with faults")
        assert outcome.meta["flags"] == []
        assert outcome.meta["faults"][1] == ""
        assert all(outcome.meta["faults"][::2])


def test_where_all_have_faults_one_with_the_fewest_is_kept_and_flagged() -> None:
    candidates = said(f"{LOOP}...", LOOP, "")
    (outcome,) = caption([request(num_captions=3)], Settings(), ScriptedEngine(lambda _: candidates))
    assert isinstance(outcome, Caption)
    assert outcome.kept == (1,)
    assert outcome.meta["flags"] == ["loop"]
    assert outcome.meta["faults"] == ["cut_off loop", "loop", "empty"]


def test_among_all_each_is_kept_with_the_faults_of_all() -> None:
    candidates = said(LOOP, "a sheep", "a dog ...")
    (outcome,) = caption([request(num_captions=3, keep="all")], Settings(), ScriptedEngine(lambda _: candidates))
    assert isinstance(outcome, Caption)
    assert outcome.kept == (0, 1, 2)
    assert outcome.meta["flags"] == ["cut_off", "loop"]


# Once more


def test_only_where_it_is_asked_for() -> None:
    (outcome,) = caption([request()], Settings(), ScriptedEngine(_in_turn(said(LOOP))))
    assert isinstance(outcome, Caption)
    assert (outcome.meta["flags"], outcome.meta["try"], outcome.meta["tries"]) == (["loop"], 1, 1)


@pytest.mark.parametrize(
    ("first", "second", "text", "meta"),
    [
        (said("good"), None, "good", (1, 1, [])),
        (said(LOOP), said("good"), "good", (2, 2, [])),
        (said(""), said("good"), "good", (2, 2, [])),
        (said(""), said(LOOP), LOOP, (2, 2, ["loop"])),
        (said(LOOP), said("cut ..."), LOOP, (1, 2, ["loop"])),
        (said(LOOP), said(""), LOOP, (1, 2, ["loop"])),
        (said(LOOP), None, LOOP, (1, 2, ["loop"])),
        (said(LOOP), Failure(id=named("0"), video=None, kind="engine", message="no"), LOOP, (1, 2, ["loop"])),
        (said(LOOP), said("one", "too many"), LOOP, (1, 2, ["loop"])),
    ],
)
def test_better_one_of_two_tries_is_had_and_says_which(first: Any, second: Any, text: str, meta: Any) -> None:
    outcome = _only(_in_turn(first, second))
    assert isinstance(outcome, Caption)
    assert outcome.texts == (text,)
    assert (outcome.meta["try"], outcome.meta["tries"], outcome.meta["flags"]) == meta


def test_empty_answers_stay_a_failure_that_tells_both() -> None:
    outcome = _only(_in_turn(said(""), said("")))
    assert isinstance(outcome, Failure)
    told = "the model gave no text for 1 of 1 candidates."
    assert (outcome.kind, outcome.message) == ("engine", f"{told} And: {told}")


@pytest.mark.parametrize("keep", ["random_any", "all"])
def test_request_with_a_good_candidate_is_not_made_again(keep: str) -> None:
    outcome = _only(_in_turn(said("good", LOOP)), {"keep": keep}, num_captions=2)
    assert isinstance(outcome, Caption)
    assert outcome.meta["tries"] == 1


@pytest.mark.parametrize("keep", ["random_any", "all"])
def test_empty_candidate_beside_a_good_one_is_not_asked_for_once_more_whichever_are_kept(keep: str) -> None:
    outcome = _only(_in_turn(said("good", ""), said("one", "two")), {"keep": keep}, num_captions=2)
    assert isinstance(outcome, Caption)
    assert outcome.texts == ("good",)


@pytest.mark.parametrize("answer", [None, said(), Failure(id=named("0"), video=None, kind="engine", message="no")])
def test_what_no_other_sampling_mends_is_not_made_again(answer: Any) -> None:
    asked = []

    def script(item: Work) -> Any:
        asked.append(item)
        return answer

    assert isinstance(_only(script), Failure)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("told", "count", "second"),
    [
        ({}, 1, {"temperature": 0.7, "top_p": 0.8}),
        ({"temperature": 0}, 1, {"temperature": 0.7, "top_p": 0.8}),
        ({"temperature": 0}, 3, {"temperature": 0.7, "top_p": 0.8}),
        ({"do_sample": False, "max_tokens": 9}, 1, {"temperature": 0.7, "top_p": 0.8, "max_tokens": 9}),
        ({"temperature": 0.3}, 1, {"temperature": 0.3}),
        ({"do_sample": True}, 1, {"do_sample": True}),
        ({}, 3, {}),
    ],
)
def test_second_try_has_another_seed_and_is_never_greedy(
    told: dict[str, Any], count: int, second: dict[str, Any]
) -> None:
    seen: list[Request] = []

    def script(item: Work) -> Any:
        seen.append(item.requests[0])
        return said(*[LOOP if item.requests[0].attempt == 1 else "good"] * count)

    outcome = _only(script, sampling=SamplingParams.parse(told), num_captions=count, seed=5)
    assert isinstance(outcome, Caption)
    assert outcome.meta["sampling"] == second == seen[1].sampling.told()
    assert outcome.meta["seed"] == seen[1].seed != seen[0].seed == 5
    assert 0 <= seen[1].seed < 1 << 64
    assert seen[1].clip == seen[0].clip


# The stream


def _flags(bad: set[int], always: set[int]) -> Script:
    def script(item: Work) -> Any:
        number = int(item.requests[0].prompt)
        return said(LOOP if number in always or (number in bad and item.requests[0].attempt == 1) else f"good {number}")

    return script


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("bad", [set(), {0}, {11}, {4, 5, 6}, set(range(12))])
@pytest.mark.parametrize("ahead", [1, 1 << 30])
def test_every_request_has_one_outcome_in_order(engine: str, bad: set[int], ahead: int) -> None:
    """Whatever the engine, wherever the faults are, and however far it is decoded ahead."""
    unreadable = {2, 9}
    asked = [request(key=str(n), prompt=str(n), **({"clip": NO_CLIP} if n in unreadable else {})) for n in range(12)]
    recorded: list[Outcome] = []
    settings = Settings(retry_flagged=True, prefetch_bytes=ahead)
    made = ENGINES[engine](_flags(bad, {5, 11}))
    outcomes = list(caption(asked, settings, made, record=recorded.append))
    assert [outcome.id.task for outcome in outcomes] == [str(n) for n in range(12)]
    for n, outcome in enumerate(outcomes):
        if n in unreadable:
            assert isinstance(outcome, Failure)
            continue
        assert isinstance(outcome, Caption)
        assert outcome.meta["flags"] == (["loop"] if n in (5, 11) else [])
        assert outcome.meta["tries"] == (2 if n in bad | {5, 11} else 1)
    assert sorted(recorded, key=lambda outcome: int(outcome.id.task)) == outcomes, "recorded once, when it is settled"


@pytest.mark.parametrize("engine", ["one by one", "in threes", "in a thread"])
def test_no_more_are_under_way_where_everything_is_made_twice(engine: str) -> None:
    def most_read(bad: bool) -> int:
        read, most = 0, 0

        def requests() -> Iterator[Request]:
            nonlocal read
            for number in range(60):
                read += 1
                yield request(key=str(number), prompt=str(number))

        made = ENGINES[engine](_flags(set(range(60)) if bad else set(), set()))
        outcomes = caption(requests(), Settings(retry_flagged=True, prefetch_bytes=1), made)
        for done, _ in enumerate(outcomes):
            most = max(most, read - done)
        return most

    # One that is asked again waits for the batch that it joins and for that of the engine: twice what is in flight.
    assert most_read(bad=True) <= 2 * most_read(bad=False) + 2


def test_clip_that_is_gone_by_the_second_try_leaves_the_first_answer(tmp_path: Path) -> None:
    files = [put_clip(tmp_path / name) for name in ("a.mp4", "b.mp4")]

    def script(item: Work) -> Any:
        Path(str(item.clip.source)).unlink(missing_ok=True)  # the last one's frames are still there
        return said(LOOP)

    asked = [request(key=file.name, clip=Clip(source=str(file))) for file in files]
    for outcome in _caption(asked, ScriptedEngine(script, batch_size=2)):
        assert isinstance(outcome, Caption)
        assert (outcome.meta["try"], outcome.meta["tries"]) == (1, 2)


def test_engine_that_takes_files_is_asked_once_more_as_well(tmp_path: Path) -> None:
    engine = ScriptedEngine(_in_turn(said(LOOP), said("good")))
    engine.info = replace(engine.info, wants_frames=False)
    clip = Clip(source=str(put_clip(tmp_path / "a.mp4")))
    (outcome,) = _caption([request(clip=clip)], engine)
    assert isinstance(outcome, Caption)
    assert outcome.texts == ("good",)


def test_engine_that_breaks_in_the_second_stream_breaks_the_run() -> None:
    def script(item: Work) -> Any:
        if item.requests[0].attempt == 2:
            raise EngineError("broken")
        return said(LOOP)

    with pytest.raises(EngineError, match="broken"):
        _only(script)


def test_request_that_a_second_stream_leaves_unanswered_keeps_its_first_answer() -> None:
    engine = ScriptedEngine(_flags({0, 2}, set()), batch_size=1000)
    answer = engine._answer

    def left_out(asked: Request) -> bool:
        return asked.attempt == 2 and asked.id == named("2")

    engine._answer = lambda item: None if left_out(*item.requests) else answer(item)
    outcomes = _caption([request(key=str(n), prompt=str(n)) for n in range(3)], engine)
    told = [
        (outcome.id.task, outcome.texts[0], outcome.meta["try"]) for outcome in outcomes if isinstance(outcome, Caption)
    ]
    assert told == [("0", "good 0", 2), ("1", "good 1", 1), ("2", LOOP, 1)]
    assert isinstance(outcomes[2], Caption)
    assert outcomes[2].meta["tries"] == 2


def test_rows_of_several_videos_are_whole_and_in_order() -> None:
    rows = [{"videos": [clip_bytes()] * count, "ask": str(number)} for number, count in enumerate([2, 0, 1, 3])]

    def answer(item: Work) -> Any:
        [asked] = item.requests
        return said(LOOP if asked.attempt == 1 else f"{asked.id.row}:{asked.id.slot}")

    engine = ScriptedEngine(answer, batch_size=2)
    results = list(caption_rows(as_input(rows), Settings(retry_flagged=True, prompt_key="ask"), engine))
    assert [result.rows[0]["caption"] for result in results] == [["0:0", "0:1"], [], ["2:0"], ["3:0", "3:1", "3:2"]]


def test_second_try_sees_the_same_frames() -> None:
    """Those that the limits of the engine allow."""
    engine = FakeEngine(lambda item, _: LOOP if item.requests[0].attempt == 1 else str(item.frames.pixels.shape[0]))
    engine.info = FakeEngine(limits=VisionLimits(max_frames=4)).info
    (outcome,) = _caption([request()], engine)
    assert isinstance(outcome, Caption)
    assert outcome.texts == ("4",)


# Whole runs


def test_setting_it_later_makes_only_those_again_that_had_faults(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    (tmp_path / "text.mp4").write_text("this is no video")
    words = ["good", "loop", "cut", "empty"]
    rows = [{"video": "a.mp4", "ask": word} for word in words] + [{"video": "text.mp4"}]
    data, output = put_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    asked: list[tuple[str, int]] = []

    def script(item: Work) -> Any:
        asked.append((item.requests[0].prompt, item.requests[0].attempt))
        first = {"loop": LOOP, "cut": "cut ...", "empty": "", "good": "good"}[item.requests[0].prompt]
        return said(first if item.requests[0].attempt == 1 else "better")

    summary = run([data], output, Settings(prompt_key="ask"), engine=ScriptedEngine(script))
    assert summary.flags == {"loop": 1, "cut_off": 1}
    assert summary.failures == {"engine": 1, "unreadable": 1}
    asked.clear()
    again = Settings(prompt_key="ask", retry_flagged=True)
    summary = run([data], output, again, engine=ScriptedEngine(script))
    assert sorted(asked) == [(word, attempt) for word in ("cut", "empty", "loop") for attempt in (1, 2)]
    assert [row["caption"] for row in read_rows_of(output)] == ["good", "better", "better", "better", None]
    assert summary.flags == {}
    made = output.read_bytes()
    asked.clear()
    run([data], output, again, engine=ScriptedEngine(script))
    assert (asked, output.read_bytes()) == ([], made)
    run([data], tmp_path / "fresh.jsonl", again, engine=ScriptedEngine(script))
    assert (tmp_path / "fresh.jsonl").read_bytes() == made, "the bytes of a run that had the setting from the start"


@pytest.mark.transformers
def test_real_engine_takes_second_tries_and_repeats_them(shapes_engine: "TransformersEngine", tmp_path: Path) -> None:
    """A limit of three tokens cuts off every caption of the built-in model."""
    from generating import variant

    rows = [{"video": str(put_clip(tmp_path / f"{name}.mp4"))} for name in "abcdefgh"]
    settings = Settings(retry_flagged=True, sampling={"max_tokens": 3})
    outputs = []
    for size in (2, 8):
        engine = variant(shapes_engine, batch_size=size)
        results = list(caption_rows(as_input(rows), settings, engine))
        assert [result.index for result in results] == list(range(8))
        metas = [result.rows[0]["caption_meta"] for result in results]
        assert all((meta["flags"], meta["tries"], meta["try"]) == ("cut_off", 2, 1) for meta in metas)
        outputs.append(json.dumps([result.rows for result in results]))
    assert outputs[0] == outputs[1]
