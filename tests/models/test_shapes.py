"""The built-in model, through the whole command: right on what it has not seen, wrong where the pixels are changed."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from flow import read_rows_of
from numpy.typing import NDArray

from reelscribe import model_path
from reelscribe.cli import main
from reelscribe.demo import prepare

Pixels = NDArray[np.uint8]
Change = Callable[[Iterator[Pixels]], Iterable[Pixels]]


def backwards(frames: Iterator[Pixels]) -> Iterable[Pixels]:
    return reversed(list(frames))


def red_for_blue(frames: Iterator[Pixels]) -> Iterable[Pixels]:
    return (np.ascontiguousarray(frame[..., ::-1]) for frame in frames)


def share_right(folder: Path, *, clips: int, seed: int, **options: Any) -> float:
    """The share of freshly rendered clips whose caption is right to the letter."""
    data, scenes = prepare(folder, clips=clips, seed=seed, **options)
    output = folder / "captioned.jsonl"
    done = CliRunner().invoke(main, ["caption", str(data), "-o", str(output), "--model", "shapes"])
    assert done.exit_code == 0, done.output
    rows = read_rows_of(output)
    assert [row["video"] for row in rows] == list(scenes)
    right: list[bool] = [row["caption"] == scenes[row["video"]].caption for row in rows]
    return sum(right) / len(right)


@pytest.mark.transformers
def test_captions_of_unseen_clips_are_right(tmp_path: Path) -> None:
    assert share_right(tmp_path, clips=60, seed=4711, seconds=(2, 12)) >= 0.95


@pytest.mark.transformers
@pytest.mark.parametrize("change", [backwards, red_for_blue])
def test_captions_of_changed_clips_are_wrong(tmp_path: Path, change: Change) -> None:
    assert share_right(tmp_path, clips=24, seed=815, change=change) <= 0.6


def test_weights_are_small_and_come_with_a_card() -> None:
    folder = Path(model_path("shapes"))
    assert (folder / "model.safetensors").stat().st_size <= 20_000_000
    assert "What it is for" in (folder / "README.md").read_text("utf-8")


def test_other_names_are_left_alone() -> None:
    assert model_path("Qwen/Qwen3-VL-8B-Instruct") == "Qwen/Qwen3-VL-8B-Instruct"
