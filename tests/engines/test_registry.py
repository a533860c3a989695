"""Engines by name, and what happens where the extra of one is not installed."""

import sys
from pathlib import Path
from typing import get_args

import pytest
from flow import put_clip

from reelscribe.config import Settings
from reelscribe.config.groups import EngineName
from reelscribe.engines import ENGINES, fake, load_engine
from reelscribe.engines.fake import FakeEngine
from reelscribe.errors import MissingExtraError, SettingsError
from reelscribe.runners.local import run


def test_every_engine_has_a_name_in_the_settings() -> None:
    assert set(ENGINES) == set(get_args(EngineName))


def test_engine_is_loaded_by_name() -> None:
    assert isinstance(load_engine(Settings(engine="fake")), FakeEngine)


def test_a_model_that_takes_no_sound_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    clips, output = put_clip(tmp_path / "clip.mp4"), tmp_path / "made" / "captions.jsonl"
    with pytest.raises(
        SettingsError, match="audio is set, but this model takes no sound with a video here; leave audio"
    ):
        run([clips], output, Settings(engine="fake", audio=True))
    assert list(output.parent.iterdir()) == []


def test_a_text_stage_need_not_hear() -> None:
    stage = {"prompt": "Shorten: {caption}", "after": ["caption"], "video": False, "engine": {"engine": "vllm"}}
    settings = Settings(audio=True, tasks={"caption": "What is heard?", "short": stage})
    [task] = [task for task in settings.all_tasks if task.engine]
    assert (settings.of_task(task).engine, settings.of_task(task).audio) == ("vllm", False)


def _raise_on_load(monkeypatch: pytest.MonkeyPatch, error: ModuleNotFoundError) -> None:
    def load(_: Settings) -> FakeEngine:
        raise error

    monkeypatch.setattr(fake, "load", load)


def test_engine_without_its_extra_names_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("reelscribe.engines.transformers", "reelscribe.engines.sampling"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError) as caught:
        load_engine(Settings(model="shapes"))
    assert str(caught.value) == "the engine transformers needs torch: pip install 'reelscribe[transformers]'"
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_server_engine_without_its_extra_names_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("openai", "server"):
        monkeypatch.delitem(sys.modules, f"reelscribe.engines.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(MissingExtraError, match=r"the engine openai needs \w+: pip install 'reelscribe\[openai\]'"):
        load_engine(Settings(engine="openai", base_url="http://127.0.0.1:1/v1"))


def test_vllm_without_its_extra_names_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtraError, match=r"^the engine vllm needs vllm: pip install 'reelscribe\[vllm\]'$"):
        load_engine(Settings(model="shapes", engine="vllm"))


@pytest.mark.parametrize(
    "name", ["torch.nn", "torchvision", "transformers.models.qwen3_vl", "accelerate", "httpx2", "anyio", "vllm.v1"]
)
def test_every_package_of_the_extra_is_known(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    _raise_on_load(monkeypatch, ModuleNotFoundError(f"No module named {name!r}", name=name))
    with pytest.raises(MissingExtraError, match=f"the engine fake needs {name.partition('.')[0]}: pip install "):
        load_engine(Settings(engine="fake"))


def test_another_missing_module_is_no_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "fake", "reelscribe_no_such_module:load")
    with pytest.raises(ModuleNotFoundError, match="reelscribe_no_such_module") as caught:
        load_engine(Settings(engine="fake"))
    assert not isinstance(caught.value, MissingExtraError)


def test_missing_module_without_a_name_is_no_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    _raise_on_load(monkeypatch, ModuleNotFoundError("something"))
    with pytest.raises(ModuleNotFoundError, match=r"^something$"):
        load_engine(Settings(engine="fake"))
