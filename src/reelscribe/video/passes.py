"""One pass of the decoder: the wanted frames of a clip, as the model sees them."""

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from reelscribe.errors import ClipError
from reelscribe.schemas import Facts
from reelscribe.values import Bounds, Clip, Frames
from reelscribe.video.checked import REORDERED, Indexed, Timed, on_screen
from reelscribe.video.index import FrameIndex
from reelscribe.video.pictures import Painter, upright_size
from reelscribe.video.sampling import FrameChoice, count_video_tokens

Pictures = tuple[NDArray[np.uint8], Facts]
"""Pixels of shape (frames, height, width, 3), and what the file says of itself."""


Allocate = Callable[[tuple[int, ...]], NDArray[np.uint8]]
"""Makes a uint8 array of a shape, uninitialized."""


@dataclass(frozen=True, kw_only=True)
class Order(Indexed):
    """What to decode of a clip. `index` covers the whole file, `shown` the clip."""

    shown: FrameIndex
    """Index of the clip."""
    bounds: Bounds
    """Where the clip lies in the file."""
    picked: Sequence[int]
    """Which of the clip's frames are wanted, ascending."""
    budget: FrameChoice
    threads: int
    allocate: Allocate
    painter: Painter = field(default_factory=Painter)
    part: bool = False
    """Whether damage behind the last wanted frame is accepted."""

    @property
    def wanted(self) -> list[int]:
        """When the wanted frames are shown, ascending."""
        return [self.shown.pts[number] for number in self.picked]


def shown_of(clip: Clip, index: FrameIndex, bounds: Bounds) -> FrameIndex:
    """The index of a clip, from that of its file.

    Raises:
        ClipError: kind "too_short": it is a stretch of one frame.
    """
    if clip.is_whole:
        return index
    shown = index.within(bounds)
    if len(shown.pts) < 2:
        raise ClipError("too_short", f"{clip.name}: one frame is on screen in it; at least 2 are needed.")
    return shown


def behind(index: FrameIndex, shown: FrameIndex) -> int:
    """Number of the packet to stop before, so that all frames of a stretch are decoded."""
    return min(index.num_packets, max(index.packets[pts] for pts in shown.pts) + REORDERED)


def collect(order: Order, stream: VideoStream, decoded: Timed) -> Pictures:
    """Convert the wanted frames to RGB at their final size; others are passed over."""
    frames = on_screen(order, order.wanted, decoded)
    first = next(frames)
    shown_width, shown_height = upright_size(stream, first)
    width, height = order.budget.fit(shown_width, shown_height, len(order.picked))
    pixels = order.allocate((len(order.picked), height, width, 3))
    for number, frame in enumerate(itertools.chain([first], frames)):
        order.painter.draw(frame, pixels[number])
    if not order.part:
        deque(decoded, maxlen=0)  # decode the rest as well, to find damage in it
    facts = Facts(
        duration_seconds=order.shown.duration_seconds,
        fps=round(order.index.fps, 3),
        width=shown_width,
        height=shown_height,
    )
    return pixels, facts


def frames_of(order: Order, pictures: Pictures, size: tuple[int, int], share: float | None = None) -> Frames:
    """Put the result of a pass together.

    Args:
        order: the finished order.
        pictures: the wanted frames, and what the file says of itself.
        size: width and height of its pictures, as it states them.
        share: share of the clip that the frames cover, if not all of it.
    """
    (pixels, facts), shown, budget = pictures, order.shown, order.budget
    seconds = shown.seconds
    return Frames(
        pixels=pixels,
        timestamps=tuple(seconds[number] for number in order.picked),
        duration_seconds=shown.duration_seconds,
        video_tokens=count_video_tokens(pixels.shape[2], pixels.shape[1], len(pixels), budget.limits),
        decoded_share=share,
        tone_mapped=order.painter.tone_mapped,
        deinterlaced=order.painter.deinterlaced,
        thinned=budget.thins(len(seconds), shown.duration_seconds),
        shrunk=budget.shrinks(*size, len(pixels)),
        facts=facts,
        bounds=order.bounds,
        span=_span(order.index, shown),
    )


def _span(index: FrameIndex, shown: FrameIndex) -> tuple[float, float] | None:
    """When a clip begins and ends on the clock of its streams, in seconds; None if frame times are not the file's."""
    if not index.timed or index.shifts:
        return None
    return float(max(shown.start, shown.pts[0]) * index.time_base), float(shown.end * index.time_base)
