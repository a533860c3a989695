"""Which frames a clip has, and when each is shown: read from its packets, without decoding them.

That is right for variable frame rates, for files without a stated duration and for streams that do not start at 0. What
a container says about itself is only held against it, to tell a file that was cut short.
"""

import contextlib
import io
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeAlias

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from reelscribe.errors import ClipError
from reelscribe.values import Bounds, Clip
from reelscribe.video.bitstream import EMPTY_MPEG4, Picture
from reelscribe.video.bounds import ROUNDED_SECONDS
from reelscribe.video.clock import PacketTimes, Shift, find_shifts, hidden_by_joins, may_jump, shifted
from reelscribe.video.opening import check_not_encrypted
from reelscribe.video.references import References
from reelscribe.video.stated import check_complete, is_complete, last_sound_chunk
from reelscribe.video.transport import find_seams

_TIMED_SHARE = 0.45
"""Minimum share of packets with a time for times to be used. Of an interlaced frame's two fields only one has a time,
so half of the packets is normal."""
_REPEATED_SHARE = 0.1
"""If this share of times occurs twice, the file was joined from parts whose clocks each start again."""


_Entry: TypeAlias = tuple[int | None, int, bool, bool]
"""A packet's presentation time, duration, whether it is a keyframe, and whether its frame is shown."""


@dataclass(frozen=True, kw_only=True)
class FrameIndex:
    """The shown frames of a video stream, as its packets describe them. Times are in units of the time base."""

    pts: list[int]
    """When each frame is shown, ascending."""
    packets: dict[int, int]
    """For each time, also of frames that are not shown, the number of its packet in the file."""
    keyframes: list[int]
    """Times of the frames that decoding can start at, ascending; all are in `packets`."""
    end: int | Fraction
    """When the last frame leaves the screen."""
    time_base: Fraction
    """Seconds."""
    timed: bool
    """Whether decoded frames carry these times. If not, frames have to be matched by counting them."""
    shifts: list[Shift]
    """Where the file's clock jumps. All times here, and those from `packets_of`, have the jumps taken out."""
    start: int | Fraction
    """When the clip begins. That is its first frame, with two exceptions: a stretch has its own start, and a file that
    begins between keyframes starts with frames that are lost."""
    num_packets: int
    broken: list[int]
    """Numbers of packets that are damaged, or whose time is not known."""
    complete: bool
    """Whether the file has all that it states it has; True if it states nothing."""
    decoded_by: list[int | None]
    """For each packet, the end of its decoding time (DTS + duration); None if the container has no DTS."""
    due: frozenset[int]
    """Times for which the decoder must give a frame. At other times it may give none: the last one stays."""
    unreferenced: frozenset[int]
    """Times of frames that no other frame refers to, which can be skipped. Known for H.264 only: see `References`."""
    denied: frozenset[int]
    """Numbers of packets that say this of their frames, but others deny it: damage that decoders may tell of later."""
    doubtful: bool
    """Whether any packet begins with bytes that no decoder could read."""

    @property
    def seconds(self) -> list[float]:
        """When each frame is shown, in seconds from the clip's start. The frame on screen at the start has time 0."""
        ticks, unit = self.time_base.denominator, self.time_base.numerator
        return [max(float((pts - self.start) * unit / ticks), 0.0) for pts in self.pts]

    @property
    def duration_seconds(self) -> float:
        """From the first frame, or the start of the stretch, to the end of the last frame."""
        return float((self.end - max(self.start, self.pts[0])) * self.time_base)

    @property
    def fps(self) -> float:
        """Frames a second, on average."""
        return len(self.pts) / self.duration_seconds

    def within(self, bounds: Bounds) -> "FrameIndex":
        """The index of a stretch: only the frames that are on screen in it, and its own start and end."""
        start, end = (self.start + Fraction(second) / self.time_base for second in (bounds.start, bounds.end))
        rounded = Fraction(ROUNDED_SECONDS) / self.time_base
        first = max(bisect_right(self.pts, start + rounded) - 1, 0)
        stop = bisect_left(self.pts, end - rounded)
        return replace(self, pts=self.pts[first:stop], start=start, end=min(end, self.end))


def packets_of(
    container: InputContainer, stream: VideoStream, shifts: Sequence[Shift] = ()
) -> "Iterator[Packet[VideoStream]]":
    """All packets of a stream in file order, then an empty packet, which makes a decoder give its last frames.

    Args:
        container: at its start. It may be elsewhere if there are no shifts, which go by packet number.
        stream: of the container.
        shifts: jumps of the clock to take out of the packets' times.
    """
    # If another stream first appears late in the file, PyAV's demux raises IndexError after the empty packet.
    with contextlib.suppress(IndexError):
        for number, packet in enumerate(container.demux(stream)):
            if shifts:
                _shift(packet, shifts, number)
            yield packet


def _shift(packet: "Packet[VideoStream]", shifts: Sequence[Shift], number: int) -> None:
    packet.pts, packet.dts = shifted(packet.pts, shifts, number), shifted(packet.dts, shifts, number)


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
        container: just opened, not read from yet.
        stream: of the container.
        clip: to name in errors.
        kept: list that the packets are appended to. It is left empty if there are more than `most`.
        most: maximum number of packets to keep.
        part: whether to accept a file that is cut short or damaged, and index what there is.

    Raises:
        ClipError: kind "too_short", or, unless a part is enough, "decode" where packets are missing or broken.
        av.FFmpegError: unless a part is enough: the file cannot be read to its end.
    """
    decoder = stream.codec_context
    # AVI stores decoding times only. They equal presentation times if the codec does not reorder (no B-frames).
    timed = container.format.name != "avi" or not (decoder.has_b_frames or decoder.name in ("h264", "hevc"))
    least = EMPTY_MPEG4 if decoder.name == "mpeg4" and timed else 0
    entries: list[_Entry] = []
    broken: list[int] = []
    decoded_at: list[int | None] = []
    places: list[int | None] = []  # byte offsets in the file
    looks: list[Picture] = []  # what the first bytes of each packet say of its picture
    references = References(decoder)
    with contextlib.suppress(av.FFmpegError) if part else contextlib.nullcontext():
        for number, packet in enumerate(packets_of(container, stream)):
            if (
                number & (number - 1) == 0
            ):  # at powers of two, since the check is slow; encryption may begin after a clear start
                check_not_encrypted(packet, clip)
            if packet.is_corrupt:
                broken.append(number)
            visible = packet.size > least and not packet.is_discard
            entries.append((packet.pts, packet.duration or 0, packet.is_keyframe, visible))
            decoded_at.append(packet.dts)
            places.append(packet.pos)
            looks.append(references.look(packet))
            if len(entries) <= most:
                kept.append(packet)
        entries.pop()  # the empty packet behind the last
    if len(entries) > most:
        kept.clear()
    times = _times_of(entries, decoded_at, places) if may_jump(container) else []
    broken, joins = _look_for_losses(container, stream, clip, times, broken, places[: len(entries)], part=part)
    if not part:
        check_complete(container, stream, len(entries) - len(broken), clip)
    if broken and not part:
        raise ClipError(
            "decode", f"{clip.name} is damaged: of its {len(entries)} packets, {len(broken)} cannot be read whole."
        )

    shifts = find_shifts(times, stream.time_base or Fraction(1, 1000), joins) if times else []
    if (
        shifts and container.format.name != "mpegts"
    ):  # other demuxers assign times around a jump to neighbouring frames, so count instead
        shifts, timed = [], False
    if joins or shifts:
        entries, decoded_at = _without_jumps(entries, times, joins, shifts, kept)

    timed = timed and _have_times(entries)
    if not timed:
        entries = [(number * (entry[1] or 1), *entry[1:]) for number, entry in enumerate(entries)]
    # A packet without a time continues the frame before it: it is the second field of an interlaced frame.
    packets = {pts: number for number, (pts, *_) in enumerate(entries) if pts is not None}
    keyframes = sorted({pts for pts, _, key, _ in entries if pts is not None and key}) or list(packets)[:1]
    # In an open GOP, leading frames are shown before their keyframe but stored after it. Frames that are stored before
    # the first keyframe depend on one that the file does not have.
    first = packets[keyframes[0]] if keyframes else 0
    lost = [pts for pts, _, _, visible in entries[:first] if pts is not None and visible and pts < keyframes[0]]
    if lost and not part:
        raise ClipError("decode", f"{clip.name} begins between keyframes: its first {len(lost)} frames are lost.")
    shown = {pts: length for pts, length, _, visible in entries if pts is not None and visible and pts >= keyframes[0]}
    if len(shown) < 2:
        count = "1 frame" if shown else "no frames"
        raise ClipError("too_short", f"{clip.name} has {count}; at least 2 are needed.")
    pts, (unreferenced, denied) = sorted(shown), references.unreferenced()
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
        complete=is_complete(container, stream, len(entries) - len(broken), clip),
        decoded_by=[
            at + entry[1] if at is not None and timed else None
            for at, entry in zip(decoded_at, entries, strict=False)  # the last is the empty packet's
        ],
        due=frozenset(at for at in pts if looks[packets[at]] not in (Picture.UNSURE, Picture.NONE)),
        unreferenced=frozenset(at for at in pts if packets[at] in unreferenced),
        denied=denied,
        doubtful=Picture.BROKEN in looks[: len(entries)],
        shifts=shifts,
    )


def _have_times(entries: Sequence[_Entry]) -> bool:
    """Whether shown frames can be identified by the times of their packets, or have to be counted.

    They have to be counted in a file that was joined from parts, and if too few packets have a time: MPEG-PS has one
    time for each pack, which may hold many frames.
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
    places: Sequence[int | None],
    *,
    part: bool,
) -> tuple[list[int], list[int]]:
    """Numbers of packets that are damaged or displaced, and of those that begin another part of a joined file."""
    if container.format.name == "avi":
        return sorted({*broken, *_displaced(stream, clip, places, part=part)}), []
    if container.format.name != "mpegts":
        return broken, []
    with io.BytesIO(clip.source) if isinstance(clip.source, bytes) else clip.path.open("rb") as file:
        seams = find_seams(file, stream.id, times, broken)
    if seams.goes_on_elsewhere and not part:
        message = f"{clip.name} is joined of parts whose videos have different numbers (PIDs); only one would be seen."
        raise ClipError("decode", message)
    return seams.damaged, seams.joins


def _displaced(stream: VideoStream, clip: Clip, places: Sequence[int | None], *, part: bool) -> list[int]:
    """Packets of an AVI file that follow lost ones. AVI times count packets, so their true times are not known."""
    if len(places) >= stream.frames > 0:
        return []
    damaged_from = last_sound_chunk(clip)
    behind = [
        number
        for number, place in enumerate(places)
        if damaged_from is not None and place is not None and place > damaged_from
    ]
    if len(behind) < 2:  # the one packet with which a file is cut short
        return []
    if not part:
        stated = f" of the {stream.frames:,} that it states" if stream.frames else ""
        message = f"{len(places):,} frames{stated} are there; from number {behind[0]:,} on, their times are not known"
        raise ClipError("decode", f"{clip.name} is damaged: {message}.")
    return behind


def _without_jumps(
    entries: Sequence[_Entry],
    times: Sequence[PacketTimes],
    joins: Sequence[int],
    shifts: Sequence[Shift],
    kept: "list[Packet[VideoStream]]",
) -> tuple[list[_Entry], list[int | None]]:
    """The packets and their decoding times without the clock's jumps. Kept packets are corrected in place."""
    for number, packet in enumerate(kept):
        _shift(packet, shifts, number)
    hidden = hidden_by_joins(times, joins)
    straight = [
        (shifted(time, shifts, number), length, keyframe, visible and number not in hidden)
        for number, (time, length, keyframe, visible) in enumerate(entries)
    ]
    return straight, [shifted(each.dts, shifts, number) for number, each in enumerate(times)]
