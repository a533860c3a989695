"""A film of clips that the built-in model knows, through the whole command: split, captioned, and its events found."""

import subprocess
import sys
from pathlib import Path

import pytest
from flow import read_rows_of
from joining import CONFIG, hold, join

FPS = 12


@pytest.mark.transformers
def test_scenes_captions_and_events_of_a_film_are_right(tmp_path: Path) -> None:
    joined = join(tmp_path / "film.mp4", clips=8, seed=40, size=(160, 120), fps=FPS, seconds=(2, 6))
    (tmp_path / "run.toml").write_text(CONFIG, "utf-8")
    command = [sys.executable, "-m", "reelscribe.cli", "caption", "film.mp4", "-o", "captions.jsonl"]
    subprocess.run([*command, "--config", "run.toml", "--device", "cpu"], cwd=tmp_path, check=True)
    counts = hold(read_rows_of(tmp_path / "captions.jsonl"), joined, fps=FPS)
    assert (counts.scenes, counts.found, counts.captions, counts.all_right) == (8, 8, 8, 8), counts.wrong
