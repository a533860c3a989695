"""Which H.264 pictures no other refers to: what their headers say, where the pictures around them say so, too.

A damaged bit (nal_ref_idc) can make any picture look like one that nobody needs. But pictures are counted (frame_num):
the count goes on by one behind each that others may refer to. So the pictures around one tell what it is.
"""

import itertools
from typing import Final, NamedTuple

from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from reelscribe.video.bitstream import Picture, look_with

_HEADER_BYTES = 24
"""Enough for what is read of a header, even of one that is damaged; more is not looked at."""
_WITH_CHROMA = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})
"""Profiles whose parameters state the format of colours."""
_START = b"\0\0\1"
_RESTART: Final = 5
_SLICES, _PARAMETERS = frozenset({1, 2, _RESTART}), frozenset({7})
"""Types of NAL units."""


class _Seen(NamedTuple):
    """What a packet says of its picture."""

    unreferenced: bool
    number: int | None
    """It is counted as (frame_num); None if that cannot be read."""
    restarts: bool
    """Whether no later picture refers to one before it (IDR)."""


class References:
    """Looks at all packets of a stream, in order.

    Args:
        decoder: of the stream.
    """

    def __init__(self, decoder: VideoCodecContext) -> None:
        self._look = look_with(decoder)
        extradata = (decoder.extradata or b"") if decoder.name == "h264" else b""
        in_box = len(extradata) > 8 and extradata[0] == 1  # a box of configuration (avcC)
        self._width = (extradata[4] & 3) + 1 if in_box else 0
        parameters = extradata[8:] if in_box else _unit(extradata, 0, _PARAMETERS)
        self._bits = _bits_of_count(parameters) if parameters else None
        self._seen: list[_Seen] = []

    def look(self, packet: "Packet[VideoStream]") -> Picture:
        """What the next packet says of its picture."""
        look, count, restarts = self._look(packet), None, False
        if self._bits and (unit := _unit(bytes(packet), self._width, _SLICES)):
            count, restarts = _count_of(unit, self._bits), unit[0] & 0x1F == _RESTART
        self._seen.append(_Seen(look is Picture.UNREFERENCED, count, restarts))
        return look

    def unreferenced(self) -> tuple[frozenset[int], frozenset[int]]:
        """Numbers of the packets whose pictures no other refers to, and of those that only claim it, by damage.

        The picture behind such a one has the count that follows the last reference's, or counting restarts with it. If
        that has the count after, there was a reference in between. If anything else, neither is known.
        """
        sure: set[int] = set()
        denied: set[int] = set()
        last: int | None = None
        for number, (this, following) in enumerate(itertools.pairwise(self._seen)):
            if not this.unreferenced:
                last = this.number
            elif self._bits and last is not None and following.number is not None:
                ahead = (following.number - last) % (1 << self._bits)
                if following.restarts or ahead == 1:
                    sure.add(number)
                elif ahead == 2:
                    denied.add(number)
        return frozenset(sure), frozenset(denied)


def _unit(data: bytes, width: int, kinds: frozenset[int]) -> bytes:
    """The beginning of the first NAL unit of some kinds; empty if there is none.

    Args:
        data: NAL units.
        width: bytes of the length in front of each; 0 for start codes.
        kinds: to look for.
    """
    at = width if width else data.find(_START) + 3
    while width <= at < len(data) and (width or at >= 3):
        if data[at] & 0x1F in kinds:
            return data[at : at + _HEADER_BYTES]
        if width:
            at += int.from_bytes(data[at - width : at]) + width
        else:
            at = data.find(_START, at) + 3
    return b""


class _Bits:
    """Reads a NAL unit, behind its first byte."""

    def __init__(self, unit: bytes) -> None:
        plain = unit[1:].replace(b"\0\0\3", b"\0\0")  # the 3 is put in, lest there be a start code
        self._bits = bin(int.from_bytes(b"\1" + plain))[3:]
        self._at = 0

    def take(self, count: int) -> int:
        bits = self._bits[self._at : self._at + count]
        self._at += count
        if len(bits) < count:
            raise ValueError("the unit ends here")
        return int(bits, 2)

    def number(self) -> int:
        """An Exp-Golomb code. Raises ValueError behind the last bit, as `take` does."""
        zeros = self._bits.index("1", self._at) - self._at
        self._at += zeros
        return self.take(zeros + 1) - 1


def _bits_of_count(parameters: bytes) -> int | None:
    """Bits of frame_num, which the stream's parameters state; None if they are not read here."""
    bits = _Bits(parameters[:_HEADER_BYTES])
    try:
        profile = bits.take(24) >> 16
        bits.number()  # of the parameters
        if profile in _WITH_CHROMA:
            if bits.number() == 3:  # perhaps a picture has a slice for each colour
                return None
            bits.number(), bits.number(), bits.take(1)  # depths of the colours, and whether blocks may be exact
            if bits.take(1):  # matrices follow
                return None
        return bits.number() + 4
    except ValueError:
        return None


def _count_of(unit: bytes, bits_of_count: int) -> int | None:
    bits = _Bits(unit)
    try:
        bits.number(), bits.number(), bits.number()  # place and type of the slice, and its parameters
        return bits.take(bits_of_count)
    except ValueError:
        return None
