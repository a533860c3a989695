"""What the tests of decoders in processes of their own share: to find one, to hold it in the middle of a clip."""

import os
import select
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from decoding import BUDGET

from reelscribe.errors import ClipError
from reelscribe.schema import CaptionRequest, Clip, Frames
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
    """A file that FFmpeg opens and never returns from: a list of files that names a pipe to which nobody writes."""
    os.mkfifo(folder / "pipe")
    file = folder / "hanging.mp4"
    file.write_text("ffconcat version 1.0\nfile pipe\n")
    return file


def requests(*sources: Path) -> list[CaptionRequest]:
    return [CaptionRequest(key=str(n), clip=Clip(source=str(s)), prompt="What?") for n, s in enumerate(sources)]


def held(folder: Path) -> tuple[int, isolate._Decoder]:
    """The decoder that `hanging` holds, as soon as it does, and the file by which it does: close it in the end."""
    writer = os.open(folder / "pipe", os.O_WRONLY)  # returns when FFmpeg opens the other end; it is listed just after
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for decoder in list(isolate._all):
            if str(folder / "pipe") in files_of(decoder.process.pid):
                return writer, decoder
    raise TimeoutError("no decoder has the pipe open")


@contextmanager
def when_busy(folder: Path, act: Callable[[isolate._Decoder], object]) -> Iterator[None]:
    """Do something to the decoder that `hanging` holds, as soon as it does."""

    def wait() -> None:
        writer, busy = held(folder)
        act(busy)
        gone(busy.process.pid)
        os.close(writer)

    with ThreadPoolExecutor(1) as side:
        done = side.submit(wait)
        yield
        done.result(SECONDS)
