"""What a packet's bytes say about its picture, without decoding it.

Some decoders ignore damage: for a packet that they cannot read they give neither a frame nor an error. So packets are
read beforehand, to know which of them must give a frame, and which a decoder could not read.
"""

import re
from collections.abc import Callable
from enum import Enum, auto

from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream


class Picture(Enum):
    """What a packet holds."""

    SURE = auto()
    """A picture that the decoder must give."""
    UNREFERENCED = auto()
    """A picture that the decoder must give, and that no other picture refers to."""
    UNSURE = auto()
    """Perhaps a picture: the codec is not read here, or its syntax leaves this open."""
    NONE = auto()
    """No picture to show: it repeats the last one, or only serves as a reference."""
    BROKEN = auto()
    """Bytes that the codec does not allow: damage."""


# Looked up for each unit of each packet, where an attribute of an Enum costs as much as the rest.
_SURE, _UNREFERENCED, _UNSURE = Picture.SURE, Picture.UNREFERENCED, Picture.UNSURE
_PictureOf = Callable[[int], Picture | None]
Look = Callable[["Packet[VideoStream]"], Picture]

EMPTY_MPEG4 = 10
"""An MPEG-4 packet of at most this many bytes holds no picture: the one before stays on screen ("not coded" VOPs)."""
_MPEG4_PICTURE, _MPEG2_PICTURE, _MPEG2_EXTENSION = b"\0\0\1\xb6", b"\0\0\1\0", b"\0\0\1\xb5"
_HEVC_SPLICES = frozenset({16, 17, 18, 36, 37})
"""NAL unit types after which the stream does not refer to earlier pictures: broken links (BLA), ends of sequences."""
_NAL_UNIT = re.compile(rb"\x00\x00\x01(.)", re.DOTALL)


def look_with(decoder: VideoCodecContext) -> Look:
    """The function that reads packets of this decoder's codec."""
    look = _look_with(decoder)
    return lambda packet: look(memoryview(packet)) if packet.size else Picture.NONE


def _look_with(decoder: VideoCodecContext) -> Callable[[memoryview], Picture]:
    name, extradata = decoder.name, decoder.extradata or b""
    if name in ("h264", "hevc"):
        # A box of configuration (avcC, hvcC) starts with its version, 1; without it NAL units follow start codes.
        at, picture_of = (4, _h264_picture) if name == "h264" else (21, _hevc_pictures())
        width = (extradata[at] & 3) + 1 if len(extradata) > at and extradata[0] == 1 else 0
        # Each field of an interlaced H.264 picture may have a packet of its own.
        fields = name == "h264" and decoder.field_order > 1
        return lambda data: _of_nal_units(data, width, picture_of, fields=fields)
    look = _LOOKS.get(name)
    return (lambda data: look(bytes(data))) if look else lambda _: Picture.UNSURE


def _of_nal_units(data: memoryview, width: int, picture_of: _PictureOf, *, fields: bool) -> Picture:
    """H.264 and HEVC: a packet is a sequence of NAL units.

    Args:
        data: of the packet.
        width: bytes of the length in front of each unit; 0 for start codes.
        picture_of: the first byte of a unit to what it says of the picture; None if it is no slice.
        fields: whether the pictures may be fields.
    """
    found: Picture | None = None
    at, end = 0, len(data)
    units = _NAL_UNIT.finditer(data) if width == 0 else None
    while at < end:
        if units:
            unit = next(units, None)
            if unit is None:
                break
            first = unit[1][0]
        else:
            start = at + width
            at = start + int.from_bytes(data[at:start])
            if not start < at <= end:
                return Picture.BROKEN
            first = data[start]
        picture = picture_of(first)
        # The surest of what the slices say, unless one of them leaves it open.
        if picture is not None and (found is None or found is _UNREFERENCED or picture is _UNSURE):
            found = picture
    if found is None:
        return Picture.BROKEN
    return _UNSURE if fields else found


def _h264_picture(first: int) -> Picture | None:
    if first & 0x1F not in (1, 2, 5):
        return None
    return _SURE if first & 0x60 else _UNREFERENCED  # nal_ref_idc


def _hevc_pictures() -> _PictureOf:
    spliced = False

    def picture_of(first: int) -> Picture | None:
        nonlocal spliced
        kind = first >> 1 & 0x3F
        spliced = spliced or kind in _HEVC_SPLICES
        if kind >= 32:
            return None
        # Decoders leave leading pictures (RASL) out behind a splice; those in front of the first keyframe nobody wants.
        return Picture.UNSURE if spliced and kind in (8, 9) else Picture.SURE

    return picture_of


def _mpeg4_picture(data: bytes) -> Picture:
    at = data.find(_MPEG4_PICTURE)
    if at < 0:
        return Picture.BROKEN
    if len(data) - at <= EMPTY_MPEG4:
        return Picture.NONE
    if data.find(_MPEG4_PICTURE, at + 4) >= 0:  # DivX packs two into one packet
        return Picture.UNSURE
    return Picture.SURE


def _mpeg2_picture(data: bytes) -> Picture:
    at = data.find(_MPEG2_PICTURE)
    if at < 0:
        return Picture.BROKEN
    extension = data.find(_MPEG2_EXTENSION, at)
    if 0 <= extension < len(data) - 6 and data[extension + 6] & 3 != 3:  # a field; the other one may be elsewhere
        return Picture.UNSURE
    return Picture.SURE


def _vp8_picture(data: bytes) -> Picture:
    return Picture.SURE if data[0] & 0x10 else Picture.NONE


def _vp9_picture(data: bytes) -> Picture:
    if data[0] >> 6 != 2:
        return Picture.BROKEN
    if data[-1] & 0xE0 == 0xC0:  # several frames, of which one is shown
        return Picture.SURE
    shift = 1 if data[0] & 0x30 == 0x30 else 0  # profile 3 has another bit
    return Picture.SURE if data[0] << shift & 0x0A else Picture.NONE  # shows an earlier frame, or is shown


def _av1_picture(data: bytes) -> Picture:
    """AV1: a packet is a sequence of OBUs. Each has a header, its size and, except pictures, trailing bits 10..0."""
    at, found = 0, False
    while at < len(data):
        header, at = data[at], at + 1
        kind = header >> 3 & 0xF
        at += header >> 2 & 1
        size = len(data) - at
        if header & 2:
            size, length = 0, 0
            while at < len(data) and length < 8:
                byte, at = data[at], at + 1
                size |= (byte & 0x7F) << 7 * length
                length += 1
                if not byte & 0x80:
                    break
        if header & 0x80 or size > len(data) - at:
            return Picture.BROKEN
        found = found or kind in (3, 6)  # a frame's header, or a frame
        at += size
    return Picture.SURE if found else Picture.BROKEN


_LOOKS: dict[str, Callable[[bytes], Picture]] = {
    "mpeg4": _mpeg4_picture,
    "mpeg1video": _mpeg2_picture,
    "mpeg2video": _mpeg2_picture,
    "vp8": _vp8_picture,
    "vp9": _vp9_picture,
    "libdav1d": _av1_picture,
}
"""By the name of the decoder."""
