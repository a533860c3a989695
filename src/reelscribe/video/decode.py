"""Clip to frames, with PyAV. Never makes a frame up: what cannot be decoded is a ClipError.

All packets are read once, for the index of frames, from which the wanted ones are picked. Then the decoder is given the
packets that those need, and each wanted frame is brought to its final size and colours in one step. The packets of a
small file are kept from the first reading. A large file is read again, with seeks over long stretches that are not
needed if the container has an index to seek by. Where a seek does not land on the very packet that it was for, or the
decoder does not give what it should, a plainer way through the file is taken.

Of a file that is cut short or damaged, the part from its start is taken where the budget says that it is enough. All
of that is decoded first, to see how far it goes: what counts are frames that came out of the decoder without a word.
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
from typing import TypeAlias

import av
import numpy as np
from av.codec.context import ThreadType
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from reelscribe.errors import ClipError
from reelscribe.schema import Clip, Frames
from reelscribe.video.index import (
    MAX_PIXELS,
    FrameIndex,
    open_clip,
    packets_of,
    read_index,
    reason,
    stated_seconds,
    video_stream,
)
from reelscribe.video.pictures import Painter, stated_size, upright_size
from reelscribe.video.sampling import FrameChoice, count_video_tokens

logger = logging.getLogger(__name__)

_SKIP_GAIN = 8
"""Packets are passed over where there are at least so many: to start the decoder afresh costs about as much as so many
frames."""
_MARKS_UNREFERENCED = frozenset({"h264", "mpeg1video", "mpeg2video", "mpeg4"})
"""Codecs in which a frame that is marked as not referred to is not referred to by any frame. (In HEVC the mark holds
for one temporal layer only.)"""
_KEPT_BYTES, _KEPT_PACKETS = 16 << 20, 20_000
"""Of a file up to this size the packets are kept from the first reading."""
_SEEK_BYTES = 4 << 20
"""Up to so many bytes are read past: disks read ahead about as far."""
_SEEKABLE = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})
"""Containers with an index to seek by."""

_Packet: TypeAlias = "Packet[VideoStream]"
_Timed = Iterator[tuple[int, VideoFrame]]
"""Frames, each with its time, in order of presentation."""


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


def _empty(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.empty(shape, np.uint8)


def decode(clip: Clip, budget: FrameChoice, *, threads: int = 0, allocate: Allocate = _empty) -> Frames:
    """Decode the frames of a clip that the budget asks for.

    Args:
        clip: to decode.
        budget: which frames, and at which size.
        threads: of the decoder; 0 for one on each CPU.
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
        kept: list[_Packet] = []
        index = read_index(container, stream, clip, kept, _KEPT_PACKETS if container.size <= _KEPT_BYTES else 0)
        seconds = index.seconds
        picked = budget.pick(seconds, index.duration_seconds)
        wanted = [index.pts[number] for number in picked]
        task = _Task(clip=clip, index=index, wanted=wanted, budget=budget, threads=threads, allocate=allocate)
        pixels = _decode_wanted(task, stream, kept, may_seek=container.format.name in _SEEKABLE)
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
    )


def _decode_part(clip: Clip, budget: FrameChoice, allocate: Allocate) -> Frames:
    """Decode the start of a clip, up to where it is cut short or damaged.

    Raises:
        ClipError: kind "decode", where that is too little of it.
    """
    with open_clip(clip) as container:
        stream = video_stream(container, clip)
        stated = stated_seconds(container, stream)
        width, height = stated_size(stream)
        index = read_index(container, stream, clip, [], 0, part=True)
        task = _Task(clip=clip, index=index, wanted=index.pts, budget=budget, threads=1, allocate=allocate)
    good = _count_good(task)
    shown = _first_frames(index, good)
    share = min(shown.duration_seconds / stated, 1.0) if good > 1 and stated else good / len(index.pts)
    if good < 2 or share < budget.min_decoded:
        message = f"Of it {share:.0%} can be decoded; min_decoded asks for {budget.min_decoded:.0%}."
        raise ClipError("decode", message)
    seconds = shown.seconds
    picked = budget.pick(seconds, shown.duration_seconds)
    task = replace(task, index=shown, wanted=[shown.pts[number] for number in picked])
    pixels = _decode_wanted(task, stream, [], may_seek=False)
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
    )


def _first_frames(index: FrameIndex, count: int) -> FrameIndex:
    """The index of a part; the next frame may be lost, so that the last one ends after as long as the others take."""
    pts = index.pts[:count]
    if count < 2:
        return replace(index, pts=pts)
    return replace(index, pts=pts, end=min((*index.pts, index.end)[count], pts[-1] + (pts[-1] - pts[0]) // (count - 1)))


def _count_good(task: _Task) -> int:
    """How many frames can be decoded, from the first one on.

    Decoders notice damage late, and fill in what they lack until then. So where one notices any, all frames since the
    last keyframe before are left out. Where whole packets just come to an end, nothing is.
    """
    index, good, noticed = task.index, 0, False
    with open_clip(task.clip) as container:
        stream = video_stream(container, task.clip)
        _set_up(task, stream)
        try:
            for pts, frame in _decode_all(task, container, stream):
                if pts < index.pts[0]:
                    continue
                noticed = good < index.sure and (pts != index.pts[good] or frame.is_corrupt)
                if noticed or good == index.sure:
                    break
                good += 1
        except av.FFmpegError:
            noticed = True
    if not (noticed and good):
        return good
    keyframe = index.keyframes[bisect_right(index.keyframes, index.pts[good - 1]) - 1]
    return bisect_left(index.pts, keyframe)


def _decode_wanted(task: _Task, stream: VideoStream, kept: list[_Packet], *, may_seek: bool) -> NDArray[np.uint8]:
    """Take the shortest way that leads to all frames. Returns: uint8, shape (frames, height, width, 3)."""
    runs = _runs(task.index, task.wanted)

    def from_kept() -> NDArray[np.uint8]:
        return _collect(task, stream, _decode_runs(task, stream, (kept[run.start : run.stop] for run in runs)))

    def from_file(*, seek: bool) -> NDArray[np.uint8]:
        with open_clip(task.clip) as container:
            stream = video_stream(container, task.clip)
            packets = _read_runs(task, container, stream, runs, seek=seek)
            return _collect(task, stream, _decode_runs(task, stream, packets))

    def every_frame() -> NDArray[np.uint8]:
        with open_clip(task.clip) as container:
            stream = video_stream(container, task.clip)
            return _collect(task, stream, _decode_all(task, container, stream))

    short_ways: list[Callable[[], NDArray[np.uint8]]] = []
    if task.index.timed and kept:
        short_ways = [from_kept]
    elif task.index.timed:
        short_ways = [partial(from_file, seek=seek) for seek in ((True, False) if may_seek else (False,))]
    for way in short_ways:
        try:
            return way()
        except (ClipError, av.FFmpegError) as exc:
            # A seek may miss, a keyframe be one that decoding cannot start at, a packet give no frame of its own.
            logger.debug("%s: once more, by a plainer way: %s", task.clip.name, exc)
    return every_frame()


def _collect(task: _Task, stream: VideoStream, decoded: _Timed) -> NDArray[np.uint8]:
    """Bring the wanted ones of decoded frames to their final form."""
    _set_up(task, stream)
    frames = _on_screen(task, decoded)
    first = next(frames)
    width, height = task.budget.fit(*upright_size(stream, first), len(task.wanted))
    pixels = task.allocate((len(task.wanted), height, width, 3))
    for number, frame in enumerate(itertools.chain([first], frames)):
        task.painter.draw(frame, pixels[number])
    return pixels


def _set_up(task: _Task, stream: VideoStream) -> None:
    """Set the decoder up; only before the first packet."""
    stream.codec_context.thread_count = task.threads
    # With threads inside a frame, which is PyAV's own choice, H.264 damage would go unreported.
    stream.codec_context.thread_type = ThreadType.AUTO
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # the size may change on the way


def _decode_all(task: _Task, container: InputContainer, stream: VideoStream) -> _Timed:
    """Every frame, as far as packets are whole."""
    index = task.index

    def frames() -> Iterator[VideoFrame]:
        for packet in itertools.islice(packets_of(container, stream, index.shifts), index.whole_packets):
            yield from packet.decode()
        yield from stream.decode(None)

    for number, frame in enumerate(frames()):
        if not index.timed:
            yield index.pts[min(number, len(index.pts) - 1)], frame
        elif frame.pts is not None:
            yield frame.pts, frame


def _decode_runs(task: _Task, stream: VideoStream, runs: Iterable[Iterable[_Packet]]) -> _Timed:
    """The wanted frames, and those that they refer to."""
    decoder = stream.codec_context
    needed = {None, *task.wanted}  # None: a packet without a time continues the frame before it
    for run in runs:
        for packet in run:
            if decoder.name in _MARKS_UNREFERENCED:
                decoder.skip_frame = "DEFAULT" if packet.pts in needed else "NONREF"
            yield from ((frame.pts, frame) for frame in packet.decode() if frame.pts is not None)
        yield from ((frame.pts, frame) for frame in stream.decode(None) if frame.pts is not None)
        decoder.flush_buffers()


def _read_runs(
    task: _Task, container: InputContainer, stream: VideoStream, runs: list[range], *, seek: bool
) -> Iterator[Iterator[_Packet]]:
    """The packets of each run, from the file."""
    keyframes = {task.index.packets[pts]: pts for pts in task.index.keyframes}
    worth_a_seek = _SEEK_BYTES * len(task.index.packets) // container.size
    packets, at = packets_of(container, stream, task.index.shifts), 0
    for run in runs:
        if seek and run.start - at > worth_a_seek:
            packets, at = _packets_from(task, container, stream, keyframes[run.start]), run.start
        yield itertools.islice(packets, run.start - at, run.stop - at)
        at = run.stop


def _packets_from(task: _Task, container: InputContainer, stream: VideoStream, pts: int) -> Iterator[_Packet]:
    """Seek to a keyframe, or to one before it and read on; raise if that went astray."""
    container.seek(pts, stream=stream)
    packets = packets_of(container, stream)
    for packet in packets:
        if packet.is_keyframe and packet.pts == pts:
            return itertools.chain([packet], packets)
        if packet.pts is None or packet.pts > pts:
            break
    raise ClipError("decode", f"{task.clip.name}: a seek missed its keyframe.")


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


def _on_screen(task: _Task, decoded: _Timed) -> Iterator[VideoFrame]:
    """The frame that is on screen at each of the wanted times; raise where it cannot be had."""
    index = task.index

    def damaged(pts: int) -> ClipError:
        number = bisect_left(index.pts, pts)
        return ClipError(
            "decode", f"{task.clip.name}: frame {number} of {len(index.pts)} cannot be decoded; the file is damaged."
        )

    waiting = deque(task.wanted)
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
