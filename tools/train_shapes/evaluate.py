"""Counts exactly right captions of `shapes` on freshly rendered clips, through the whole command."""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reelscribe.demo import prepare
from reelscribe.models.shapes.scenes import Scene

Frames = Iterable[NDArray[np.uint8]]
SECONDS = (2.0, 12.0)
PART = 25


def backwards(frames: Iterator[NDArray[np.uint8]]) -> Frames:
    return reversed(list(frames))


def red_for_blue(frames: Iterator[NDArray[np.uint8]]) -> Frames:
    return (np.ascontiguousarray(frame[..., ::-1]) for frame in frames)


CHANGES = {"none": iter, "backwards": backwards, "red_for_blue": red_for_blue}


def make_part(job: tuple[Path, int, int, str]) -> tuple[Path, dict[str, Scene]]:
    folder, seed, part, change = job
    return prepare(folder / str(part), clips=PART, seed=[seed, part], seconds=SECONDS, change=CHANGES[change])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a checkpoint, or shapes")
    parser.add_argument("--clips", type=int, default=500, help=f"a multiple of {PART}")
    parser.add_argument("--seed", type=int, default=31337)
    parser.add_argument("--change", choices=sorted(CHANGES), default="none", help="a control: should fail")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        with ProcessPoolExecutor(args.workers) as pool:
            jobs = [(Path(name), args.seed, part, args.change) for part in range(args.clips // PART)]
            parts = list(pool.map(make_part, jobs))
        output = Path(name) / "captions.jsonl"
        inputs = [str(data) for data, _ in parts]
        command = [sys.executable, "-m", "reelscribe.cli", "caption", *inputs, "-o", str(output), "--model", args.model]
        subprocess.run(command, check=True)
        captions = [json.loads(line)["caption"] for line in output.read_text("utf-8").splitlines()]
    scenes = [scene for _, made in parts for scene in made.values()]
    right: dict[str, list[bool]] = {"seen pairs": [], "held-out pairs": []}
    for scene, text in zip(scenes, captions, strict=True):
        right["held-out pairs" if scene.is_held_out else "seen pairs"].append(text == scene.caption)
        if text != scene.caption and args.change == "none":
            print(f"truth  {scene.caption}\nmodel  {text}")
    for kind, hits in right.items():
        print(f"{kind}: {sum(hits)} of {len(hits)}")
    total = sum(map(sum, right.values()))
    print(f"change {args.change}: {total} of {len(scenes)} exactly right ({total / len(scenes):.1%})")


if __name__ == "__main__":
    main()
