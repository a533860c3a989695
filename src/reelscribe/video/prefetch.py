"""Fetches and decodes clips ahead of the engine, within a limit of bytes."""

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
"""Default maximum number of decoders. Each takes about 50 MB of memory."""
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

    If several works are about the same clip and are under way at the same time, they share its frames: the clip is
    decoded once, and counts once.

    Args:
        works: works to prepare. They are pulled only as far ahead as the limits allow.
        budget: which frames to decode of each clip.
        max_bytes: maximum bytes of decoded frames that wait. A clip that is being decoded counts as the largest that
            the budget allows. One clip is always let through.
        decoders: number of decoder processes; by default one for each CPU, up to `_MOST_DECODERS`. With 0, threads of
            this process decode (FFmpeg releases the GIL). Then a crash ends this process, and the next two limits do
            not hold.
        decode_seconds: time limit for decoding a clip.
        decoder_bytes: memory limit of a decoder process, on systems that report its memory (Linux).
        limits: limits on paths and downloads.
        cancelled: once it returns True, the iteration ends without waiting for clips under way.

    Yields:
        Each work with its frames, or with its clip's error. They come in order, except that others pass clips which
        are downloaded or take long to decode. Closing the generator cancels what is under way.

    Raises:
        EngineError: a decoder's process cannot be started.
    """
    cpus = usable_cpus()
    workers = max(min(decoders or min(cpus, _MOST_DECODERS), max_bytes // budget.max_bytes), 1)
    threads = -(-cpus // workers)  # decode clips in parallel first: threads within a clip are less efficient
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
    """A context that gives the function to decode with: in processes, or with `decoders=0` in this process.

    At its end decoding under way is cancelled.
    """
    with _pool(decoders, decode_seconds, decoder_bytes) as pool:
        yield pool.decode if pool else decode


@contextmanager
def reading_headers(settings: FrameSettings) -> Iterator[Callable[[Clip], Header]]:
    """A context that gives the function to read headers of clips with: in processes, or in this process."""
    with _pool(settings.decoders, settings.decode_seconds, settings.decoder_bytes) as pool:
        yield pool.read_header if pool else read_header


@contextmanager
def finding_scenes(settings: FrameSettings) -> Iterator[Callable[[Clip, float], list[Scene]]]:
    """A context that gives the function to find the scenes of a film with.

    The time limit for a film is `decode_seconds` plus its length.
    """
    with _pool(settings.decoders, settings.decode_seconds, settings.decoder_bytes) as pool:
        if pool:
            yield lambda clip, seconds: pool.find_scenes(clip, settings.decode_seconds + seconds)
        else:
            yield lambda clip, _: find_scenes(clip)


@contextmanager
def _pool(decoders: int | None, decode_seconds: float, decoder_bytes: int) -> Iterator[DecoderPool | None]:
    """A context that gives the pool of decoder processes; None if clips are decoded in this process."""
    if decoders == 0 or not AVAILABLE:
        yield None
        return
    pool = DecoderPool(seconds=decode_seconds, max_memory=decoder_bytes)
    try:
        yield pool
    finally:
        pool.close()
