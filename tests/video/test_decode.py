"""Clips of many kinds to frames: the right ones, upright, in true colours, or a failure that says what is wrong."""

import logging
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from clips import VOP, copy_packets, cut, draw_number, pack_b_frames, read_numbers, repeat_last, write_audio, write_clip

from reelscribe.errors import ClipError
from reelscribe.schema import Clip, Frames
from reelscribe.video import decode as decode_module
from reelscribe.video.decode import decode
from reelscribe.video.index import FrameIndex, open_clip, packets_of, read_index, video_stream
from reelscribe.video.sampling import FrameBudget, VisionLimits

BUDGET = FrameBudget(fps=5, min_frames=4, max_frames=768, max_video_tokens=2000, limits=VisionLimits())
EVERY_FRAME = replace(BUDGET, fps=1000)

KINDS: dict[str, dict[str, Any]] = {
    "h264.mp4": {},
    "h264.mov": {},
    "h264.mkv": {},
    "h264.ts": {"keyframe_every": 10},
    "h264.flv": {},
    "h264.avi": {},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}, "keyframe_every": 10},
    "live.mkv": {"container_options": {"live": "1"}},
    "bare.h264": {"container_format": "h264"},
    "ten_bits.mp4": {"options": {"profile": "high10"}, "paint": lambda n, w, h: painted(n, w, h, "yuv420p10le")},
    "hevc.mp4": {"codec": "libx265"},
    "bare.hevc": {"codec": "libx265", "container_format": "hevc"},
    "vp8.webm": {"codec": "libvpx"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "av1.mkv": {"codec": "libsvtav1"},
    "mpeg4.avi": {"codec": "mpeg4", "b_frames": 0},
    "mpeg4_b_frames.avi": {"codec": "mpeg4"},
    "mpeg2.mpg": {"codec": "mpeg2video", "keyframe_every": 12},
    "mpeg2.ts": {"codec": "mpeg2video", "keyframe_every": 12},
}
"""Clips of 30 frames at 25 a second, each the same to a viewer."""


def painted(number: int, width: int, height: int, pixel_format: str) -> VideoFrame:
    return VideoFrame.from_ndarray(draw_number(number, width, height), format="rgb24").reformat(format=pixel_format)


def decoded(file: Path, budget: FrameBudget = BUDGET) -> Frames:
    return decode(Clip(source=str(file)), budget)


def failure(file: Path | bytes, budget: FrameBudget = BUDGET) -> ClipError:
    with pytest.raises(ClipError) as caught:
        decode(Clip(source=file if isinstance(file, bytes) else str(file)), budget)
    return caught.value


def index_of(file: Path) -> FrameIndex:
    clip = Clip(source=str(file))
    with open_clip(clip) as container:
        return read_index(container, video_stream(container, clip), clip, [], 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def plain(folder: Path) -> Path:
    """H.264 in MP4, 160x120, 30 frames at 25 a second, the header in front."""
    return write_clip(folder / "plain.mp4", container_options={"movflags": "faststart"})


@pytest.fixture(params=["shortcuts", "every frame"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make the decoder take one of its two ways, and no other."""

    def closed(*_: Any) -> Iterator[tuple[int, VideoFrame]]:
        raise ClipError("decode", "this way is closed")

    monkeypatch.setattr(decode_module, "_decode_all" if request.param == "shortcuts" else "_decode_runs", closed)
    return str(request.param)


# The right frames


@pytest.mark.parametrize("name", KINDS)
def test_frames_times_and_size_are_right_in_every_container_and_codec(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_clip(tmp_path / name, **KINDS[name])
    with caplog.at_level(logging.DEBUG):
        frames = decoded(file)
    assert read_numbers(frames.pixels) == [0, 5, 11, 17, 23, 29]
    assert frames.timestamps == pytest.approx([0, 0.2, 0.44, 0.68, 0.92, 1.16], abs=0.0011)
    assert frames.duration_seconds == pytest.approx(1.2, abs=0.0011)
    assert frames.pixels.shape == (6, 128, 160, 3)
    assert frames.pixels.dtype == np.uint8
    assert frames.video_tokens == 3 * 4 * 5
    assert not caplog.records, "the quick way failed"


@pytest.mark.parametrize("name", ["h264.mp4", "h264.ts", "h264.avi", "bare.h264", "hevc.mp4", "vp9.webm", "mpeg2.mpg"])
def test_a_clip_can_be_had_whole(name: str, tmp_path: Path) -> None:
    frames = decoded(write_clip(tmp_path / name, **KINDS[name]), EVERY_FRAME)
    assert read_numbers(frames.pixels) == list(range(30))
    assert frames.timestamps == pytest.approx([number / 25 for number in range(30)], abs=0.0011)


@pytest.mark.parametrize(
    ("name", "settings"),
    {
        "sparse_keyframes.mp4": {},
        "many_keyframes.mp4": {"keyframe_every": 10},
        "open_groups.mp4": {"options": {"x264-params": "open-gop=1:keyint=10:min-keyint=10"}},
        "open_groups.ts": {"options": {"x264-params": "open-gop=1:keyint=10:min-keyint=10"}},
        "pyramid.mkv": {"options": {"x264-params": "b-pyramid=strict:bframes=7"}, "b_frames": 7},
        "hevc_open.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:open-gop=1:keyint=10"}},
        "hevc_layers.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:temporal-layers=3"}},
        "vp9.webm": {"codec": "libvpx-vp9", "keyframe_every": 10},
        "av1.mkv": {"codec": "libsvtav1", "keyframe_every": 10},
        "mpeg4.mov": {"codec": "mpeg4", "keyframe_every": 10},
        "mpeg2.mpg": {"codec": "mpeg2video", "keyframe_every": 10},
        "mpeg4.avi": {"codec": "mpeg4", "keyframe_every": 10, "b_frames": 0},
    }.items(),
)
@pytest.mark.parametrize("fps", [0.8, 1.1, 3])
def test_both_ways_through_a_file_give_the_same_frames(
    name: str, settings: dict[str, Any], fps: float, folder: Path, way: str
) -> None:
    file = folder / name
    if not file.exists():
        write_clip(file, range(128), **settings)
    frames = decoded(file, replace(BUDGET, fps=fps))
    expected = [round(second * 25) for second in frames.timestamps]
    assert read_numbers(frames.pixels) == expected
    assert expected[0] == 0
    assert expected[-1] == 127


def test_frames_between_the_needed_ones_are_passed_over(folder: Path) -> None:
    file = write_clip(folder / "dense.mp4", range(120), keyframe_every=10, options={"x264-params": "scenecut=0"})
    index = index_of(file)
    runs = decode_module._runs(index, [index.pts[number] for number in (0, 42, 88, 119)])
    assert [run.start for run in runs] == [0, 40, 80, 110]
    assert sum(len(run) for run in runs) < 30


def test_frames_that_no_other_refers_to_are_not_decoded(folder: Path) -> None:
    file = write_clip(folder / "b_frames.mp4", options={"x264-params": "scenecut=0:b-adapt=0:bframes=2"})
    index, clip = index_of(file), Clip(source=str(file))
    with open_clip(clip) as container:
        wanted = [index.pts[0], index.pts[29]]
        given = list(decode_module._decode_runs(container, video_stream(container, clip), index, wanted))
    assert len(given) <= 20
    assert {*wanted} <= {pts for pts, _ in given}


def test_frames_are_counted_where_a_container_has_no_times_of_its_own(folder: Path) -> None:
    assert not index_of(write_clip(folder / "h264.avi", b_frames=0)).timed  # a late one may yet refer to a later one
    assert not index_of(write_clip(folder / "b_frames.avi", codec="mpeg4")).timed
    assert index_of(write_clip(folder / "in_order.avi", codec="mpeg4", b_frames=0)).timed
    assert index_of(write_clip(folder / "times.mkv", codec="mpeg4")).timed


def test_threads_change_nothing(plain: Path) -> None:
    one, many = (decode(Clip(source=str(plain)), BUDGET, threads=threads) for threads in (1, 4))
    assert np.array_equal(one.pixels, many.pixels)


# Times


def test_frames_of_a_variable_rate_are_spread_over_time(tmp_path: Path) -> None:
    times = [0, 10, 20, 30, 40, 1000, 1010, 1020, 2000, 2500, 2510, 4000]
    for name, codec in (("variable.mp4", "libx264"), ("variable.mkv", "libx264"), ("variable.avi", "mpeg4")):
        b_frames = 0 if codec == "mpeg4" else 2
        file = write_clip(tmp_path / name, range(12), codec=codec, b_frames=b_frames, rate=1000, times=times)
        frames = decoded(file, replace(BUDGET, fps=2))
        assert read_numbers(frames.pixels) == [0, 4, 7, 8, 10, 11]
        assert frames.timestamps == (0.0, 0.04, 1.02, 2.0, 2.51, 4.0)


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv", "late.ts"])
def test_times_count_from_the_first_frame_of_a_stream_that_starts_late(name: str, tmp_path: Path) -> None:
    frames = decoded(write_clip(tmp_path / name, times=range(100, 130)))
    assert read_numbers(frames.pixels) == [0, 5, 11, 17, 23, 29]
    assert frames.timestamps == pytest.approx([0, 0.2, 0.44, 0.68, 0.92, 1.16])
    assert frames.duration_seconds == pytest.approx(1.2)


def test_frames_that_an_edit_list_hides_are_not_shown(tmp_path: Path) -> None:
    options = {"avoid_negative_ts": "disabled"}
    frames = decoded(write_clip(tmp_path / "edited.mp4", times=range(-10, 20), container_options=options), EVERY_FRAME)
    assert read_numbers(frames.pixels) == list(range(10, 30))
    assert frames.timestamps == pytest.approx([number / 25 for number in range(20)])
    assert frames.duration_seconds == pytest.approx(0.8)


def test_an_edit_list_that_ends_early_is_no_damage(tmp_path: Path) -> None:
    data = bytearray(write_clip(tmp_path / "whole.mp4", range(100)).read_bytes())
    at = data.index(b"elst") + 12  # type, flags, count; then the length, in milliseconds
    data[at : at + 4] = (1000).to_bytes(4)
    frames = decode(Clip(source=bytes(data)), EVERY_FRAME)
    assert read_numbers(frames.pixels) == list(range(len(frames.pixels)))
    assert frames.duration_seconds == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("name", ["sound.mp4", "sound.mkv", "sound.ts"])
def test_sound_that_is_longer_than_the_picture_is_no_damage(name: str, tmp_path: Path) -> None:
    frames = decoded(write_clip(tmp_path / name, audio_seconds=5.0))
    assert read_numbers(frames.pixels) == [0, 5, 11, 17, 23, 29]
    assert frames.duration_seconds == pytest.approx(1.2)


def test_a_stream_that_starts_between_keyframes_begins_with_the_first_keyframe(tmp_path: Path) -> None:
    data = write_clip(tmp_path / "whole.ts", range(60), keyframe_every=20).read_bytes()
    packet = 188
    tables = data[: 3 * packet]
    frames = decode(Clip(source=tables + data[len(data) // packet // 6 * packet :]), EVERY_FRAME)
    assert read_numbers(frames.pixels) == list(range(20, 60))
    assert frames.timestamps[0] == 0.0
    assert frames.duration_seconds == pytest.approx(1.6)


def test_the_frames_of_files_joined_end_to_end_are_counted(tmp_path: Path) -> None:
    part = write_clip(tmp_path / "part.mpg", codec="mpeg2video", keyframe_every=10).read_bytes()
    frames = decode(Clip(source=part + part), EVERY_FRAME)
    assert read_numbers(frames.pixels) == [*range(30), *range(30)]
    assert frames.duration_seconds == pytest.approx(2.4)


# Packets that are no frames


def test_a_packet_that_repeats_the_last_frame_leaves_that_on_screen(tmp_path: Path) -> None:
    repeated = (5, 10, 11, 12, 29)
    numbers = [number for number in range(30) if number not in repeated]
    shown = [max(n for n in numbers if n <= number) for number in range(30)]
    source = write_clip(tmp_path / "source.mp4", shown, codec="mpeg4", b_frames=0)

    def repeat(packets: list[bytes]) -> list[bytes]:
        return [repeat_last(data) if number in repeated else data for number, data in enumerate(packets)]

    for name in ("repeats.mp4", "repeats.avi"):
        frames = decoded(copy_packets(source, tmp_path / name, repeat), EVERY_FRAME)
        assert read_numbers(frames.pixels) == numbers
        assert frames.timestamps == pytest.approx([number / 25 for number in numbers])


def test_a_packet_without_a_picture_gives_the_frame_that_is_on_screen(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "source.webm", codec="libvpx")

    def hide(packets: list[bytes]) -> list[bytes]:  # the bit of VP8 that says whether a frame is shown
        return [bytes([data[0] & ~0x10]) + data[1:] if number == 11 else data for number, data in enumerate(packets)]

    frames = decoded(copy_packets(source, tmp_path / "hidden.webm", hide))
    assert read_numbers(frames.pixels) == [0, 5, 10, 17, 23, 29]


def test_frames_that_divx_packed_together_are_told_apart(tmp_path: Path) -> None:
    options = {"b_strategy": "0", "sc_threshold": "1000000000"}
    source = write_clip(tmp_path / "source.avi", codec="mpeg4", b_frames=1, options=options)
    packed = copy_packets(source, tmp_path / "packed.avi", pack_b_frames)
    with av.open(str(packed)) as container:
        assert max(bytes(packet).count(VOP) for packet in container.demux(video=0)) == 2
    frames = decoded(packed, EVERY_FRAME)
    assert read_numbers(frames.pixels) == list(range(30))
    assert frames.timestamps == pytest.approx([number / 25 for number in range(30)])


def test_keyframes_that_decoding_cannot_start_at_cost_time_but_no_frame(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Here a part of the picture is refreshed in each frame, and the keyframes only begin another round.
    options = {"x264-params": "intra-refresh=1:keyint=10"}
    file = write_clip(tmp_path / "refreshed.mp4", range(128), options=options)
    with caplog.at_level(logging.DEBUG):
        frames = decoded(file, replace(BUDGET, fps=1.1))
    assert read_numbers(frames.pixels) == [0, 42, 84, 127]
    assert "decoding every frame" in caplog.text


def test_a_stream_that_turns_up_late_does_not_end_the_reading(plain: Path) -> None:
    class Container:
        """Breaks off behind the last packet, as PyAV does when a stream turned up that was not there at the start."""

        def demux(self, stream: VideoStream) -> Iterator[int]:
            yield from (1, 2, 3)
            raise IndexError("list index out of range")

    packets = packets_of(cast(InputContainer, Container()), cast(VideoStream, None))
    assert len(list(packets)) == 3


# Upright, in shape, in colour


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
@pytest.mark.parametrize(("suffix", "mirrored"), [("mp4", False), ("mp4", True), ("mkv", False)])
def test_pictures_are_upright(suffix: str, mirrored: bool, turn: int, tmp_path: Path) -> None:
    file = write_clip(tmp_path / f"turned.{suffix}", turn=turn, mirrored=mirrored, size=(192, 128))
    frames = decoded(file)
    assert read_numbers(frames.pixels) == [0, 5, 11, 17, 23, 29]
    assert frames.pixels.shape[1:3] == ((192, 128) if turn % 2 else (128, 192))


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
        assert np.abs(pixels.mean(axis=0) - colour).max() < 6


# Within the budget


@pytest.mark.parametrize("tokens", [4, 40, 100, 2000])
@pytest.mark.parametrize("fps", [1, 10])
def test_a_clip_costs_what_it_says_and_no_more_than_it_may(tokens: int, fps: float, plain: Path) -> None:
    budget = replace(BUDGET, max_video_tokens=tokens, fps=fps)
    frames = decoded(plain, budget)
    count, height, width, _ = frames.pixels.shape
    assert frames.video_tokens == (count + 1) // 2 * (height // 32) * (width // 32) <= tokens
    assert frames.pixels.nbytes <= budget.max_bytes
    assert len(frames.timestamps) == count


def test_a_small_clip_is_not_blown_up(tmp_path: Path) -> None:
    frames = decoded(write_clip(tmp_path / "small.mp4", size=(64, 64)), replace(BUDGET, max_video_tokens=8192))
    assert frames.pixels.shape[1:3] == (64, 64)


# Where a clip comes from


def test_bytes_are_as_good_as_a_path(plain: Path) -> None:
    by_path, by_bytes = decoded(plain), decode(Clip(source=plain.read_bytes()), BUDGET)
    assert np.array_equal(by_path.pixels, by_bytes.pixels)
    assert by_path.timestamps == by_bytes.timestamps


def test_relative_paths_start_from_the_root_or_else_from_the_working_folder(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert decode(Clip(source=plain.name, root=plain.parent), BUDGET).video_tokens == 60
    assert decode(Clip(source=str(plain), root=Path("/elsewhere")), BUDGET).video_tokens == 60
    monkeypatch.chdir(plain.parent)
    assert decode(Clip(source=plain.name), BUDGET).video_tokens == 60


@pytest.mark.parametrize("name", ["10:30:00.mp4", "http:clip.mp4", "100% %d.mp4", "ünï 影片.mp4", "-i.mp4", "a|b.mp4"])
def test_a_path_is_a_path_whatever_it_looks_like(
    name: str, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(plain.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert decode(Clip(source=name), BUDGET).video_tokens == 60


def test_a_path_that_is_no_unicode_can_be_opened(plain: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    (tmp_path / name).write_bytes(plain.read_bytes())
    assert decode(Clip(source=name, root=tmp_path), BUDGET).video_tokens == 60


# What cannot be captioned


def test_a_missing_file_is_told_with_where_it_was_looked_for(tmp_path: Path) -> None:
    for source in ("gone.mp4", "gone/clip.mp4", "bad\0name.mp4", "half \ud800.mp4"):
        with pytest.raises(ClipError, match=r"there is no such file; paths start from") as caught:
            decode(Clip(source=source, root=tmp_path), BUDGET)
        assert caught.value.kind == "missing"
        assert str(caught.value).endswith(f"paths start from {tmp_path}.")
    with pytest.raises(ClipError, match=r"^https://host/clip\.mp4: there is no such file"):
        decode(Clip(source="https://host/clip.mp4"), BUDGET)


def text(file: Path) -> Path:
    file.write_text("This is no video.\n" * 50)
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
    "text": (text, "unreadable", r"cannot be opened as a video: Invalid data found"),
    "a folder": (folder_of_that_name, "unreadable", r"is not a file\.$"),
    "an impossible name": (name_too_long, "unreadable", r"cannot be read: File name too long\.$"),
    "a cut file with its header at the end": (
        header_behind,
        "unreadable",
        r"cannot be opened as a video: Invalid data",
    ),
    "audio only": (write_audio, "no_video", r"has no video stream, only audio\.$"),
    "one frame": (lambda file: write_clip(file, [7]), "too_short", r"has 1 frame; at least 2 are needed\.$"),
    "a JPEG": (lambda file: picture(file, "mjpeg", "image2"), "too_short", r"has 1 frame; at least 2 are needed\.$"),
    "a PNG": (lambda file: picture(file, "png", "image2"), "too_short", r"has 1 frame; at least 2 are needed\.$"),
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
    assert str(error).endswith("has no video stream, only audio, video.")


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
    assert read_numbers(frames.pixels) == list(range(len(frames.pixels)))
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


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "h264.flv", "hevc.mp4", "vp9.webm", "mpeg4.avi", "mpeg2.ts"])
def test_whatever_is_in_a_file_it_gives_frames_or_a_clip_error(name: str, tmp_path: Path) -> None:
    data = write_clip(tmp_path / name, **KINDS[name]).read_bytes()
    rng = random.Random(11)
    for _ in range(25):
        try:
            frames = decode(Clip(source=damage(data, rng, 0.0, rng.choice([1, 40]))), BUDGET)
        except ClipError:
            continue
        assert len(frames.pixels) == len(frames.timestamps) > 0


def test_a_decoder_s_error_is_told_in_its_own_words(tmp_path: Path) -> None:
    data = bytearray(write_clip(tmp_path / "whole.mp4", container_options={"movflags": "faststart"}).read_bytes())
    data[-600:-200] = bytes(400)
    error = failure(bytes(data))
    assert error.kind == "decode"
    assert str(error).endswith("decoding broke off: Invalid data found when processing input; the file is damaged.")
