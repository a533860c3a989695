"""A decoder's process: takes clips from its owner and gives frames back, until the owner hangs up or dies.

`isolate.py` starts it and has the other end. Messages go over a socket; what is large (a clip's bytes on the way in,
pixels on the way out) goes through a file in memory that both have open. That file has no name: whatever ends the two,
nothing is left of it.
"""

import contextlib
import math
import mmap
import os
import threading
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import numpy as np
from numpy.typing import NDArray

from reelscribe.errors import ClipError
from reelscribe.schema import Clip
from reelscribe.video.decode import decode
from reelscribe.video.headers import Header, read_header
from reelscribe.video.sampling import FrameChoice

READY: Final = "ready"
"""The first message, once everything is imported."""
IDLE_SECONDS: Final = 60.0
"""A decoder without work for so long leaves, with exit code 0."""
TOO_LARGE: Final = 3
"""Exit code of a decoder that took more memory than it may."""
_LOOK_SECONDS: Final = 1.0
"""How often it looks whether its owner lives: a socket that the owner's forked children hold, too, is not hung up."""
_WATCH_SECONDS: Final = 0.05
"""How often it looks at its memory in the middle of a clip. (A limit of the system's would not do: where an allocation
fails, FFmpeg may call the file damaged.)"""

Job = tuple[Clip, int | None, FrameChoice | None, int]
"""Clip; how many bytes in the file in memory it has, where it has no path; budget, or None for its header; threads."""
Decoded = tuple[tuple[int, ...], tuple[float, ...], float, int, float | None]
"""Shape of the pixels in the file in memory; what else `Frames` holds."""
Answer = Decoded | Header | ClipError


def main(channel: int, memory: int, owner: int, max_bytes: int) -> None:
    """Serve.

    Args:
        channel: file descriptor of the socket.
        memory: file descriptor of the file in memory.
        owner: process that this one ends with.
        max_bytes: memory that decoding may take, beside what the process has to begin with.
    """
    connection = Connection(channel)
    jobs: SimpleQueue[Job] = SimpleQueue()
    busy = threading.Event()
    most = _resident_bytes() + max_bytes
    shared = _SharedMemory(memory)
    threading.Thread(target=_listen, args=(connection, jobs, busy, owner, most), daemon=True).start()
    connection.send(READY)
    while True:
        try:
            answer: Answer = _serve(jobs.get(), shared)
        except ClipError as error:
            answer = error
        busy.clear()
        connection.send(answer)


def _listen(connection: Connection, jobs: "SimpleQueue[Job]", busy: threading.Event, owner: int, most: int) -> None:
    """Pass jobs on, and end this process, in the middle of a clip if need be, when there is no reason to go on."""
    needed, code = time.monotonic(), 0
    with contextlib.suppress(EOFError, OSError):
        while os.getppid() == owner and time.monotonic() < needed + IDLE_SECONDS:
            if connection.poll(_WATCH_SECONDS if busy.is_set() else _LOOK_SECONDS):
                busy.set()
                jobs.put(connection.recv())
            if busy.is_set():
                needed = time.monotonic()
                if _resident_bytes() > most:
                    code = TOO_LARGE
                    break
    os._exit(code)


def _resident_bytes() -> int:
    """Memory that this process takes; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


class _SharedMemory:
    """The file in memory. It stays mapped from clip to clip: to map it anew would cost as much as to copy it."""

    def __init__(self, file: int) -> None:
        self.file = file
        self._mapping: mmap.mmap | None = None

    def array(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """The start of the file as an array: uint8. What is written to it the owner can read."""
        size = math.prod(shape)
        if self._mapping is None or len(self._mapping) < size:
            os.ftruncate(self.file, max(size, os.fstat(self.file).st_size))
            self._mapping = mmap.mmap(self.file, size)
        return np.frombuffer(self._mapping, np.uint8, size).reshape(shape)


def _serve(job: Job, memory: _SharedMemory) -> Decoded | Header:
    clip, size, budget, threads = job
    if size is not None:
        content = bytearray(size)
        read_memory(memory.file, memoryview(content))
        clip = replace(clip, source=bytes(content))
    if budget is None:
        return read_header(clip)
    frames = decode(clip, budget, threads=threads, allocate=memory.array)
    return (
        frames.pixels.shape,
        frames.timestamps,
        frames.duration_seconds,
        frames.video_tokens,
        frames.decoded_share,
    )


def write_memory(memory: int, data: memoryview) -> None:
    """Put bytes into the file in memory."""
    data, at = data.cast("B"), 0
    while at < len(data):
        at += os.pwrite(memory, data[at:], at)


def read_memory(memory: int, data: memoryview) -> None:
    """Fill a buffer from the file in memory."""
    data, at = data.cast("B"), 0
    while at < len(data):
        at += os.preadv(memory, [data[at:]], at)
