"""The doctor: what it finds on machines where things are missing."""

import importlib.metadata
import json
import os
import shutil
import sys
import threading
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from reelscribe import doctor
from reelscribe.cli import main
from reelscribe.config import Settings
from reelscribe.doctor import Finding, examine
from reelscribe.errors import ClipError
from reelscribe.video.isolate import DecoderPool

REQUIRES = [
    "av<20,>=18",
    'torch>=2.9; extra == "transformers"',
    'transformers<5.40,>=5.16; extra == "transformers"',
    'llguidance<2,>=1.9; extra == "structured"',
    'pyarrow>=17; extra == "data"',
    'ray[data]>=2.50; extra == "ray"',
]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Distributions that seem to be there, to be changed."""
    versions = {"reelscribe": "0.1.0", "torch": "2.14.1", "transformers": "5.23.0", "pyarrow": "20.0", "ray": "2.60"}

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: REQUIRES)
    return versions


def _find(check: str, folder: Path, **settings: Any) -> list[Finding]:
    return [item for item in examine(Settings(**{"engine": "fake", **settings}), folder) if item.check == check]


def test_a_line_for_each_finding_and_exit_code_0(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["doctor", str(tmp_path), "--engine", "fake"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert {line.split()[0] for line in lines} <= {"ok", "note"}
    assert {line.split()[1] for line in lines} >= {"python", "decoders", "cpu", "disk", "locks", "gpu"}
    assert all(" -> " in line for line in lines if line.startswith("note"))
    assert list(tmp_path.iterdir()) == []


def test_a_problem_ends_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor, "_cpus", lambda *_: iter([Finding(check="cpu", state="problem", text="no", advice="go")])
    )
    result = CliRunner().invoke(main, ["doctor", str(tmp_path), "--engine", "fake"])
    assert result.exit_code == 1
    assert "problem  cpu           no -> go" in result.stdout.splitlines()


# Packages


def test_packages_of_the_engine_are_needed(installed: dict[str, str], tmp_path: Path) -> None:
    [found] = _find("transformers", tmp_path)
    assert (found.state, found.text) == ("ok", "torch 2.14.1, transformers 5.23.0")
    installed["transformers"] = "4.57.1"
    del installed["torch"]
    [found] = _find("transformers", tmp_path)
    assert found.state == "note"
    [found] = list(doctor._packages(Settings(engine="transformers"), tmp_path))[:1]
    assert (found.state, found.advice) == ("problem", "pip install 'reelscribe[transformers]'")
    assert found.text == "torch is not installed; transformers 4.57.1 is installed, <5.40,>=5.16 is needed"


def test_what_is_seldom_wanted_is_not_missed(installed: dict[str, str], tmp_path: Path) -> None:
    del installed["ray"], installed["pyarrow"]
    assert _find("ray", tmp_path) == []
    [found] = _find("data", tmp_path)
    assert (found.state, found.text) == ("note", "pyarrow is not installed")


def test_what_schemas_take_is_missed(installed: dict[str, str], tmp_path: Path) -> None:
    [found] = _find("structured", tmp_path)
    assert (found.state, found.text) == ("note", "llguidance is not installed")
    assert found.advice == "pip install 'reelscribe[structured]'"
    installed["llguidance"] = "1.9.1"
    [found] = _find("structured", tmp_path)
    assert (found.state, found.text) == ("ok", "llguidance 1.9.1")


def test_versions_are_let_be_where_nobody_can_compare_them(
    installed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed["transformers"] = "4.57.1"
    monkeypatch.setitem(sys.modules, "packaging.specifiers", None)
    assert _find("transformers", tmp_path)[0].state == "ok"


# GPUs


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs, with a driver's that sees two GPUs."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho NVIDIA H100\necho NVIDIA H100\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return program


def _gpu(tmp_path: Path) -> Finding:
    [found] = doctor._gpus(Settings(), tmp_path)
    return found


def test_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: Path) -> None:
    monkeypatch.setattr(doctor, "visible_gpus", lambda: [("NVIDIA H100", 85 * 10**9)])
    assert (_gpu(tmp_path).state, _gpu(tmp_path).text) == ("ok", "NVIDIA H100 (85 GB)")
    monkeypatch.setattr(doctor, "visible_gpus", list)
    assert (_gpu(tmp_path).state, _gpu(tmp_path).text) == (
        "problem",
        "the driver sees NVIDIA H100, NVIDIA H100, PyTorch sees none",
    )
    driver.write_text("#!/bin/sh\nexit 9\n")
    assert (_gpu(tmp_path).state, _gpu(tmp_path).text) == ("note", "there is none: models run on the CPU")

    def broken() -> None:
        raise OSError("libcudart.so.13: cannot open shared object file\nmore")

    monkeypatch.setattr(doctor, "visible_gpus", broken)
    assert _gpu(tmp_path).text == "PyTorch cannot be loaded: OSError: libcudart.so.13: cannot open shared object file"
    assert "not needed with --engine openai" in _find("gpu", tmp_path, engine="openai")[0].text


def test_gpus_without_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: Path) -> None:
    def missing() -> None:
        raise ModuleNotFoundError("torch")

    monkeypatch.setattr(doctor, "visible_gpus", missing)
    assert _gpu(tmp_path).text == "NVIDIA H100, NVIDIA H100, by its driver"
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert list(doctor._gpus(Settings(), tmp_path)) == []


# Decoders, disks, locks


def test_decoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _find("decoders", tmp_path)[0].state == "ok"
    monkeypatch.setattr(doctor, "_CODECS", ("h264", "nonesuch"))
    [found] = _find("decoders", tmp_path)
    assert (found.state, found.text.rpartition("; ")[2]) == ("note", "there is no decoder for nonesuch")

    def fail(*_: object, **__: object) -> None:
        raise ClipError("crashed", "clip.mp4: its decoder crashed (SIGILL).")

    monkeypatch.setattr(DecoderPool, "decode", fail)
    [found] = _find("decoders", tmp_path)
    assert found.state == "problem"
    assert found.text == "a good clip cannot be decoded: clip.mp4: its decoder crashed (SIGILL). [crashed]"


def test_python_where_decoders_cannot_be_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "AVAILABLE", False)
    [found] = doctor._python(Settings(), tmp_path)
    assert found.state == "note"
    assert "decoders cannot run in processes of their own" in found.text


@pytest.mark.parametrize(("free", "state"), [(10**12, "ok"), (5 * 10**9, "note"), (10**8, "problem")])
def test_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: str) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(free))
    found = list(doctor._disks(Settings(), tmp_path / "later" / "deep"))
    assert [item.text.partition(":")[0] for item in found] == ["output", "downloads", "models"]
    assert {item.state for item in found} == {state}
    assert found[0].text.endswith(f"GB free at {tmp_path}")
    assert len(list(doctor._disks(Settings(model="shapes"), tmp_path))) == 2


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = next(doctor._disks(Settings(), tmp_path))
    assert (found.state, found.text) == ("problem", f"output: {tmp_path} cannot be written to")


def test_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def refuse(*_: object) -> Iterator[None]:
        raise OSError(37, "No locks available")
        yield

    assert _find("locks", tmp_path)[0].state == "ok"
    monkeypatch.setattr(doctor, "locked", refuse)
    [found] = _find("locks", tmp_path)
    assert found.state == "problem"
    assert found.text == f"no file can be locked in {tmp_path}: [Errno 37] No locks available"


# The model


class _Hub(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        allowed = self.headers.get("Authorization") == "Bearer secret"
        code = {"/api/models/a/public": 200, "/api/models/a/gated": 200 if allowed else 401, "/api/models/a/ill": 503}
        self.send_response(code.get(self.path, 404))
        self.end_headers()
        self.wfile.write(json.dumps({}).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    """A hub on this machine."""
    server = HTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub-home"))
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def _model(tmp_path: Path, name: str, **settings: Any) -> Finding:
    [found] = doctor._model(Settings(model=name, **settings), tmp_path)
    return found


def test_the_hub_is_asked(hub: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (_model(tmp_path, "a/public").state, _model(tmp_path, "a/public").text) == ("ok", "the hub has a/public")
    gated = _model(tmp_path, "a/gated")
    assert (gated.state, gated.text) == ("problem", "the hub gives no a/gated to you (HTTP 401)")
    assert "set HF_TOKEN" in gated.advice
    assert _model(tmp_path, "a/gated", model_params={"token": "secret"}).state == "ok"
    (tmp_path / "hub-home").mkdir()
    (tmp_path / "hub-home" / "token").write_text("secret\n")
    assert _model(tmp_path, "a/gated").state == "ok"
    monkeypatch.setenv("HF_TOKEN", "wrong")
    assert _model(tmp_path, "a/gated").state == "problem"
    assert "(HTTP 404)" in _model(tmp_path, "a/typo").text
    assert _model(tmp_path, "a/ill").text == "the hub answers HTTP 503"


def test_the_cache_will_do(hub: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "hub-home" / "hub" / "models--a--public"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("0123abc")
    (kept / "snapshots" / "0123abc").mkdir(parents=True)
    (kept / "snapshots" / "0123abc" / "config.json").write_text("{}")
    assert _model(tmp_path, "a/public").text == "the hub has a/public, so has the cache"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    found = _model(tmp_path, "a/public")
    assert found.state == "note"
    assert "cannot be reached: [Errno 111] Connection refused; the cache has a/public" in found.text
    other = _model(tmp_path, "a/other")
    assert other.state == "problem"
    assert "HTTPS_PROXY" in other.advice
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert _model(tmp_path, "a/other").text == "HF_HUB_OFFLINE forbids to ask the hub"


@pytest.mark.transformers
def test_a_model_on_this_machine(tmp_path: Path) -> None:
    found = _model(tmp_path, "shapes")
    assert (found.state, found.text) == ("ok", "shapes is on this machine, 0.02 GB")
    found = _model(tmp_path, str(tmp_path))
    assert (found.state, found.advice) == ("problem", "name a whole checkpoint that takes videos")
    assert list(doctor._model(Settings(engine="openai"), tmp_path)) == []
