"""Models are loaded when there is something to make, and only then."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flow import ScriptedEngine, put_clip, put_rows, read_rows_of, said

from reelscribe.config import Settings
from reelscribe.engines.base import Engine
from reelscribe.engines.several import SeveralEngines
from reelscribe.errors import EngineError
from reelscribe.runners import on_demand
from reelscribe.runners.local import RunSummary, run
from reelscribe.runners.retry import retry


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that were loaded; each stands for the one of the settings."""
    seen: list[str] = []

    def load(settings: Settings) -> ScriptedEngine:
        engine = ScriptedEngine(lambda work: said(*["a circle"] * work.requests[0].num_captions))
        engine.info = replace(engine.info, engine="transformers", model=settings.model, revision=None)
        seen.append(settings.model)
        return engine

    monkeypatch.setattr(on_demand, "load_engine", load)
    return seen


def _run(folder: Path, output: str = "out.jsonl", **settings: Any) -> RunSummary:
    return run([folder / "in.jsonl"], folder / output, Settings(model="shapes", **settings))


def _put(folder: Path, *names: str) -> None:
    for name in names:
        if not (folder / name).exists():  # else it would be another video
            put_clip(folder / name)
    put_rows(folder / "in.jsonl", [{"video": name, "text": "round"} for name in names])


def test_a_run_that_finds_all_in_the_ledger_loads_no_model(tmp_path: Path, loads: list[str]) -> None:
    _put(tmp_path, "a.mp4", "b.mp4")
    made = _run(tmp_path, num_captions=2)
    assert loads == ["shapes"]
    written = (tmp_path / "out.jsonl").read_bytes()
    again = _run(tmp_path, num_captions=2)
    assert (again.captions, again.known) == (made.captions, 2)
    assert (tmp_path / "out.jsonl").read_bytes() == written
    _run(tmp_path, num_captions=2, keep="similar_one_simhash")
    _run(tmp_path, num_captions=2, output="out.tar")
    assert retry(tmp_path / "out.jsonl").known == 2
    assert loads == ["shapes"]
    told = json.loads((tmp_path / "out.run.json").read_text("utf-8"))
    assert (told["model"]["model"], told["model"]["limits"]) == ("shapes", None)


@pytest.mark.parametrize(("engine", "loaded"), [({"model": "shapes", "dtype": "bfloat16"}, 1), ({"model": "a/hub"}, 2)])
def test_models_of_tasks_are_not_loaded_either_if_they_are_in_folders(
    tmp_path: Path, loads: list[str], monkeypatch: pytest.MonkeyPatch, engine: dict[str, Any], loaded: int
) -> None:
    main = vars(on_demand)["load_engine"]

    def load(settings: Settings) -> Engine:
        [own] = [settings.of_task(task) for task in settings.all_tasks if task.engine]
        other = ScriptedEngine(lambda _: said("shorter"))
        other.info = replace(other.info, engine=own.engine, model=own.model, revision=None, gpus=2)
        return SeveralEngines(main(settings), {"short": other})

    monkeypatch.setattr(on_demand, "load_engine", load)
    _put(tmp_path, "a.mp4")
    tasks = {"seen": "?", "short": {"prompt": "{seen}", "after": ["seen"], "video": False, "engine": engine}}
    for known in (0, 2):
        assert _run(tmp_path, tasks=tasks).known == known
    assert loads == ["shapes"] * loaded
    _put(tmp_path, "a.mp4", "b.mp4")
    assert _run(tmp_path, tasks=tasks).known == 2


def test_a_model_is_loaded_once_where_something_is_new(tmp_path: Path, loads: list[str]) -> None:
    _put(tmp_path, "a.mp4")
    _run(tmp_path)
    _put(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    summary = _run(tmp_path)
    assert (summary.captions, summary.known, loads) == (3, 1, ["shapes", "shapes"])
    assert [row["caption"] for row in read_rows_of(tmp_path / "out.jsonl")] == ["a circle"] * 3
    assert json.loads((tmp_path / "out.run.json").read_text("utf-8"))["model"]["limits"]["token_pixels"] > 0


@pytest.mark.parametrize("changed", [{"fps": 1.0}, {"model": "other"}])
def test_other_settings_load_first_what_they_ask_for(tmp_path: Path, loads: list[str], changed: dict[str, Any]) -> None:
    _put(tmp_path, "a.mp4")
    _run(tmp_path)
    settings = Settings(**{"model": "shapes", **changed})
    seen: list[int] = []
    run([tmp_path / "in.jsonl"], tmp_path / "out.jsonl", settings, on_start=lambda live: seen.append(len(loads)))
    assert seen == [2]


def test_a_model_that_is_not_the_one_of_before_ends_the_run(
    tmp_path: Path, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _put(tmp_path, "a.mp4")
    _run(tmp_path)
    written = (tmp_path / "out.jsonl").read_bytes()

    def changed(settings: Settings) -> ScriptedEngine:
        engine = ScriptedEngine(lambda _: said("a circle"))
        engine.info = replace(engine.info, engine="transformers", model=settings.model, revision="newer")
        return engine

    monkeypatch.setattr(on_demand, "load_engine", changed)
    _put(tmp_path, "a.mp4", "b.mp4")
    with pytest.raises(EngineError, match="changed while this run began"):
        _run(tmp_path)
    assert (tmp_path / "out.jsonl").read_bytes() == written


def test_a_hub_model_is_recalled_by_the_commit_that_is_there_now(tmp_path: Path, loads: list[str]) -> None:
    """The commit of a model that the hub's cache does not have is not known: it is loaded first."""
    _put(tmp_path, "a.mp4")
    settings = Settings(model="nobody/nothing")
    for expected in (1, 2):
        run([tmp_path / "in.jsonl"], tmp_path / "out.jsonl", settings)
        assert len(loads) == expected
