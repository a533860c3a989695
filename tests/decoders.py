"""What the tests of decoders in processes of their own share: to find one, to hold it in the middle of a clip."""

import os
import select
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import av
import pytest
from av.packet import Packet
from clips import write_clip
from decoding import BUDGET
from flow import named

from reelscribe.errors import ClipError
from reelscribe.values import Clip, Frames, Request
from reelscribe.video import isolate
from reelscribe.video.isolate import DecoderPool

MEMORY = 4 << 30
SECONDS = 60.0


def pool(*, seconds: float = SECONDS, max_memory: int = MEMORY) -> DecoderPool:
    return DecoderPool(seconds=seconds, max_memory=max_memory)


def decoded(source: Path | str | bytes, decoders: DecoderPool | None = None) -> Frames:
    clip = Clip(source=source if isinstance(source, bytes) else str(source))
    return (decoders or pool()).decode(clip, BUDGET, threads=1)


def failure(source: Path | str | bytes, decoders: DecoderPool | None = None) -> ClipError:
    with pytest.raises(ClipError) as caught:
        decoded(source, decoders)
    return caught.value


def waiting() -> isolate._Decoder:
    """A decoder that waits for work."""
    while not isolate._idle:
        failure(b"")
    return isolate._idle[-1]


def gone(pid: int, seconds: float = SECONDS) -> bool:
    """Wait until a process that need not be a child of this one has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], seconds)[0])
    finally:
        os.close(handle)


def open_files(pid: int | str = "self") -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def files_of(pid: int) -> set[str]:
    """Names of what a process has open."""
    names = set()
    with suppress(OSError):  # it may end meanwhile
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                names.add(str(file.readlink()))
    return names


def hanging(folder: Path) -> Path:
    """A file that takes FFmpeg minutes: very many large frames, each of which repeats the one before."""
    source = write_clip(
        folder / "two.mp4", [7, 7], size=(4096, 2304), b_frames=0, options={"x264-params": "scenecut=0"}
    )
    with av.open(str(source)) as container, av.open(str(folder / "hanging.mp4"), "w") as target:
        stream = container.streams.video[0]
        copied = target.add_stream_from_template(stream)
        keyframe, still = (packet for packet in container.demux(stream) if packet.size)
        length = still.duration or 1
        for number in range(20_000):
            packet: Packet[Any] = Packet(bytes(still if number else keyframe))
            packet.stream, packet.time_base = copied, still.time_base
            packet.pts = packet.dts = number * length
            packet.duration, packet.is_keyframe = length, number == 0
            target.mux(packet)
    return folder / "hanging.mp4"


def requests(*sources: Path) -> list[Request]:
    return [Request(id=named(str(n)), clip=Clip(source=str(s)), prompt="What?") for n, s in enumerate(sources)]


def held(folder: Path) -> isolate._Decoder:
    """The decoder that `hanging` holds, as soon as it does."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for decoder in list(isolate._all):
            if str(folder / "hanging.mp4") in files_of(decoder.process.pid):
                return decoder
    raise TimeoutError("no decoder has the file open")


@contextmanager
def when_busy(folder: Path, act: Callable[[isolate._Decoder], object]) -> Iterator[None]:
    """Do something to the decoder that `hanging` holds, as soon as it does."""

    def wait() -> None:
        busy = held(folder)
        act(busy)
        gone(busy.process.pid)

    with ThreadPoolExecutor(1) as side:
        done = side.submit(wait)
        yield
        done.result(SECONDS)
