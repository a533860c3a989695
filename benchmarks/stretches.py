"""Stretches of one long film: as they are, from files cut beforehand, and as other decoders read them.

The film is H.264, 1080p, 25 frames a second, with changes of scene: keyframes come where x264 puts them. Stretches of
10 seconds follow each other, and begin between keyframes; of each come two frames a second, at the size that the budget
gives. `cut_beforehand` decodes files that hold one stretch each, whose making is not counted. Where FFmpeg is on the
PATH, it copies the packets of each stretch into a file first, which counts. `TorchCodec` and `decord` are measured if
they can be imported, with a reader for each CPU, which goes through its part of the film from stretch to stretch. What
is read is in the system's cache. Times of CPUs are those of all processes.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from av.video.frame import VideoFrame
from memory import peak_memory_bytes

from reelscribe.values import Clip, Frames, Request, RequestId, Work
from reelscribe.video import isolate
from reelscribe.video.prefetch import decode_ahead, usable_cpus
from reelscribe.video.sampling import FrameBudget, VisionLimits, fit_resolution

WIDTH, HEIGHT, FPS = 1920, 1080, 25
PART_SECONDS: Final = 120
"""The film is this long a part, over and over."""
SECONDS: Final = 10
"""Of a stretch."""
FIRST: Final = 3
"""Where the first one begins."""
BUDGET = FrameBudget(fps=2, min_frames=4, max_frames=768, max_video_tokens=8192, limits=VisionLimits())
COUNT = 2 * SECONDS
"""Frames of a stretch."""


def _frames(seconds: int) -> Iterator[VideoFrame]:
    """Shots of 3 to 16 seconds, in each of which a camera pans over another texture."""
    rng = np.random.default_rng(1)
    number = 0
    while number < seconds * FPS:
        coarse = rng.integers(0, 256, (HEIGHT // 16 + 32, WIDTH // 16 + 32), np.uint8)
        ground = VideoFrame.from_ndarray(coarse, format="gray").reformat(width=WIDTH + 512, height=HEIGHT + 512)
        picture, chroma = ground.to_ndarray(), np.full((HEIGHT // 2, WIDTH), rng.integers(90, 160), np.uint8)
        across, down = rng.integers(0, 5), rng.integers(0, 4)
        for step in range(min(int(rng.integers(75, 400)), seconds * FPS - number)):
            x, y = step * across % 512, step * down % 512
            planes = np.concatenate([picture[y : y + HEIGHT, x : x + WIDTH], chroma])
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(planes), format="yuv420p")
            frame.pts, number = number, number + 1
            yield frame


def render(file: Path, seconds: int) -> Path:
    """One part of the film."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, FPS)
        for frame in _frames(seconds):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file


def repeat(part: Path, file: Path, times: int, *, seconds: int = PART_SECONDS) -> Path:
    """Put a part of this many seconds behind itself; nothing is encoded again."""
    with av.open(str(file), "w") as container:
        stream = None
        for number in range(times):
            with av.open(str(part)) as source:
                theirs = source.streams.video[0]
                stream = stream or container.add_stream_from_template(theirs)
                shift = round(number * seconds / (theirs.time_base or 1))
                for packet in source.demux(theirs):
                    if packet.dts is not None and packet.pts is not None:
                        packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                        container.mux(packet)
    return file


def starts(stretches: int) -> list[int]:
    """Where each stretch begins, in seconds."""
    return [FIRST + number * SECONDS for number in range(stretches)]


def cut(film: Path, start: int, file: Path, *, encode: bool) -> Path:
    """Make a file of a stretch, with FFmpeg: encoded, or its packets copied from the keyframe before it on."""
    how = ["-c:v", "libx264", "-preset", "veryfast"] if encode else ["-c", "copy"]
    command = ["ffmpeg", "-v", "error", "-y", "-ss", str(start), "-t", str(SECONDS), "-i", str(film), *how, str(file)]
    subprocess.run(command, check=True)
    return file


# Ours


def ahead(clips: list[Clip]) -> int:
    """Decode clips as a run does."""
    asked = (Request(id=RequestId(row=number), clip=clip, prompt="") for number, clip in enumerate(clips))
    works = (Work(requests=(request,)) for request in asked)
    return sum(isinstance(outcome, Frames) for _, outcome in decode_ahead(works, BUDGET, max_bytes=1 << 30))


def as_they_are(film: Path, stretches: int) -> int:
    """Stretches of the film."""
    return ahead([Clip(source=str(film), start_seconds=at, end_seconds=at + SECONDS) for at in starts(stretches)])


def cut_and_decoded(film: Path, stretches: int, folder: Path) -> int:
    """Cut each stretch, one for each CPU at a time, then decode the files."""
    with ThreadPoolExecutor(usable_cpus()) as pool:
        files = [folder / f"cut-{number}.mp4" for number in range(stretches)]
        list(pool.map(partial(cut, film, encode=False), starts(stretches), files))
    return ahead([Clip(source=str(file)) for file in files])


# Theirs


def in_parts(read: Callable[[list[int]], int], stretches: int) -> int:
    """Let each CPU go through a part of the film."""
    parts = [part.tolist() for part in np.array_split(starts(stretches), usable_cpus())]
    with ThreadPoolExecutor(len(parts)) as pool:
        return sum(pool.map(read, parts))


def torchcodec(film: Path, stretches: int) -> int:
    """By TorchCodec, which brings frames to the size itself."""
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    width, height = fit_resolution(WIDTH, HEIGHT, COUNT, BUDGET)

    def read(begins: list[int]) -> int:
        decoder = VideoDecoder(
            str(film), num_ffmpeg_threads=1, seek_mode="approximate", transforms=[Resize((height, width))]
        )
        batches = (decoder.get_frames_played_at(np.linspace(at, at + SECONDS - 0.5, COUNT).tolist()) for at in begins)
        return sum(len(batch.data) == COUNT for batch in batches)

    return in_parts(read, stretches)


def decord(film: Path, stretches: int) -> int:
    """By decord, likewise."""
    import decord

    width, height = fit_resolution(WIDTH, HEIGHT, COUNT, BUDGET)

    def read(begins: list[int]) -> int:
        reader = decord.VideoReader(str(film), width=width, height=height, num_threads=1)
        numbers = (np.linspace(at * FPS, (at + SECONDS) * FPS - 12, COUNT).astype(int).tolist() for at in begins)
        return sum(len(reader.get_batch(batch).asnumpy()) == COUNT for batch in numbers)

    return in_parts(read, stretches)


def methods(film: Path, folder: Path, ready: list[Path], stretches: int) -> dict[str, Callable[[], int]]:
    """All that can be measured here."""
    known: dict[str, Callable[[], int]] = {
        "stretches": partial(as_they_are, film, stretches),
        "cut_beforehand": lambda: ahead([Clip(source=str(ready[number % len(ready)])) for number in range(stretches)]),
    }
    if shutil.which("ffmpeg"):
        known["FFmpeg copies, then decoded"] = partial(cut_and_decoded, film, stretches, folder)
    for name, method in {"TorchCodec": torchcodec, "decord": decord}.items():
        if importlib.util.find_spec(name.lower()):
            known[name] = partial(method, film, stretches)
    return known


def peak_bytes(film: Path, stretches: int) -> int:
    """Most memory that this many stretches take in fresh processes, the decoders among them."""
    code = f"import stretches; print(stretches.measure({str(film)!r}, {stretches}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, stdout=subprocess.PIPE, check=True)
    return int(done.stdout)


def measure(film: str, stretches: int) -> int:
    """Decode stretches, and tell the most memory that this took, in bytes."""
    as_they_are(Path(film), stretches)
    decoders = [peak_memory_bytes(decoder.process.pid or "self") for decoder in isolate._idle]
    return peak_memory_bytes() + sum(decoders)


def cpu_seconds() -> float:
    """That this process and those that it has waited for took."""
    return sum(os.times()[:4])


def main() -> None:
    from common import arguments, save_result, workspace

    args = arguments(__doc__, rounds=1, hours=2.0, stretches=288)
    with workspace() as folder:
        film = repeat(
            render(folder / "part.mp4", PART_SECONDS), folder / "film.mp4", round(args.hours * 3600 / PART_SECONDS)
        )
        distinct = starts(PART_SECONDS // SECONDS)
        ready = [cut(film, at, folder / f"ready-{at}.mp4", encode=True) for at in distinct]
        ways = methods(film, folder, ready, args.stretches)
        used: dict[str, list[float]] = {name: [] for name in ways}
        seconds: dict[str, list[float]] = {name: [] for name in ways}

        def timed(name: str) -> None:
            before, began = cpu_seconds(), time.perf_counter()
            done = ways[name]()
            seconds[name].append(round(time.perf_counter() - began, 2))
            isolate.end_idle()  # what a process took is known when it has ended
            used[name].append(round(cpu_seconds() - before, 2))
            if done != args.stretches:
                raise SystemExit(f"{name}: {done} of {args.stretches} stretches were decoded")

        for name in list(ways) * args.rounds:
            timed(name)
        memory = {str(count): peak_bytes(film, count) for count in (args.stretches // 4, args.stretches)}
    cases: dict[str, Any] = {
        name: {"median_seconds": float(np.median(seconds[name])), "seconds": seconds[name], "cpu_seconds": used[name]}
        for name in ways
    }
    ours = cases["stretches"]
    over = {
        name: {
            "seconds": round(result["median_seconds"] / ours["median_seconds"], 2),
            "cpu_seconds": round(float(np.median(result["cpu_seconds"]) / np.median(ours["cpu_seconds"])), 2),
        }
        for name, result in cases.items()
        if result is not ours
    }
    told = {"settings": vars(args), "cases": cases, "takes_times_as_long_as_stretches": over}
    save_result("stretches", {**told, "peak_memory_bytes_of_so_many_stretches": memory})


if __name__ == "__main__":
    main()
