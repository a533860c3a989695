"""From a clip to a container that FFmpeg has opened, and its video stream."""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from reelscribe.errors import ClipError
from reelscribe.values import Clip
from reelscribe.video.formats import FORMATS, HEAD_BYTES, is_list, looks_like

_OPEN: Any = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}
"""Before PyAV 19, a title that is not UTF-8 made a file unreadable; PyAV 19 replaces such bytes by itself."""
_NO_FILM = Disposition.attached_pic | Disposition.timed_thumbnails
MAX_PIXELS = 1 << 26
"""Maximum pixels of a picture: 8192 x 8192, beyond the highest levels of H.264 and AV1. A header can claim far more."""


def open_clip(clip: Clip) -> InputContainer:
    """Open a clip's file.

    Raises:
        ClipError: kind "missing" or "unreadable".
    """
    source: str | io.BytesIO
    if isinstance(clip.source, bytes):
        size, source = len(clip.source), io.BytesIO(clip.source)
    else:
        try:
            size, source = clip.path.stat().st_size, f"file:{clip.path}"  # else "10:30.mp4" reads as a protocol
        except (FileNotFoundError, NotADirectoryError, ValueError) as exc:
            start = clip.root if clip.root and clip.root.parts else Path.cwd()
            raise ClipError("missing", f"{clip.name}: there is no such file; paths start from {start}.") from exc
        except OSError as exc:
            raise ClipError("unreadable", f"{clip.name} cannot be read: {reason(exc)}.") from exc
        if not clip.path.is_file():
            raise ClipError("unreadable", f"{clip.name} is not a file.")
    if size == 0:
        raise ClipError("unreadable", f"{clip.name} is empty (0 bytes).")
    # A file in memory is read by no protocol.
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file" if isinstance(source, str) else "none"}
    try:
        container: InputContainer = av.open(source, "r", options=options, **_OPEN)
    except (av.FFmpegError, OSError, ValueError) as exc:
        raise _not_a_video(clip, exc) from exc
    return container


def _not_a_video(clip: Clip, exc: Exception) -> ClipError:
    """The error for a file that cannot be opened, with what the file is instead of a video."""
    head = read_head(clip, HEAD_BYTES)
    if is_list(head):
        return ClipError("unreadable", f"{clip.name} is a list of other files, not a video.")
    seen = looks_like(head)
    why = f"it looks like {seen}" if seen else reason(exc)
    if not seen and isinstance(exc, av.error.ArgumentError):  # what FFmpeg says of formats that are not allowed
        why = "it is of a format that is not read"
    return ClipError("unreadable", f"{clip.name} cannot be opened as a video: {why}.")


def read_head(clip: Clip, count: int) -> bytes:
    """The first bytes of a clip's file."""
    if isinstance(clip.source, bytes):
        return clip.source[:count]
    with clip.path.open("rb") as file:
        return file.read(count)


def reason(exc: Exception) -> str:
    """The message of a system or FFmpeg error, without path and error number."""
    return str(getattr(exc, "strerror", None) or exc)


def video_stream(container: InputContainer, clip: Clip) -> VideoStream:
    """The video stream that players show: one with frames, by default, and the largest.

    Raises:
        ClipError: kind "no_video", "unreadable" or "too_large".
    """
    streams = [stream for stream in container.streams.video if not stream.disposition & _NO_FILM]
    if not streams:
        kinds = {"a cover picture" if stream.type == "video" else stream.type for stream in container.streams}
        raise ClipError(
            "no_video", f"{clip.name} has no video stream, only {' and '.join(sorted(kinds)) or 'nothing'}."
        )
    counts = _count_packets(clip, streams) if len(streams) > 1 else {}

    def rank(stream: VideoStream) -> tuple[int, bool, int, int]:
        readable = stream.codec_context is not None
        pixels = stream.width * stream.height if readable else 0
        is_default = bool(stream.disposition & Disposition.default)
        return counts.get(stream.index, 0) if readable else -1, is_default, pixels, -stream.index

    stream = max(streams, key=rank)
    if stream.codec_context is None:
        raise ClipError("unreadable", f"{clip.name}: there is no decoder for its video codec.")
    width, height = stream.width, stream.height
    if width * height > MAX_PIXELS:
        size = f"{width:,} x {height:,} pixels"
        raise ClipError("too_large", f"{clip.name}: its pictures are of {size}; at most {MAX_PIXELS:,} are decoded.")
    return stream


def _count_packets(clip: Clip, streams: Sequence[VideoStream]) -> dict[int, int]:
    """Packets of each stream, counted up to 2: a stream with one is a still picture, one with none is empty."""
    counts = dict.fromkeys((stream.index for stream in streams), 0)
    with open_clip(clip) as container, contextlib.suppress(av.FFmpegError, IndexError):
        for packet in container.demux([container.streams[index] for index in counts]):
            if packet.size:
                counts[packet.stream_index] = min(counts[packet.stream_index] + 1, 2)
            if min(counts.values()) == 2:
                break
    return counts


def check_not_encrypted(packet: "Packet[VideoStream]", clip: Clip) -> None:
    """Raise if a packet says that it is encrypted.

    Raises:
        ClipError: kind "unreadable".
    """
    if packet.has_sidedata("encryption_info"):
        raise ClipError("unreadable", f"{clip.name} is encrypted (DRM); only who has its key can read it.")
