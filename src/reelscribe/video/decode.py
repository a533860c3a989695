"""Clip to frames, with PyAV. Never makes a frame up: what cannot be decoded is a ClipError.

The packets are read twice: once for the index of frames, from which the wanted ones are picked, and once more to decode
those that the wanted frames need, each brought to its final size and colours in one step. There is no seeking: where
a seek lands is each container's own affair, while to read past packets costs next to nothing.
"""

import itertools
import logging
import sys
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator

import av
import numpy as np
from av.codec.context import ThreadType
from av.container import InputContainer
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from reelscribe.errors import ClipError
from reelscribe.schema import Clip, Frames
from reelscribe.video.index import FrameIndex, open_clip, packets_of, read_index, reason, video_stream
from reelscribe.video.sampling import FrameBudget, count_video_tokens, fit_resolution, pick_frames

logger = logging.getLogger(__name__)

_SKIP_GAIN = 8
"""Packets are passed over where there are at least so many: to start the decoder afresh costs about as much as so many
frames."""
_MARKS_UNREFERENCED = frozenset({"h264", "mpeg1video", "mpeg2video", "mpeg4"})
"""Codecs in which a frame that is marked as not referred to is not referred to by any frame. (In HEVC the mark holds
for one temporal layer only.)"""
_UNSPECIFIED_COLORSPACE = 2


def decode(clip: Clip, budget: FrameBudget, *, threads: int = 0) -> Frames:
    """Decode the frames of a clip that the budget asks for.

    Args:
        clip: to decode.
        budget: which frames, and at which size.
        threads: of the decoder; 0 for one on each CPU.

    Raises:
        ClipError: kind "missing", "unreadable", "no_video", "too_short" or "decode".
    """
    try:
        with open_clip(clip) as container:
            index = read_index(container, video_stream(container, clip), clip)
        seconds = index.seconds
        picked = pick_frames(seconds, index.duration_seconds, budget)
        wanted = [index.pts[number] for number in picked]
        pixels = _decode_wanted(clip, index, wanted, budget, threads)
    except (av.FFmpegError, OSError) as exc:
        raise ClipError("decode", f"{clip.name}: decoding broke off: {reason(exc)}; the file is damaged.") from exc
    return Frames(
        pixels=pixels,
        timestamps=tuple(seconds[number] for number in picked),
        duration_seconds=index.duration_seconds,
        video_tokens=count_video_tokens(pixels.shape[2], pixels.shape[1], len(pixels), budget.limits),
    )


def _decode_wanted(
    clip: Clip, index: FrameIndex, wanted: list[int], budget: FrameBudget, threads: int
) -> NDArray[np.uint8]:
    if index.timed:
        try:
            return _collect(clip, index, wanted, budget, threads, shortcuts=True)
        except (ClipError, av.FFmpegError) as exc:
            # A keyframe need not be one that decoding can start at, nor need every packet give a frame.
            logger.debug("%s: once more, decoding every frame: %s", clip.name, exc)
    return _collect(clip, index, wanted, budget, threads, shortcuts=False)


def _collect(
    clip: Clip, index: FrameIndex, wanted: list[int], budget: FrameBudget, threads: int, *, shortcuts: bool
) -> NDArray[np.uint8]:
    """Returns: uint8, shape (frames, height, width, 3)."""
    with open_clip(clip) as container:
        stream = video_stream(container, clip)
        stream.codec_context.thread_count = threads
        # With threads inside a frame, which is PyAV's own choice, H.264 damage would go unreported.
        stream.codec_context.thread_type = ThreadType.AUTO
        decoded = _decode_runs(container, stream, index, wanted) if shortcuts else _decode_all(container, stream, index)
        frames = _on_screen(decoded, index, wanted, clip)
        first = next(frames)
        width, height = fit_resolution(*_upright_size(stream, first), len(wanted), budget)
        pixels = np.empty((len(wanted), height, width, 3), np.uint8)
        scaler = VideoReformatter()
        for number, frame in enumerate(itertools.chain([first], frames)):
            pixels[number] = _to_rgb(frame, width, height, scaler)
        return pixels


def _decode_all(container: InputContainer, stream: VideoStream, index: FrameIndex) -> Iterator[tuple[int, VideoFrame]]:
    """Every frame, each with its time, in order of presentation."""
    frames = itertools.chain.from_iterable(packet.decode() for packet in packets_of(container, stream))
    for number, frame in enumerate(frames):
        if not index.timed:
            yield index.pts[min(number, len(index.pts) - 1)], frame
        elif frame.pts is not None:
            yield frame.pts, frame


def _decode_runs(
    container: InputContainer, stream: VideoStream, index: FrameIndex, wanted: list[int]
) -> Iterator[tuple[int, VideoFrame]]:
    """The wanted frames, and those that they refer to, each with its time, in order of presentation."""
    decoder = stream.codec_context
    needed = {None, *wanted}  # None: a packet without a time continues the frame before it
    packets = enumerate(packets_of(container, stream))
    for run in _runs(index, wanted):
        for number, packet in packets:
            if number in run:
                if decoder.name in _MARKS_UNREFERENCED:
                    decoder.skip_frame = "DEFAULT" if packet.pts in needed else "NONREF"
                yield from ((frame.pts, frame) for frame in packet.decode() if frame.pts is not None)
            if number == run.stop - 1:
                break
        yield from ((frame.pts, frame) for frame in stream.decode(None) if frame.pts is not None)
        decoder.flush_buffers()


def _runs(index: FrameIndex, wanted: list[int]) -> list[range]:
    """Numbers of the packets that decoding the wanted frames takes: each from the keyframe before it."""
    runs: list[range] = []
    for pts in wanted:
        keyframe = index.keyframes[bisect_right(index.keyframes, pts) - 1]
        start, stop = index.packets[keyframe], index.packets[pts] + 1
        if runs and start - runs[-1].stop < _SKIP_GAIN:
            last = runs.pop()
            start, stop = last.start, max(last.stop, stop)
        runs.append(range(start, stop))
    return runs


def _on_screen(
    decoded: Iterator[tuple[int, VideoFrame]], index: FrameIndex, wanted: list[int], clip: Clip
) -> Iterator[VideoFrame]:
    """The frame that is on screen at each of the wanted times; raise where it cannot be had."""

    def damaged(pts: int) -> ClipError:
        number = bisect_left(index.pts, pts)
        return ClipError(
            "decode", f"{clip.name}: frame {number} of {len(index.pts)} cannot be decoded; the file is damaged."
        )

    waiting = deque(wanted)
    shown: tuple[int, VideoFrame] | None = None
    for pts, frame in itertools.chain(decoded, [(sys.maxsize, None)]):
        while waiting and waiting[0] < pts:
            # A packet may hold no picture of its own, only repeat the last one or serve later ones.
            if shown is None or shown[0] != index.pts[bisect_left(index.pts, waiting[0]) - 1]:
                raise damaged(waiting[0])
            waiting.popleft()
            yield shown[1]
        if not waiting or frame is None:
            return
        if frame.is_corrupt:
            raise damaged(pts)
        shown = pts, frame
        if pts == waiting[0]:
            waiting.popleft()
            yield frame


def _upright_size(stream: VideoStream, frame: VideoFrame) -> tuple[int, int]:
    """Size of the picture as a player shows it: in square pixels, turned upright."""
    aspect = stream.sample_aspect_ratio
    width = max(round(frame.width * aspect), 1) if aspect else frame.width
    return (frame.height, width) if _quarter_turns(frame) % 2 else (width, frame.height)


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


def _to_rgb(frame: VideoFrame, width: int, height: int, scaler: VideoReformatter) -> NDArray[np.uint8]:
    """Colours and size in one step of the scaler, then turn upright."""
    turns = _quarter_turns(frame)
    if turns % 2:
        width, height = height, width
    # Players take untagged video for BT.709 from HD sizes on, and for BT.601 below.
    guess = Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601
    scaled = scaler.reformat(
        frame,
        width=width,
        height=height,
        format="rgb24",
        src_colorspace=guess if frame.colorspace == _UNSPECIFIED_COLORSPACE else None,
        interpolation=Interpolation.BICUBIC,
        threads=1,
    )
    picture = scaled.to_ndarray()
    return np.rot90(picture[::-1] if _is_mirrored(frame) else picture, turns)
