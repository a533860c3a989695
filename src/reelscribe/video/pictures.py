"""A decoded frame to the picture that the model sees: upright, at its size, in RGB."""

from typing import Any, Final

import numpy as np
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

_UNSPECIFIED_COLORSPACE: Final = 2


def stated_size(stream: VideoStream) -> tuple[int, int]:
    """Width and height that the header states, in square pixels, as the picture lies; zeros if it does not."""
    aspect = stream.sample_aspect_ratio
    return (max(round(stream.width * aspect), 1) if aspect else stream.width), stream.height


def upright_size(stream: VideoStream, frame: VideoFrame) -> tuple[int, int]:
    """Size of the picture as a player shows it: in square pixels, turned upright."""
    aspect = stream.sample_aspect_ratio
    width = max(round(frame.width * aspect), 1) if aspect else frame.width
    return (frame.height, width) if _quarter_turns(frame) % 2 else (width, frame.height)


def draw(frame: VideoFrame, picture: NDArray[np.uint8], scaler: VideoReformatter) -> None:
    """Fill a picture: colours and size in one step of the scaler, then turn upright.

    The scaler gives a plane for each colour. That is twice as quick as pixels of three bytes, and exact, where those
    come out 2 of 255 too dark.
    """
    turns, mirrored = _quarter_turns(frame), _is_mirrored(frame)
    height, width = picture.shape[1::-1] if turns % 2 else picture.shape[:2]
    # Players take untagged video for BT.709 from HD sizes on, and for BT.601 below.
    guess = Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601
    scaled = scaler.reformat(
        frame,
        width=width,
        height=height,
        format="gbrp",
        src_colorspace=guess if frame.colorspace == _UNSPECIFIED_COLORSPACE else None,
        interpolation=Interpolation.BICUBIC,
        threads=1,
    )
    planes: tuple[Any, ...] = scaled.planes
    for plane, colour in zip(planes, (1, 2, 0), strict=True):  # green, blue, red
        lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:height, :width]
        picture[..., colour] = np.rot90(lines[::-1] if mirrored else lines, turns)


def _quarter_turns(frame: VideoFrame) -> int:
    """By how many quarters, counter-clockwise, the stored picture is to be turned."""
    return round(frame.rotation / 90) % 4


def _is_mirrored(frame: VideoFrame) -> bool:
    """Whether the stored picture is to be flipped upside down before it is turned."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(matrix, SideData):
        return False
    across, down = np.frombuffer(bytes(matrix), np.int32).reshape(3, 3)[:2, :2].astype(float)
    return bool(across[0] * down[1] < across[1] * down[0])
