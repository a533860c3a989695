"""MPEG transport streams: tells whether a jump of the packets' counters is a loss, or a place where parts were joined.

A stream consists of packets of 188 bytes whose counters run from 0 to 15. FFmpeg takes each jump of a counter for
damage. But if files were simply concatenated, nothing is lost: the last frame before the jump is complete, and the
next frame starts in the packet at which the counter jumps.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reelscribe.video.clock import PacketTimes, typical_step

_SYNC: Final = 0x47
_PACKET: Final = 188
_STRIDES: Final = (188, 192, 204)
"""Bytes from one packet to the next: plain, with a time before each packet (M2TS), with error correction after it."""
_LATE_STEPS: Final = 1.5
"""If a frame is this many usual steps after the last one, a frame between them is missing."""
_TABLES: Final = 0
"""PID of the program association table, with which each file starts."""
_CHUNK: Final = 1 << 14
"""Packets that are read at a time."""
_IN_STEP: Final = 4
"""This many packets must follow each other for their start to count as found."""

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class CounterJump:
    """A place where the counter of a stream jumps."""

    before: int
    """Byte offset of the last packet before the jump."""
    place: int
    """Byte offset of the packet at which the counter jumps."""
    between_frames: bool
    """Whether this packet starts a frame, and the frame before is complete."""
    starts_anew: bool
    """Whether this counter, and that of the tables just before, jump to 0, as at the start of a file."""


@dataclass(frozen=True, kw_only=True)
class Seams:
    """Places where a stream is damaged or joined."""

    damaged: list[int]
    """Numbers of packets that are incomplete, or after which some are missing."""
    joins: list[int]
    """Numbers of packets that begin another part of the file."""
    goes_on_elsewhere: bool
    """Whether a stream with another PID has video before the first packet or after the last one."""


def find_seams(file: BinaryIO, pid: int, times: Sequence[PacketTimes], broken: Sequence[int]) -> Seams:
    """Tell losses in a transport stream from places where parts are joined.

    Args:
        file: to read, from its start.
        pid: number of the stream in it.
        times: of the stream's packets.
        broken: packets that FFmpeg takes for damaged, since a counter jumps in or behind them. It passes over the first
            one, and takes joins for damage.
    """
    joins: dict[int, int] = {}
    damaged: set[int] = set()
    places = [-1 if each.place is None else each.place for each in times]
    typical = typical_step([each.dts for each in times])
    jumps, apart = find_jumps(file, pid)
    for jump in jumps:
        number = bisect_right(places, jump.before)
        # A part does not refer to what is before it only if it starts with a keyframe.
        starts_frame = number < len(times) and places[number] <= jump.place
        if jump.between_frames and starts_frame and number and times[number].is_keyframe:
            now, before = times[number].dts, times[number - 1].dts
            late = now is not None and before is not None and now - before > _LATE_STEPS * typical
            if jump.starts_anew or not late:
                joins[jump.place] = number
                continue
        damaged.add(max(number - 1, 0))
    at = [jump.place for jump in jumps]
    for number in broken:
        following = bisect_right(at, places[number])
        if following == len(at) or at[following] not in joins:
            damaged.add(number)
    return Seams(damaged=sorted(damaged), joins=list(joins.values()), goes_on_elsewhere=apart)


def find_jumps(file: BinaryIO, pid: int) -> tuple[list[CounterJump], bool]:
    """Read a file, from its start, for the jumps of one stream's counter, and for video in other streams.

    Args:
        file: to read.
        pid: number of the stream in the transport stream.

    Returns:
        The jumps, and whether there is other video where the stream has none: before its start, or behind its end.
    """
    ours, tables = _Counter(), _Counter()
    spans: dict[int, tuple[int, int]] = {}  # from the first start of a frame to the last one
    for places, packets in _packets(file):
        pids = (packets[:, 1] & 0x1F).astype(np.int32) << 8 | packets[:, 2]
        counted = packets[:, 3] & 0x10 > 0  # packets without a payload do not count
        for counter, number in ((ours, pid), (tables, _TABLES)):
            chosen = counted & (pids == number)
            counter.add(places[chosen], packets[chosen])
        starts = _starts_of_video(packets)
        for number in np.unique(pids[starts]).tolist():
            its = places[starts & (pids == number)]
            spans[number] = spans.get(number, (int(its[0]), 0))[0], int(its[-1])
    restarts = [jump.place for jump in tables.jumps if jump.counter == 0]
    begin, end = spans.pop(pid, (0, 0))
    apart = any(last < begin or first > end for first, last in spans.values())
    return [
        CounterJump(
            before=jump.before,
            place=jump.place,
            between_frames=jump.between_frames,
            starts_anew=jump.counter == 0 and bisect_right(restarts, jump.before) < bisect_left(restarts, jump.place),
        )
        for jump in ours.jumps
    ], apart


class _Jump(NamedTuple):
    before: int
    """Place of the last packet before it."""
    place: int
    counter: int
    between_frames: bool


class _Counter:
    """Finds the jumps of one stream's counter."""

    def __init__(self) -> None:
        self.jumps: list[_Jump] = []
        self._place = np.zeros(0, np.int64)
        self._last = np.zeros((0, _PACKET), np.uint8)

    def add(self, places: NDArray[np.int64], packets: Bytes) -> None:
        """Take the packets that follow."""
        places, stream = np.concatenate([self._place, places]), np.concatenate([self._last, packets])
        before, after = stream[:-1], stream[1:]
        # A packet may say itself that its counter is a new one.
        announced = (after[:, 3] & 0x20 > 0) & (after[:, 4] > 0) & (after[:, 5] & 0x80 > 0)
        spoiled = after[:, 1] & 0x80 > 0  # so said whoever received it
        jumps = ((after[:, 3] & 0x0F != (before[:, 3] + 1) & 0x0F) & ~announced) | spoiled
        between = (after[:, 1] & 0x40 > 0) & ~spoiled & _ends_frame(before)
        for at in np.flatnonzero(jumps):
            counter = int(after[at, 3] & 0x0F)
            self.jumps.append(_Jump(int(places[at]), int(places[at + 1]), counter, bool(between[at])))
        self._place, self._last = places[-1:], stream[-1:]


def _starts_of_video(packets: Bytes) -> NDArray[np.bool_]:
    """Whether packets start a frame of video."""
    before = np.where(packets[:, 3] & 0x20 > 0, 5 + packets[:, 4].astype(np.int32), 4)
    at = np.minimum(before, _PACKET - 4)[:, None] + np.arange(4)
    mark = np.take_along_axis(packets, at, axis=1)
    said: NDArray[np.bool_] = (mark[:, :3] == (0, 0, 1)).all(axis=1) & (mark[:, 3] & 0xF0 == 0xE0)
    return said & (packets[:, 1] & 0x40 > 0) & (packets[:, 3] & 0x10 > 0)


def _ends_frame(packets: Bytes) -> NDArray[np.bool_]:
    """Whether packets are padded. Only the last packet of a frame is, since each frame starts in a new packet."""
    has_field, length, flags = packets[:, 3] & 0x20 > 0, packets[:, 4], packets[:, 5]
    # One byte of flags, six for each of two clocks, one for a countdown; the rest is padding.
    used = 1 + 6 * (flags >> 4 & 1) + 6 * (flags >> 3 & 1) + (flags >> 2 & 1)
    padded = (length == 0) | (flags == 0) | ((length > used) & (flags & 0x03 == 0))
    ended: NDArray[np.bool_] = has_field & padded
    return ended


def _packets(file: BinaryIO) -> Iterator[tuple[NDArray[np.int64], Bytes]]:
    """Packets with their positions, chunk by chunk; bytes between them are passed over."""
    at, rest, longest = 0, b"", max(_STRIDES)
    while data := rest + file.read(_CHUNK * longest - len(rest)):
        start, stride = _in_step(data)
        if stride == 0:
            skipped = max(len(data) - _IN_STEP * longest, 0) or len(data)
            at, rest = at + skipped, data[skipped:]
            continue
        count = (len(data) - start - _PACKET) // stride + 1
        rows = np.frombuffer(data[start : start + count * stride].ljust(count * stride, b"\0"), np.uint8)
        packets = rows.reshape(count, stride)[:, :_PACKET]
        astray = np.flatnonzero(packets[:, 0] != _SYNC)
        good = int(astray[0]) if len(astray) else count
        yield at + start + np.arange(good, dtype=np.int64) * stride, packets[:good]
        used = min(start + good * stride, len(data))
        at, rest = at + used, data[used:]


def _in_step(data: bytes) -> tuple[int, int]:
    """Offset of the first packet, and the distance between packets; (0, 0) if there is none."""
    start = data.find(_SYNC)
    while 0 <= start <= len(data) - _PACKET:
        for stride in _STRIDES:
            if all(byte == _SYNC for byte in data[start : start + _IN_STEP * stride : stride]):
                return start, stride
        start = data.find(_SYNC, start + 1)
    return 0, 0
