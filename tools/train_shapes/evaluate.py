"""Counts exactly right captions of `shapes` on freshly rendered clips, through the whole command."""

import argparse
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from reelscribe.demo import RATES, SIZES, film, write_video
from reelscribe.models.shapes.scenes import Scene, random_scene

CONTROLS = ("none", "reversed", "swapped")


def draw(seed: int, number: int) -> tuple[Scene, dict[str, int | float]]:
    """A scene that training cannot have seen, and how to film it."""
    rng = np.random.default_rng([seed, number])
    scene = random_scene(rng)
    width, height = SIZES[rng.integers(len(SIZES))]
    shot = {"width": width, "height": height, "fps": int(rng.choice(RATES)), "seconds": float(rng.uniform(2, 12))}
    return scene, shot


def write(job: tuple[int, int, str, Path]) -> None:
    seed, number, control, folder = job
    scene, shot = draw(seed, number)
    frames = film(scene, **shot)  # type: ignore[arg-type]
    if control == "reversed":
        frames = reversed(list(frames))
    elif control == "swapped":
        frames = (frame[..., ::-1].copy() for frame in frames)
    write_video(folder / f"{number:04d}.mp4", frames, fps=int(shot["fps"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a checkpoint, or shapes")
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--seed", type=int, default=31337)
    parser.add_argument("--control", choices=CONTROLS, default="none")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with ProcessPoolExecutor(args.workers) as pool:
            jobs = [(args.seed, number, args.control, folder) for number in range(args.clips)]
            list(pool.map(write, jobs, chunksize=4))
        output = folder / "captions.jsonl"
        command = [sys.executable, "-m", "reelscribe.cli", "caption", name, "-o", str(output), "--model", args.model]
        subprocess.run(command, check=True)
        captions = [json.loads(line)["caption"] for line in output.read_text("utf-8").splitlines()]
    right: dict[str, list[bool]] = {"seen pairs": [], "held-out pairs": []}
    for number, text in enumerate(captions):
        scene, _ = draw(args.seed, number)
        right["held-out pairs" if scene.is_held_out else "seen pairs"].append(text == scene.caption)
        if text != scene.caption and args.control == "none":
            print(f"{number:04d}  {scene.caption}\n      {text}")
    for kind, hits in right.items():
        print(f"{kind}: {sum(hits)} of {len(hits)}")
    total = sum(map(sum, right.values()))
    print(f"control {args.control}: {total} of {args.clips} exactly right ({total / args.clips:.1%})")


if __name__ == "__main__":
    main()
