"""The built-in model, through the whole command: right on what it has not seen, wrong where the pixels are changed."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from flow import put_rows, read_rows_of
from numpy.typing import NDArray

from reelscribe import model_path
from reelscribe.cli import main
from reelscribe.demo import prepare
from reelscribe.models.shapes.scenes import FIELDS, Scene, change_fact

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


Filmed = tuple[Path, Mapping[str, Scene]]
SECONDS = 4.0
SCHEMA = {"type": "object", "properties": {name: {"type": "string"} for name in FIELDS}, "required": list(FIELDS)}


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Filmed:
    """New clips, all of one length so that the truth of their timelines is known."""
    return prepare(tmp_path_factory.mktemp("asked"), clips=30, seed=2222, seconds=(SECONDS, SECONDS))


def answers(data: Path, output: Path, *options: str) -> list[str]:
    """What the model says of each clip."""
    done = CliRunner().invoke(main, ["caption", str(data), "-o", str(output), "--model", "shapes", *options])
    assert done.exit_code == 0, done.output
    return [row["caption"] for row in read_rows_of(output)]


def share(hits: Iterable[bool]) -> float:
    counted = list(hits)
    return sum(counted) / len(counted)


@pytest.mark.transformers
@pytest.mark.parametrize(
    ("prompt", "truth"),
    [
        ("Describe the video in one sentence.", lambda scene: scene.caption),
        ("Describe the video in detail.", lambda scene: scene.detail),
        (f"Answer as JSON with the fields {', '.join(FIELDS)}.", lambda scene: scene.as_json()),
        ("Answer as JSON with the fields color, motion.", lambda scene: scene.as_json(("color", "motion"))),
        (f"Answer as JSON by this schema: {json.dumps(SCHEMA)}", lambda scene: scene.as_json()),
    ],
)
def test_the_prompt_chooses_the_form_of_the_answer(
    filmed: Filmed, tmp_path: Path, prompt: str, truth: Callable[[Scene], str]
) -> None:
    replies = answers(filmed[0], tmp_path / "out.jsonl", "--prompt", prompt)
    assert share(text == truth(scene) for text, scene in zip(replies, filmed[1].values(), strict=True)) >= 0.9


@pytest.mark.transformers
def test_events_come_with_their_times(filmed: Filmed, tmp_path: Path) -> None:
    replies = answers(filmed[0], tmp_path / "out.jsonl", "--prompt", "List the events with their times.")
    pairs = zip(replies, filmed[1].values(), strict=True)
    assert share(scene.fits_timeline(text, SECONDS) for text, scene in pairs) >= 0.9


@pytest.mark.transformers
@pytest.mark.parametrize("true", [True, False])
def test_statements_wrong_in_one_fact_are_denied_and_true_ones_are_not(
    filmed: Filmed, tmp_path: Path, true: bool
) -> None:
    rng = np.random.default_rng(3)
    rows = []
    for number, (name, scene) in enumerate(filmed[1].items()):
        said = scene if true else change_fact(scene, FIELDS[number % len(FIELDS)], rng)
        rows.append({"video": str(filmed[0].parent / name), "question": f"Is this true: {said.caption}"})
    replies = answers(put_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl", "--prompt-key", "question")
    assert share(text == ("Yes" if true else "No") for text in replies) >= 0.9


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
