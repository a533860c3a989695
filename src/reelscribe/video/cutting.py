"""Writes a stretch of a video to a file of its own: copies packets if possible, else encodes frames.

The frames are those that a captioned stretch has: on screen from its start up to its end. Packets can be copied if the
first of these frames is a keyframe and no packet between the first and the last holds another frame. The sound goes
along, to the nearest packet, if MP4 holds its codec and it is not in AVI or the like.
"""

import errno
import logging
import math
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Literal

import av
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from reelscribe.errors import ClipError
from reelscribe.values import Clip
from reelscribe.video.bounds import bounds_of
from reelscribe.video.checked import Indexed, decode_runs, on_screen, set_up, troubles
from reelscribe.video.index import FrameIndex, read_index
from reelscribe.video.opening import open_clip, video_stream
from reelscribe.video.passes import behind, shown_of
from reelscribe.video.pictures import turn_of
from reelscribe.video.recent import Recent
from reelscribe.video.runs import Run, read_runs, runs_to, whole_run

Way = Literal["copied", "encoded"]
"""How the frames were written."""

_COPIED_FROM: Final = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})
"""Containers whose packets can be copied to MP4. MPEG-TS and AVI keep codec headers in another form (Annex B)."""
_VIDEO_IN_MP4: Final = frozenset({"h264", "hevc", "av1", "vp9", "mpeg4"})
_SOUND_FROM: Final = _COPIED_FROM | {"mpegts", "flv"}
"""Containers whose sound packets can be copied to MP4. AAC from AVI lacks the header (extradata) that MP4 needs."""
_SOUND_IN_MP4: Final = frozenset({"aac", "mp3", "ac3", "eac3", "opus", "flac", "alac"})
_ENCODER: Final = {"crf": "16", "preset": "medium"}
"""Options of libx264. CRF 16 has no visible loss, and trainers shrink the pictures anyway."""
_EIGHT_BITS: Final = 8
_TICKS: Final = 90_000
"""Minimum ticks a second of an encoded file's clock: MPEG's usual 90 kHz."""
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG})
"""Errors of the disk that is written to, not of the video."""
_LATE_SECONDS: Final = 0.05
"""Maximum time from the first frame's start to the start of the stretch for copying. A copy begins with that frame, so
in a slide show all times would be off."""

logger = logging.getLogger(__name__)

_indices: Recent[FrameIndex] = Recent(lambda index: index.num_packets)


def cut(clip: Clip, file: Path, *, threads: int = 0) -> Way:
    """Write a stretch to an MP4 file, whose first frame is shown at 0.

    Args:
        clip: with the path or bytes of a file, and from when to when.
        file: to write, whatever it is called; one that is there is replaced.
        threads: of the encoder and of decoders that allow several; 0 for one on each CPU.

    Raises:
        ClipError: kind "missing", "unreadable", "no_video", "row" for what is no stretch of the file, "too_short",
            "too_large", "decode" or "crashed".
        OSError: the file cannot be written.
    """
    try:
        return _cut(clip, file, threads)
    except ClipError as exc:
        if isinstance(cause := exc.__cause__, OSError) and cause.errno in _FULL:
            raise OSError(cause.errno, os.strerror(cause.errno), str(file)) from exc
        raise


def _cut(clip: Clip, file: Path, threads: int) -> Way:
    with troubles(clip), open_clip(clip) as container:
        stream = video_stream(container, clip)
        index = _indices.of(clip, lambda: read_index(container, stream, clip.whole, [], 0, part=True))
        shown = shown_of(clip, index, bounds_of(clip, index.duration_seconds))
        copied_from = container.format.name in _COPIED_FROM and stream.codec_context.codec.canonical_name
    source = Indexed(clip=clip, index=index)
    if copied_from in _VIDEO_IN_MP4 and (run := _run_to_copy(index, shown)):
        _copy(source, shown, run, file)
        return "copied"
    ways = _ways(index, shown)
    if not ways:
        raise ClipError("decode", f"{clip.name}: packets that its frames need cannot be read; the file is damaged.")
    for number, (runs, seek) in enumerate(ways, 1):
        try:
            _encode(source, shown, runs, file, threads, seek=seek)
            break
        except ClipError as exc:  # as in decode: a seek may miss, a keyframe be one that decoding cannot start at
            if number == len(ways):
                raise
            logger.debug("%s: once more, by another way: %s", clip.name, exc)
    return "encoded"


def _ways(index: FrameIndex, shown: FrameIndex) -> list[tuple[list[Run], bool]]:
    """Runs of packets that may give the frames, each with whether to seek to it, in the order to try them.

    As captions are made: damage before the keyframe of a stretch, or behind it, does not matter.
    """
    last = max(index.packets[pts] for pts in shown.pts)
    packets = range(whole_run(index).packets.start, behind(index, shown))
    plain = [Run(packets=packets, keyframe=index.keyframes[0])]
    ways = [(plain, False)]
    if index.timed:
        short = runs_to(index, shown.pts)
        # Packets that hold nothing: the file is odd, or damaged somewhere.
        ways = [(plain, False), (short, False)] if index.doubtful else [(short, True), (short, False), (plain, False)]
    return [(runs, seek) for runs, seek in ways if not _has_broken(index, runs, last)]


def _has_broken(index: FrameIndex, runs: list[Run], last: int) -> bool:
    """Whether any packet up to the last needed one is damaged, or has no known time."""
    return any(number in run.packets for number in index.broken if number <= last for run in runs)


# Copying


def _run_to_copy(index: FrameIndex, shown: FrameIndex) -> Run | None:
    """The run of packets to copy, if it begins with a keyframe and holds no other frames."""
    first = shown.pts[0]
    numbers = sorted(index.packets[pts] for pts in shown.pts)
    run = Run(packets=range(numbers[0], numbers[-1] + 1), keyframe=first)
    clean = index.timed and not (
        index.shifts or index.doubtful or any(number in run.packets for number in index.broken)
    )
    begins = first in index.keyframes and numbers[0] == index.packets[first]
    late = (shown.start - first) * index.time_base > _LATE_SECONDS
    return run if clean and begins and not late and len(numbers) == len(run.packets) else None


def _copy(source: Indexed, shown: FrameIndex, run: Run, file: Path) -> None:
    clip, first = source.clip, shown.pts[0]
    with troubles(clip), open_clip(clip) as container, _created(file) as target:
        stream = video_stream(container, clip)
        copied = target.add_stream_from_template(stream, opaque=True)
        _copy_sound(clip, target, first * shown.time_base, shown.end * shown.time_base)
        for packets in read_runs(source.index, clip, container, stream, [run], seek=True):
            for packet in packets:
                _move(packet, first)
                packet.stream = copied
                _mux(target, [packet], shown.pts[-1] - first, shown.end - first)


def _mux(target: OutputContainer, packets: "Iterable[Packet[Any]]", last: Fraction | int, end: Fraction | int) -> None:
    """Write packets, with the duration of the last one, which MP4 cannot infer."""
    for packet in packets:
        if packet.pts == round(last):
            packet.duration = max(round(end - last), 1)
        target.mux(packet)


def _move(packet: "Packet[Any]", start: int) -> None:
    packet.pts = None if packet.pts is None else packet.pts - start
    packet.dts = None if packet.dts is None else packet.dts - start


def _copy_sound(clip: Clip, target: OutputContainer, start: Fraction | int, end: Fraction | int) -> None:
    """Copy the packets of the sound between two times of the file's clock, in seconds."""
    with open_clip(clip) as container:
        sound = next(iter(container.streams.audio), None)
        if sound is None or sound.codec_context is None or container.format.name not in _SOUND_FROM:
            return
        if sound.codec_context.codec.canonical_name not in _SOUND_IN_MP4:
            return
        copied = target.add_stream_from_template(sound, opaque=True)
        container.seek(max(int(start * av.time_base), 0))
        for packet in _packets_between(container, sound, start, end):
            _move(packet, round(start / (sound.time_base or 1)))
            packet.stream = copied
            target.mux(packet)


def _packets_between(
    container: InputContainer, sound: Any, start: Fraction | int, end: Fraction | int
) -> "Iterator[Packet[Any]]":
    for packet in container.demux(sound):
        if packet.pts is None:
            continue
        at = packet.pts * packet.time_base
        if at >= end:
            return
        if at >= start:
            yield packet


# Encoding


def _encode(source: Indexed, shown: FrameIndex, runs: list[Run], file: Path, threads: int, *, seek: bool) -> None:
    clip, index = source.clip, source.index
    with troubles(clip), open_clip(clip) as container, _created(file) as target:
        stream = video_stream(container, clip)
        set_up(stream, threads)
        packets = read_runs(index, clip, container, stream, runs, seek=seek)
        frames = on_screen(source, shown.pts, decode_runs(source, stream, runs, packets))
        encoded: VideoStream | None = None
        unit = _unit(shown)
        last, end = max(shown.pts[-1] - shown.start, 0) * unit, (shown.end - shown.start) * unit
        for pts, frame in zip(shown.pts, frames, strict=True):
            if encoded is None:
                encoded = _encoder(target, stream, frame, shown, threads)
                if not index.shifts:
                    _copy_sound(clip, target, shown.start * shown.time_base, shown.end * shown.time_base)
            picture = frame.reformat(encoded.width, encoded.height, encoded.pix_fmt)
            picture.pts, picture.time_base = max(round((pts - shown.start) * unit), 0), shown.time_base / unit
            picture.pict_type = PictureType.NONE  # or the encoder takes over where the keyframes were
            _mux(target, encoded.encode(picture), last, end)
        if encoded is not None:
            _mux(target, encoded.encode(), last, end)


def _unit(shown: FrameIndex) -> int:
    """Ticks of the written file for each tick of the source: enough to keep frames apart.

    The first frame begins with the stretch, so the second may follow in less than a tick of AVI, which lasts a frame.
    """
    return max(math.ceil(shown.time_base * _TICKS), 1)


def _encoder(
    target: OutputContainer, stream: VideoStream, frame: VideoFrame, shown: FrameIndex, threads: int
) -> VideoStream:
    """Add an H.264 stream for frames like this one, with the same colour tags and aspect ratio."""
    rate = Fraction(shown.fps).limit_denominator(1001)
    made = target.add_stream("libx264", rate=rate, options=_ENCODER)
    deep = max(component.bits for component in frame.format.components) > _EIGHT_BITS
    made.width, made.height = frame.width // 2 * 2, frame.height // 2 * 2  # 4:2:0 has even sides
    made.pix_fmt = "yuv420p10le" if deep else "yuv420p"
    encoder, decoder = made.codec_context, stream.codec_context
    encoder.time_base = shown.time_base / _unit(shown)
    encoder.thread_count = threads
    if stream.sample_aspect_ratio:
        encoder.sample_aspect_ratio = stream.sample_aspect_ratio
    for name in ("color_primaries", "color_trc", "colorspace", "color_range"):
        setattr(encoder, name, getattr(decoder, name))
    turns, mirrored, odd = turn_of(frame)
    if (turns or mirrored) and not odd:
        # A picture that is flipped upside down and then turned is one that is turned and then mirrored.
        made.set_display_rotation(90 * (-(turns + 2) % 4 if mirrored else turns), hflip=mirrored)
    return made


def _created(file: Path) -> OutputContainer:
    return av.open(f"file:{file}", "w", format="mp4", options={"movflags": "faststart"})
