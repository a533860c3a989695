"""Counts right answers of `shapes` on freshly rendered clips, each kind of question asked through the whole command."""

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from questions import Question, truth_question
from reelscribe.demo import prepare
from reelscribe.models.shapes.scenes import FIELDS, Scene

Frames = Iterable[NDArray[np.uint8]]
SECONDS = (2.0, 12.0)
PART = 25
SOME_FIELDS = ("color", "shape", "motion")
SCHEMA = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in FIELDS},
    "required": list(FIELDS),
    "additionalProperties": False,
}


def backwards(frames: Iterator[NDArray[np.uint8]]) -> Frames:
    return reversed(list(frames))


def red_for_blue(frames: Iterator[NDArray[np.uint8]]) -> Frames:
    return (np.ascontiguousarray(frame[..., ::-1]) for frame in frames)


CHANGES = {"none": iter, "backwards": backwards, "red_for_blue": red_for_blue}


@dataclass(frozen=True, kw_only=True)
class Filmed:
    """A clip, and what is true of it."""

    file: Path
    seconds: float
    scene: Scene
    question: Question
    """Whether a statement is true of it."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How a kind of question is asked, and what is right."""

    options: tuple[str, ...]
    """For the command."""
    truth: Callable[[Filmed], str]
    right: Callable[[Filmed, str], bool] | None = None
    """What counts as right; else only the truth to the letter."""


def events_are_right(clip: Filmed, text: str) -> bool:
    return clip.scene.fits_timeline(text, clip.seconds)


KINDS = {
    "sentence": Kind(options=(), truth=lambda clip: clip.scene.caption),
    "free": Kind(options=("--prompt", "What can be seen here?"), truth=lambda clip: clip.scene.caption),
    "detail": Kind(options=("--prompt", "Describe the video in detail."), truth=lambda clip: clip.scene.detail),
    "json": Kind(
        options=("--prompt", f"Answer as JSON with the fields {', '.join(FIELDS)}."),
        truth=lambda clip: clip.scene.as_json(),
    ),
    "some fields": Kind(
        options=("--prompt", f"Answer as JSON with the fields {', '.join(SOME_FIELDS)}."),
        truth=lambda clip: clip.scene.as_json(SOME_FIELDS),
    ),
    "schema": Kind(
        options=("--prompt", f"Answer as JSON by this schema: {json.dumps(SCHEMA)}"),
        truth=lambda clip: clip.scene.as_json(),
    ),
    "events": Kind(
        options=("--prompt", "List the events with their times."),
        truth=lambda clip: clip.scene.timeline(clip.seconds),
        right=events_are_right,
    ),
    "truth": Kind(options=("--prompt-key", "question"), truth=lambda clip: clip.question.answer),
}


def make_part(job: tuple[Path, int, int, str]) -> list[Filmed]:
    """Film a part of the clips."""
    folder, seed, part, change = job
    data, scenes = prepare(folder / str(part), clips=PART, seed=[seed, part], seconds=SECONDS, change=CHANGES[change])
    rng = np.random.default_rng([seed, part, 1])
    made = []
    for number, (name, scene) in enumerate(scenes.items()):
        file = data.parent / name
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            seconds = float((stream.duration or 0) * (stream.time_base or 0))
        question = truth_question(scene, rng, true=number % 2 == 0, prompt="Is this true: {}")
        made.append(Filmed(file=file, seconds=seconds, scene=scene, question=question))
    return made


def film_all(folder: Path, args: argparse.Namespace) -> list[Filmed]:
    """All clips; those that an earlier evaluation left in the folder are taken as they are."""
    known = folder / f"clips-{args.seed}-{args.change}-{args.clips}.pickle"
    if not known.exists():
        place = folder / f"{args.seed}-{args.change}"
        with ProcessPoolExecutor(args.workers) as pool:
            jobs = [(place, args.seed, part, args.change) for part in range(args.clips // PART)]
            clips = [clip for part in pool.map(make_part, jobs) for clip in part]
        known.write_bytes(pickle.dumps(clips))
    return pickle.loads(known.read_bytes())  # type: ignore[no-any-return]


def ask(kind: Kind, clips: list[Filmed], model: str) -> list[str]:
    """The answers of the command to one kind of question."""
    with tempfile.TemporaryDirectory() as name:
        data, output = Path(name) / "clips.jsonl", Path(name) / "answers.jsonl"
        rows = ({"video": str(clip.file.resolve()), "question": clip.question.prompt} for clip in clips)
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        command = [sys.executable, "-m", "reelscribe.cli", "caption", str(data), "-o", str(output), "--model", model]
        subprocess.run([*command, *kind.options], check=True)
        return [json.loads(line)["caption"] for line in output.read_text("utf-8").splitlines()]


def judge(name: str, clips: list[Filmed], answers: list[str], *, show: bool) -> None:
    """Print how many answers are right, and those that are not."""
    kind = KINDS[name]
    right = 0
    for clip, text in zip(clips, answers, strict=True):
        truth = kind.truth(clip)
        fits = kind.right(clip, text) if kind.right else text == truth
        right += fits
        if show and not fits:
            asked = f"   asked {clip.question.prompt}" if name == "truth" else ""
            print(f"truth  {truth}   {clip.seconds:.2f} s{asked}\nmodel  {text}")
    print(f"{name}: {right} of {len(clips)} right ({right / len(clips):.1%})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a checkpoint, or shapes")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--clips", type=int, default=500, help=f"a multiple of {PART}")
    parser.add_argument("--seed", type=int, default=31337)
    parser.add_argument("--change", choices=sorted(CHANGES), default="none", help="a control: should fail")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keep the clips there, and take them from there the next time")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = args.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        clips = film_all(folder, args)
        for kind in args.kinds:
            judge(kind, clips, ask(KINDS[kind], clips, args.model), show=args.change == "none")


if __name__ == "__main__":
    main()
