"""Clips to frames: decoders in processes of their own, in this process, and PyAV as one would use it at first.

`linear` decodes every frame and takes the wanted ones; `seeking` seeks to each of them. Both bring them to the size
that the budget gives, with the usual (bilinear) filter, in one step with the colours; they check nothing. A
long, a middling and a short video give 20 frames each, one call after the other. Many small clips, as a data set has
them, two frames a second, and some large ones, 20 frames each, are decoded ahead, as a run does. What is read is in the
system's cache.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from memory import peak_memory_bytes
from numpy.typing import NDArray

from reelscribe.values import Clip, Frames, Request, RequestId, Work
from reelscribe.video.decode import decode
from reelscribe.video.isolate import DecoderPool
from reelscribe.video.prefetch import decode_ahead
from reelscribe.video.sampling import FrameBudget, VisionLimits, fit_resolution

WANTED = 20
SOME = FrameBudget(fps=1e-6, min_frames=WANTED, max_frames=WANTED, max_video_tokens=8192, limits=VisionLimits())
TWO_A_SECOND = FrameBudget(fps=2, min_frames=4, max_frames=768, max_video_tokens=8192, limits=VisionLimits())


def render(file: Path, *, size: tuple[int, int], seconds: int, keyframe_every: int) -> Path:
    """A rough texture that a camera pans over, H.264, 25 frames a second."""
    width, height = size
    coarse = np.random.default_rng(0).integers(0, 256, (height // 16 + 32, width // 16 + 32), np.uint8)
    ground = av.VideoFrame.from_ndarray(coarse, format="gray").reformat(width=width + 512, height=height + 512)
    picture, chroma = ground.to_ndarray(), np.full((height // 2, width), 128, np.uint8)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base, stream.codec_context.gop_size = Fraction(1, 25), keyframe_every
        for number in range(seconds * 25):
            x, y = number * 3 % 512, number * 2 % 512
            planes = np.concatenate([picture[y : y + height, x : x + width], chroma])
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(planes), format="yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file


def linear(file: Path, count: int, budget: FrameBudget) -> int:
    """Decode every frame."""
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        wanted = set(np.linspace(0, stream.frames - 1, count).astype(int).tolist())
        frames = (frame for number, frame in enumerate(container.decode(stream)) if number in wanted)
        return len([pixels(frame, count, budget) for frame in frames])


def seeking(file: Path, count: int, budget: FrameBudget) -> int:
    """Seek to the keyframe before each frame, and decode from there."""

    def frames() -> Iterator[Any]:
        for time in np.linspace(0, (stream.frames - 1) / 25, count):
            pts = round(time / stream.time_base)
            container.seek(pts, stream=stream)
            frame = next((frame for frame in container.decode(stream) if frame.pts >= pts), None)
            if frame is not None:
                yield pixels(frame, count, budget)

    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        return len(list(frames()))


def pixels(frame: av.VideoFrame, count: int, budget: FrameBudget) -> NDArray[np.uint8]:
    """A frame as the model is to see it."""
    width, height = fit_resolution(frame.width, frame.height, count, budget)
    made: NDArray[np.uint8] = frame.to_ndarray(format="rgb24", width=width, height=height)  # type: ignore[assignment]
    return made


def in_process(file: Path) -> int:
    """Decode as with `decoders=0`."""
    return len(decode(Clip(source=str(file)), SOME).pixels)


def isolated(file: Path) -> int:
    """Decode in another process."""
    return len(DecoderPool(seconds=600, max_memory=4 << 30).decode(Clip(source=str(file)), SOME, threads=0).pixels)


ONE_FILE: dict[str, Callable[[Path], int]] = {
    "isolated": isolated,
    "in_process": in_process,
    "linear": lambda file: linear(file, WANTED, SOME),
    "seeking": lambda file: seeking(file, WANTED, SOME),
}


FOLDERS = {"small": (8, TWO_A_SECOND), "large": (WANTED, SOME)}
"""Frames that `linear` is to take of each clip there, and the budget that comes to as many."""


def ahead(folder: Path, decoders: int | None) -> int:
    """Decode all clips of a folder ahead, as an engine has it."""
    _, budget = FOLDERS[folder.name]
    files = enumerate(sorted(folder.iterdir()))
    asked = (Request(id=RequestId(row=number), clip=Clip(source=str(file)), prompt="") for number, file in files)
    answers = decode_ahead(
        (Work(requests=(request,)) for request in asked), budget, max_bytes=1 << 30, decoders=decoders
    )
    return sum(isinstance(outcome, Frames) for _, outcome in answers)


MANY_FILES: dict[str, Callable[[Path], int]] = {
    "isolated": lambda folder: ahead(folder, None),
    "in_process": lambda folder: ahead(folder, 0),
    "linear": lambda folder: sum(linear(file, *FOLDERS[folder.name]) > 0 for file in folder.iterdir()),
}


def peak_bytes(method: str, path: Path) -> int:
    """Most memory that a method takes in a fresh process, its decoders included."""
    code = f"import decode; print(decode.measure({method!r}, {str(path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, stdout=subprocess.PIPE, check=True)
    return int(json.loads(done.stdout))


def measure(method: str, path: str) -> int:
    """Run a method, and tell the most memory that it and its decoders took, in bytes."""
    from reelscribe.video import isolate

    (MANY_FILES if Path(path).is_dir() else ONE_FILE)[method](Path(path))
    decoders = [peak_memory_bytes(decoder.process.pid or "self") for decoder in isolate._idle]
    return peak_memory_bytes() + sum(decoders)


def main() -> None:
    from common import arguments, interleaved, render_clips, save_result, workspace

    args = arguments(__doc__, rounds=5, clips=200, large_clips=20, long_seconds=600)
    cases: dict[str, dict[str, Any]] = {}
    with workspace() as folder:
        small, large = (folder / name for name in FOLDERS)
        small.mkdir()
        large.mkdir()
        render_clips(small, args.clips)
        short = render(folder / "10s.mp4", size=(1280, 720), seconds=10, keyframe_every=250)
        for number in range(args.large_clips):
            (large / f"{number}.mp4").symlink_to(short)
        paths = {
            f"{args.clips} clips, 320x240, 4 s": small,
            f"{args.large_clips} clips, 720p, 10 s, keyframe every 10 s": large,
            "720p, 10 s, keyframe every 10 s": short,
            "1080p, 60 s, keyframe every 10 s": render(
                folder / "60s.mp4", size=(1920, 1080), seconds=60, keyframe_every=250
            ),
            f"1080p, {args.long_seconds} s, keyframe every second": render(
                folder / "long.mp4", size=(1920, 1080), seconds=args.long_seconds, keyframe_every=25
            ),
        }
        for name, path in paths.items():
            methods = MANY_FILES if path.is_dir() else ONE_FILE
            timed = interleaved({way: partial(method, path) for way, method in methods.items()}, rounds=args.rounds)
            for way, result in timed.items():
                result["peak_memory_bytes"] = peak_bytes(way, path)
            median = {way: result["median_seconds"] for way, result in timed.items()}
            cases[name] = {
                **timed,
                "speed_over_linear": round(median["linear"] / median["isolated"], 2),
                "cost_of_isolation": round(median["isolated"] / median["in_process"] - 1, 3),
            }
    save_result("decode", {"settings": vars(args), "cases": cases})


if __name__ == "__main__":
    main()
