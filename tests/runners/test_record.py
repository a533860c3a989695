"""The record of a run."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from flow import ScriptedEngine, put_clip, said

from reelscribe.config import Settings
from reelscribe.errors import EngineError, SettingsError
from reelscribe.runners.local import run
from reelscribe.runners.record import hardware, versions
from reelscribe.values import Work


def _answer(item: Work) -> Any:
    if item.requests[0].clip.name == "bad.mp4":
        raise EngineError("it broke")
    return said("text")


def _record(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "out.run.json").read_text("utf-8"))
    return loaded


def test_run_is_recorded(tmp_path: Path) -> None:
    clips = [put_clip(tmp_path / "a.mp4"), tmp_path / "text.mp4"]
    clips[1].write_text("this is no video")
    settings = Settings(engine="fake", fps=1, model_params={"token": "secret"})
    run(clips, tmp_path / "out.jsonl", settings, engine=ScriptedEngine(_answer))
    record = _record(tmp_path)
    assert record["ending"] == "finished"
    assert record["started"] <= record["ended"]
    assert record["inputs"] == [str(clip) for clip in clips]
    assert (record["counts"]["captions"], record["counts"]["failures"]) == (1, {"unreadable": 1})
    assert (record["clips"], record["settings"]["fps"], record["model"]["model"]) == (1, 1, "a script")
    assert "secret" not in (tmp_path / "out.run.json").read_text()
    assert record["versions"].keys() >= {"python", "reelscribe", "av"}
    assert record["hardware"]["cores"] >= 1


def test_run_that_breaks_off_is_recorded(tmp_path: Path) -> None:
    clips = [put_clip(tmp_path / "a.mp4"), put_clip(tmp_path / "bad.mp4")]
    with pytest.raises(EngineError):
        run(clips, tmp_path / "out.jsonl", Settings(), engine=ScriptedEngine(_answer))
    assert _record(tmp_path)["ending"] == "it broke"


def test_run_that_did_not_begin_is_not(tmp_path: Path) -> None:
    settings = Settings(engine="fake", model_params={"speed": 1})
    with pytest.raises(SettingsError):
        run([put_clip(tmp_path / "a.mp4")], tmp_path / "out.jsonl", settings)
    assert not (tmp_path / "out.run.json").exists()


def test_record_that_cannot_be_written_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "out.run.json").mkdir()
    summary = run([put_clip(tmp_path / "a.mp4")], tmp_path / "out.jsonl", Settings(), engine=ScriptedEngine(_answer))
    assert summary.captions == 1
    assert "out.run.json cannot be written: Is a directory." in caplog.text


def test_packages_that_are_not_loaded_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pyarrow", raising=False)
    assert "pyarrow" not in versions()
    assert hardware()["cpu"]
