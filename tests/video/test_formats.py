"""What is read as a video, what is not, and what is said of that."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import av
import pytest
from av.packet import Packet
from clips import read_numbers, write_audio, write_clip
from decoding import BUDGET, EVERY_FRAME, KINDS, decoded, failure, painted

from reelscribe.errors import ClipError
from reelscribe.values import Clip
from reelscribe.video.decode import decode
from reelscribe.video.formats import HEAD_BYTES, looks_like
from reelscribe.video.headers import read_header

OTHERS: dict[str, dict[str, Any]] = {
    "a.3g2": {"codec": "mpeg4"},
    "a.3gp": {"codec": "mpeg4"},
    "a.f4v": {},
    "a.nut": {},
    "a.wmv": {"codec": "wmv2", "b_frames": 0, "container_format": "asf"},
    "a.mxf": {"codec": "mpeg2video"},
    "a.gxf": {"codec": "mpeg2video", "size": (720, 576)},
    "a.y4m": {"codec": "rawvideo", "container_format": "yuv4mpegpipe"},
    "a.ivf": {"codec": "libvpx-vp9"},
    "a.obu": {"codec": "libsvtav1"},
    "a.m2v": {"codec": "mpeg2video", "container_format": "mpeg2video"},
    "a.vob": {"codec": "mpeg2video"},
    "a.dv": {"codec": "dvvideo", "size": (720, 576)},
    "a.m2ts": {},
    "a.swf": {"codec": "flv", "b_frames": 0},
}
"""Clips of formats beside those that are decoded elsewhere."""


@pytest.mark.parametrize("name", OTHERS)
def test_all_that_is_a_video_is_read(name: str, tmp_path: Path) -> None:
    file = write_clip(tmp_path / name, range(12), **OTHERS[name])
    assert read_header(Clip(source=str(file))).frames >= 1
    with av.open(str(file)) as container:
        packets = sum(packet.size > 0 for packet in container.demux(video=0))
    assert packets >= 12
    assert len(decoded(file, EVERY_FRAME).pixels) >= 12


@pytest.mark.parametrize(("name", "pixels"), [("gif", "bgr8"), ("apng", "rgb24"), ("mjpeg", "yuvj420p")])
def test_animations_are_read(name: str, pixels: str, tmp_path: Path) -> None:
    with av.open(str(tmp_path / f"a.{name}"), "w", format=name) as target:
        stream: Any = target.add_stream(cast(Any, name), rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 120, pixels
        for number in range(12):
            target.mux(stream.encode(painted(number, 160, 120, pixels)))
        target.mux(stream.encode())
    assert read_numbers(decoded(tmp_path / f"a.{name}", EVERY_FRAME).pixels) == list(range(12))


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_read_as_files_are(kind: str, tmp_path: Path) -> None:
    file = write_clip(tmp_path / kind, **KINDS[kind])
    assert len(decode(Clip(source=file.read_bytes()), BUDGET).pixels) == len(decoded(file).pixels)


# What is none

SDP = (
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n"
)
MPD = '<?xml version="1.0"?>\n<!-- live --><MPD mediaPresentationDuration="PT9S"><BaseURL>http://127.0.0.1:{port}/</BaseURL></MPD>'
M3U8 = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:{port}/a.ts\n#EXT-X-ENDLIST\n"


@pytest.fixture
def listener() -> Iterator[tuple[int, list[object]]]:
    """A port of this machine that notes who calls: by TCP or UDP."""
    calls: list[object] = []
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()

        def note() -> None:
            while True:
                try:
                    calls.append(tcp.accept()[1])
                except OSError:
                    return

        thread = threading.Thread(target=note, daemon=True)
        thread.start()
        udp.bind(("127.0.0.1", 0))
        yield tcp.getsockname()[1], calls
        tcp.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize(
    ("template", "suffix", "words"),
    [
        (SDP, "sdp", r"it looks like a description of a stream on the network \(SDP\)\.$"),
        (SDP, "mp4", r"it looks like a description of a stream on the network \(SDP\)\.$"),
        (MPD, "mpd", r" is a list of other files, not a video\.$"),
        (M3U8, "m3u8", r" is a list of other files, not a video\.$"),
        (M3U8, "ts", r" is a list of other files, not a video\.$"),
    ],
)
def test_nobody_is_called(
    template: str, suffix: str, words: str, listener: tuple[int, list[object]], tmp_path: Path
) -> None:
    port, calls = listener
    text = template.replace("{port}", str(port))
    (tmp_path / f"a.{suffix}").write_text(text)
    for source in (tmp_path / f"a.{suffix}", text.encode()):
        error = failure(source)
        assert error.kind == "unreadable"
        with pytest.raises(ClipError, match=words):
            raise error
    assert calls == []


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("notes.txt", b"hello world, this is no video at all\n" * 200, "text"),
        ("art.nfo", ("\u2588\u2580\u2584 release \x1b[1m\r\n" * 500).encode("cp437"), "text"),
        ("a.srt", b"1\n00:00:01,000 --> 00:00:02,000\nhello\n", "text"),
        ("utf16.txt", "hello world, this is no video".encode("utf-16"), "text"),
        ("letters.txt", ("\u00e4\u00f6\u00fc\u4e16\u754c" * 2000).encode(), "text"),
        ("a.mp4", b"\n<!DOCTYPE html>\n<html><head><title>404</title></head></html>", "an HTML page"),
        ("a.mp4", b'{"error": "not found"}', "JSON"),
        ("a.mp4", b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML"),
        ("a.mp4", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "a pointer of Git LFS"),
        ("a.mp4", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(99), "a PDF"),
        ("a.mp4", b"PK\3\4" + bytes(99), "a ZIP archive"),
        ("a.mp4", b"\x89PNG\r\n\x1a\n" + bytes(99), r"a picture \(PNG\)"),
    ],
)
def test_what_is_no_video_is_named(name: str, data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    for source in (tmp_path / name, data):
        error = failure(source)
        assert error.kind == "unreadable"
        with pytest.raises(ClipError, match=f"cannot be opened as a video: it looks like {words}"):
            raise error


def test_an_animated_webp_is_named(tmp_path: Path) -> None:
    file = write_clip(tmp_path / "a.webp", range(4), codec="libwebp_anim", container_format="webp")
    with pytest.raises(
        ClipError, match=r"it looks like an animated WebP, which is not read; make a GIF or MP4 of it\.$"
    ):
        raise failure(file)


def test_names_are_told_in_linear_time() -> None:
    for head in (b"<!-- --> " * 500, b"<?xml " * 700, b"<!--" * 1000, b" " * HEAD_BYTES):
        assert looks_like(head[:HEAD_BYTES]) in ("text", "XML")


def encrypt(data: bytes) -> bytes:
    """The same MP4, said to be encrypted: in the header of its video, the codec stands for another behind it."""
    at = data.index(b"avc1", data.index(b"stsd")) - 4
    size = int.from_bytes(data[at : at + 4])

    def box(name: bytes, content: bytes) -> bytes:
        return (8 + len(content)).to_bytes(4) + name + content

    scheme = box(b"frma", b"avc1") + box(b"schm", bytes(4) + b"cenc" + (0x10000).to_bytes(4))
    scheme += box(b"schi", box(b"tenc", bytes(6) + b"\1\x08" + bytes(16)))
    entry = box(b"encv", data[at + 8 : at + size] + box(b"sinf", scheme))
    # Behind its boxes the sample table says for each frame which counter it was encrypted with.
    count = 30
    table_end = at + size
    senc = box(b"senc", bytes(4) + count.to_bytes(4) + b"".join(number.to_bytes(8) for number in range(count)))
    grown = bytearray(data[:at] + entry + data[table_end:])
    table = grown.rindex(b"stbl", 0, at) - 4
    end = table + int.from_bytes(grown[table : table + 4]) + len(entry) - size
    grown[end:end] = senc
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        place = grown.index(name) - 4
        grown[place : place + 4] = (int.from_bytes(grown[place : place + 4]) + len(entry) - size + len(senc)).to_bytes(
            4
        )
    place = grown.index(b"stsd") - 4
    grown[place : place + 4] = (int.from_bytes(grown[place : place + 4]) + len(entry) - size).to_bytes(4)
    return bytes(grown)


def test_encrypted_clips_are_named(tmp_path: Path) -> None:
    clip = Clip(source=encrypt(write_clip(tmp_path / "a.mp4").read_bytes()))
    for read in (read_header, lambda clip: decode(clip, BUDGET)):
        with pytest.raises(ClipError, match=r" is encrypted \(DRM\)") as caught:
            read(clip)
        assert caught.value.kind == "unreadable"


def test_a_header_without_a_size_is_broken(tmp_path: Path) -> None:
    data = write_clip(tmp_path / "a.ts", range(30), keyframe_every=10).read_bytes()
    spoiled = data.replace(b"\0\0\1\x67", b"\0\0\1\x6c")  # parameter sets, which hold the size
    with pytest.raises(ClipError) as caught:
        read_header(Clip(source=spoiled))
    assert caught.value.kind == "decode"
    assert failure(spoiled).kind == "decode"


# Which stream


def write_streams(file: Path, parts: list[tuple[Path, int]], *, default: int) -> Path:
    """Put the videos of files into one, each cut after some packets."""
    with av.open(str(file), "w") as target:
        for number, (part, _) in enumerate(parts):
            with av.open(str(part)) as container:
                source = container.streams.video[0]
                copied = target.add_stream_from_template(source)
                copied.disposition = av.stream.Disposition.default if number == default else av.stream.Disposition(0)
        for number, (part, most) in enumerate(parts):
            with av.open(str(part)) as container:
                for packet in [each for each in container.demux(video=0) if each.size][:most]:
                    fresh: Packet[Any] = Packet(bytes(packet))
                    fresh.time_base, fresh.pts, fresh.dts = packet.time_base, packet.pts, packet.dts
                    fresh.duration, fresh.is_keyframe, fresh.stream = (
                        packet.duration,
                        packet.is_keyframe,
                        target.streams[number],
                    )
                    target.mux(fresh)
    return file


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize(
    ("sizes", "counts", "default", "shown"),
    [
        ([64, 128, 96], [30, 30, 30], None, 1),
        ([64, 128, 96], [30, 30, 30], 2, 2),
        ([64, 128, 96], [30, 30, 30], 0, 0),
        ([64, 128, 96], [30, 1, 30], 1, 2),
        ([128, 128], [30, 30], None, 0),
    ],
)
def test_the_stream_that_players_show(
    sizes: list[int], counts: list[int], default: int | None, shown: int, suffix: str, tmp_path: Path
) -> None:
    if (suffix == "ts") == (default is not None) and suffix != "mkv":
        pytest.skip("a transport stream has no default, an MP4 file always one")
    parts = [
        write_clip(tmp_path / f"{number}.mp4", range(100 * number, 100 * number + 30), size=(size, size))
        for number, size in enumerate(sizes)
    ]
    file = write_streams(
        tmp_path / f"a.{suffix}", list(zip(parts, counts, strict=True)), default=-1 if default is None else default
    )
    assert read_numbers(decoded(file, EVERY_FRAME).pixels)[0] == 100 * shown
    assert read_header(Clip(source=str(file))).width == sizes[shown]


def test_sound_is_said_to_be_sound(tmp_path: Path) -> None:
    assert failure(write_audio(tmp_path / "a.mp3", codec="mp3")).kind == "no_video"
