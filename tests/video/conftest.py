"""A folder for the clips of a test file, the plainest clip, and decoders that are a test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from clips import write_clip

from reelscribe.video import isolate


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
