"""Runs on one output whose tasks change in between: what was asked before is not asked again, and nothing else is."""

import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from flow import ScriptedEngine, put_clip, put_rows, read_rows_of, said

from reelscribe.config import Settings
from reelscribe.runners.local import run
from reelscribe.values import Failure, Request, Row

Reply = Callable[[Request], str | Failure]
CLIPS = ("a.mp4", "b.mp4")
CHAIN: dict[str, dict[str, Any]] = {
    "first": {"prompt": "What happens?"},
    "second": {"prompt": "Shorten: {first}", "after": ["first"], "video": False},
    "third": {"prompt": "Translate: {second}", "after": ["second"]},
    "alone": {"prompt": "Who is there?"},
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in CLIPS:
        put_clip(tmp_path / name)
    return put_rows(tmp_path / "in.jsonl", [{"video": name} for name in CLIPS])


def _reply(request: Request) -> str:
    return f"<{request.prompt}>"


def _run(data: Path, tasks: Mapping[str, Any], reply: Reply = _reply, **settings: Any) -> Counter[tuple[str, str]]:
    """Run on the same output; what the engine was asked, as tasks and clips."""
    asked: Counter[tuple[str, str]] = Counter()

    def answer(work: Any) -> Any:
        [request] = work.requests
        asked[request.id.task, request.clip.name] += 1
        made = reply(request)
        return made if isinstance(made, Failure) else said(made)

    told = Settings(tasks=tasks, decoders=0, **settings)
    run(data, data.with_name("out.jsonl"), told, engine=ScriptedEngine(answer))
    return asked


def _once(*tasks: str, clips: tuple[str, ...] = CLIPS) -> Counter[tuple[str, str]]:
    """Each of some tasks for each of some clips."""
    return Counter((task, clip) for task in tasks for clip in clips)


def _rows(data: Path) -> list[Row]:
    return read_rows_of(data.with_name("out.jsonl"))


def _with(task: str, prompt: str) -> dict[str, Any]:
    """The chain with another prompt of one task."""
    return {**CHAIN, task: {**CHAIN[task], "prompt": prompt}}


def test_task_that_is_added_is_all_that_is_made(data: Path) -> None:
    assert _run(data, {"first": CHAIN["first"]}) == _once("first")
    before = _rows(data)
    assert _run(data, {name: CHAIN[name] for name in ("first", "second")}) == _once("second")
    assert _run(data, CHAIN) == _once("third", "alone")
    assert _run(data, CHAIN) == Counter()
    after = _rows(data)
    assert [{name: row[name] for name in before[0]} for row in after] == before
    assert after[0]["third"] == "<Translate: <Shorten: <What happens?>>>"
    assert _run(data, {"first": CHAIN["first"]}) == Counter(), "tasks that are left out are no reason to ask"
    assert _rows(data) == before


def test_name_and_place_of_a_task_are_no_part_of_what_is_asked(data: Path) -> None:
    _run(data, {"first": "What happens?", "alone": "Who is there?"})
    assert _run(data, {"who": "Who is there?", "what": "What happens?"}) == Counter()
    assert _run(data, {}, prompt="Who is there?") == Counter(), "nor is whether there are several"
    assert [row["caption"] for row in _rows(data)] == ["<Who is there?>"] * 2


@pytest.mark.parametrize(
    ("task", "made"),
    [
        ("first", ("first", "second", "third")),
        ("second", ("second", "third")),
        ("third", ("third",)),
        ("alone", ("alone",)),
    ],
)
def test_changed_prompt_makes_its_task_and_what_comes_after(data: Path, task: str, made: tuple[str, ...]) -> None:
    _run(data, CHAIN)
    before = _rows(data)
    changed = _with(task, "Other: " + CHAIN[task]["prompt"])
    assert _run(data, changed) == _once(*made)
    for was, row in zip(before, _rows(data), strict=True):
        assert {name for name in CHAIN if was[name] != row[name]} == {*made}
    assert _run(data, CHAIN) == Counter(), "what was made first is known still"
    assert _rows(data) == before


def test_same_answer_to_another_prompt_makes_nothing_after_it(data: Path) -> None:
    def reply(request: Request) -> str:
        return "a sheep" if request.id.task == "first" else _reply(request)

    _run(data, CHAIN, reply)
    assert _run(data, _with("first", "Which animal?"), reply) == _once("first")


def test_other_candidate_that_is_kept_makes_what_comes_after(data: Path) -> None:
    """Of the task itself none is made: which of its candidates is kept is no part of what is asked."""

    def run_with(keep: str) -> Counter[tuple[str, str]]:
        asked: Counter[tuple[str, str]] = Counter()

        def answer(work: Any) -> Any:
            [request] = work.requests
            asked[request.id.task, request.clip.name] += 1
            return said(*[f"{number} {request.prompt}" for number in range(request.num_captions)])

        tasks = {"first": {"num_captions": 9, "keep": keep}, "second": CHAIN["second"]}
        run(data, data.with_name("out.jsonl"), Settings(tasks=tasks, decoders=0, seed=3), engine=ScriptedEngine(answer))
        return asked

    assert run_with("random_any") == _once("first", "second")
    drawn = [row["first"] for row in _rows(data)]
    other = tuple(clip for clip, text in zip(CLIPS, drawn, strict=True) if not text.startswith("0 "))
    assert other, "with this seed a later candidate is drawn of at least one"
    assert run_with("all") == _once("second", clips=other), "of all the first is the one that prompts name"
    assert run_with("random_any") == Counter()


def test_task_after_one_that_failed_is_not_recorded_and_comes_once_that_succeeds(data: Path) -> None:
    def reply(request: Request) -> str | Failure:
        if request.id.task == "first" and request.clip.name == "b.mp4":
            return Failure.of(request, "it broke")
        return _reply(request)

    chain = {name: CHAIN[name] for name in ("first", "second", "third")}
    assert _run(data, chain, reply) == _once("first") + _once("second", "third", clips=("a.mp4",))
    whole, broken = _rows(data)
    assert [whole[f"{name}_failure"] for name in chain] == ["", "", ""]
    assert broken["first_failure"] == "engine: it broke"
    assert broken["second_failure"] == "after: it comes after the task first, which has no answer: it broke"
    assert broken["third_failure"].startswith("after: it comes after the task second, which has no answer: ")
    assert [broken[name] for name in chain] == [None, None, None]
    with sqlite3.connect(data.with_name("out.ledger.sqlite")) as base:
        kinds = Counter(kind for (kind,) in base.execute("SELECT kind FROM outcomes"))
    assert kinds == {None: 3, "engine": 1}
    assert _run(data, chain) == _once(*chain, clips=("b.mp4",))
    assert [row["third"] for row in _rows(data)] == ["<Translate: <Shorten: <What happens?>>>"] * 2


def test_failed_task_costs_the_others_nothing(data: Path) -> None:
    """One that is known to have failed is not asked again, and those after it are told why each time."""

    def reply(request: Request) -> str | Failure:
        if request.id.task == "first":
            return Failure.of(request, "the prompt is too long", "prompt")
        return _reply(request)

    assert _run(data, CHAIN, reply) == _once("first", "alone")
    before = _rows(data)
    assert _run(data, CHAIN, reply) == Counter()
    assert _rows(data) == before
    assert [row["alone"] for row in before] == ["<Who is there?>"] * 2
    assert {row["second_failure"] for row in before} == {
        "after: it comes after the task first, which has no answer: the prompt is too long"
    }


def test_prompts_with_facts_of_the_clip_are_known_by_the_clip(data: Path) -> None:
    tasks = {"timed": "What happens in {duration} s of {width}x{height}?"}
    assert _run(data, tasks) == _once("timed")
    assert _run(data, tasks) == Counter()
    assert [row["timed_meta"]["prompt"] for row in _rows(data)] == ["What happens in 1 s of 64x48?"] * 2
    braces = "What happens in {{duration} s of {{width}x{{height}?"
    assert _run(data, {"timed": braces}) == _once("timed"), "text of the same letters is another question"
    assert [row["timed_meta"]["prompt"] for row in _rows(data)] == [tasks["timed"]] * 2


def test_column_that_changes_makes_the_tasks_that_name_it(data: Path) -> None:
    tasks = {"named": "Tell {title} from others.", "plain": "What happens?"}
    put_rows(data, [{"video": name, "title": name[0]} for name in CLIPS])
    assert _run(data, tasks) == _once("named", "plain")
    put_rows(data, [{"video": "a.mp4", "title": "a"}, {"video": "b.mp4", "title": "other"}, {"video": "b.mp4"}])
    assert _run(data, tasks) == _once("named", clips=("b.mp4",)), "once, and the row without a title not at all"
    last = _rows(data)[-1]
    assert last["plain"] == "<What happens?>"
    assert last["named_failure"] == "prompt: the prompt has {title}, but the row's column 'title' holds nothing."


def test_schema_of_another_fact_asks_again(data: Path) -> None:

    def tasks(fact: str) -> dict[str, Any]:
        fields = {"what": {"type": "string"}, "told": {"type": "number", "x-from": fact}}
        return {"form": {"prompt": "What?", "schema": {"type": "object", "properties": fields}}}

    def reply(_: Request) -> str:
        return '{"what": "a sheep"}'

    assert _run(data, tasks("duration"), reply) == _once("form")
    assert _run(data, tasks("duration"), reply) == Counter()
    assert [row["form"] for row in _rows(data)] == [{"what": "a sheep", "told": 1.0}] * 2
    assert _run(data, tasks("fps"), reply) == _once("form")
    assert [row["form"] for row in _rows(data)] == [{"what": "a sheep", "told": 8.0}] * 2
