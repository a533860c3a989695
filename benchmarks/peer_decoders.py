"""20 frames of a file, by this package, PyAV, TorchCodec, decord and OpenCV, in turns, by the clock and by CPU time.

All are asked for the same frames, at the size that the model is to see, by their own way to frames of given numbers.
The others are told that size; `reelscribe` finds it out, reads the index of all frames, and reports damage: it decodes
all of files of up to 750 frames for this. TorchCodec scales while it decodes (`transforms`), exactly or as the file's
index says (`seek_mode`). OpenCV cannot, so its frames are scaled behind it. Each may use all cores.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from cpu import tree_cpu_seconds
from decode import SOME, WANTED, in_process, isolated, linear, render
from stretches import repeat

from reelscribe.video.sampling import fit_resolution

Method = Callable[[Path, tuple[int, int], list[int]], int]
"""From a file, the width and height wanted, and numbers of frames, to how many were made."""


def torchcodec(file: Path, size: tuple[int, int], numbers: list[int], *, seek_mode: str) -> int:
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    width, height = size
    resize = [Resize((height, width))]
    decoder = VideoDecoder(str(file), seek_mode=seek_mode, num_ffmpeg_threads=0, transforms=resize)
    return len(decoder.get_frames_at(numbers).data)


def decord(file: Path, size: tuple[int, int], numbers: list[int]) -> int:
    import decord

    width, height = size
    return len(decord.VideoReader(str(file), width=width, height=height).get_batch(numbers).asnumpy())


def opencv(file: Path, size: tuple[int, int], numbers: list[int]) -> int:
    """Grab each frame, and retrieve the wanted ones: its seeks are not exact."""
    import cv2

    reader, wanted, made = cv2.VideoCapture(str(file)), set(numbers), []
    for number in range(numbers[-1] + 1):
        if not reader.grab():
            break
        if number in wanted:
            picture = cv2.resize(reader.retrieve()[1], size, interpolation=cv2.INTER_AREA)
            made.append(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    return len(made)


METHODS: Final[dict[str, Method]] = {
    "reelscribe": lambda file, size, numbers: isolated(file),
    "reelscribe_in_process": lambda file, size, numbers: in_process(file),
    "torchcodec_exact": partial(torchcodec, seek_mode="exact"),
    "torchcodec_approximate": partial(torchcodec, seek_mode="approximate"),
    "decord": decord,
    "opencv": opencv,
    "pyav_linear": lambda file, size, numbers: linear(file, WANTED, SOME),
}
EVERY_FRAME: Final = ("opencv", "pyav_linear")
"""They decode a file from its beginning, so they are left out if it is longer than a minute."""
OTHERS: Final = ("torchcodec_exact", "torchcodec_approximate", "decord")
"""Whose fastest is what this package is held against: they seek, as it does."""
FILES: Final = {
    "10 s, 1080p, one keyframe": ((1920, 1080), 10, 250),
    "10 s, 720p, a keyframe every second": ((1280, 720), 10, 25),
    "60 s, 1080p, a keyframe every 2 s": ((1920, 1080), 60, 50),
    "10 min, 720p, a keyframe every second": ((1280, 720), 600, 25),
}
"""Size, seconds, and frames from keyframe to keyframe, at 25 frames a second."""
CALLS: Final = 3
"""Timed at once."""
_PART_SECONDS: Final = 20
"""Longer files are this one over and over."""


def rendered(folder: Path, size: tuple[int, int], seconds: int, gop: int) -> Path:
    name = f"{size[1]}-{seconds}-{gop}"
    part = render(folder / f"{name}-part.mp4", size=size, seconds=min(seconds, _PART_SECONDS), keyframe_every=gop)
    times = seconds // _PART_SECONDS
    return repeat(part, folder / f"{name}.mp4", times, seconds=_PART_SECONDS) if times > 1 else part


def measure(file: Path, size: tuple[int, int], seconds: int, methods: list[str], rounds: int) -> dict[str, Any]:
    """Medians of each method, of one call, after one untimed call of each.

    The system counts CPU time in ticks of 10 ms, so several calls are timed at once.
    """
    wanted = fit_resolution(*size, WANTED, SOME)
    numbers = np.linspace(0, seconds * 25 - 1, WANTED).astype(int).tolist()
    methods = [name for name in methods if seconds <= 60 or name not in EVERY_FRAME]
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    for turn in range(rounds + 1):
        for name in methods:
            calls = CALLS if turn else 1
            began, used = time.perf_counter(), tree_cpu_seconds()
            made = {METHODS[name](file, wanted, numbers) for _ in range(calls)}
            seen = ((time.perf_counter() - began) / calls, (tree_cpu_seconds() - used) / calls)
            if made != {WANTED}:
                raise SystemExit(f"{name} made {made} of {WANTED} frames of {file.name}")
            if turn:
                taken[name].append(seen)
    medians = {
        name: [round(statistics.median(each), 3) for each in zip(*seen, strict=True)] for name, seen in taken.items()
    }
    return {name: {"seconds": seconds, "cpu_seconds": cpu} for name, (seconds, cpu) in medians.items()}


def main() -> None:
    from common import arguments, save_result, workspace

    args = arguments(__doc__, rounds=5, methods=",".join(METHODS))
    names, files = args.methods.split(","), {}
    with workspace() as folder:
        for title, (size, seconds, gop) in FILES.items():
            files[title] = measure(rendered(folder, size, seconds, gop), size, seconds, names, args.rounds)
            print(title, files[title], flush=True)
    save_result("decoders", {"settings": vars(args), "others": versions(), "files": files})


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torchcodec", "decord", "opencv-python-headless")}


if __name__ == "__main__":
    main()
