"""Converts decoded frames to what the model sees: upright, resized, deinterlaced, tone-mapped to SDR, in RGB."""

from typing import Any, Final, NamedTuple, cast

import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from reelscribe.video.colour import ToneMap, is_wide, to_sdr, tone_map_of

_UNSPECIFIED_COLORSPACE: Final = 2
_STRAIGHT: Final = 0.01
"""Tolerance of a display matrix: how far sides may be from upright, as a share of their length."""


def stated_size(stream: VideoStream) -> tuple[int, int]:
    """Width and height from the header, in square pixels, before rotation; zeros if it states none."""
    aspect = stream.sample_aspect_ratio
    return (max(round(stream.width * aspect), 1) if aspect else stream.width), stream.height


def upright_size(stream: VideoStream, frame: VideoFrame) -> tuple[int, int]:
    """Size of the picture as a player shows it: in square pixels, turned upright."""
    turns, _, odd = turn_of(frame)
    # FFmpeg makes an aspect ratio of any matrix, also of one that no picture can be shown by.
    aspect = stream.codec_context.sample_aspect_ratio if odd else stream.sample_aspect_ratio
    width = max(round(frame.width * aspect), 1) if aspect else frame.width
    return (frame.height, width) if turns % 2 else (width, frame.height)


class Painter:
    """Draws the frames of one clip."""

    def __init__(self) -> None:
        self.tone_mapped: ToneMap | None = None
        """Transfer function of the HDR frames so far; None if all were SDR."""
        self.deinterlaced = False
        """Whether any frame so far was interlaced."""
        self._scaler = VideoReformatter()
        self._fields = _Fields()

    def draw(self, frame: VideoFrame, picture: NDArray[np.uint8]) -> None:
        """Draw a frame into a picture: convert colours and resize in one call of the scaler, then rotate.

        The scaler writes planar RGB (gbrp). That is twice as fast as rgb24, and exact, while rgb24 comes out 2 of 255
        too dark.
        """
        turns, mirrored, _ = turn_of(frame)
        height, width = picture.shape[1::-1] if turns % 2 else picture.shape[:2]
        wide = is_wide(frame)
        # Players take untagged video for BT.709 from HD sizes on, for BT.601 below, and HDR for BT.2020.
        guess = Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601
        if tone_map_of(frame):
            guess = Colorspace.BT2020
            self.tone_mapped = tone_map_of(frame)
        whole = frame
        if frame.interlaced_frame:
            # One of two moments. What is between its lines is in the other, or was never there.
            whole, self.deinterlaced = self._fields.first(frame), True
        scaled = self._scaler.reformat(
            whole,
            width=width,
            height=height,
            format="gbrp16le" if wide else "gbrp",
            src_colorspace=guess if frame.colorspace == _UNSPECIFIED_COLORSPACE else None,
            interpolation=Interpolation.BICUBIC,
            threads=1,
        )
        planes: tuple[Any, ...] = scaled.planes
        kind = np.dtype("<u2" if wide else np.uint8)
        green, blue, red = (
            np.frombuffer(plane, kind).reshape(-1, plane.line_size // kind.itemsize)[:height, :width]
            for plane in planes
        )
        colours = [red, green, blue]
        if wide:
            colours = list(to_sdr(np.stack(colours).reshape(3, -1), frame).reshape(3, height, width))
        for number, lines in enumerate(colours):
            picture[..., number] = np.rot90(lines[::-1] if mirrored else lines, turns)


class _Fields:
    """Takes the first field of interlaced frames."""

    def __init__(self) -> None:
        self._shape: tuple[int, int, str] | None = None
        self._graph: Graph | None = None

    def first(self, frame: VideoFrame) -> VideoFrame:
        """The lines of a frame's first field: every other one."""
        shape = (frame.width, frame.height, frame.format.name)
        if self._graph is None or shape != self._shape:
            self._graph, self._shape = Graph(), shape
            source = self._graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
            )
            field, sink = self._graph.add("field", "top"), self._graph.add("buffersink")
            source.link_to(field)
            field.link_to(sink)
            self._graph.configure()
        self._graph.push(frame)
        return cast(VideoFrame, self._graph.pull())


class Turn(NamedTuple):
    """How a stored picture is rotated to lie as players show it."""

    turns: int = 0
    """Number of counter-clockwise quarter turns."""
    mirrored: bool = False
    """Whether it is flipped vertically before that."""
    odd: bool = False
    """Whether the matrix is anything else, such as a shear, or is invalid."""


def turn_of(frame: VideoFrame) -> Turn:
    """The rotation of a frame, from the display matrix of its file."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(matrix, SideData):
        return Turn()
    (a, b), (c, d) = np.frombuffer(bytes(matrix), np.int32).reshape(3, 3)[:2, :2].astype(float).tolist()
    if min(abs(a), abs(d)) > 0 and max(abs(b), abs(c)) <= _STRAIGHT * min(abs(a), abs(d)):
        return Turn(turns=0 if a > 0 else 2, mirrored=a * d < 0)
    if min(abs(b), abs(c)) > 0 and max(abs(a), abs(d)) <= _STRAIGHT * min(abs(b), abs(c)):
        return Turn(turns=1 if b < 0 else 3, mirrored=b * c > 0)
    return Turn(odd=True)
