"""High dynamic range and wide colours look as their SDR version does; pictures of two fields are of one moment."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from clips import read_numbers, write_clip
from decoders import pool
from decoding import BUDGET, decoded
from numpy.typing import NDArray

from reelscribe.outcomes import tell_frames
from reelscribe.values import Clip

WHOLE = Clip(source="a.mp4")

SHADES = [
    (1.0, 1.0, 1.0), (0.75, 0.75, 0.75), (0.4, 0.4, 0.4), (0.1, 0.1, 0.1),
    (0.75, 0.0, 0.0), (0.0, 0.75, 0.0), (0.0, 0.0, 0.75), (0.8, 0.6, 0.45),
]  # fmt: skip
"""Colours of an SDR picture, with BT.709's primaries, as shares of the range."""
WHITE = 203.0
TO_BT2020 = np.array(  # BT.2087
    [[0.627404, 0.329283, 0.043313], [0.069097, 0.919540, 0.011362], [0.016391, 0.088013, 0.895595]]
)


def pq(light: NDArray[Any]) -> NDArray[Any]:
    """BT.2100, table 4."""
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    power = (light / 10_000) ** m1
    return cast(NDArray[Any], ((c1 + c2 * power) / (1 + c3 * power)) ** m2)


def hlg(light: NDArray[Any]) -> NDArray[Any]:
    """BT.2100, table 5, for a display of 1,000 cd/m2: first what the display adds is taken away."""
    luminance = (light @ [0.2627, 0.6780, 0.0593])[..., None] / 1000
    scene = light / 1000 * np.maximum(luminance, 1e-9) ** (-0.2 / 1.2)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)


def sdr(light: NDArray[Any]) -> NDArray[Any]:
    """BT.1886."""
    return cast(NDArray[Any], np.maximum(light / WHITE, 0) ** (1 / 2.4))


def write_bars(
    file: Path, values: NDArray[Any], *, tags: tuple[int, int, int], bits: int = 10, full: bool = False
) -> Path:
    """Lossless bars of colours, from left to right.

    Args:
        file: to write.
        values: red, green and blue of each, from 0 to 1, as the transfer function gives them.
        tags: primaries, transfer and matrix, as FFmpeg numbers them.
        bits: of each value.
        full: whether values take the whole range.
    """
    red, blue = {9: (0.2627, 0.0593), 1: (0.2126, 0.0722), 6: (0.299, 0.114), 2: (0.2627, 0.0593)}[tags[2]]
    luma = values @ [red, 1 - red - blue, blue]
    chroma = [(values[:, 2] - luma) / (2 - 2 * blue), (values[:, 0] - luma) / (2 - 2 * red)]
    unit, most = 1 << bits - 8, (1 << bits) - 1
    stored = [luma * most if full else (16 + 219 * luma) * unit]
    stored += [(each * most if full else each * 224 * unit) + 128 * unit for each in chroma]
    with av.open(str(file), "w") as target:
        stream: Any = target.add_stream(cast(Any, "ffv1"), rate=10)
        stream.width, stream.height = 32 * len(values), 64
        stream.pix_fmt = f"yuv444p{bits}le" if bits > 8 else "yuv444p"
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace = tags
        context.color_range = 2 if full else 1
        for number in range(4):
            frame = VideoFrame(stream.width, stream.height, stream.pix_fmt)
            frame.color_primaries, frame.color_trc, frame.colorspace = tags
            frame.color_range = 2 if full else 1
            for plane, line in zip(frame.planes, stored, strict=True):
                kind = np.dtype("<u2" if bits > 8 else "u1")
                row = np.zeros(plane.line_size // kind.itemsize, kind)
                row[: stream.width] = np.repeat(np.round(line), 32)
                plane.update(np.tile(row, plane.height).tobytes())
            frame.pts = number
            target.mux(stream.encode(frame))
        target.mux(stream.encode())
    return file


def bars_of(file: Path, count: int) -> NDArray[np.int64]:
    """The colours of bars, decoded: shape (bars, 3)."""
    picture: NDArray[np.int64] = decoded(file).pixels[1].astype(np.int64)
    height, width, _ = picture.shape
    middles = [width * (2 * number + 1) // (2 * count) for number in range(count)]
    colours: NDArray[np.int64] = picture[height // 2, middles]
    return colours


def light_of(shades: Sequence[Sequence[float]]) -> NDArray[Any]:
    return np.array(shades) ** 2.4 * WHITE


@pytest.mark.parametrize(("kind", "transfer", "encode"), [("pq", 16, pq), ("hlg", 18, hlg)])
@pytest.mark.parametrize(("primaries", "matrix"), [(9, 9), (2, 2), (1, 9)])
@pytest.mark.parametrize("full", [False, True])
def test_high_dynamic_range_looks_as_its_sdr_version(
    kind: str, transfer: int, encode: Any, primaries: int, matrix: int, full: bool, tmp_path: Path
) -> None:
    light = light_of(SHADES)
    values = encode(light if primaries == 1 else light @ TO_BT2020.T)
    file = write_bars(tmp_path / "a.mkv", values, tags=(primaries, transfer, matrix), full=full)
    shown, wanted = bars_of(file, len(SHADES)), np.array(SHADES) * 255
    assert 238 <= shown[0].min() <= shown[0].max() <= 244  # of reference white something is left for what is brighter
    assert np.abs(shown[1:4] - wanted[1:4]).max() <= 2
    assert np.abs(shown - wanted).max() <= 18  # one step of ten bits beside full light is 17 of 255 in the dark
    frames = decoded(file)
    assert frames.tone_mapped == kind
    assert tell_frames(frames, WHOLE)["tone_mapped"] == kind
    assert pool().decode(Clip(source=str(file)), BUDGET, threads=1).tone_mapped == kind


def test_light_beyond_white_is_rolled_off_not_cut_off(tmp_path: Path) -> None:
    steps = np.array([[level] * 3 for level in (203, 300, 450, 650, 1000, 4000)])
    shown = bars_of(write_bars(tmp_path / "a.mkv", pq(steps), tags=(9, 16, 9)), len(steps))[:, 1]
    assert list(shown) == sorted(shown)
    assert len(set(shown[:4])) == 4
    assert shown[-1] == 255
    bright_red = light_of([[1.0, 0.2, 0.1]]) * 4
    red = bars_of(write_bars(tmp_path / "b.mkv", pq(bright_red @ TO_BT2020.T), tags=(9, 16, 9)), 1)[0]
    assert red[0] > 245
    assert red[1] < 80


@pytest.mark.parametrize("full", [False, True])
def test_wide_colours_of_sdr_are_the_same_colours(full: bool, tmp_path: Path) -> None:
    values = sdr(light_of(SHADES) @ TO_BT2020.T)
    file = write_bars(tmp_path / "a.mkv", values, tags=(9, 14, 9), full=full)
    assert np.abs(bars_of(file, len(SHADES)) - np.array(SHADES) * 255).max() <= 18
    assert tell_frames(decoded(file), WHOLE)["tone_mapped"] == ""


@pytest.mark.parametrize("matrix", [1, 6])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("bits", [8, 10])
def test_plain_colours_are_exact(matrix: int, full: bool, bits: int, tmp_path: Path) -> None:
    file = write_bars(tmp_path / "a.mkv", np.array(SHADES), tags=(1, 1, matrix), full=full, bits=bits)
    assert np.abs(bars_of(file, len(SHADES)) - np.array(SHADES) * 255).max() <= 2


def test_fine_steps_of_ten_bits_are_kept(tmp_path: Path) -> None:
    # Two neighbours of ten bits in the dark, where eight bits of PQ would be coarser than those of SDR.
    light = np.array([[level] * 3 for level in np.linspace(0.5, 8, 24)])
    shown = bars_of(write_bars(tmp_path / "a.mkv", pq(light), tags=(9, 16, 9)), len(light))[:, 1]
    assert np.abs(shown - sdr(light)[:, 0] * 255).max() <= 1.5


# Two fields


def combed(numbers: tuple[int, int]) -> Any:
    """Pictures whose lines are by turns those of one picture and of another."""

    def paint(place: int, width: int, height: int) -> VideoFrame:
        pictures = [
            VideoFrame.from_ndarray(np.full((height, width, 3), level, np.uint8), format="rgb24").to_ndarray()
            for level in numbers
        ]
        woven = pictures[0].copy()
        woven[1::2] = pictures[1][1::2]
        return VideoFrame.from_ndarray(woven, format="rgb24").reformat(format="yuv420p")

    return paint


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_two_fields_do_not_mix(codec: str, tmp_path: Path) -> None:
    options = {"flags": "+ilme+ildct", "qp": "2"} if codec == "libx264" else {"flags": "+ilme+ildct", "qmin": "1"}
    file = write_clip(
        tmp_path / "a.ts", range(8), codec=codec, size=(256, 192), paint=combed((40, 200)), options=options
    )
    frames = decoded(file)
    assert np.abs(frames.pixels.astype(int) - 40).max() < 12
    assert frames.deinterlaced
    assert tell_frames(frames, WHOLE)["deinterlaced"] is True
    assert pool().decode(Clip(source=str(file)), BUDGET, threads=1).deinterlaced


def test_fields_keep_their_frames_and_times(tmp_path: Path) -> None:
    plain = decoded(write_clip(tmp_path / "a.mp4"))
    fields = decoded(write_clip(tmp_path / "b.mp4", options={"flags": "+ilme+ildct"}))
    assert read_numbers(fields.pixels) == read_numbers(plain.pixels)
    assert fields.timestamps == plain.timestamps
    assert fields.pixels.shape == plain.pixels.shape
    assert not plain.deinterlaced
    assert tell_frames(plain, WHOLE)["deinterlaced"] is False
