"""Files that claim or hold far too much, and files that are none: a clear failure, within the limits."""

import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
from av.packet import Packet
from clips import read_numbers, write_clip
from decoding import BUDGET, EVERY_FRAME, decoded, failure

from reelscribe.errors import ClipError
from reelscribe.values import Clip
from reelscribe.video import checked, opening, sampling
from reelscribe.video.decode import decode
from reelscribe.video.isolate import DecoderPool

# Pictures


def gif(width: int, height: int) -> bytes:
    """Two frames of one pixel each in a picture that is said to be large."""
    picture = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x4c\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff" + picture * 2 + b";"


def png(width: int, height: int) -> bytes:
    """An animated picture that is said to be large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    animation = chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(
        b"fcTL", struct.pack(">IIIIIHHBB", 0, 1, 1, 0, 0, 1, 25, 0, 0)
    )
    data = zlib.compress(bytes(1 << 16))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + animation + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("make", [gif, png])
def test_pictures_that_are_said_to_be_huge_are_not_made(make: Callable[[int, int], bytes]) -> None:
    error = failure(make(9000, 9000))
    assert error.kind == "too_large"
    with pytest.raises(ClipError, match=r"its pictures are of 9,000 x 9,000 pixels; at most 67,108,864 are decoded\.$"):
        raise error


@pytest.mark.parametrize("data", [gif(65535, 65535), png(100_000, 100_000), png(2**31 - 1, 2**31 - 1)])
def test_sizes_that_no_picture_can_have_are_failures_too(data: bytes) -> None:
    pool = DecoderPool(seconds=60, max_memory=256 << 20)
    with pytest.raises(ClipError) as caught:
        pool.decode(Clip(source=data), BUDGET, threads=1)
    assert caught.value.kind in ("too_short", "too_large", "unreadable", "decode")


def test_pictures_that_grow_beyond_the_limit_on_the_way_are_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [write_clip(tmp_path / f"{w}.h264", range(10), container_format="h264", size=(w, w)) for w in (128, 256)]
    data = b"".join(part.read_bytes() for part in parts)
    assert read_numbers(decode(Clip(source=data), EVERY_FRAME).pixels) == [*range(10), *range(10)]
    for module in (opening, checked):
        monkeypatch.setattr(module, "MAX_PIXELS", 200 * 200)
    error = failure(data, EVERY_FRAME)
    assert error.kind == "decode"
    assert str(error).endswith("the file is damaged.")


# Lengths


def write_still(file: Path, count: int) -> Path:
    """One keyframe, and then frames that change nothing, 25 a second."""
    source = write_clip(
        file.with_name("two.mp4"), [7, 7], size=(64, 64), b_frames=0, options={"x264-params": "scenecut=0"}
    )
    with av.open(str(source)) as container, av.open(str(file), "w") as target:
        stream = container.streams.video[0]
        copied = target.add_stream_from_template(stream)
        keyframe, still = (packet for packet in container.demux(stream) if packet.size)
        for number in range(count):
            packet: Packet[Any] = Packet(bytes(still if number else keyframe))
            packet.stream, packet.time_base = copied, still.time_base
            packet.pts = packet.dts = number * 512
            packet.duration, packet.is_keyframe = 512, number == 0
            target.mux(packet)
    return file


def test_an_hour_of_a_still_stays_within_the_limits(tmp_path: Path) -> None:
    file = write_still(tmp_path / "still.mp4", 100_000)
    frames = DecoderPool(seconds=300, max_memory=200 << 20).decode(Clip(source=str(file)), BUDGET, threads=1)
    assert len(frames.pixels) == BUDGET.max_frames
    assert set(read_numbers(frames.pixels)) == {7}
    assert frames.duration_seconds == pytest.approx(4000)
    with pytest.raises(ClipError, match=r"took longer than 0\.01 seconds to decode") as caught:
        DecoderPool(seconds=0.01, max_memory=200 << 20).decode(Clip(source=str(file)), BUDGET, threads=1)
    assert caught.value.kind == "timeout"


# Not a file


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def link_to_nothing(path: Path) -> None:
    path.symlink_to("nowhere.mp4")


@pytest.mark.skipif(os.name != "posix", reason="has no such files")
@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (pipe, "unreadable", r"clip\.mp4 is not a file\.$"),
        (device, "unreadable", r"clip\.mp4 is not a file\.$"),
        (unix_socket, "unreadable", r"clip\.mp4 is not a file\.$"),
        (link_to_itself, "unreadable", r"clip\.mp4 cannot be read: Too many levels of symbolic links\.$"),
        (link_to_nothing, "missing", r"clip\.mp4: there is no such file; paths start from"),
    ],
)
def test_what_is_no_file_is_not_opened(
    make: Callable[[Path], None], kind: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path("clip.mp4"))
    error = failure(Path("clip.mp4"))
    assert error.kind == kind
    with pytest.raises(ClipError, match=message):
        raise error


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.mp4", "ffconcat version 1.0\nfile plain.mp4\n"),
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.2,\nplain.mp4\n#EXT-X-ENDLIST\n"),
    ],
)
def test_lists_of_other_files_are_refused(
    name: str, text: str, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plain.mp4").write_bytes(plain.read_bytes())
    Path(name).write_text(text)
    for source in (Path(name), text.encode()) if name == "list.mp4" else (Path(name),):
        error = failure(source)
        assert error.kind == "unreadable"
        with pytest.raises(ClipError, match=r" is a list of other files, not a video\.$"):
            raise error


@pytest.mark.parametrize("file", ["/proc/kmsg", "/proc/self/mem"])
def test_files_of_the_kernel_s_own_are_not_read(file: str) -> None:
    if not Path(file).exists():
        pytest.skip("this system has no such file")
    assert failure(Path(file)).kind == "unreadable"


def test_an_error_that_nobody_foresaw_costs_the_clip(
    plain: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(sampling, "pick_frames", broken)
    error = failure(plain)
    assert error.kind == "crashed"
    with pytest.raises(ClipError, match=r"its decoder crashed \(ZeroDivisionError: division by zero\)\.$"):
        raise error
    assert "Traceback" in caplog.text


def test_memory_that_runs_out_is_no_damage(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(sampling, "pick_frames", out_of_memory)
    with pytest.raises(ClipError, match=r"decoding it takes more memory than there is\.$") as caught:
        decoded(plain)
    assert caught.value.kind == "too_large"
