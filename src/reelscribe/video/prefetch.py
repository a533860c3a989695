"""Decode ahead of the engine, in order, within a bound of bytes."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from reelscribe.errors import ClipError
from reelscribe.schema import CaptionRequest, Failure, Frames
from reelscribe.video.decode import decode
from reelscribe.video.fetch import FetchLimits, fetched
from reelscribe.video.sampling import FrameBudget

_ANYWHERE = FetchLimits()


def decode_ahead(
    requests: Iterable[CaptionRequest], budget: FrameBudget, *, max_bytes: int, limits: FetchLimits = _ANYWHERE
) -> Iterator[tuple[CaptionRequest, Frames | Failure]]:
    """Decode the clips of requests in threads (FFmpeg works outside the interpreter's lock).

    Args:
        requests: pulled only as far ahead as the bound allows.
        budget: what to decode of each.
        max_bytes: decoded frames that may wait; a clip in the making counts as the largest that the budget allows. One
            clip is always let through.
        limits: what may be fetched.

    Yields:
        Each request, in order, with its frames, or with the failure that it became.
    """
    cpus = _usable_cpus()
    workers = max(min(cpus, max_bytes // budget.max_bytes), 1)
    threads = -(-cpus // workers)  # clips side by side come first: threads within one cost more than they gain
    source = iter(requests)
    window: deque[tuple[CaptionRequest, Future[Frames | Failure]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            while True:
                while len(window) < 2 * workers or not window:
                    waiting = sum(_bytes(future, budget) for _, future in window)
                    if window and waiting + budget.max_bytes > max_bytes:
                        break
                    request = next(source, None)
                    if request is None:
                        break
                    window.append((request, pool.submit(_decode_one, request, budget, threads, limits)))
                if not window:
                    return
                request, future = window.popleft()
                yield request, future.result()
        finally:
            for _, future in window:
                future.cancel()


def _usable_cpus() -> int:
    """Those that this process may run on, where the system tells: fewer than there are, in a container or a job."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _decode_one(request: CaptionRequest, budget: FrameBudget, threads: int, limits: FetchLimits) -> Frames | Failure:
    try:
        with fetched(request.clip, limits) as clip:
            return decode(clip, budget, threads=threads)
    except ClipError as exc:
        return Failure(key=request.key, video=request.clip.name, kind=exc.kind, message=str(exc))


def _bytes(future: "Future[Frames | Failure]", budget: FrameBudget) -> int:
    if not future.done():
        return budget.max_bytes
    if future.exception():  # raised when its turn comes
        return 0
    result = future.result()
    return result.pixels.nbytes if isinstance(result, Frames) else 0
