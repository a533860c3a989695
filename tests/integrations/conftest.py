"""Six rows for the tests inside Data-Juicer: five clips, and a file that is none."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from flow import EOC, VIDEO

from reelscribe.demo import write_clip
from reelscribe.models.shapes.scenes import random_scene
from reelscribe.values import Row

BROKEN = 3
"""The row whose video is none."""


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """Each with its number, one video, text with a token, and the truth about its video."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(11)
    made = []
    for number in range(6):
        scene, file = random_scene(rng), folder / f"clip-{number}.mp4"
        if number == BROKEN:
            file.write_bytes(b"this is no video")
        else:
            write_clip(file, scene, width=320, height=240, fps=12, seconds=2)
        text = f"{VIDEO}a clip {number}{EOC}"
        made.append({"id": number, "videos": [str(file)], "text": text, "truth": scene.caption})
    return made


@pytest.fixture(scope="session")
def captioned() -> Callable[[Sequence[Row]], list[tuple[int, str]]]:
    """What is to come of rows, as (id, text): each, and behind it what was made of it; the broken one alone."""

    def expect(rows: Sequence[Row]) -> list[tuple[int, str]]:
        expected = []
        for row in rows:
            expected.append((row["id"], row["text"]))
            if row["id"] != BROKEN:
                expected.append((row["id"], f"{VIDEO} {row['truth']} {EOC}"))
        return expected

    return expect


@pytest.fixture(scope="session")
def packages() -> Path:
    """The folder of the distributions beside the main one."""
    return Path(__file__).parents[2] / "packages"
