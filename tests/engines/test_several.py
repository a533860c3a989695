"""Text stages that another engine answers."""

import itertools
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flow import KeepingEngine, ScriptedEngine, as_input, clip_bytes, said

from reelscribe.config import Settings
from reelscribe.dataset.ledger import Ledger
from reelscribe.engines import load_engine
from reelscribe.engines.base import Engine
from reelscribe.engines.several import SeveralEngines
from reelscribe.errors import EngineError, SettingsError
from reelscribe.pipeline import caption_rows
from reelscribe.values import NO_FRAMES, Failure, Generation, RowResult, Work

TASKS = {
    "seen": "What is seen?",
    "told": {"prompt": "Rewrite: {seen}", "after": ["seen"], "video": False, "engine": {"model": "other"}},
    "last": {"prompt": "And: {told}", "after": ["told"], "video": False},
}


def _named(engine: ScriptedEngine, model: str) -> ScriptedEngine:
    engine.info = replace(engine.info, model=model)
    return engine


def _echo(prefix: str) -> Any:
    return lambda work: said(f"{prefix}({work.requests[0].prompt})")


def _run(engine: Engine, count: int = 1, memory: Any = None, **settings: Any) -> list[RowResult]:
    rows = as_input([{"video": clip_bytes()} for _ in range(count)])
    return list(caption_rows(rows, Settings(tasks=TASKS, **settings), engine, memory=memory))


def test_each_engine_answers_its_tasks_and_is_named() -> None:
    frames: list[bool] = []

    def answer(work: Work) -> Any:
        frames.append(work.frames is NO_FRAMES)
        return _echo("b")(work)

    engine = SeveralEngines(
        _named(ScriptedEngine(_echo("a")), "main"), {"told": _named(ScriptedEngine(answer), "other")}
    )
    [result] = _run(engine)
    [row] = result.rows
    assert row["last"] == "a(And: b(Rewrite: a(What is seen?)))"
    assert [row[f"{task}_meta"]["model"] for task in TASKS] == ["main", "other", "main"]
    assert frames == [True]
    assert engine.info.gpus == 2


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_engines_that_keep_what_they_have_wait_for_nobody_in_vain(batch_size: int) -> None:
    main, other = KeepingEngine(_echo("a"), most=batch_size), ScriptedEngine(_echo("b"), batch_size=batch_size)
    results = _run(SeveralEngines(main, {"told": other}), count=7)
    assert [result.rows[0]["last"] for result in results] == 7 * ["a(And: b(Rewrite: a(What is seen?)))"]


@pytest.mark.parametrize("broken", ["main", "other"])
def test_engine_that_breaks_ends_the_run(broken: str) -> None:
    def answer(work: Work) -> Any:
        raise EngineError("the wheels came off")

    scripts = {"main": _echo("a"), "other": _echo("b"), broken: answer}
    engine = SeveralEngines(ScriptedEngine(scripts["main"]), {"told": ScriptedEngine(scripts["other"])})
    with pytest.raises(EngineError, match="the wheels came off"):
        _run(engine)


@pytest.mark.parametrize("lazy", ["main", "other"])
def test_engine_that_stops_before_the_end_ends_the_run(lazy: str) -> None:
    class _Lazy(ScriptedEngine):
        def generate(self, requests: Iterator[Work]) -> Iterator[Generation | Failure]:
            return super().generate(itertools.islice(requests, 1))

    kinds = {"main": ScriptedEngine, "other": ScriptedEngine, lazy: _Lazy}
    engine = SeveralEngines(kinds["main"](_echo("a")), {"told": kinds["other"](_echo("b"))})
    with pytest.raises(EngineError, match="the engine stopped although there were requests left"):
        _run(engine, count=3)


def test_what_goes_wrong_in_the_source_is_raised_after_the_answers_before_it() -> None:
    def works() -> Iterator[Work]:
        raise OSError("the disk is gone")
        yield

    engine = SeveralEngines(ScriptedEngine(_echo("a")), {})
    with pytest.raises(OSError, match="the disk is gone"):
        list(engine.generate(works()))


def test_answers_that_are_no_more_wanted_leave_no_thread_behind() -> None:
    class _Endless(ScriptedEngine):
        def generate(self, requests: Iterator[Work]) -> Iterator[Generation | Failure]:
            [work] = itertools.islice(requests, 1)
            while True:
                yield Failure.of(work.requests[0], "again")

    from flow import request

    work = Work(requests=(request(key="seen"),))
    answers = SeveralEngines(_Endless(_echo("a")), {}).generate(iter([work]))
    next(answers)
    lanes = [thread for thread in threading.enumerate() if thread.name == "reelscribe-lane"]
    answers.close()  # type: ignore[attr-defined]
    assert lanes
    assert not any(thread.is_alive() for thread in lanes)


def test_answer_of_another_model_is_another_answer(tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(work: Work) -> Any:
        asked.append(work.requests[0].id.task)
        return said("text")

    def run(model: str) -> list[str]:
        asked.clear()
        tasks = {**TASKS, "told": {**TASKS["told"], "engine": {"model": model}}}  # type: ignore[dict-item]
        settings = Settings(tasks=tasks)
        engine = SeveralEngines(ScriptedEngine(answer), {"told": _named(ScriptedEngine(answer), model)})
        with Ledger(tmp_path / "ledger") as ledger:
            ledger.begin(settings, engine.info, output="out", inputs=["in"], total=1)
            list(caption_rows(as_input([{"video": clip_bytes()}]), settings, engine, memory=ledger))
        return list(asked)

    assert run("one") == ["seen", "told", "last"]
    assert run("one") == []
    assert run("two") == ["told"], "which says the same, so that nothing comes after it"


def test_engine_of_a_task_is_loaded_as_its_settings_say() -> None:
    tasks = {"seen": "?", "told": {**TASKS["told"], "engine": {"engine": "fake"}}}  # type: ignore[dict-item]
    engine = load_engine(Settings(engine="fake", model="shapes", tasks=tasks))
    assert isinstance(engine, SeveralEngines)
    assert engine.info.of("told").engine == "fake"
    assert engine.info.of("seen") is engine.info


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"video": True}, "tasks.told: only a task without the video"),
        ({"engine": {"modle": "m"}}, "tasks.told.engine has the unknown key 'modle'; did you mean model"),
        ({"engine": {"fps": 1}}, "tasks.told.engine has the unknown key 'fps'"),
        ({"engine": {"engine": "vlm"}}, "tasks.told.engine: engine must be one of"),
        ({"engine": 3}, "tasks.told: engine must be a table of settings of a model; got 3"),
    ],
)
def test_wrong_engine_of_a_task_is_told(table: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings(tasks={"seen": "?", "told": {**TASKS["told"], **table}})  # type: ignore[dict-item]
    assert message in str(caught.value)


def test_token_of_a_tasks_model_is_not_kept() -> None:
    tasks = {
        "told": {"prompt": "?", "video": False, "engine": {"model_params": {"token": "hf_x", "device_map": "auto"}}}
    }
    told = Settings(tasks=tasks).without_token()
    assert told["tasks"]["told"]["engine"] == {"model_params": {"device_map": "auto"}}
