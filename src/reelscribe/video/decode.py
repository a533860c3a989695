"""Clip to frames, with PyAV. Never makes a frame up: what cannot be decoded is a ClipError.

1. All packets are read once, without decoding, for the index of frames. The wanted frames are picked from it.
2. A clip of up to 750 packets is decoded whole, so that damage is noticed whichever frames are wanted. Of a longer clip
   the decoder gets only the packets that the wanted frames need.
3. The packets of a small file are kept from the first reading. A large file is read again, and unneeded parts are
   skipped by seeking if the container allows it.
4. If a seek does not land on the expected packet, or the decoder does not give the expected frames, the whole clip is
   decoded, and that result counts.

If the budget allows it, the longest undamaged part of a damaged clip is taken. For a stretch of a file the decoder gets
the packets of its frames; damage elsewhere does not matter. If the last stretch ended just before, decoding continues
from there.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from reelscribe.errors import ClipError
from reelscribe.values import Clip, Frames
from reelscribe.video.bounds import bounds_of
from reelscribe.video.checked import decode_runs, set_up, troubles
from reelscribe.video.film import Film, keep_film, take_film
from reelscribe.video.index import FrameIndex, read_index
from reelscribe.video.opening import open_clip, video_stream
from reelscribe.video.parts import decode_part
from reelscribe.video.passes import Allocate, Order, Pictures, behind, collect, frames_of, shown_of
from reelscribe.video.pictures import stated_size
from reelscribe.video.recent import Recent
from reelscribe.video.runs import Run, VideoPacket, read_runs, runs_to, suffice, whole_run
from reelscribe.video.sampling import FrameChoice
from reelscribe.video.sound import read_sound

logger = logging.getLogger(__name__)

_WHOLE_PACKETS = 750
"""A clip of up to this many packets is decoded whole: half a minute at 25 frames a second, which few clips of data sets
exceed. Decoding the unwanted frames of so short a clip costs little (see docs/architecture.md)."""
_KEPT_BYTES, _KEPT_PACKETS = 16 << 20, 20_000
"""Limits up to which packets are kept from the first reading: size of the file, and number of packets."""
_SEEKABLE = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts"})
"""FFmpeg's names of containers that can be sought in: with an index, or, as MPEG-TS, by bisection over its times."""
_indices: Recent[FrameIndex] = Recent(lambda index: index.num_packets)


def _empty(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.empty(shape, np.uint8)


def decode(clip: Clip, budget: FrameChoice, *, threads: int = 0, allocate: Allocate = _empty) -> Frames:
    """Decode the frames of a clip that the budget asks for, and its sound, if that is asked for.

    Args:
        clip: the clip to decode.
        budget: which frames, and at which size.
        threads: of the decoder, if its codec allows several; 0 for one on each CPU.
        allocate: makes the array of the pixels.

    Raises:
        ClipError: kind "missing", "unreadable", "no_video", "row" for what is no stretch of the file, "too_short",
            "too_large", "decode" or "crashed".
    """
    frames = _frames(clip, budget, threads, allocate)
    if not budget.hearing:
        return frames
    with troubles(clip):
        return replace(frames, sound=read_sound(clip, frames.span, budget.hearing))


def _frames(clip: Clip, budget: FrameChoice, threads: int, allocate: Allocate) -> Frames:
    try:
        with troubles(clip):
            return _decode(clip, budget, threads, allocate)
    except ClipError as exc:
        if exc.kind != "decode" or (budget.min_decoded >= 1 and clip.is_whole):
            raise
        damage = exc
    try:
        with troubles(clip):
            return decode_part(clip, budget, allocate)
    except ClipError as exc:
        raise ClipError("decode", f"{damage} {exc}") from exc


def _decode(clip: Clip, budget: FrameChoice, threads: int, allocate: Allocate) -> Frames:
    def order_of(index: FrameIndex) -> Order:
        bounds = bounds_of(clip, index.duration_seconds)
        shown = shown_of(clip, index, bounds)
        picked = budget.pick(shown.seconds, shown.duration_seconds)
        return Order(
            clip=clip,
            index=index,
            shown=shown,
            bounds=bounds,
            picked=picked,
            budget=budget,
            threads=threads,
            allocate=allocate,
        )

    film = take_film(clip)
    if film and _is_one_run(order := order_of(film.index)) and film.leads_to(order):
        with _way(clip):
            return frames_of(order, _from_film(order, film), film.size)
    with open_clip(clip) as container:
        stream = video_stream(container, clip)
        kept: list[VideoPacket] = []
        most = _KEPT_PACKETS if container.size <= _KEPT_BYTES else 0
        order = order_of(_indices.of(clip, lambda: read_index(container, stream, clip.whole, kept, most)))
        size = stated_size(stream)
        pictures = _decode_wanted(order, stream, kept, size, may_seek=container.format.name in _SEEKABLE)
    return frames_of(order, pictures, size)


def _is_one_run(order: Order) -> bool:
    """Whether a clip is a stretch short enough to be decoded from its first frame to its last."""
    return not order.clip.is_whole and len(order.shown.pts) <= _WHOLE_PACKETS


def _from_film(order: Order, film: Film) -> Pictures:
    """Decode a stretch from the current position of its film. The film stays open for the next stretch."""
    pictures = collect(order, film.stream, film.frames_to(order))
    keep_film(film)
    return pictures


@contextlib.contextmanager
def _way(clip: Clip) -> Iterator[None]:
    """Try a fast way to decode. If it fails, the error is logged, and the code after the context tries another."""
    try:
        yield
    except (ClipError, av.FFmpegError) as exc:
        # A seek may miss; decoding may not be able to start at a marked keyframe; a packet may give no frame.
        logger.debug("%s: once more, by a plainer way: %s", clip.name, exc)


def _decode_wanted(
    order: Order, stream: VideoStream, kept: list[VideoPacket], size: tuple[int, int], *, may_seek: bool
) -> Pictures:
    """Decode the wanted frames by the fastest way that gives all of them."""

    def from_kept(runs: list[Run]) -> Pictures:
        set_up(stream, order.threads)
        packets = (kept[run.packets.start : run.packets.stop] for run in runs)
        return collect(order, stream, decode_runs(order, stream, runs, packets))

    def from_file(runs: list[Run], *, seek: bool = False) -> Pictures:
        with open_clip(order.clip) as container:
            stream = video_stream(container, order.clip)
            set_up(stream, order.threads)
            packets = read_runs(order.index, order.clip, container, stream, runs, seek=seek)
            return collect(order, stream, decode_runs(order, stream, runs, packets))

    def from_film(runs: list[Run], *, seek: bool) -> Pictures:
        return _from_film(order, Film(order, runs[0], size, seek=seek))

    index = order.index
    short_ways: list[Callable[[list[Run]], Pictures]] = []
    wanted = order.wanted if len(order.shown.pts) > _WHOLE_PACKETS else order.shown.pts
    is_part = index.num_packets > _WHOLE_PACKETS or not order.clip.is_whole
    if index.timed and is_part and suffice(index, wanted):
        read = from_film if _is_one_run(order) and not isinstance(order.clip.source, bytes) else from_file
        seeks = (True, False) if may_seek else (False,)
        short_ways = [from_kept] if kept and read is from_file else [partial(read, seek=seek) for seek in seeks]
    for way in short_ways:
        with _way(order.clip):
            return way(runs_to(index, wanted))
    run = whole_run(index)
    if not order.clip.is_whole:
        run = replace(run, packets=range(run.packets.start, behind(index, order.shown)))
    if kept and not short_ways:  # after a short way the decoder is in use; open the file again
        return from_kept([run])
    return from_file([run])
