"""Checks decoded frames against the index: no frame may be damaged, and none that is due may be missing.

A violation is a ClipError, and so is anything else that goes wrong between a file and its frames.
"""

import contextlib
import itertools
import logging
import sys
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import av
from av.codec.context import ThreadType
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from reelscribe.errors import ClipError
from reelscribe.values import Clip
from reelscribe.video.index import FrameIndex, read_index
from reelscribe.video.opening import MAX_PIXELS, open_clip, reason, video_stream
from reelscribe.video.runs import Run, VideoPacket, read_runs, whole_run

logger = logging.getLogger(__name__)

_THREADS_TELL_DAMAGE = frozenset({"hevc", "vp8", "vp9", "libdav1d"})
"""FFmpeg's decoders that report damage with several threads as with one. Decoders that conceal errors (H.264, MPEG-4)
mark a frame when it is complete, but with threads it may be given out before: 9 of 245 damaged clips got through.
"""
REORDERED = 64
"""Maximum number of packets after a frame's own that may hold frames shown before it. H.264 and HEVC reorder by at most
16 frames; packets without a frame may lie between."""

Timed = Iterator[tuple[int, VideoFrame]]
"""Frames in presentation order, each with its time in units of the time base."""


@dataclass(frozen=True, kw_only=True)
class Indexed:
    """A clip whose packets have been read."""

    clip: Clip
    index: FrameIndex


def read_packets(clip: Clip) -> Indexed:
    """Read a clip's index.

    Raises:
        ClipError: kind "missing", "unreadable", "no_video", "too_short", "too_large", "decode" or "crashed".
    """
    with troubles(clip), open_clip(clip) as container:
        return Indexed(clip=clip, index=read_index(container, video_stream(container, clip), clip, [], 0))


def every_frame(source: Indexed, *, threads: int = 0) -> Iterator[VideoFrame]:
    """Decode a clip from its first frame to its last, a frame for each time of its index; few are in memory at once.

    Args:
        source: to decode.
        threads: of the decoder, if its codec allows several; 0 for one on each CPU.

    Raises:
        ClipError: kind "missing", "unreadable", "no_video", "too_large", "decode" or "crashed".
    """
    index, clip, runs = source.index, source.clip, [whole_run(source.index)]
    with troubles(clip), open_clip(clip) as container:
        stream = video_stream(container, clip)
        set_up(stream, threads)
        decoded = decode_runs(source, stream, runs, read_runs(index, clip, container, stream, runs, seek=False))
        yield from on_screen(source, index.pts, decoded)
        deque(decoded, maxlen=0)  # damage may show up behind the last frame


@contextlib.contextmanager
def troubles(clip: Clip) -> Iterator[None]:
    """Translate errors of other libraries into a ClipError about the clip."""
    try:
        yield
    except ClipError:
        raise
    except MemoryError as exc:
        raise ClipError("too_large", f"{clip.name}: decoding it takes more memory than there is.") from exc
    except (av.FFmpegError, OSError) as exc:
        raise ClipError("decode", f"{clip.name}: decoding broke off: {reason(exc)}; the file is damaged.") from exc
    except Exception as exc:  # a file can make libraries raise anything, and must not end the run
        logger.warning("%s: the decoder crashed", clip.name, exc_info=True)
        raise ClipError("crashed", f"{clip.name}: its decoder crashed ({type(exc).__name__}: {exc}).") from exc


def set_up(stream: VideoStream, threads: int) -> None:
    """Configure the decoder. Call it before the first packet."""
    # PyAV's default, slice threads, swallows errors of MPEG-1, MPEG-2 and H.264.
    stream.codec_context.thread_type = ThreadType.FRAME
    stream.codec_context.thread_count = threads if stream.codec_context.name in _THREADS_TELL_DAMAGE else 1
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # the size may change within the stream


def decode_runs(
    source: Indexed, stream: VideoStream, runs: list[Run], packets: Iterable[Iterable[VideoPacket]]
) -> Timed:
    """Decode the frames of each run. Raises ClipError if a frame that is due is damaged or missing."""
    index = source.index
    for run, of_run in zip(runs, packets, strict=False):
        first = bisect_left(index.pts, run.keyframe)
        near = index.pts[first : first + len(run.packets) + REORDERED]
        due = {pts for pts in near if pts in index.due and index.packets[pts] in run.packets}
        yield from watched(source, run, decode_run(index, stream, run, of_run), due)
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


def watched(source: Indexed, run: Run, decoded: Timed, due: set[int]) -> Timed:
    """Pass frames through. Raises ClipError at a damaged frame, and at the end if one that is due is missing."""
    index, count = source.index, 0
    missing = {pts for pts in due if pts >= run.keyframe}
    for pts, frame in decoded:
        # If a container marks a frame as keyframe that is none, decoders start from a grey picture without an error.
        astray = pts == run.keyframe > index.keyframes[0] and not frame.key_frame
        if frame.is_corrupt or astray:
            raise _damaged(source, pts)
        missing.discard(pts)
        count += 1
        yield pts, frame
    if index.timed and missing:
        raise _damaged(source, min(missing))
    if not index.timed and count < len(due):
        raise _damaged(source, index.pts[count])


def _damaged(source: Indexed, pts: int) -> ClipError:
    number, count = bisect_left(source.index.pts, pts), len(source.index.pts)
    return ClipError("decode", f"{source.clip.name}: frame {number} of {count} cannot be decoded; the file is damaged.")


def on_screen(source: Indexed, wanted: Iterable[int], decoded: Timed) -> Iterator[VideoFrame]:
    """For each wanted time, ascending, the frame on screen then. Raises ClipError if it is missing."""
    index = source.index
    waiting = deque(wanted)
    shown: tuple[int, VideoFrame] | None = None
    for pts, frame in itertools.chain(decoded, [(sys.maxsize, None)]):
        while waiting and waiting[0] < pts:
            # A packet may hold no picture to show: it repeats the last one, or is only referred to by later ones.
            if shown is None or shown[0] != index.pts[bisect_left(index.pts, waiting[0]) - 1]:
                raise _damaged(source, waiting[0])
            waiting.popleft()
            yield shown[1]
        if not waiting or frame is None:
            return
        shown = pts, frame
        if pts == waiting[0]:
            waiting.popleft()
            yield frame
