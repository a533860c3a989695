"""Which packets of a clip to decode, and how they are read: runs, each from a keyframe on."""

import itertools
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from reelscribe.errors import ClipError
from reelscribe.values import Clip
from reelscribe.video.index import FrameIndex, packets_of

SKIP_GAIN = 8
"""Minimum number of unneeded packets to skip: restarting the decoder costs about as much as this many frames."""
_SEEK_BYTES = 4 << 20
"""A gap of up to this many bytes is read past, not sought over: disks read ahead about this far."""
_AHEAD_SECONDS = 1
"""Maximum time from decoding a keyframe to showing it. Seeks in MPEG-TS go by decoding time, so they aim earlier."""
VideoPacket: TypeAlias = "Packet[VideoStream]"


@dataclass(frozen=True, kw_only=True)
class Run:
    """Packets to decode one after the other, from a keyframe on."""

    packets: range
    """Their numbers."""
    keyframe: int
    """Time of the keyframe. Frames shown before it may refer to packets before the run, and are left out."""


def contiguous(index: FrameIndex, run: Run, first: int) -> int:
    """Number of contiguous frames that a run gives, even if all packets after it are lost.

    No frame is shown before it is decoded: those that are shown by the time of the first lost packet are all there. A
    few frames more may be, beyond some that are not.
    """
    if index.complete and run.packets.stop == index.num_packets:
        return len(index.pts) - first
    behind = index.decoded_by[run.packets.stop - 1] if run.packets else None
    if behind is None:
        return min(len(run.packets), len(index.pts) - first)
    return max(bisect_right(index.pts, behind) - first, 0)


def whole_run(index: FrameIndex) -> Run:
    """The run of all packets from the first keyframe on."""
    keyframe = index.keyframes[0]
    return Run(packets=range(index.packets[keyframe], index.num_packets), keyframe=keyframe)


def runs_to(index: FrameIndex, wanted: list[int]) -> list[Run]:
    """The runs of packets that the wanted frames need: each from the keyframe before a frame."""
    runs: list[Run] = []
    for pts in wanted:
        keyframe = index.keyframes[bisect_right(index.keyframes, pts) - 1]
        start, stop = index.packets[keyframe], index.packets[pts] + 1
        if runs and start - runs[-1].packets.stop < SKIP_GAIN:
            last = runs.pop()
            keyframe, start, stop = last.keyframe, last.packets.start, max(last.packets.stop, stop)
        runs.append(Run(packets=range(start, stop), keyframe=keyframe))
    return runs


def suffice(index: FrameIndex, wanted: list[int]) -> bool:
    """Whether damage in the packets that the wanted frames need shows up in them. Decoders may tell of it later."""
    if index.doubtful:
        return False
    return not any(number in run.packets for run in runs_to(index, wanted) for number in index.denied)


def read_runs(
    index: FrameIndex, clip: Clip, container: InputContainer, stream: VideoStream, runs: list[Run], *, seek: bool
) -> Iterator[Iterator[VideoPacket]]:
    """Read the packets of each run from the file."""
    worth_a_seek = _SEEK_BYTES * len(index.packets) // container.size
    packets, at = packets_of(container, stream, index.shifts), 0
    for run in runs:
        start, stop = run.packets.start, run.packets.stop
        if seek and not index.shifts and start - at > worth_a_seek:
            packets, at = _packets_from(clip, container, stream, run.keyframe), start
        yield itertools.islice(packets, start - at, stop - at)
        at = stop


def _packets_from(clip: Clip, container: InputContainer, stream: VideoStream, pts: int) -> Iterator[VideoPacket]:
    """Seek to a keyframe, or to an earlier one and read on. Raises if the seek landed elsewhere."""
    # MPEG-TS has no index. There FFmpeg lands on any packet decoded by then; a keyframe is decoded before it is shown.
    ahead = int(_AHEAD_SECONDS / (stream.time_base or 1)) if container.format.name == "mpegts" else 0
    container.seek(pts - ahead, stream=stream)
    packets = packets_of(container, stream)
    for packet in packets:
        if packet.is_keyframe and packet.pts == pts:
            return itertools.chain([packet], packets)
        if packet.pts is None or packet.pts > pts:
            break
    raise ClipError("decode", f"{clip.name}: a seek missed its keyframe.")
