"""Decode ahead of the engine, in order, within a bound of bytes."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Protocol
from weakref import WeakValueDictionary

from reelscribe.config import Settings
from reelscribe.errors import ClipError
from reelscribe.schema import CaptionRequest, Clip, Failure, Frames
from reelscribe.video.decode import decode
from reelscribe.video.fetch import FetchLimits, fetched
from reelscribe.video.headers import Header, read_header
from reelscribe.video.isolate import AVAILABLE, DecoderPool
from reelscribe.video.sampling import FrameBudget, FrameChoice

_MOST_DECODERS = 32
"""Unless more are asked for. Each takes some 50 MB."""
_CLIPS_AHEAD = 2
"""Clips under way, at most, for each decoder."""
_SHARERS = 8
"""Requests under way, at most, for each of those clips."""
_ANYWHERE = FetchLimits()
_LOOK_SECONDS = 0.1
"""How often a wait for a clip looks whether it is still wanted."""


class Decode(Protocol):
    def __call__(self, clip: Clip, budget: FrameChoice, *, threads: int) -> Frames: ...


_Outcome = Future[Frames | ClipError]


def decode_ahead(
    requests: Iterable[CaptionRequest],
    budget: FrameBudget,
    *,
    max_bytes: int,
    decoders: int | None = None,
    decode_seconds: float = 120.0,
    decoder_bytes: int = 4 << 30,
    limits: FetchLimits = _ANYWHERE,
    cancelled: threading.Event | None = None,
) -> Iterator[tuple[CaptionRequest, Frames | Failure]]:
    """Decode the clips of requests.

    A clip that several requests name is decoded once, and counts once, if they come near each other: while one of them
    is under way. They share its frames.

    Args:
        requests: pulled only as far ahead as the bound allows.
        budget: what to decode of each.
        max_bytes: decoded frames that may wait; a clip in the making counts as the largest that the budget allows. One
            clip is always let through.
        decoders: processes that decode; by default one for each CPU. With 0, threads of this process do (FFmpeg works
            outside the interpreter's lock); then a crash ends it, and the two limits below do not hold.
        decode_seconds: that a clip may take.
        decoder_bytes: memory that a decoder may take, on systems that tell how much it takes (Linux).
        limits: what may be fetched.
        cancelled: once another thread sets it, no clip is waited for any more, and nothing more comes.

    Yields:
        Each request, in order, with its frames, or with the failure that it became.

    Raises:
        EngineError: a decoder's process cannot be started.
    """
    cpus = usable_cpus()
    workers = max(min(decoders or min(cpus, _MOST_DECODERS), max_bytes // budget.max_bytes), 1)
    threads = -(-cpus // workers)  # clips side by side come first: threads within one cost more than they gain
    source = iter(requests)
    window: deque[tuple[CaptionRequest, _Outcome]] = deque()
    under_way: WeakValueDictionary[Clip, _Outcome] = WeakValueDictionary()
    with (
        ThreadPoolExecutor(workers, thread_name_prefix="decode") as executor,
        decoding(decoders, decode_seconds, decoder_bytes) as decode_clip,
    ):
        try:
            while True:
                while _has_room(window, workers, budget, max_bytes):
                    request = next(source, None)
                    if request is None:
                        break
                    outcome = under_way.get(request.clip)
                    if outcome is None:
                        outcome = executor.submit(_decode_one, decode_clip, request.clip, budget, threads, limits)
                        under_way[request.clip] = outcome
                    window.append((request, outcome))
                if not window:
                    return
                while cancelled and not cancelled.is_set() and not wait([window[0][1]], _LOOK_SECONDS).done:
                    pass
                if cancelled and cancelled.is_set():
                    return
                request, outcome = window.popleft()
                yield request, _told_to(request, outcome.result())
        finally:
            for _, outcome in window:
                outcome.cancel()


def usable_cpus() -> int:
    """Those that this process may run on, where the system tells: fewer than there are, in a container or a job."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def decoding(decoders: int | None, decode_seconds: float, decoder_bytes: int) -> Iterator[Decode]:
    """How to decode: in processes, or, with 0 of them, here. What is under way at the end is given up."""
    if decoders == 0 or not AVAILABLE:
        yield decode
        return
    pool = DecoderPool(seconds=decode_seconds, max_memory=decoder_bytes)
    try:
        yield pool.decode
    finally:
        pool.close()


@contextmanager
def reading_headers(settings: Settings) -> Iterator[Callable[[Clip], Header]]:
    """How to read the headers of clips: likewise."""
    if settings.decoders == 0 or not AVAILABLE:
        yield read_header
        return
    pool = DecoderPool(seconds=settings.decode_seconds, max_memory=settings.decoder_bytes)
    try:
        yield pool.read_header
    finally:
        pool.close()


def _has_room(
    window: deque[tuple[CaptionRequest, _Outcome]], workers: int, budget: FrameBudget, max_bytes: int
) -> bool:
    clips = {outcome for _, outcome in window}
    most = _CLIPS_AHEAD * workers
    if len(clips) >= most or len(window) >= _SHARERS * most:
        return False
    return not clips or sum(_bytes(clip, budget) for clip in clips) + budget.max_bytes <= max_bytes


def _bytes(outcome: _Outcome, budget: FrameBudget) -> int:
    if not outcome.done():
        return budget.max_bytes
    if outcome.exception():  # raised when its turn comes
        return 0
    result = outcome.result()
    return result.pixels.nbytes if isinstance(result, Frames) else 0


def _decode_one(
    decode_clip: Decode, clip: Clip, budget: FrameBudget, threads: int, limits: FetchLimits
) -> Frames | ClipError:
    try:
        with fetched(clip, limits) as fetched_clip:
            return decode_clip(fetched_clip, budget, threads=threads)
    except ClipError as exc:
        return exc


def _told_to(request: CaptionRequest, outcome: Frames | ClipError) -> Frames | Failure:
    if isinstance(outcome, Frames):
        return outcome
    return Failure.of(request, str(outcome), outcome.kind)
