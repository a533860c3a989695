"""Models of the hub, with a hub that does not answer: said within seconds, or taken from the cache."""

import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reelscribe.config import Settings
from reelscribe.engines import hub, load_engine
from reelscribe.engines.prospects import commit_of
from reelscribe.errors import ModelError


@pytest.fixture(autouse=True)
def _hub_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hub, "_answers", {})
    hub._tell.cache_clear()


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A hub that takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(hub, "_HUB_SECONDS", 0.05)
        yield server


def _put_into_cache(tmp_path: Path, model: str, **config: object) -> Path:
    folder = tmp_path / "home" / "hub" / f"models--{model.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0123abc\n")
    snapshot = folder / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(config))
    return snapshot


def test_a_hub_that_says_nothing_is_given_up_soon(silent: socket.socket) -> None:
    with pytest.raises(ModelError, match=r"the hub, http://127.0.0.1:\d+, cannot be reached: .*; set HTTPS_PROXY or"):
        hub.in_cache("some/model")


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "nonsense", "http://["])
def test_a_hub_that_is_not_there(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(ModelError, match=r"the model 'some/model' cannot be loaded: the hub, .* cannot be reached: "):
        hub.in_cache("some/model")


@pytest.mark.parametrize("how", ["closed", "silent", "offline", "local_files_only"])
def test_the_cache_will_do_without_a_hub(
    how: str,
    silent: socket.socket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    snapshot = _put_into_cache(tmp_path, "some/model")
    if how == "closed":
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    if how == "offline":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    params: dict[str, Any] = {"local_files_only": True} if how == "local_files_only" else {}
    with caplog.at_level(logging.WARNING):
        assert hub.in_cache("some/model", **params) == snapshot
    assert ("the cache has some/model, and will do" in caplog.text) == (how in ("closed", "silent"))
    assert commit_of(Settings(model="some/model", model_params=params)) == "0123abc"
    assert hub.in_cache("some/model", "0123abc", **params) == snapshot


def test_names_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(ModelError, match=r"the built-in model, shapes\. Did you mean shapes\?$"):
        hub.in_cache("shpaes")
    for name in (str(tmp_path / "none"), "./none", "~/none", "a/b/none"):
        with pytest.raises(ModelError, match=f"the model '{name}' cannot be loaded: there is no such folder; "):
            hub.in_cache(name)
    (tmp_path / "model.bin").touch()
    with pytest.raises(ModelError, match="is a file, and not a folder"):
        hub.in_cache(str(tmp_path / "model.bin"))
    assert hub.in_cache("shapes") is None
    assert hub.in_cache(str(tmp_path)) is None


@pytest.mark.transformers
def test_a_model_in_the_cache_is_loaded_without_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    from reelscribe.models import model_path

    snapshot = _put_into_cache(tmp_path, "our/shapes")
    shutil.copytree(model_path("shapes"), snapshot, dirs_exist_ok=True)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    info = load_engine(Settings(model="our/shapes")).info
    assert (info.model, info.revision) == ("our/shapes", "0123abc")
