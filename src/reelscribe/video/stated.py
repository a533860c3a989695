"""Compares what a file states about its length and size with what is there, to find files that were cut short."""

import contextlib
import io
import os
import re
from fractions import Fraction

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from reelscribe.errors import ClipError
from reelscribe.values import Clip
from reelscribe.video.formats import HEAD_BYTES
from reelscribe.video.opening import read_head

_TAGGED_DURATION = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
_MAX_MISSING_SHARE = 0.02
"""A file may lack this share of the bytes that it states: what is missing may be tables that players do without."""
_CHUNK_NAME = re.compile(rb"[ 0-9A-Za-z]{4}")
_LISTS_OF_FRAMES = frozenset({b"AVI ", b"AVIX", b"movi", b"rec "})
"""Parts of an AVI file whose chunks are walked over one by one; other lists are one chunk."""
_LAST_SECONDS = 0.5
"""A file may end this much before its stated end: writers round, and often leave out the last packets' duration."""


def stated_seconds(container: InputContainer, stream: VideoStream) -> float:
    """The stated length of a file's video, in seconds; 0 if none is stated.

    FFmpeg guesses the duration of an AVI file that is cut short from what is there; the number of frames is the file's.
    Some formats (FLV, NUT) have one length for the whole file, that of the longest stream.
    """
    if "matroska" in container.format.name:
        return _stated_by_matroska(container, stream)
    by_frames = stream.frames / stream.average_rate if stream.average_rate else 0
    by_stream = (stream.duration or 0) * (stream.time_base or 0)
    whole_file = Fraction(container.duration or 0, av.time_base) if len(container.streams) == 1 else 0
    return float(max(by_frames, by_stream) or whole_file)


def reaches_end(container: InputContainer) -> bool:
    """Whether any stream that is there lasts as long as the stated length of the file."""
    end = ((container.start_time or 0) + (container.duration or 0)) / av.time_base - _LAST_SECONDS
    return any(
        float((packet.pts + (packet.duration or 0)) * packet.time_base) >= end
        for packet in container.demux()
        if packet.pts is not None and packet.time_base
    )


def latest_seconds(container: InputContainer, stream: VideoStream) -> float:
    """Length of a video if it lasts to the end of the file, in seconds; 0 if that is not known."""
    start = float((stream.start_time or 0) * (stream.time_base or 0))
    return max((container.duration or 0) / av.time_base - start, 0.0)


def _stated_by_matroska(container: InputContainer, stream: VideoStream) -> float:
    """Matroska has one length for the whole file, that of the longest stream. Those of streams are in tags.

    FFmpeg's muxer writes when the stream ends, even if its clock does not start at 0; mkvmerge writes a length.
    """
    tag = next((text for name, text in stream.metadata.items() if name.upper().startswith("DURATION")), "")
    if not (parts := _TAGGED_DURATION.fullmatch(tag)):
        alone = len(container.streams) == 1 and not stream.start_time
        return latest_seconds(container, stream) if alone else 0.0
    hours, minutes, seconds = (float(part) for part in parts.groups())
    total = 3600 * hours + 60 * minutes + seconds
    if container.metadata.get("ENCODER", "").startswith("Lavf"):
        total -= float((stream.start_time or 0) * (stream.time_base or 0))
    return max(total, 0.0)


def check_complete(container: InputContainer, stream: VideoStream, count: int, clip: Clip) -> None:
    """Raise if the file ends before its stated end.

    Stated seconds cannot be compared exactly: they are rounded, or another stream's, or include the last frame's time.
    """
    if "mp4" not in container.format.name:
        check_bytes(container, clip)
    elif count < len(stream.index_entries):
        raise _cut_short(clip, count, len(stream.index_entries), "frames")


def is_complete(container: InputContainer, stream: VideoStream, count: int, clip: Clip) -> bool:
    with contextlib.suppress(ClipError):
        check_complete(container, stream, count, clip)
        return True
    return False


def check_bytes(container: InputContainer, clip: Clip) -> None:
    """Raise if a file has fewer bytes than it states.

    Raises:
        ClipError: kind "decode".
    """
    present, stated = container.size, _stated_bytes(clip)
    if present < stated * (1 - _MAX_MISSING_SHARE):
        raise _cut_short(clip, present, stated, "bytes")


def _cut_short(clip: Clip, present: int, stated: int, unit: str) -> ClipError:
    message = f"{clip.name} is cut short: {present:,} of the {stated:,} {unit} that it states are there."
    return ClipError("decode", message)


def _stated_bytes(clip: Clip) -> int:
    """Stated size of an AVI, Matroska or WebM file, in bytes; 0 if none is stated, as in a live recording."""
    head = read_head(clip, HEAD_BYTES)
    if head[:4] == b"RIFF":
        return int.from_bytes(head[4:8], "little") % 0xFFFFFFFF  # which stands for an unknown size, as 0 does
    at = 0
    for element in ("1a45dfa3", "18538067"):  # EBML, Segment
        if head[at : at + 4].hex() != element or len(head) < at + 12:
            return 0
        width = 9 - head[at + 4].bit_length()  # bytes of the size field: its leading zero bits tell
        unknown = (1 << 7 * width) - 1
        size = int.from_bytes(head[at + 4 : at + 4 + width]) & unknown
        if size == unknown:
            return 0
        at += 4 + width + size
    return at


def last_sound_chunk(clip: Clip) -> int | None:
    """Byte offset of the last valid chunk of an AVI file, if what follows it is no chunk.

    Each chunk says how long it is, so the next one is known. Where there is none, bytes are damaged, at the earliest
    within this chunk. Demuxers look for a later one, and do not know how many frames they passed. None if each chunk
    leads to the next.
    """
    with io.BytesIO(clip.source) if isinstance(clip.source, bytes) else clip.path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        at = last = 0
        while at + 8 <= size:
            file.seek(at)
            head = file.read(12)
            if not _CHUNK_NAME.match(head):
                return last
            last = at
            if head[:4] in (b"RIFF", b"LIST") and head[8:] in _LISTS_OF_FRAMES:
                at += 12
            else:
                length = int.from_bytes(head[4:8], "little")
                at += 8 + length + length % 2
        return last if at > size + 1 else None  # the last byte, which is there to make a length even, may be missing
