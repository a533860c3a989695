"""Formats that count as videos, and names for files that are none.

FFmpeg reads far more: texts as pictures of a terminal, lists of other files, descriptions of streams on the network. A
file of a data set may be any of these, whatever it is called.
"""

import re
from typing import Final

_CONTAINERS: Final = (
    "asf asf_o avi dhav dv flv gxf ifv ivr kux live_flv luodat lvf lxf matroska mov mpeg mpegts mpegvideo mtv mxf mxg"
    " nsv nut nuv ogg pmp pva rm ser swf ty vividas vivo wtv"
)
_BARE_STREAMS: Final = (
    "apv av1 avs2 avs3 cavsvideo dirac dnxhd evc h261 h263 h264 hevc ingenient ivf m4v mjpeg mjpeg_2000 mpjpeg obu vc1"
    " vc1test vvc yuv4mpegpipe"
)
_ANIMATIONS: Final = "anm apng cdxl flic gif jpegxl_anim mv"
_CAMERAS: Final = "cine hxvs iv8 msnwctcp nc pdv r3d"
_GAMES: Final = (
    "4xm alp argo_brp avs bethsoftvid bfi bink bmv c93 dfa dsicin dxa ea ea_cdata film_cpk filmstrip gdv hnm idcin"
    " ipmovie ipu jv lmlm4 mgsts mm mods moflex mvi paf psxstr rl2 roq rpl sdr2 sga siff simbiosis_imx smjpeg smk smush"
    " thp tiertexseq tmv usm vmd wc3movie wsvqa xmv yop"
)
_SOUND: Final = (
    "aac ac3 ac4 aiff amr ape au caf dts dtshd eac3 flac iamf loas mp3 mpc mpc8 oma tak truehd tta voc w64 wav wv xwma"
)
"""Audio formats, read so that the error can say that the file has no video."""
FORMATS: Final = ",".join(" ".join((_CONTAINERS, _BARE_STREAMS, _ANIMATIONS, _CAMERAS, _GAMES, _SOUND)).split())
"""Names of FFmpeg's readers of files that hold all their frames themselves, for its option `format_whitelist`."""

HEAD_BYTES: Final = 4096
"""Number of first bytes by which a file is recognized."""
_PICTURES: Final = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"8BPS": "PSD",
    b"\0\0\1\0": "ICO",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
}
_STARTS: Final = {
    **{start: f"a picture ({name})" for start, name in _PICTURES.items()},
    b"%PDF-": "a PDF",
    b"PK\3\4": "a ZIP archive",
    b"\x1f\x8b": "a file that gzip packed",
    b"\x28\xb5\x2f\xfd": "a file that zstd packed",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"\x93NUMPY": "a NumPy array",
    b"SQLite format 3": "an SQLite database",
    b"version https://git-lfs": "a pointer of Git LFS; `git lfs pull` gets the video itself",
}
_COMMENTS: Final = re.compile(r"<\?xml[^>]*>|<!--.*?-->", re.DOTALL)
_LISTS: Final = re.compile(
    r"#EXTM3U|ffconcat version|\[playlist\]|<(MPD|asx|\w*:?CompositionPlaylist|SmoothStreamingMedia)\b", re.IGNORECASE
)
_PAGE: Final = re.compile(r"<(!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_LEAST_TEXT: Final = 64
"""Minimum bytes to call a file text: fewer may lack control characters by chance."""
_CONTROL: Final = re.compile("[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]")


def is_list(head: bytes) -> bool:
    """Whether a file with this start is a list of other files, which were not checked."""
    return _LISTS.match(_without_comments(_text(head) or "")) is not None


def looks_like(head: bytes) -> str | None:
    """The kind of a file, by its first bytes, in words; None if not known.

    Args:
        head: up to `HEAD_BYTES` of it.
    """
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        animated = head[12:16] == b"VP8X" and len(head) > 20 and head[20] & 0x02
        return "an animated WebP, which is not read; make a GIF or MP4 of it" if animated else "a picture (WebP)"
    known = next((name for start, name in _STARTS.items() if head.startswith(start)), None)
    text = _text(head)
    return known or (None if text is None else _kind_of_text(text))


def _kind_of_text(text: str) -> str:
    if _PAGE.match(_without_comments(text)):
        return "an HTML page, perhaps what a server said in place of the video"
    if text.startswith("v=0") and re.search(r"^m=", text, re.MULTILINE):
        return "a description of a stream on the network (SDP)"
    if text.startswith(("<svg", "<?xml")):
        return "XML"
    return "JSON" if text.startswith(("{", "[")) else "text"


def _without_comments(text: str) -> str:
    """The text after the XML declaration and comments."""
    return _COMMENTS.sub("", text).lstrip()


def _text(head: bytes) -> str | None:
    """The text that a file starts with; None if it is no text."""
    encoding = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    for end in range(len(head), max(len(head) - 4, 0), -1):  # the last character may be cut
        try:
            text = head[:end].decode(encoding)
        except UnicodeDecodeError:
            continue
        return None if _CONTROL.search(text) else text.lstrip()
    text = head.decode("latin-1")  # or another of the old encodings of a byte a letter
    return None if _CONTROL.search(text) or len(head) < _LEAST_TEXT else text.lstrip()
