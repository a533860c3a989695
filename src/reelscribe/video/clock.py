"""Takes jumps out of a stream's clock: in files joined from parts that each have a clock, and recordings of broadcasts.

So every frame is kept, and a clip is as long as its pictures are shown.
"""

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from statistics import median
from typing import Final, NamedTuple

from av.container import InputContainer

_TS_DISCONT: Final = 0x200
"""FFmpeg's AVFMT_TS_DISCONT."""
_GAP_SECONDS: Final = 10
"""A longer step forwards is a jump of the clock. The default of FFmpeg's `-dts_delta_threshold`."""
_JOIN_STEPS: Final = 2
"""Where parts are joined, the clock may jump by any amount: there, more than this many usual steps are a jump."""
_TYPICAL_STEPS: Final = 20
"""A jump is also at least this many usual steps, since the pictures of a slide show stay on screen for long."""
_BACK_SECONDS: Final = Fraction(1, 10)
"""A longer step backwards is a restart of the clock. FFmpeg's own limit; a shorter one is a careless writer's."""


class PacketTimes(NamedTuple):
    """When a packet is decoded and its frame shown, in units of the time base."""

    pts: int | None
    dts: int | None
    is_keyframe: bool
    place: int | None = None
    """In the file, in bytes."""


class Shift(NamedTuple):
    """An amount to add to the times of all packets from one packet on."""

    number: int
    """Number of the first such packet in the file."""
    ticks: int


def may_jump(container: InputContainer) -> bool:
    """Whether the clock of a format may jump: FFmpeg marks such formats (MPEG-TS, MPEG-PS, Ogg).

    In all others a long step is a frame that stays on screen for that long.
    """
    return container.format.flags & _TS_DISCONT > 0


def find_shifts(times: Sequence[PacketTimes], time_base: Fraction, joins: Sequence[int]) -> list[Shift]:
    """Find where the clock jumps, and the shifts that take the jumps out.

    Args:
        times: of all packets, in order of the file.
        time_base: seconds.
        joins: numbers of packets that begin another part of the file.
    """
    typical = typical_step([each.dts for each in times])
    far = max(round(_GAP_SECONDS / time_base), _TYPICAL_STEPS * typical)
    limits = _Limits(back=round(_BACK_SECONDS / time_base), far=far, far_at_join=_JOIN_STEPS * typical)
    ticks = _close_restarts(times, _restarts(times, limits, frozenset(joins)), typical)
    ticks = _close_gaps(times, ticks, far, typical)
    return [
        Shift(number, after)
        for number, (before, after) in enumerate(itertools.pairwise([0, *ticks]))
        if before != after
    ]


class _Limits(NamedTuple):
    """Longest steps that do not count as jumps."""

    back: int
    far: int
    far_at_join: int


def _restarts(times: Sequence[PacketTimes], limits: _Limits, joins: frozenset[int]) -> list[int]:
    """Numbers of the packets at which another clock begins."""
    starts: list[int] = []
    dts: int | None = None
    latest: int | None = None  # time of the last frame so far
    for number, packet in enumerate(times):
        jumps = False
        if packet.dts is not None and dts is not None:
            step = packet.dts - dts
            # Where frames before this one have jumped already, it is the pictures' times that jump; see `_close_gaps`.
            ahead = latest is not None and latest - dts > limits.far
            jumps = step < -limits.back or (
                step > (limits.far_at_join if number in joins else limits.far) and not ahead
            )
        if packet.is_keyframe and packet.pts is not None and latest is not None:
            # In order of decoding no frame before a keyframe is shown after it, unless the clock has gone back.
            second_field = times[number - 1].is_keyframe and times[number - 1].pts == packet.pts
            jumps |= packet.pts <= latest and not second_field
        if jumps:
            starts.append(number)
            latest = None
        dts = dts if packet.dts is None else packet.dts
        latest = latest if packet.pts is None else max(packet.pts, packet.pts if latest is None else latest)
    return starts


def _close_restarts(times: Sequence[PacketTimes], starts: Sequence[int], typical: int) -> list[int]:
    """The amount to add to each packet's times, so that each clock begins where the one before ends."""
    ticks = [0] * len(times)
    end: int | None = None
    for start, stop in zip([0, *starts], [*starts, len(times)], strict=True):
        shown = [each.pts for each in times[start:stop] if each.pts is not None]
        if not shown:
            continue
        if end is not None:
            now, before = times[start].dts, times[start - 1].dts
            added = end - min(shown)
            if not times[start].is_keyframe and now is not None and before is not None:
                added = before + ticks[start - 1] + typical - now  # frames on both sides refer to each other
            ticks[start:stop] = [added] * (stop - start)
        end = max(shown) + ticks[start] + typical
    return ticks


def _close_gaps(times: Sequence[PacketTimes], ticks: list[int], far: int, typical: int) -> list[int]:
    """Take long steps from one picture to the next out of times, in order of presentation."""
    shown = sorted(each.pts + added for each, added in zip(times, ticks, strict=True) if each.pts is not None)
    gaps = [(after, typical - (after - before)) for before, after in itertools.pairwise(shown) if after - before > far]
    if not gaps:
        return ticks
    starts, totals = [start for start, _ in gaps], [0, *itertools.accumulate(added for _, added in gaps)]
    return [
        added if each.pts is None else added + totals[bisect_right(starts, each.pts + added)]
        for each, added in zip(times, ticks, strict=True)
    ]


def typical_step(times: Sequence[int | None]) -> int:
    """The usual distance between neighbouring times; 0 if there are none."""
    steps = [
        after - before
        for before, after in itertools.pairwise(times)
        if before is not None and after is not None and after > before
    ]
    return round(median(steps)) if steps else 0


def shifted(time: int | None, shifts: Sequence[Shift], number: int) -> int | None:
    """A packet's time without the clock's jumps."""
    place = bisect_right(shifts, number, key=lambda shift: shift.number)
    return time + shifts[place - 1].ticks if place and time is not None else time


def hidden_by_joins(times: Sequence[PacketTimes], joins: Sequence[int]) -> set[int]:
    """Numbers of packets that cannot be decoded, since their frames refer to pictures before a join."""
    hidden: set[int] = set()
    for join in joins:
        shown_at = times[join].pts
        for number in range(join + 1, len(times)):
            pts = times[number].pts
            if times[number].is_keyframe or (pts is not None and shown_at is not None and pts > shown_at):
                break
            hidden.add(number)
    return hidden
