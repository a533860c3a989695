"""A folder for the clips of a test file, the plainest clip, decoders that are a test's own, and an HTTP server."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from clips import write_clip
from web_server import Server

from reelscribe.video import addresses, isolate


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def plain(folder: Path) -> Path:
    """H.264 in MP4, 160x120, 30 frames at 25 a second, the header in front."""
    return write_clip(folder / "plain.mp4", container_options={"movflags": "faststart"})


@pytest.fixture
def no_idle_decoders() -> Iterator[None]:
    """Start without decoders from earlier tests, and leave none behind."""
    isolate.end_idle()
    yield
    isolate.end_idle()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An HTTP server, and no proxy before it."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def as_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 stands for an address of the public internet."""
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1")
