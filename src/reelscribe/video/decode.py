"""Clip to frames, with PyAV. Never makes a frame up: what cannot be decoded is a ClipError.

A first pass reads the packets without decoding them. It gives each frame's time as it stands in the file, which is
right for variable frame rates, files without a stated duration and streams that do not start at 0. A second pass
decodes only as far as the wanted frames need, and brings each to its final size and colours in one step.
"""

import io
import logging
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, Interpolation
from av.video.stream import VideoStream
from numpy.typing import NDArray

from reelscribe.errors import ClipError
from reelscribe.schema import Clip, Frames
from reelscribe.video.sampling import FrameBudget, count_video_tokens, fit_resolution, pick_frames

logger = logging.getLogger(__name__)

_SEEK_GAIN = 16
"""A seek is worth it where it spares at least so many frames: it empties the decoder's pipeline, which costs about that
many."""
_UNSPECIFIED_COLORSPACE = 2
_LOST_SHARE = 0.02
"""A file may lack so much of the length that it states before it counts as cut short: containers round."""


@dataclass(frozen=True, kw_only=True)
class _Index:
    """What the packets say, in order of presentation."""

    pts: list[int]
    """Presentation times, in the stream's time base."""
    keyframes: list[int]
    """Those of the frames that decoding can start at."""
    end: int
    """When the last frame leaves the screen."""


def decode(clip: Clip, budget: FrameBudget) -> Frames:
    """Decode the frames of a clip that the budget asks for.

    Raises:
        ClipError: kind "missing", "unreadable", "no_video", "too_short" or "decode".
    """
    try:
        with _open(clip) as container:
            stream = _video_stream(container, clip)
            index = _scan(container, stream, clip)
            time_base = stream.time_base or Fraction(1, 1000)
            start = index.pts[0]
            times = [float((pts - start) * time_base) for pts in index.pts]
            duration = float((index.end - start) * time_base)
            picked = pick_frames(times, duration, budget)
            wanted = [index.pts[number] for number in picked]
            pixels = _decode_frames(container, stream, index, wanted, budget, clip)
    except (av.FFmpegError, OSError) as exc:
        raise ClipError("decode", f"{clip.name}: decoding broke off: {_reason(exc)}.") from exc
    return Frames(
        pixels=pixels,
        timestamps=tuple(times[number] for number in picked),
        duration_seconds=duration,
        video_tokens=count_video_tokens(pixels.shape[2], pixels.shape[1], len(pixels), budget.limits),
    )


def _reason(exc: Exception) -> str:
    return str(getattr(exc, "strerror", None) or exc)


def _open(clip: Clip) -> InputContainer:
    if isinstance(clip.source, str):
        if not clip.path.exists():
            raise ClipError("missing", f"{clip.name}: there is no such file; paths start from {clip.root or 'here'}.")
        if not clip.path.is_file():
            raise ClipError("unreadable", f"{clip.name} is not a file.")
        if clip.path.stat().st_size == 0:
            raise ClipError("unreadable", f"{clip.name} is empty (0 bytes).")
    try:
        source = io.BytesIO(clip.source) if isinstance(clip.source, bytes) else str(clip.path)
        return av.open(source, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as exc:
        raise ClipError("unreadable", f"{clip.name} cannot be opened as a video: {_reason(exc)}.") from exc


def _video_stream(container: InputContainer, clip: Clip) -> VideoStream:
    streams = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise ClipError("no_video", f"{clip.name} has no video stream, only {kinds}.")
    stream = streams[0]
    if stream.codec_context is None:
        raise ClipError("unreadable", f"{clip.name}: no decoder for its video codec.")
    stream.thread_type = "AUTO"  # type: ignore[assignment]  # PyAV takes the name; its stub says the enum
    return stream


def _scan(container: InputContainer, stream: VideoStream, clip: Clip) -> _Index:
    """Read all packets of the stream; raise where they are too few."""
    shown: dict[int, int] = {}
    keyframes = []
    for packet in container.demux(stream):
        when = packet.dts if packet.pts is None else packet.pts
        if packet.size == 0 or when is None or packet.is_discard:
            continue
        shown[when] = packet.duration or 0
        if packet.is_keyframe:
            keyframes.append(when)
    if len(shown) < 2:
        raise ClipError("too_short", f"{clip.name} has {len(shown)} frame(s); at least 2 are needed.")
    pts = sorted(shown)
    last = shown[pts[-1]] or (pts[-1] - pts[0]) // (len(pts) - 1)
    index = _Index(pts=pts, keyframes=sorted(keyframes), end=pts[-1] + last)
    _check_complete(stream, index, clip)
    return index


def _check_complete(stream: VideoStream, index: _Index, clip: Clip) -> None:
    """Raise where the file ends before the length that it states."""
    if stream.frames and len(index.pts) < stream.frames * (1 - _LOST_SHARE) - 1:
        raise ClipError(
            "decode", f"{clip.name} is cut short: {len(index.pts)} of the {stream.frames} frames that it states are there."
        )
    stated = _stated_seconds(stream)
    found = float((index.end - min(index.pts[0], 0)) * (stream.time_base or 0))
    if stated and found < stated * (1 - _LOST_SHARE) - 0.5:
        raise ClipError("decode", f"{clip.name} is cut short: {found:.1f} of the {stated:.1f} s that it states are there.")


def _stated_seconds(stream: VideoStream) -> float | None:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    clock = stream.metadata.get("DURATION", "").split(":")  # Matroska: "00:00:05.040000000"
    try:
        return sum(float(part) * 60**power for power, part in enumerate(reversed(clock))) if len(clock) == 3 else None
    except ValueError:
        return None


def _decode_frames(
    container: InputContainer, stream: VideoStream, index: _Index, wanted: list[int], budget: FrameBudget, clip: Clip
) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] | None = None
    found = 0
    for frame in _frames_at(container, stream, index, wanted):
        if frame.is_corrupt:
            break
        quarter_turns = round(frame.rotation / 90) % 4
        if pixels is None:
            size = _upright_size(stream, frame, quarter_turns)
            width, height = fit_resolution(*size, len(wanted), budget)
            pixels = np.empty((len(wanted), height, width, 3), np.uint8)
        pixels[found] = _to_rgb(frame, pixels.shape[2], pixels.shape[1], quarter_turns)
        found += 1
    if pixels is None or found < len(wanted):
        number = index.pts.index(wanted[found])
        raise ClipError("decode", f"{clip.name}: frame {number} of {len(index.pts)} cannot be decoded; the file is damaged.")
    return pixels


def _frames_at(container: InputContainer, stream: VideoStream, index: _Index, wanted: list[int]) -> Iterator[VideoFrame]:
    """Yield the frames with the wanted times, in order; stop at the first that is not there."""
    position = -1  # number of the frame that the decoder has got to
    frames: Iterator[VideoFrame] = iter(())
    for pts in wanted:
        number = index.pts.index(pts, max(position, 0))
        key = bisect_right(index.keyframes, pts) - 1
        start = bisect_right(index.pts, index.keyframes[key]) - 1 if key >= 0 else 0
        if position < 0 or start - position > _SEEK_GAIN:
            # The first pass left the container at its end, so that the first frame needs a seek, too.
            target = index.pts[start] if start > 0 else min(index.pts[0], stream.start_time or 0)
            container.seek(target, stream=stream, backward=True)
            frames = container.decode(stream)
        for frame in frames:
            time = frame.dts if frame.pts is None else frame.pts
            if time is not None and time >= pts:
                break
        else:
            return
        if time != pts:
            return
        position = number
        yield frame


def _upright_size(stream: VideoStream, frame: VideoFrame, quarter_turns: int) -> tuple[int, int]:
    """Size of the picture as a player shows it: in square pixels, turned upright."""
    aspect = stream.sample_aspect_ratio
    width = max(round(frame.width * aspect), 1) if aspect else frame.width
    return (frame.height, width) if quarter_turns % 2 else (width, frame.height)


def _to_rgb(frame: VideoFrame, width: int, height: int, quarter_turns: int) -> NDArray[np.uint8]:
    """Colours and size in one step of the scaler, then turn upright."""
    # Players take untagged video for BT.709 from HD sizes on, and for BT.601 below.
    guess = Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601
    if quarter_turns % 2:
        width, height = height, width
    scaled = frame.reformat(
        width=width,
        height=height,
        format="rgb24",
        src_colorspace=guess if frame.colorspace == _UNSPECIFIED_COLORSPACE else None,
        interpolation=Interpolation.BICUBIC,
    )
    return np.rot90(scaled.to_ndarray(), quarter_turns)
