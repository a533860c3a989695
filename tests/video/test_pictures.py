"""Pictures are upright, in shape and in true colours."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from clips import read_numbers, write_clip
from decoding import BUDGET, EVERY_FRAME, decoded

from reelscribe.values import Clip
from reelscribe.video.decode import decode

# Upright, in shape, in colour


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
@pytest.mark.parametrize(("suffix", "mirrored"), [("mp4", False), ("mp4", True), ("mkv", False)])
def test_pictures_are_upright(suffix: str, mirrored: bool, turn: int, tmp_path: Path) -> None:
    file = write_clip(tmp_path / f"turned.{suffix}", turn=turn, mirrored=mirrored, size=(192, 128))
    frames = decoded(file)
    assert read_numbers(frames.pixels) == [0, 5, 11, 17, 23, 29]
    assert frames.pixels.shape[1:3] == ((192, 128) if turn % 2 else (128, 192))


ONE = 1 << 16


@pytest.mark.parametrize(
    ("matrix", "turns"),
    [
        ((0, 0, 0, 0), 0),
        ((ONE, ONE // 2, 0, ONE), 0),
        ((ONE, 0, ONE, ONE), 0),
        ((ONE // 2, ONE // 2, -ONE // 2, ONE // 2), 0),
        ((0, ONE, 0, 0), 0),
        ((2 * ONE, 0, 0, 2 * ONE), 0),
        ((0, 2 * ONE, -2 * ONE, 0), 3),
        ((300, ONE, -ONE, -300), 3),
        ((0, -ONE, ONE, 0), 1),
    ],
)
def test_matrices_that_do_not_turn_are_left_alone(
    matrix: tuple[int, int, int, int], turns: int, tmp_path: Path
) -> None:
    data = bytearray(write_clip(tmp_path / "a.mp4", turn=turns, size=(192, 128)).read_bytes())
    at = data.index(b"tkhd") + 44
    for place, value in zip((0, 4, 12, 16), matrix, strict=True):
        data[at + place : at + place + 4] = value.to_bytes(4, signed=True)
    frames = decode(Clip(source=bytes(data)), BUDGET)
    assert frames.pixels.shape[1:3] == ((192, 128) if turns % 2 else (128, 192))
    assert read_numbers(frames.pixels) == [0, 5, 11, 17, 23, 29]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mpg"])
def test_pixels_that_are_not_square_are_made_so(suffix: str, tmp_path: Path) -> None:
    codec = "mpeg2video" if suffix == "mpg" else "libx264"
    aspect = Fraction(12, 11) if suffix == "mpg" else Fraction(4, 3)
    file = write_clip(tmp_path / f"wide.{suffix}", codec=codec, aspect=aspect, size=(192, 128))
    shape = decoded(file).pixels.shape
    assert shape[2] / shape[1] == pytest.approx(1.5 * aspect, rel=0.1)


def test_a_turned_picture_s_pixels_are_stretched_before_the_turn(tmp_path: Path) -> None:
    frames = decoded(write_clip(tmp_path / "both.mp4", aspect=Fraction(2), turn=1, size=(128, 128)))
    assert frames.pixels.shape[1:3] == (256, 128)
    assert read_numbers(frames.pixels) == [0, 5, 11, 17, 23, 29]


def test_detail_that_is_too_fine_to_keep_is_averaged(tmp_path: Path) -> None:
    def paint(_: int, width: int, height: int) -> VideoFrame:
        checks = (np.indices((height, width)).sum(axis=0) % 2 * 255).astype(np.uint8)
        return VideoFrame.from_ndarray(checks, format="gray").reformat(format="yuv420p")

    file = write_clip(tmp_path / "fine.mp4", range(4), size=(640, 480), paint=paint, options={"crf": "1"})
    pixels = decoded(file, replace(BUDGET, max_video_tokens=80)).pixels
    assert pixels.shape[1:3] < (240, 320)
    assert pixels.std() < 20


RED, GREEN, SKIN = (220, 30, 30), (30, 160, 60), (224, 172, 140)


@pytest.mark.parametrize("colour", [RED, GREEN, SKIN])
@pytest.mark.parametrize(
    ("matrix", "tag", "size"),
    [
        (Colorspace.ITU601, "smpte170m", (160, 128)),
        (Colorspace.ITU601, "bt470bg", (160, 128)),
        (Colorspace.ITU601, "smpte170m", (1280, 720)),
        (Colorspace.ITU709, "bt709", (160, 128)),
        (Colorspace.ITU709, "bt709", (1280, 720)),
        (Colorspace.ITU601, "unknown", (160, 128)),
        (Colorspace.ITU709, "unknown", (1280, 720)),
        (Colorspace.BT2020, "bt2020nc", (160, 128)),
    ],
)
def test_colours_stay_what_they_are(
    colour: tuple[int, int, int], matrix: Colorspace, tag: str, size: tuple[int, int], tmp_path: Path
) -> None:
    for levels, level_tag in ((ColorRange.MPEG, "tv"), (ColorRange.JPEG, "pc")):

        def paint(_: int, width: int, height: int, levels: ColorRange = levels) -> VideoFrame:
            flat = VideoFrame.from_ndarray(np.full((height, width, 3), colour, np.uint8), format="rgb24")
            return flat.reformat(format="yuv420p", dst_colorspace=matrix, dst_color_range=levels)

        options = {"colorspace": tag, "color_range": level_tag}
        file = write_clip(tmp_path / "flat.mp4", range(2), size=size, options=options, paint=paint)
        pixels = decoded(file).pixels.reshape(-1, 3)
        assert np.abs(pixels.mean(axis=0) - colour).max() < 4


@pytest.mark.parametrize("size", [(160, 128), (1280, 720)])
def test_greys_come_out_to_the_step(size: tuple[int, int], tmp_path: Path) -> None:
    levels = (16, 40, 90, 126, 180, 235)

    def paint(level: int, width: int, height: int) -> VideoFrame:
        frame = VideoFrame(width, height, "yuv420p")
        for plane, value in zip(frame.planes, (level, 128, 128), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        return frame

    pixels = decoded(
        write_clip(tmp_path / "grey.mp4", levels, size=size, paint=paint, options={"qp": "0"}), EVERY_FRAME
    ).pixels
    for picture, level in zip(pixels, levels, strict=True):
        assert np.abs(picture.astype(int) - (level - 16) * 255 / 219).max() <= 1
