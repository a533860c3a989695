"""Decode ahead of the engine, within a bound of bytes."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Protocol

from reelscribe.config import FrameSettings
from reelscribe.errors import ClipError
from reelscribe.values import Clip, Frames, Work
from reelscribe.video.decode import decode
from reelscribe.video.fetch import Fetcher, FetchLimits
from reelscribe.video.headers import Header, read_header
from reelscribe.video.isolate import AVAILABLE, DecoderPool
from reelscribe.video.sampling import FrameBudget, FrameChoice
from reelscribe.video.scenes import Scene, find_scenes
from reelscribe.video.stages import Stages

_MOST_DECODERS = 32
"""Default maximum of decoders. Each takes some 50 MB."""
_ANYWHERE = FetchLimits()


class Decode(Protocol):
    def __call__(self, clip: Clip, budget: FrameChoice, *, threads: int) -> Frames: ...


def decode_ahead(
    works: Iterable[Work],
    budget: FrameBudget,
    *,
    max_bytes: int,
    decoders: int | None = None,
    decode_seconds: float = 120.0,
    decoder_bytes: int = 4 << 30,
    limits: FetchLimits = _ANYWHERE,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Work, Frames | ClipError]]:
    """Fetch and decode the clips of works.

    A clip that several works are about is decoded once, and counts once, if they come near each other: while one of
    them is under way. They share its frames.

    Args:
        works: pulled only as far ahead as the bounds allow.
        budget: what to decode of each.
        max_bytes: decoded frames that may wait; a clip in the making counts as the largest that the budget allows. One
            clip is always let through.
        decoders: processes that decode; by default one for each CPU. With 0, threads of this process do (FFmpeg works
            outside the interpreter's lock); then a crash ends it, and the two limits below do not hold.
        decode_seconds: that a clip may take.
        decoder_bytes: memory that a decoder may take, on systems that tell how much it takes (Linux).
        limits: what may be fetched, and how much at once.
        cancelled: once it says True, no clip is waited for any more, and nothing more comes.

    Yields:
        Each work, with its frames, or with what is wrong with its clip. In order, except that clips which are
        downloaded, or take long to decode, hold back no others: these pass them. Once closed, nothing is waited for:
        what is under way is given up.

    Raises:
        EngineError: a decoder's process cannot be started.
    """
    cpus = usable_cpus()
    workers = max(min(decoders or min(cpus, _MOST_DECODERS), max_bytes // budget.max_bytes), 1)
    threads = -(-cpus // workers)  # clips side by side come first: threads within one cost more than they gain
    stages = Stages(
        workers=workers, max_downloads=limits.max_downloads, max_bytes=max_bytes, clip_bytes=budget.max_bytes
    )
    with (
        closing(stages),
        decoding(decoders, decode_seconds, decoder_bytes) as decode_clip,
        closing(Fetcher(limits)) as fetcher,
        stages.stopping(),
    ):
        stages.start(fetcher.fetched, lambda clip: decode_clip(clip, budget, threads=threads))
        yield from _in_turn(iter(works), stages, cancelled)


def _in_turn(
    source: Iterator[Work], stages: Stages, cancelled: Callable[[], bool]
) -> Iterator[tuple[Work, Frames | ClipError]]:
    while True:
        is_dry = False  # for now: it may have more once some have left
        while not is_dry and not cancelled() and stages.has_room():
            work = next(source, None)
            if work is None:
                is_dry = True
            else:
                stages.add(work)
        ready = stages.next_ready(or_room=not is_dry, cancelled=cancelled)
        if ready is not None:
            yield ready
        elif is_dry or cancelled():
            return


def usable_cpus() -> int:
    """Number of CPUs that this process may use. In a container or a job it may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def decoding(decoders: int | None, decode_seconds: float, decoder_bytes: int) -> Iterator[Decode]:
    """How to decode: in processes, or, with 0 of them, here. What is under way at the end is given up."""
    with _pool(decoders, decode_seconds, decoder_bytes) as pool:
        yield pool.decode if pool else decode


@contextmanager
def reading_headers(settings: FrameSettings) -> Iterator[Callable[[Clip], Header]]:
    """How to read the headers of clips: in processes, or here."""
    with _pool(settings.decoders, settings.decode_seconds, settings.decoder_bytes) as pool:
        yield pool.read_header if pool else read_header


@contextmanager
def finding_scenes(settings: FrameSettings) -> Iterator[Callable[[Clip, float], list[Scene]]]:
    """How to find the scenes of films, each of so many seconds, which it may take besides what a clip may."""
    with _pool(settings.decoders, settings.decode_seconds, settings.decoder_bytes) as pool:
        if pool:
            yield lambda clip, seconds: pool.find_scenes(clip, settings.decode_seconds + seconds)
        else:
            yield lambda clip, _: find_scenes(clip)


@contextmanager
def _pool(decoders: int | None, decode_seconds: float, decoder_bytes: int) -> Iterator[DecoderPool | None]:
    """Decoders in processes of their own, if there are to be any. What is under way at the end is given up."""
    if decoders == 0 or not AVAILABLE:
        yield None
        return
    pool = DecoderPool(seconds=decode_seconds, max_memory=decoder_bytes)
    try:
        yield pool
    finally:
        pool.close()
