"""Renders a small data set of clips whose content is known. Used by `reelscribe demo`, tests and benchmarks."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, cast

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from reelscribe.models.shapes.scenes import Scene, random_scene, render

CLIPS: Final = 12
"""Default number of clips."""
SIZES: Final = ((320, 240), (640, 360), (480, 480), (854, 480), (1280, 720), (160, 120))
"""Width and height of the clips in pixels, used in turn."""
RATES: Final = (12, 24, 25, 30, 50, 60)
"""Frame rates of the clips, in frames per second; one is drawn at random for each clip."""


def write_video(file: Path, frames: Iterable[NDArray[np.uint8]], *, fps: int, codec: str = "libx264") -> None:
    """Encode frames into a video file.

    Args:
        file: the file to write; its suffix names the container.
        frames: RGB pixels of each frame, uint8, shape (height, width, 3); height and width must be even.
        fps: frames per second.
        codec: FFmpeg's name of the encoder.
    """
    with av.open(str(file), "w") as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=fps))
        stream.options = {"preset": "ultrafast"} if codec == "libx264" else {}
        stream.pix_fmt = "yuv420p"
        for number, pixels in enumerate(frames):
            if number == 0:
                stream.height, stream.width = pixels.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def film(scene: Scene, *, width: int, height: int, fps: int, seconds: float) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of a scene from its beginning to its end. The length is rounded to whole frames, at least 2."""
    count = max(round(seconds * fps), 2)
    for number in range(count):
        yield render(scene, width=width, height=height, at=[number / (count - 1)])[0]


def write_clip(file: Path, scene: Scene, *, width: int, height: int, fps: int, seconds: float) -> None:
    """Render a scene into an H.264 file; see `film` and `write_video`."""
    write_video(file, film(scene, width=width, height=height, fps=fps, seconds=seconds), fps=fps)


def prepare(
    folder: Path,
    *,
    clips: int = CLIPS,
    seed: int | Sequence[int] = 7,
    seconds: tuple[float, float] = (2, 4),
    change: Callable[[Iterator[NDArray[np.uint8]]], Iterable[NDArray[np.uint8]]] = iter,
) -> tuple[Path, dict[str, Scene]]:
    """Render clips in mixed sizes and frame rates, and a data set that lists them.

    Args:
        folder: where to write all files.
        clips: number of clips.
        seed: seed of the random scenes, frame rates and lengths.
        seconds: shortest and longest length of a clip.
        change: function applied to the frames of each clip before they are written.

    Returns:
        The path of the data set (`clips.jsonl`, with a column `video`), and the scene of each file by its name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    scenes = {}
    for number in range(clips):
        scene = random_scene(rng)
        width, height = SIZES[number % len(SIZES)]
        name, fps = f"clip-{number:02d}.mp4", int(rng.choice(RATES))
        frames = film(scene, width=width, height=height, fps=fps, seconds=float(rng.uniform(*seconds)))
        write_video(folder / name, change(frames), fps=fps)
        scenes[name] = scene
    data = folder / "clips.jsonl"
    data.write_text("".join(json.dumps({"video": name}) + "\n" for name in scenes), "utf-8")
    return data, scenes
