"""What cannot be captioned says what is wrong with it."""

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
from av.video.stream import VideoStream
from clips import cut, read_numbers, write_audio, write_clip
from decoding import BUDGET, EVERY_FRAME, decoded, failure, painted

from reelscribe.errors import ClipError
from reelscribe.values import Clip
from reelscribe.video.decode import decode

# What cannot be captioned


def test_a_missing_file_is_told_with_where_it_was_looked_for(tmp_path: Path) -> None:
    for source in ("gone.mp4", "gone/clip.mp4", "bad\0name.mp4", "half \ud800.mp4"):
        with pytest.raises(ClipError, match=r"there is no such file; paths start from") as caught:
            decode(Clip(source=source, root=tmp_path), BUDGET)
        assert caught.value.kind == "missing"
        assert str(caught.value).endswith(f"paths start from {tmp_path}.")
    with pytest.raises(ClipError, match=rf"paths start from {re.escape(str(Path.cwd()))}\.$"):
        decode(Clip(source="gone.mp4", root=Path()), BUDGET)
    with pytest.raises(ClipError, match=r"^https://host/clip\.mp4: there is no such file"):
        decode(Clip(source="https://host/clip.mp4"), BUDGET)


def text(file: Path) -> Path:
    file.write_text("This is no video.\n" * 50)
    return file


def noise(file: Path) -> Path:
    file.write_bytes(random.Random(0).randbytes(1000))
    return file


def folder_of_that_name(file: Path) -> Path:
    file.mkdir()
    return file


def empty(file: Path) -> Path:
    file.touch()
    return file


def picture(file: Path, codec: str, container_format: str) -> Path:
    options = {"update": "1"}
    pixel_format = "yuvj420p" if codec == "mjpeg" else "rgb24"
    with av.open(str(file), "w", format=container_format, options=options) as container:
        stream = cast(VideoStream, container.add_stream(cast(Any, codec), rate=1))
        stream.width, stream.height, stream.pix_fmt = 160, 120, pixel_format
        container.mux(stream.encode(painted(7, 160, 120, pixel_format)))
        container.mux(stream.encode())
    return file


def name_too_long(file: Path) -> Path:
    return file.parent / ("x" * 300 + ".mp4")


def header_behind(file: Path) -> Path:
    return cut(write_clip(file.with_name("whole.mp4")), file, keep=0.6)


ODD: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "0 bytes": (empty, "unreadable", r"is empty \(0 bytes\)\.$"),
    "text": (text, "unreadable", r"cannot be opened as a video: it looks like text\.$"),
    "noise": (noise, "unreadable", r"cannot be opened as a video: Invalid data found"),
    "a folder": (folder_of_that_name, "unreadable", r"is not a file\.$"),
    "an impossible name": (name_too_long, "unreadable", r"cannot be read: File name too long\.$"),
    "a cut file with its header at the end": (
        header_behind,
        "unreadable",
        r"cannot be opened as a video: Invalid data",
    ),
    "audio only": (write_audio, "no_video", r"has no video stream, only audio\.$"),
    "one frame": (lambda file: write_clip(file, [7]), "too_short", r"has 1 frame; at least 2 are needed\.$"),
    "a JPEG": (lambda file: picture(file, "mjpeg", "image2"), "unreadable", r"it looks like a picture \(JPEG\)\.$"),
    "a PNG": (lambda file: picture(file, "png", "image2"), "unreadable", r"it looks like a picture \(PNG\)\.$"),
}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_file_says_what_is_wrong_with_it(odd: str, tmp_path: Path) -> None:
    make, kind, message = ODD[odd]
    file = make(tmp_path / "clip.mp4")
    error = failure(file)
    assert error.kind == kind
    with pytest.raises(ClipError, match=message):
        raise error
    assert str(error).startswith(str(file))


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    cover = picture(tmp_path / "cover.jpg", "mjpeg", "image2").read_bytes()
    frame = b"\0image/jpeg\0\3\0" + cover  # encoding, type, "front cover", no description
    tag = b"APIC" + len(frame).to_bytes(4) + b"\0\0" + frame
    size = bytes(len(tag) >> shift & 0x7F for shift in (21, 14, 7, 0))
    sound = write_audio(tmp_path / "sound.mp3", codec="mp3").read_bytes()
    error = failure(b"ID3\3\0\0" + size + tag + sound[sound.index(b"\xff\xf3") :])
    assert error.kind == "no_video"
    assert str(error).endswith("has no video stream, only a cover picture and audio.")


def test_a_codec_that_cannot_be_decoded_is_told(plain: Path) -> None:
    error = failure(plain.read_bytes().replace(b"avc1\0", b"zzzz\0"))
    assert error.kind == "unreadable"
    with pytest.raises(ClipError, match=r"bytes>: there is no decoder for its video codec\.$"):
        raise error


def test_empty_bytes_are_told_as_an_empty_file_is() -> None:
    error = failure(b"")
    assert (error.kind, str(error)) == ("unreadable", "<0 bytes> is empty (0 bytes).")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("cut.mp4", {"container_options": {"movflags": "faststart"}}, r"\d+ of the 60 frames that it states are there"),
        ("cut.mov", {"container_options": {"movflags": "faststart"}}, r"\d+ of the 60 frames that it states are there"),
        ("cut.mkv", {}, r"[\d,]+ of the [\d,]+ bytes that it states are there"),
        ("cut.webm", {"codec": "libvpx-vp9"}, r"[\d,]+ of the [\d,]+ bytes that it states are there"),
        ("cut.avi", {"codec": "mpeg4"}, r"[\d,]+ of the [\d,]+ bytes that it states are there"),
    ],
)
@pytest.mark.parametrize("keep", [0.6, 0.9])
def test_a_file_that_was_cut_short_says_how_much_is_there(
    name: str, settings: dict[str, Any], message: str, keep: float, tmp_path: Path
) -> None:
    whole = write_clip(tmp_path / f"whole_{name}", range(60), **settings)
    assert len(decoded(whole, EVERY_FRAME).pixels) == 60
    file = cut(whole, tmp_path / name, keep=keep)
    for source in (file, file.read_bytes()):
        error = failure(source)
        assert error.kind == "decode"
        with pytest.raises(ClipError, match=f"is cut short: {message}"):
            raise error


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_an_avi_file_that_was_never_finished_states_no_length(size: int, tmp_path: Path) -> None:
    data = write_clip(tmp_path / "whole.avi", codec="mpeg4").read_bytes()
    frames = decode(Clip(source=data[:4] + size.to_bytes(4, "little") + data[8:]), EVERY_FRAME)
    assert read_numbers(frames.pixels) == list(range(30))


@pytest.mark.parametrize("suffix", ["mp4", "mov"])
def test_a_file_that_lacks_a_byte_lacks_a_frame(suffix: str, tmp_path: Path) -> None:
    whole = write_clip(tmp_path / f"whole.{suffix}", container_options={"movflags": "faststart"}).read_bytes()
    with pytest.raises(ClipError, match=r"is cut short: 29 of the 30 frames that it states are there\.$"):
        raise failure(whole[:-1])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cut.flv", r"is damaged: of its \d+ packets, 1 cannot be read whole\.$"),
        ("cut.h264", r"; the file is damaged\.$"),
    ],
)
def test_a_last_frame_that_is_not_whole_is_damage(name: str, message: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"container_format": "h264"} if name == "cut.h264" else {}
    whole = write_clip(tmp_path / f"whole_{name}", range(60), **settings)
    error = failure(cut(whole, tmp_path / name, keep=0.6))
    assert error.kind == "decode"
    with pytest.raises(ClipError, match=message):
        raise error


@pytest.mark.parametrize("name", ["cut.ts", "live.mkv"])
def test_a_stream_that_states_no_length_gives_what_is_there(name: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"container_options": {"live": "1"}} if name == "live.mkv" else {}
    whole = write_clip(tmp_path / f"whole_{name}", range(60), keyframe_every=20, **settings)
    frames = decoded(cut(whole, tmp_path / name, keep=0.6), EVERY_FRAME)
    # A frame that is shown before the last one may be stored behind it.
    assert read_numbers(frames.pixels) == [round(seconds * 25) for seconds in frames.timestamps]
    assert 20 < len(frames.pixels) < 55


def damage(data: bytes, rng: random.Random, start: float, length: int) -> bytes:
    """Overwrite some bytes, at a place in the part of a file that begins at a share of it."""
    at = rng.randrange(int(len(data) * start), len(data) - length)
    return data[:at] + rng.randbytes(length) + data[at + length :]


def test_damage_inside_a_file_is_noticed_as_far_as_the_decoder_notices_it(tmp_path: Path) -> None:
    options, container_options = {"x264-params": "slices=2"}, {"movflags": "faststart"}
    file = tmp_path / "whole.mp4"
    write_clip(file, range(120), keyframe_every=20, options=options, container_options=container_options)
    data, whole = file.read_bytes(), decoded(file)
    rng = random.Random(7)
    unnoticed = []
    for number in range(100):
        try:
            frames = decode(Clip(source=damage(data, rng, 0.4, 4)), BUDGET, threads=2)
        except ClipError as error:
            assert error.kind == "decode"  # noqa: PT017
        else:
            if not np.array_equal(frames.pixels, whole.pixels):
                unnoticed.append(number)
    assert len(unnoticed) <= 10, "H.264 has no checksum: a few changes make another picture that is valid"


def test_a_decoder_s_error_is_told_in_its_own_words(tmp_path: Path) -> None:
    data = bytearray(write_clip(tmp_path / "whole.mp4", container_options={"movflags": "faststart"}).read_bytes())
    data[-600:-200] = bytes(400)
    error = failure(bytes(data))
    assert error.kind == "decode"
    assert str(error).endswith("decoding broke off: Invalid data found when processing input; the file is damaged.")
