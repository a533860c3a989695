"""The program of a decoder process: decodes clips for its owner, until the owner closes the socket or dies.

`isolate.py` starts the process and has the other end of the socket. Messages go over the socket; large data (a clip's
bytes on the way in, pixels on the way out) goes through shared memory (`shared.py`).
"""

import contextlib
import gc
import logging
import os
import threading
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from reelscribe.errors import ClipError
from reelscribe.terminal import PlainFormatter
from reelscribe.values import NO_FRAMES, Clip, Frames
from reelscribe.video.decode import decode
from reelscribe.video.headers import Header, read_header
from reelscribe.video.sampling import FrameChoice
from reelscribe.video.scenes import Scene, find_scenes
from reelscribe.video.shared import DrawnFrames, Span, read

READY: Final = "ready"
"""The first message to the owner, sent when everything is imported."""
IDLE_SECONDS: Final = 60.0
"""Seconds after which an idle decoder exits, with exit code 0."""
TOO_LARGE: Final = 3
"""Exit code of a decoder that exceeded its memory limit."""
_LOOK_SECONDS: Final = 1.0
"""Seconds between checks that the owner is alive. The socket alone does not show that, since forked children of the
owner may hold it open."""
_WATCH_SECONDS: Final = 0.05
"""Seconds between checks of memory while decoding. A limit of the system would not do: if an allocation fails, FFmpeg
may report the file as damaged."""

Job = tuple[Clip, int | None, FrameChoice | Literal["header", "scenes"], int, set[Span]]
"""A job: the clip; the number of its bytes in the shared file for clips, or None if they are not there; which frames to
decode, or what else to do; the number of threads; spans of the file for frames that are in use."""
Pixels = tuple[tuple[int, ...], Span] | NDArray[np.uint8]
"""Shape of the pixels and their span in the file for frames, or the pixels themselves."""
Decoded = tuple[Pixels, Frames]
"""The pixels, and a `Frames` with all their metadata, whose own pixels are ignored."""
Answer = Decoded | Header | list[Scene] | ClipError


def main(channel: int, clips: int, frames: int, owner: int, max_bytes: int) -> None:
    """Decode clips until the owner ends.

    Args:
        channel: file descriptor of the socket.
        clips: file descriptor of the file for clips.
        frames: file descriptor of the file for frames.
        owner: process id of the owner; this process ends with it.
        max_bytes: memory that decoding may take, in addition to what the process starts with.
    """
    if logging.lastResort:  # nobody set logging up in this process, so that warnings go to the terminal by this
        logging.lastResort.setFormatter(PlainFormatter())
    connection = Connection(channel)
    jobs: SimpleQueue[Job] = SimpleQueue()
    busy = threading.Event()
    most = _own_bytes() + max_bytes
    drawn = DrawnFrames(frames)
    threading.Thread(target=_listen, args=(connection, jobs, busy, owner, most), daemon=True).start()
    gc.freeze()  # objects that exist now are permanent: exclude them from garbage collection
    connection.send(READY)
    while True:
        try:
            answer: Answer = _serve(jobs.get(), clips, drawn)
        except ClipError as error:
            answer = error
        # PyAV's frames and their side data refer to each other: only the garbage collector frees them, and a decoder
        # that goes through a film makes too few other objects to set it off, at 60 MB a stretch of 1080p.
        gc.collect()
        busy.clear()
        connection.send(answer)


def _listen(connection: Connection, jobs: "SimpleQueue[Job]", busy: threading.Event, owner: int, most: int) -> None:
    """Pass jobs to the decoding thread. End the process if the owner is gone, no job came for long, or a clip takes too
    much memory.
    """
    needed, code = time.monotonic(), 0
    with contextlib.suppress(EOFError, OSError):
        while os.getppid() == owner and time.monotonic() < needed + IDLE_SECONDS:
            if connection.poll(_WATCH_SECONDS if busy.is_set() else _LOOK_SECONDS):
                busy.set()
                jobs.put(connection.recv())
            if busy.is_set():
                needed = time.monotonic()
                if _own_bytes() > most:
                    code = TOO_LARGE
                    break
    os._exit(code)


def _own_bytes() -> int:
    """Private memory of this process, in bytes; 0 if the system does not say."""
    try:
        _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    except OSError:
        return 0
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def _serve(job: Job, clips: int, drawn: DrawnFrames) -> Decoded | Header | list[Scene]:
    clip, size, budget, threads, taken = job
    if size is not None:
        clip = replace(clip, source=read(clips, size))
    if budget == "header":
        return read_header(clip)
    if budget == "scenes":
        return find_scenes(clip, threads=threads)
    span: Span | None = None

    def allocate(shape: tuple[int, ...]) -> NDArray[np.uint8]:
        nonlocal span
        array, span = drawn.allocate(shape, taken)
        return array

    frames = decode(clip, budget, threads=threads, allocate=allocate)
    pixels = (frames.pixels.shape, span) if span else frames.pixels
    return pixels, replace(frames, pixels=NO_FRAMES.pixels)
