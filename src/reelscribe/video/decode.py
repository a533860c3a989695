"""Clip to frames, with PyAV. Never makes a frame up: what cannot be decoded is a ClipError.

All packets are read once, for the index of frames, from which the wanted ones are picked. A clip that is not long is
then decoded whole, so that damage is noticed whatever frames are wanted. Of a long one the decoder gets the packets
that the wanted frames need. The packets of a small file are kept from the first reading. A large file is read again,
with seeks over long stretches that are not needed if the container has an index to seek by. If a seek does not land on
the very packet that it was for, or the decoder does not give what it should, the whole clip is decoded, which decides.

If the budget allows it, the longest stretch without damage is taken of a file that is cut short or damaged. All of the
file is decoded first, to find it: what counts are frames that came out of the decoder without a word.
"""

import contextlib
import itertools
import logging
import sys
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import av
import numpy as np
from av.codec.context import ThreadType
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from reelscribe.errors import ClipError
from reelscribe.schemas import Facts
from reelscribe.values import Clip, Frames
from reelscribe.video.clock import may_jump
from reelscribe.video.index import FrameIndex, read_index
from reelscribe.video.opening import MAX_PIXELS, open_clip, reason, video_stream
from reelscribe.video.pictures import Painter, stated_size, upright_size
from reelscribe.video.runs import Run, VideoPacket, contiguous, read_runs, runs_to, whole_run
from reelscribe.video.sampling import FrameChoice, count_video_tokens
from reelscribe.video.stated import latest_seconds, reaches_end, stated_seconds

logger = logging.getLogger(__name__)

_WHOLE_PACKETS = 750
"""A clip of up to this many packets is decoded whole. Half a minute, which few clips of data sets exceed: what is not
wanted of it costs little (see docs/architecture.md)."""
_THREADS_TELL_DAMAGE = frozenset({"hevc", "vp8", "vp9", "libdav1d"})
"""Decoders that report damage with several threads as with one. Those that fill in what is lost (H.264, MPEG-4) mark
such a frame at its end, when another thread may have given it out: with two threads 9 of 245 damaged clips got through.
"""
_KEPT_BYTES, _KEPT_PACKETS = 16 << 20, 20_000
"""Of a file up to this size the packets are kept from the first reading."""
_SEEKABLE = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})
"""Containers with an index to seek by."""

_Timed = Iterator[tuple[int, VideoFrame]]
"""Frames, each with its time, in order of presentation."""
_Pictures = tuple[NDArray[np.uint8], Facts]
"""Pixels of shape (frames, height, width, 3), and what the file says of itself."""


Allocate = Callable[[tuple[int, ...]], NDArray[np.uint8]]
"""Makes an array of a shape, with anything in it."""


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What to decode of a clip."""

    clip: Clip
    index: FrameIndex
    wanted: list[int]
    """Times of the frames, ascending."""
    budget: FrameChoice
    threads: int
    allocate: Allocate
    painter: Painter = field(default_factory=Painter)
    part: bool = False
    """Whether what comes behind the last wanted frame may be damaged."""


def _empty(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.empty(shape, np.uint8)


def decode(clip: Clip, budget: FrameChoice, *, threads: int = 0, allocate: Allocate = _empty) -> Frames:
    """Decode the frames of a clip that the budget asks for.

    Args:
        clip: to decode.
        budget: which frames, and at which size.
        threads: of the decoder, if its codec allows several; 0 for one on each CPU.
        allocate: makes the array of the pixels.

    Raises:
        ClipError: kind "missing", "unreadable", "no_video", "too_short", "too_large", "decode" or "crashed".
    """
    try:
        with _troubles(clip):
            return _decode(clip, budget, threads, allocate)
    except ClipError as exc:
        if exc.kind != "decode" or budget.min_decoded >= 1:
            raise
        damage = exc
    try:
        with _troubles(clip):
            return _decode_part(clip, budget, allocate)
    except ClipError as exc:
        raise ClipError("decode", f"{damage} {exc}") from exc


@contextlib.contextmanager
def _troubles(clip: Clip) -> Iterator[None]:
    """Say what other libraries' errors are to the clip."""
    try:
        yield
    except ClipError:
        raise
    except MemoryError as exc:
        raise ClipError("too_large", f"{clip.name}: decoding it takes more memory than there is.") from exc
    except (av.FFmpegError, OSError) as exc:
        raise ClipError("decode", f"{clip.name}: decoding broke off: {reason(exc)}; the file is damaged.") from exc
    except Exception as exc:  # nobody knows all that a file can do to libraries, and it is not to end the run
        logger.warning("%s: the decoder crashed", clip.name, exc_info=True)
        raise ClipError("crashed", f"{clip.name}: its decoder crashed ({type(exc).__name__}: {exc}).") from exc


def _decode(clip: Clip, budget: FrameChoice, threads: int, allocate: Allocate) -> Frames:
    with open_clip(clip) as container:
        stream = video_stream(container, clip)
        kept: list[VideoPacket] = []
        index = read_index(container, stream, clip, kept, _KEPT_PACKETS if container.size <= _KEPT_BYTES else 0)
        seconds = index.seconds
        picked = budget.pick(seconds, index.duration_seconds)
        wanted = [index.pts[number] for number in picked]
        task = _Task(clip=clip, index=index, wanted=wanted, budget=budget, threads=threads, allocate=allocate)
        pixels, facts = _decode_wanted(task, stream, kept, may_seek=container.format.name in _SEEKABLE)
        width, height = stated_size(stream)
    return Frames(
        pixels=pixels,
        timestamps=tuple(seconds[number] for number in picked),
        duration_seconds=index.duration_seconds,
        video_tokens=count_video_tokens(pixels.shape[2], pixels.shape[1], len(pixels), budget.limits),
        tone_mapped=task.painter.tone_mapped,
        deinterlaced=task.painter.deinterlaced,
        thinned=budget.thins(len(seconds), index.duration_seconds),
        shrunk=budget.shrinks(width, height, len(pixels)),
        facts=facts,
    )


def _decode_part(clip: Clip, budget: FrameChoice, allocate: Allocate) -> Frames:
    """Decode the longest stretch of a clip that is cut short or damaged.

    Raises:
        ClipError: kind "decode", if that is too little of it.
    """
    with open_clip(clip) as container:
        stream = video_stream(container, clip)
        width, height = stated_size(stream)
        index = read_index(container, stream, clip, [], 0, part=True)
    stated = _whole_seconds(clip, index)
    task = _Task(clip=clip, index=index, wanted=index.pts, budget=budget, threads=1, allocate=allocate, part=True)
    run, good = _longest_stretch(task)
    shown = _stretch(index, good)
    share = min(shown.duration_seconds / stated, 1.0) if len(good) > 1 and stated else len(good) / len(index.pts)
    if len(good) < 2 or share < budget.min_decoded:
        message = f"Of it {share:.0%} can be decoded; min_decoded asks for {budget.min_decoded:.0%}."
        raise ClipError("decode", message)
    seconds = shown.seconds
    picked = budget.pick(seconds, shown.duration_seconds)
    task = replace(task, index=shown, wanted=[shown.pts[number] for number in picked])
    with open_clip(clip) as container:
        stream = video_stream(container, clip)
        packets = read_runs(task.index, task.clip, container, stream, [run], seek=False)
        pixels, facts = _collect(task, stream, _decode_run(index, stream, run, next(packets)))
        stated_aspect, aspect = stream.sample_aspect_ratio, stream.codec_context.sample_aspect_ratio
    if good.start and aspect and stated_aspect != aspect:  # FFmpeg has the shape of pixels from the damaged beginning
        raise ClipError("decode", "The shape of its pixels is not known: its beginning is damaged.")
    return Frames(
        pixels=pixels,
        timestamps=tuple(seconds[number] for number in picked),
        duration_seconds=shown.duration_seconds,
        video_tokens=count_video_tokens(pixels.shape[2], pixels.shape[1], len(pixels), budget.limits),
        decoded_share=share,
        tone_mapped=task.painter.tone_mapped,
        deinterlaced=task.painter.deinterlaced,
        thinned=budget.thins(len(seconds), shown.duration_seconds),
        shrunk=budget.shrinks(width, height, len(pixels)),
        facts=facts,
    )


def _whole_seconds(clip: Clip, index: FrameIndex) -> float:
    """How long a clip that is cut short or damaged was when it was whole; 0 if that is not known.

    In formats whose clock may jump nothing states that, and FFmpeg's guess goes by the first clock and the last.
    """
    with open_clip(clip) as container:
        stream = video_stream(container, clip)
        if not may_jump(container):
            if seconds := stated_seconds(container, stream):
                return seconds
            if not reaches_end(container):
                return latest_seconds(container, stream)
    return float((index.end - index.start) * index.time_base)


def _stretch(index: FrameIndex, good: range) -> FrameIndex:
    """The index of a stretch. The next frame may be lost: so the last one ends after as long as the others take."""
    pts = index.pts[good.start : good.stop]
    if len(pts) < 2:
        return replace(index, pts=pts)
    end = min((*index.pts, index.end)[good.stop], pts[-1] + (pts[-1] - pts[0]) // (len(pts) - 1))
    return replace(index, pts=pts, end=end)


def _longest_stretch(task: _Task) -> tuple[Run, range]:
    """The most frames in a row that can be decoded, by number, and the packets that give them.

    The first stretch begins with the first keyframe, another one with the first keyframe behind the end of the one
    before. Frames without times of their own can be counted from the start only.
    """
    index = task.index
    best, reached = (whole_run(index), range(0)), index.keyframes[0] - 1
    for keyframe in index.keyframes if index.timed else index.keyframes[:1]:
        first = bisect_left(index.pts, keyframe)
        if keyframe <= reached:
            continue
        if len(index.pts) - first <= len(best[1]):
            break
        start = index.packets[keyframe]
        stop = next((number for number in index.broken if number >= start), index.num_packets)
        run = Run(packets=range(start, stop), keyframe=keyframe)
        seen, good = _count_good(task, run, first)
        reached = index.pts[min(first + seen, len(index.pts)) - 1] if seen else keyframe
        if good > len(best[1]):
            best = run, range(first, first + good)
    return best


def _count_good(task: _Task, run: Run, first: int) -> tuple[int, int]:
    """How many frames come out of the decoder, from a keyframe on, and how many of them are good.

    Decoders notice damage late, and fill in what they lack until then. So if one notices any, all frames since the
    last keyframe before are left out. If whole packets just come to an end, none is.
    """
    index, seen, noticed = task.index, 0, False
    most = contiguous(index, run, first)
    with open_clip(task.clip) as container:
        stream = video_stream(container, task.clip)
        _set_up(task, stream)
        packets = read_runs(task.index, task.clip, container, stream, [run], seek=False)
        try:
            for pts, _ in _decode_runs(task, stream, [run], packets):
                while seen < most and pts > index.pts[first + seen] and index.pts[first + seen] not in index.due:
                    seen += 1  # a repetition of the last one
                if seen < most and pts != index.pts[first + seen]:
                    noticed = True
                    break
                seen = min(seen + 1, most)  # frames beyond may still show damage
        except (ClipError, av.FFmpegError):
            noticed = True
    if not (noticed and seen):
        return seen, seen
    keyframe = index.keyframes[bisect_right(index.keyframes, index.pts[first + seen - 1]) - 1]
    return seen, max(bisect_left(index.pts, keyframe) - first, 0)


def _decode_wanted(task: _Task, stream: VideoStream, kept: list[VideoPacket], *, may_seek: bool) -> _Pictures:
    """Take the shortest way that leads to all frames."""

    def from_kept(runs: list[Run]) -> _Pictures:
        packets = (kept[run.packets.start : run.packets.stop] for run in runs)
        return _collect(task, stream, _decode_runs(task, stream, runs, packets))

    def from_file(runs: list[Run], *, seek: bool = False) -> _Pictures:
        with open_clip(task.clip) as container:
            stream = video_stream(container, task.clip)
            packets = read_runs(task.index, task.clip, container, stream, runs, seek=seek)
            return _collect(task, stream, _decode_runs(task, stream, runs, packets))

    index = task.index
    short_ways: list[Callable[[list[Run]], _Pictures]] = []
    if index.timed and not index.doubtful and index.num_packets > _WHOLE_PACKETS:
        seeks = (True, False) if may_seek else (False,)
        short_ways = [from_kept] if kept else [partial(from_file, seek=seek) for seek in seeks]
    for way in short_ways:
        try:
            return way(runs_to(index, task.wanted))
        except (ClipError, av.FFmpegError) as exc:
            # A seek may miss, a keyframe be one that decoding cannot start at, a packet give no frame of its own.
            logger.debug("%s: once more, by a plainer way: %s", task.clip.name, exc)
    if kept and not short_ways:  # a decoder is set up only once
        return from_kept([whole_run(index)])
    return from_file([whole_run(index)])


def _collect(task: _Task, stream: VideoStream, decoded: _Timed) -> _Pictures:
    """Bring the wanted ones of decoded frames to their final form."""
    _set_up(task, stream)
    frames = _on_screen(task, decoded)
    first = next(frames)
    shown_width, shown_height = upright_size(stream, first)
    width, height = task.budget.fit(shown_width, shown_height, len(task.wanted))
    pixels = task.allocate((len(task.wanted), height, width, 3))
    for number, frame in enumerate(itertools.chain([first], frames)):
        task.painter.draw(frame, pixels[number])
    if not task.part:
        deque(decoded, maxlen=0)  # what is not wanted may be damaged
    facts = Facts(
        duration_seconds=task.index.duration_seconds,
        fps=round(task.index.fps, 3),
        width=shown_width,
        height=shown_height,
    )
    return pixels, facts


def _set_up(task: _Task, stream: VideoStream) -> None:
    """Set the decoder up; only before the first packet."""
    # Threads inside a frame, which are PyAV's own choice, swallow errors of MPEG-1, MPEG-2 and H.264.
    stream.codec_context.thread_type = ThreadType.FRAME
    stream.codec_context.thread_count = task.threads if stream.codec_context.name in _THREADS_TELL_DAMAGE else 1
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # the size may change on the way


def _decode_runs(task: _Task, stream: VideoStream, runs: list[Run], packets: Iterable[Iterable[VideoPacket]]) -> _Timed:
    """The frames of each run; raise if one that there has to be is damaged or missing."""
    due_of = {task.index.packets[pts]: pts for pts in task.index.due}
    for run, of_run in zip(runs, packets, strict=False):
        due = {due_of[number] for number in run.packets if number in due_of}
        yield from _watch(task, run, _decode_run(task.index, stream, run, of_run), due)
        stream.codec_context.flush_buffers()


def _decode_run(index: FrameIndex, stream: VideoStream, run: Run, packets: Iterable[VideoPacket]) -> _Timed:
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


def _watch(task: _Task, run: Run, decoded: _Timed, due: set[int]) -> _Timed:
    """Pass frames on; raise at one that is damaged, or if one that is due is missing in the end."""
    index, count = task.index, 0
    missing = {pts for pts in due if pts >= run.keyframe}
    for pts, frame in decoded:
        # If a container calls a frame a keyframe that is none, decoders begin with a grey picture.
        astray = pts == run.keyframe > index.keyframes[0] and not frame.key_frame
        if frame.is_corrupt or astray:
            raise _damaged(task, pts)
        missing.discard(pts)
        count += 1
        yield pts, frame
    if index.timed and missing:
        raise _damaged(task, min(missing))
    if not index.timed and count < len(due):
        raise _damaged(task, index.pts[count])


def _damaged(task: _Task, pts: int) -> ClipError:
    number, count = bisect_left(task.index.pts, pts), len(task.index.pts)
    return ClipError("decode", f"{task.clip.name}: frame {number} of {count} cannot be decoded; the file is damaged.")


def _on_screen(task: _Task, decoded: _Timed) -> Iterator[VideoFrame]:
    """The frame that is on screen at each of the wanted times; raise if it cannot be had."""
    index = task.index
    waiting = deque(task.wanted)
    shown: tuple[int, VideoFrame] | None = None
    for pts, frame in itertools.chain(decoded, [(sys.maxsize, None)]):
        while waiting and waiting[0] < pts:
            # A packet may hold no picture of its own, only repeat the last one or serve later ones.
            if shown is None or shown[0] != index.pts[bisect_left(index.pts, waiting[0]) - 1]:
                raise _damaged(task, waiting[0])
            waiting.popleft()
            yield shown[1]
        if not waiting or frame is None:
            return
        shown = pts, frame
        if pts == waiting[0]:
            waiting.popleft()
            yield frame
