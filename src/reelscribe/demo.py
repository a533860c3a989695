"""A small data set of rendered clips, with the truth beside each: for `reelscribe demo`, tests and benchmarks."""

import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import numpy as np

from reelscribe.models.shapes.scenes import Scene, random_scene, render

CLIPS: Final = 12
_SIZES: Final = ((320, 240), (640, 360), (480, 480), (854, 480), (1280, 720), (160, 120))
_RATES: Final = (12, 24, 25, 30, 50, 60)


def write_clip(
    file: Path, scene: Scene, *, width: int, height: int, fps: int, seconds: float, codec: str = "libx264"
) -> None:
    """Render a scene into a video file.

    Args:
        file: to write; its suffix names the container.
        scene: what happens.
        width: pixels, even.
        height: pixels, even.
        fps: frames a second.
        seconds: length; rounded to whole frames.
        codec: FFmpeg's name of the encoder.
    """
    count = max(round(seconds * fps), 2)
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=fps, options={"preset": "ultrafast"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, fps)
        for pixels in _frames(scene, width, height, count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def _frames(scene: Scene, width: int, height: int, count: int) -> Iterator[np.ndarray]:
    for number in range(count):
        yield render(scene, width=width, height=height, at=[number / (count - 1)])[0]


def prepare(folder: Path, *, clips: int = CLIPS, seed: int = 7, seconds: tuple[float, float] = (2, 4)) -> tuple[Path, dict[str, str]]:
    """Render clips and a data set that lists them.

    Returns:
        The data set (`clips.jsonl`, with a column `video`), and the true caption of each file name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    truths = {}
    for number in range(clips):
        scene = random_scene(rng)
        width, height = _SIZES[number % len(_SIZES)]
        name = f"clip-{number:02d}.mp4"
        fps = int(rng.choice(_RATES))
        write_clip(folder / name, scene, width=width, height=height, fps=fps, seconds=float(rng.uniform(*seconds)))
        truths[name] = scene.caption
    data = folder / "clips.jsonl"
    data.write_text("".join(json.dumps({"video": name}) + "\n" for name in truths), "utf-8")
    return data, truths
