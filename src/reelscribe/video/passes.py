"""One pass of the decoder over packets: frames with their times, damage that it notices, and the wanted ones drawn."""

import itertools
import sys
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from av.codec.context import ThreadType
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from reelscribe.errors import ClipError
from reelscribe.schemas import Facts
from reelscribe.values import Bounds, Clip, Frames
from reelscribe.video.index import FrameIndex
from reelscribe.video.opening import MAX_PIXELS
from reelscribe.video.pictures import Painter, upright_size
from reelscribe.video.runs import Run, VideoPacket
from reelscribe.video.sampling import FrameChoice, count_video_tokens

_THREADS_TELL_DAMAGE = frozenset({"hevc", "vp8", "vp9", "libdav1d"})
"""Decoders that report damage with several threads as with one. Those that fill in what is lost (H.264, MPEG-4) mark
such a frame at its end, when another thread may have given it out: with two threads 9 of 245 damaged clips got through.
"""
_REORDERED = 64
"""Behind the packet of a frame, so many may hold frames that are shown before it. H.264 and HEVC allow 16; packets of
other kinds lie between."""

Timed = Iterator[tuple[int, VideoFrame]]
"""Frames, each with its time, in order of presentation."""
Pictures = tuple[NDArray[np.uint8], Facts]
"""Pixels of shape (frames, height, width, 3), and what the file says of itself."""


Allocate = Callable[[tuple[int, ...]], NDArray[np.uint8]]
"""Makes an array of a shape, with anything in it."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to decode of a clip."""

    clip: Clip
    index: FrameIndex
    """Of the whole file."""
    shown: FrameIndex
    """Of the clip."""
    wanted: list[int]
    """Times of the frames, ascending."""
    budget: FrameChoice
    threads: int
    allocate: Allocate
    painter: Painter = field(default_factory=Painter)
    part: bool = False
    """Whether what comes behind the last wanted frame may be damaged."""


def behind(order: Order) -> int:
    """Number of the packet up to which all are to be decoded so that no frame of a stretch is missing."""
    last = max(order.index.packets[pts] for pts in order.shown.pts)
    return min(order.index.num_packets, last + _REORDERED)


def collect(order: Order, stream: VideoStream, decoded: Timed) -> Pictures:
    """Bring the wanted ones of decoded frames to their final form."""
    set_up(order, stream)
    frames = _on_screen(order, decoded)
    first = next(frames)
    shown_width, shown_height = upright_size(stream, first)
    width, height = order.budget.fit(shown_width, shown_height, len(order.wanted))
    pixels = order.allocate((len(order.wanted), height, width, 3))
    for number, frame in enumerate(itertools.chain([first], frames)):
        order.painter.draw(frame, pixels[number])
    if not order.part:
        deque(decoded, maxlen=0)  # what is not wanted may be damaged
    facts = Facts(
        duration_seconds=order.shown.duration_seconds,
        fps=round(order.index.fps, 3),
        width=shown_width,
        height=shown_height,
    )
    return pixels, facts


def set_up(order: Order, stream: VideoStream) -> None:
    """Set the decoder up; only before the first packet."""
    # Threads inside a frame, which are PyAV's own choice, swallow errors of MPEG-1, MPEG-2 and H.264.
    stream.codec_context.thread_type = ThreadType.FRAME
    stream.codec_context.thread_count = order.threads if stream.codec_context.name in _THREADS_TELL_DAMAGE else 1
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # the size may change on the way


def decode_runs(order: Order, stream: VideoStream, runs: list[Run], packets: Iterable[Iterable[VideoPacket]]) -> Timed:
    """The frames of each run; raise if one that there has to be is damaged or missing."""
    index = order.index
    for run, of_run in zip(runs, packets, strict=False):
        first = bisect_left(index.pts, run.keyframe)
        near = index.pts[first : first + len(run.packets) + _REORDERED]
        due = {pts for pts in near if pts in index.due and index.packets[pts] in run.packets}
        yield from _watch(order, run, decode_run(index, stream, run, of_run), due)
        stream.codec_context.flush_buffers()


def decode_run(index: FrameIndex, stream: VideoStream, run: Run, packets: Iterable[VideoPacket]) -> Timed:
    """The frames of a run, each with its time."""

    def frames() -> Iterator[VideoFrame]:
        for packet in packets:
            yield from packet.decode()
        yield from stream.decode(None)

    for number, frame in enumerate(frames()):
        if not index.timed:
            yield index.pts[min(number, len(index.pts) - 1)], frame
        elif frame.pts is not None and frame.pts >= run.keyframe:
            yield frame.pts, frame


def _watch(order: Order, run: Run, decoded: Timed, due: set[int]) -> Timed:
    """Pass frames on; raise at one that is damaged, or if one that is due is missing in the end."""
    index, count = order.index, 0
    missing = {pts for pts in due if pts >= run.keyframe}
    for pts, frame in decoded:
        # If a container calls a frame a keyframe that is none, decoders begin with a grey picture.
        astray = pts == run.keyframe > index.keyframes[0] and not frame.key_frame
        if frame.is_corrupt or astray:
            raise _damaged(order, pts)
        missing.discard(pts)
        count += 1
        yield pts, frame
    if index.timed and missing:
        raise _damaged(order, min(missing))
    if not index.timed and count < len(due):
        raise _damaged(order, index.pts[count])


def _damaged(order: Order, pts: int) -> ClipError:
    number, count = bisect_left(order.index.pts, pts), len(order.index.pts)
    return ClipError("decode", f"{order.clip.name}: frame {number} of {count} cannot be decoded; the file is damaged.")


def _on_screen(order: Order, decoded: Timed) -> Iterator[VideoFrame]:
    """The frame that is on screen at each of the wanted times; raise if it cannot be had."""
    index = order.index
    waiting = deque(order.wanted)
    shown: tuple[int, VideoFrame] | None = None
    for pts, frame in itertools.chain(decoded, [(sys.maxsize, None)]):
        while waiting and waiting[0] < pts:
            # A packet may hold no picture of its own, only repeat the last one or serve later ones.
            if shown is None or shown[0] != index.pts[bisect_left(index.pts, waiting[0]) - 1]:
                raise _damaged(order, waiting[0])
            waiting.popleft()
            yield shown[1]
        if not waiting or frame is None:
            return
        shown = pts, frame
        if pts == waiting[0]:
            waiting.popleft()
            yield frame


def frames_of(
    order: Order,
    picked: Sequence[int],
    pictures: Pictures,
    size: tuple[int, int],
    bounds: Bounds,
    share: float | None = None,
) -> Frames:
    """What a pass came to.

    Args:
        order: that was done.
        picked: which of the clip's frames were wanted.
        pictures: these, and what the file says of itself.
        size: width and height of its pictures, as it states them.
        bounds: where the clip lies in the file.
        share: of the clip that the frames are spread over, where that is not all.
    """
    (pixels, facts), shown, budget = pictures, order.shown, order.budget
    seconds = shown.seconds
    return Frames(
        pixels=pixels,
        timestamps=tuple(seconds[number] for number in picked),
        duration_seconds=shown.duration_seconds,
        video_tokens=count_video_tokens(pixels.shape[2], pixels.shape[1], len(pixels), budget.limits),
        decoded_share=share,
        tone_mapped=order.painter.tone_mapped,
        deinterlaced=order.painter.deinterlaced,
        thinned=budget.thins(len(seconds), shown.duration_seconds),
        shrunk=budget.shrinks(*size, len(pixels)),
        facts=facts,
        bounds=bounds,
    )
