"""Finds and decodes the longest undamaged part of a clip that is cut short or damaged, or whose file is.

A frame counts as good if the decoder gave it without an error.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import replace

import av

from reelscribe.errors import ClipError
from reelscribe.values import Clip, Frames
from reelscribe.video.bounds import bounds_of
from reelscribe.video.checked import decode_run, decode_runs, set_up
from reelscribe.video.clock import may_jump
from reelscribe.video.index import FrameIndex, read_index
from reelscribe.video.opening import open_clip, video_stream
from reelscribe.video.passes import Allocate, Order, behind, collect, frames_of
from reelscribe.video.pictures import stated_size
from reelscribe.video.recent import Recent
from reelscribe.video.runs import Run, VideoPacket, contiguous, read_runs, whole_run
from reelscribe.video.sampling import FrameChoice
from reelscribe.video.stated import latest_seconds, reaches_end, stated_seconds

_seen: Recent[tuple[FrameIndex, tuple[int, int], float]] = Recent(lambda seen: seen[0].num_packets)


def decode_part(clip: Clip, budget: FrameChoice, allocate: Allocate) -> Frames:
    """Decode the longest undamaged part of a clip that is cut short or damaged, or whose file is.

    Raises:
        ClipError: kind "decode", if that is too little of it.
    """
    index, size, stated = _seen.of(clip, lambda: _look_at(clip.whole))
    bounds = bounds_of(clip, stated or index.duration_seconds)
    shown = index if clip.is_whole else index.within(bounds)
    order = Order(
        clip=clip,
        index=index,
        shown=shown,
        bounds=bounds,
        picked=range(len(shown.pts)),
        budget=budget,
        threads=1,
        allocate=allocate,
        part=True,
    )
    run, good = _longest_part(order)
    name = "it" if clip.is_whole else clip.name  # what is said before may be of the file
    if len(good) < 2:
        raise ClipError("decode", f"Of {name} fewer than 2 frames can be decoded.")
    # Of a stretch nothing need be missing.
    entire = not clip.is_whole and len(good) == len(shown.pts) and bounds.end <= index.duration_seconds
    part = shown if entire else _undamaged(order, good)
    due = bounds.end - bounds.start if stated or not clip.is_whole else 0.0
    share = min(part.duration_seconds / due, 1.0) if due else len(good) / len(shown.pts)
    share = 1.0 if entire else share  # a difference of times may be rounded up
    if share < budget.min_decoded:
        percent = math.floor(100 * share)  # not as much as is asked for
        message = f"Of {name} {percent}% can be decoded; min_decoded asks for {budget.min_decoded:.0%}."
        raise ClipError("decode", message)
    order = replace(order, index=part, shown=part, picked=budget.pick(part.seconds, part.duration_seconds))
    with open_clip(clip) as container:
        stream = video_stream(container, clip)
        set_up(stream, order.threads)
        packets = read_runs(index, clip, container, stream, [run], seek=False)
        pictures = collect(order, stream, decode_run(index, stream, run, next(packets)))
        stated_aspect, aspect = stream.sample_aspect_ratio, stream.codec_context.sample_aspect_ratio
    if good.start and aspect and stated_aspect != aspect:  # FFmpeg has the shape of pixels from the damaged beginning
        raise ClipError("decode", "The shape of its pixels is not known: its beginning is damaged.")
    return frames_of(order, pictures, size, None if entire else share)


def _look_at(clip: Clip) -> tuple[FrameIndex, tuple[int, int], float]:
    """Index of what is there of a file, the stated size of its pictures, and its stated length in seconds."""
    with open_clip(clip) as container:
        stream = video_stream(container, clip)
        size = stated_size(stream)
        index = read_index(container, stream, clip, [], 0, part=True)
    return index, size, _whole_seconds(clip, index)


def _whole_seconds(clip: Clip, index: FrameIndex) -> float:
    """Length of a damaged clip when it was whole, in seconds; 0 if that is not known.

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


def _undamaged(order: Order, good: range) -> FrameIndex:
    """The index of a part. The frame after it may be lost, so the last frame gets the usual duration."""
    index, shown = order.index, order.shown
    pts = index.pts[good.start : good.stop]
    if len(pts) < 2:
        return replace(shown, pts=pts)
    end = min((*index.pts, index.end)[good.stop], pts[-1] + (pts[-1] - pts[0]) // (len(pts) - 1))
    return replace(shown, pts=pts, end=min(end, shown.end))


def _longest_part(order: Order) -> tuple[Run, range]:
    """The longest row of frames that can be decoded, by number in the file, and the run of packets that gives them.

    The first part begins with the first keyframe, another one with the first keyframe behind the end of the one
    before. Frames without times of their own can be counted from the start only.
    """
    index, shown = order.index, order.shown
    best, reached = (whole_run(index), range(0)), index.keyframes[0] - 1
    if not shown.pts:
        return best
    begin = bisect_left(index.pts, shown.pts[0])
    end = begin + len(shown.pts)
    stop_at = index.num_packets
    if index.timed and not order.clip.is_whole:
        reached = max(reached, index.keyframes[bisect_right(index.keyframes, shown.pts[0]) - 1] - 1)
        stop_at = behind(index, shown)
    for keyframe in index.keyframes if index.timed else index.keyframes[:1]:
        first = bisect_left(index.pts, keyframe)
        if keyframe <= reached:
            continue
        if end - max(first, begin) <= len(best[1]):
            break
        start = index.packets[keyframe]
        stop = next((number for number in index.broken if number >= start), index.num_packets)
        stop = max(min(stop, stop_at), start)
        if stop == start:
            continue
        run = Run(packets=range(start, stop), keyframe=keyframe)
        seen, good = _count_good(order, run, first)
        reached = index.pts[min(first + seen, len(index.pts)) - 1] if seen else keyframe
        there = range(max(first, begin), min(first + good, end))
        if len(there) > len(best[1]):
            best = run, there
    return best


def _count_good(order: Order, run: Run, first: int) -> tuple[int, int]:
    """Count the frames that the decoder gives from a keyframe on, and how many of them are good.

    Decoders notice damage late, and fill in what they lack until then. So if one notices any, all frames since the
    last keyframe before are left out. If whole packets just come to an end, none is. But where frames are counted,
    those are that the decoder held back for others, which are lost.
    """
    index, seen, noticed = order.index, 0, False
    before_flush: int | None = None  # how many frames were seen until the packets came to an end

    def to_the_end(packets: Iterable[VideoPacket]) -> Iterator[VideoPacket]:
        nonlocal before_flush
        yield from packets
        before_flush = seen

    most = contiguous(index, run, first)
    with open_clip(order.clip) as container:
        stream = video_stream(container, order.clip)
        set_up(stream, order.threads)
        packets = read_runs(order.index, order.clip, container, stream, [run], seek=False)
        try:
            for pts, _ in decode_runs(order, stream, [run], map(to_the_end, packets)):
                while seen < most and pts > index.pts[first + seen] and index.pts[first + seen] not in index.due:
                    seen += 1  # a repetition of the last one
                if seen < most and pts != index.pts[first + seen]:
                    noticed = True
                    break
                seen = min(seen + 1, most)  # frames beyond may still show damage
        except (ClipError, av.FFmpegError):
            noticed = True
    if not (noticed and seen):
        is_end = index.complete and run.packets.stop == index.num_packets
        return seen, seen if index.timed or is_end or before_flush is None else before_flush
    keyframe = index.keyframes[bisect_right(index.keyframes, index.pts[first + seen - 1]) - 1]
    return seen, max(bisect_left(index.pts, keyframe) - first, 0)
