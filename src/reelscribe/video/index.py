"""Which frames a clip has, and when each is shown: read from its packets, without decoding them.

That is right for variable frame rates, for files without a stated duration and for streams that do not start at 0. What
a container says about itself is only held against it, to tell a file that was cut short.
"""

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from reelscribe.errors import ClipError
from reelscribe.schema import Clip
from reelscribe.video.bitstream import EMPTY_MPEG4, Picture, look_with
from reelscribe.video.clock import PacketTimes, Shift, find_shifts, hidden_by_joins, may_jump, shifted
from reelscribe.video.formats import FORMATS, HEAD_BYTES, is_list, looks_like
from reelscribe.video.transport import find_seams

_OPEN: Any = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}
"""Before PyAV 19, which does so by itself, a title that is not UTF-8 made a file unreadable."""
_NO_FILM = Disposition.attached_pic | Disposition.timed_thumbnails
MAX_PIXELS = 1 << 26
"""Of a picture: 8192 x 8192, beyond the highest levels of H.264 and AV1. A few bytes can claim far more."""
_TAGGED_DURATION = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
_LOST_SHARE = 0.02
"""A file may lack so much of the bytes that it states: there the tables are that players do without."""
_TIMED_SHARE = 0.45
"""If fewer packets have times, they say too little. Of the two fields of an interlaced frame one has a time."""
_REPEATED_SHARE = 0.1
"""Where so many times come twice, the file is made of parts, each with times of its own."""


_Entry: TypeAlias = tuple[int | None, int, bool, bool]
"""Of a packet: time, duration, whether it is a keyframe, whether its frame is shown."""


@dataclass(frozen=True, kw_only=True)
class FrameIndex:
    """What the packets say about the frames that are shown."""

    pts: list[int]
    """When each is shown, ascending, in units of the time base."""
    packets: dict[int, int]
    """The same times, and those of frames that are not shown, each with the number of its packet in the file."""
    keyframes: list[int]
    """Times of the frames that decoding can start at, ascending; all are in `packets`."""
    end: int
    """When the last frame leaves the screen."""
    time_base: Fraction
    """Seconds."""
    timed: bool
    """Whether decoded frames carry these times. Where they do not, the frames are to be counted."""
    shifts: list[Shift]
    """Where the clock jumps; all times above, and those that `packets_of` gives, go on without the jump."""
    start: int
    """When the clip begins: with the first frame, unless the packets that come before the first keyframe are of no use
    without one that is lost."""
    num_packets: int
    broken: list[int]
    """Packets that cannot be read whole, by number."""
    complete: bool
    """Whether there is as much as the file says that it holds, if it says anything."""
    decoded_by: list[int | None]
    """For each packet, the time by which it is decoded; None if the container does not say."""
    due: frozenset[int]
    """Times of the shown frames that decoding has to give. (Any other one may be a repetition of the last.)"""
    doubtful: bool
    """Whether there are packets that hold nothing which a decoder could read."""

    @property
    def seconds(self) -> list[float]:
        """When each frame is shown, in seconds from the start of the clip."""
        ticks, unit = self.time_base.denominator, self.time_base.numerator
        return [(pts - self.start) * unit / ticks for pts in self.pts]

    @property
    def duration_seconds(self) -> float:
        """From the first frame's appearance to the last one's end."""
        return float((self.end - self.pts[0]) * self.time_base)


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
            start = clip.root or Path.cwd()
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
    """Say what a file is that cannot be opened."""
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
    """What an error of the system or of FFmpeg says, without the path and number around it."""
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
    """Packets of each stream, 2 at most: one with a single packet is a picture, and one without any is empty."""
    counts = dict.fromkeys((stream.index for stream in streams), 0)
    with open_clip(clip) as container, contextlib.suppress(av.FFmpegError, IndexError):
        for packet in container.demux([container.streams[index] for index in counts]):
            if packet.size:
                counts[packet.stream_index] = min(counts[packet.stream_index] + 1, 2)
            if min(counts.values()) == 2:
                break
    return counts


def packets_of(
    container: InputContainer, stream: VideoStream, shifts: Sequence[Shift] = ()
) -> "Iterator[Packet[VideoStream]]":
    """All packets of a stream, in order of the file, and an empty one that tells the decoder to finish.

    Args:
        container: to read from its start, unless there are no shifts.
        stream: of it.
        shifts: put the packets' times right.
    """
    # PyAV may break off, behind the empty packet, where another stream turns up late in the file.
    with contextlib.suppress(IndexError):
        for number, packet in enumerate(container.demux(stream)):
            if shifts:
                _shift(packet, shifts, number)
            yield packet


def _shift(packet: "Packet[VideoStream]", shifts: Sequence[Shift], number: int) -> None:
    packet.pts, packet.dts = shifted(packet.pts, shifts, number), shifted(packet.dts, shifts, number)


def check_not_encrypted(packet: "Packet[VideoStream]", clip: Clip) -> None:
    """Raise if a packet says that it is encrypted.

    Raises:
        ClipError: kind "unreadable".
    """
    if packet.has_sidedata("encryption_info"):
        raise ClipError("unreadable", f"{clip.name} is encrypted (DRM); only who has its key can read it.")


def read_index(
    container: InputContainer,
    stream: VideoStream,
    clip: Clip,
    kept: "list[Packet[VideoStream]]",
    most: int,
    *,
    part: bool = False,
) -> FrameIndex:
    """Read all packets of a stream.

    Args:
        container: just opened.
        stream: of it.
        clip: to name in errors.
        kept: takes the packets; it stays empty where there are more than `most`.
        most: packets to keep.
        part: take what is there of a file that is cut short or damaged.

    Raises:
        ClipError: kind "too_short", or, unless a part is enough, "decode" where packets are missing or broken.
        av.FFmpegError: unless a part is enough: the file cannot be read to its end.
    """
    decoder = stream.codec_context
    # AVI has times of decoding only. They are those of presentation where no frame refers to a later one.
    timed = container.format.name != "avi" or not (decoder.has_b_frames or decoder.name in ("h264", "hevc"))
    least = EMPTY_MPEG4 if decoder.name == "mpeg4" and timed else 0
    entries: list[_Entry] = []
    broken: list[int] = []
    decoded_at: list[int | None] = []
    places: list[int | None] = []  # in the file
    looks: list[Picture] = []
    look = look_with(decoder)
    with contextlib.suppress(av.FFmpegError) if part else contextlib.nullcontext():
        for number, packet in enumerate(packets_of(container, stream)):
            if number & (number - 1) == 0:  # asking takes long; there may be a clear start before what is encrypted
                check_not_encrypted(packet, clip)
            if packet.is_corrupt:
                broken.append(number)
            visible = packet.size > least and not packet.is_discard
            entries.append((packet.pts, packet.duration or 0, packet.is_keyframe, visible))
            decoded_at.append(packet.dts)
            places.append(packet.pos)
            looks.append(look(packet))
            if len(entries) <= most:
                kept.append(packet)
        entries.pop()  # the empty packet behind the last
    if len(entries) > most:
        kept.clear()
    times = _times_of(entries, decoded_at, places) if may_jump(container) else []
    broken, joins = _look_for_losses(container, stream, clip, times, broken, part=part)
    if not part:
        _check_complete(container, stream, len(entries) - len(broken), clip)
    if broken and not part:
        raise ClipError(
            "decode", f"{clip.name} is damaged: of its {len(entries)} packets, {len(broken)} cannot be read whole."
        )

    shifts = find_shifts(times, stream.time_base or Fraction(1, 1000), joins) if times else []
    if shifts and container.format.name != "mpegts":  # others give times around a jump to frames beside theirs
        shifts, timed = [], False
    if joins or shifts:
        entries, decoded_at = _without_jumps(entries, times, joins, shifts, kept)

    timed = timed and _have_times(entries)
    if not timed:
        entries = [(number * (entry[1] or 1), *entry[1:]) for number, entry in enumerate(entries)]
    # Beside packets with a time, one without continues the frame before it: the second field of an interlaced one.
    packets = {pts: number for number, (pts, *_) in enumerate(entries) if pts is not None}
    keyframes = sorted({pts for pts, _, key, _ in entries if pts is not None and key}) or list(packets)[:1]
    # The leading frames of an open group of pictures follow their keyframe. What comes before it has lost its own.
    first = packets[keyframes[0]] if keyframes else 0
    lost = [pts for pts, _, _, visible in entries[:first] if pts is not None and visible and pts < keyframes[0]]
    if lost and not part:
        raise ClipError("decode", f"{clip.name} begins between keyframes: its first {len(lost)} frames are lost.")
    shown = {pts: length for pts, length, _, visible in entries if pts is not None and visible and pts >= keyframes[0]}
    if len(shown) < 2:
        count = "1 frame" if shown else "no frames"
        raise ClipError("too_short", f"{clip.name} has {count}; at least 2 are needed.")
    pts = sorted(shown)
    return FrameIndex(
        pts=pts,
        packets=packets,
        keyframes=keyframes,
        end=pts[-1] + (shown[pts[-1]] or (pts[-1] - pts[0]) // (len(pts) - 1)),
        time_base=stream.time_base or Fraction(1, 1000),
        timed=timed,
        start=min([*lost, pts[0]]),
        num_packets=len(entries),
        broken=broken,
        complete=_is_complete(container, stream, len(entries) - len(broken), clip),
        decoded_by=[
            at + entry[1] if at is not None and timed else None
            for at, entry in zip(decoded_at, entries, strict=False)  # the last is the empty packet's
        ],
        due=frozenset(at for at in pts if looks[packets[at]] not in (Picture.UNSURE, Picture.NONE)),
        doubtful=Picture.BROKEN in looks[: len(entries)],
        shifts=shifts,
    )


def _have_times(entries: Sequence[_Entry]) -> bool:
    """Whether shown frames can be told by the times of their packets, and need not be counted.

    They cannot if parts are joined end to end, or if hardly any have a time: MPEG-PS has one for each of its packs,
    which may hold many frames.
    """
    shown = [pts for pts, _, _, visible in entries if visible]
    known = [pts for pts in shown if pts is not None]
    return len(known) >= len(shown) * _TIMED_SHARE and len(set(known)) > len(known) * (1 - _REPEATED_SHARE)


def _times_of(
    entries: Sequence[_Entry], decoded_at: Sequence[int | None], places: Sequence[int | None]
) -> list[PacketTimes]:
    together = zip(entries, decoded_at, places, strict=False)  # but for the empty packet behind the last
    return [PacketTimes(entry[0], dts, entry[2], place) for entry, dts, place in together]


def _look_for_losses(
    container: InputContainer,
    stream: VideoStream,
    clip: Clip,
    times: Sequence[PacketTimes],
    broken: list[int],
    *,
    part: bool,
) -> tuple[list[int], list[int]]:
    """Packets that are damaged, and those that begin another part of the file."""
    if container.format.name != "mpegts":
        return broken, []
    with io.BytesIO(clip.source) if isinstance(clip.source, bytes) else clip.path.open("rb") as file:
        seams = find_seams(file, stream.id, times, broken)
    if seams.goes_on_elsewhere and not part:
        message = f"{clip.name} is joined of parts whose videos have different numbers (PIDs); only one would be seen."
        raise ClipError("decode", message)
    return seams.damaged, seams.joins


def _without_jumps(
    entries: Sequence[_Entry],
    times: Sequence[PacketTimes],
    joins: Sequence[int],
    shifts: Sequence[Shift],
    kept: "list[Packet[VideoStream]]",
) -> tuple[list[_Entry], list[int | None]]:
    """The packets, and when they are decoded, by a clock that does not jump; those that are kept are put right."""
    for number, packet in enumerate(kept):
        _shift(packet, shifts, number)
    hidden = hidden_by_joins(times, joins)
    straight = [
        (shifted(time, shifts, number), length, keyframe, visible and number not in hidden)
        for number, (time, length, keyframe, visible) in enumerate(entries)
    ]
    return straight, [shifted(each.dts, shifts, number) for number, each in enumerate(times)]


def stated_seconds(container: InputContainer, stream: VideoStream) -> float:
    """How long a file says that its video is; 0 if it does not say.

    FFmpeg guesses the duration of an AVI file that is cut short from what is there; the number of frames is the file's.
    """
    if "matroska" in container.format.name:
        return _stated_by_matroska(container, stream)
    by_frames = stream.frames / stream.average_rate if stream.average_rate else 0
    by_stream = (stream.duration or 0) * (stream.time_base or 0)
    return float(max(by_frames, by_stream) or Fraction(container.duration or 0, av.time_base))


def latest_seconds(container: InputContainer, stream: VideoStream) -> float:
    """How long a video is if it goes on to the end of the whole file; 0 if that is not known."""
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


def _check_complete(container: InputContainer, stream: VideoStream, count: int, clip: Clip) -> None:
    """Raise where the file ends before what it states.

    Lengths in seconds are no measure: they are rounded, or another stream's, or tell how long the last frame stays.
    """
    if "mp4" not in container.format.name:
        check_bytes(container, clip)
    elif count < len(stream.index_entries):
        raise _cut_short(clip, count, len(stream.index_entries), "frames")


def _is_complete(container: InputContainer, stream: VideoStream, count: int, clip: Clip) -> bool:
    with contextlib.suppress(ClipError):
        _check_complete(container, stream, count, clip)
        return True
    return False


def check_bytes(container: InputContainer, clip: Clip) -> None:
    """Raise where a file has fewer bytes than it states.

    Raises:
        ClipError: kind "decode".
    """
    present, stated = container.size, _stated_bytes(clip)
    if present < stated * (1 - _LOST_SHARE):
        raise _cut_short(clip, present, stated, "bytes")


def _cut_short(clip: Clip, present: int, stated: int, unit: str) -> ClipError:
    message = f"{clip.name} is cut short: {present:,} of the {stated:,} {unit} that it states are there."
    return ClipError("decode", message)


def _stated_bytes(clip: Clip) -> int:
    """Size of an AVI, Matroska or WebM file as it states it; 0 where it does not, as in a live recording."""
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
