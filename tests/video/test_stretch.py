"""Stretches of files: their frames are those on screen then, whatever else is in the file."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pytest
from clips import cut, read_numbers, with_packet_overwritten, write_clip
from decoding import COUNT, EVERY_FRAME, KINDS, LONG_KINDS, failure

from reelscribe.errors import ClipError
from reelscribe.values import Clip, Frames
from reelscribe.video import decode as decode_module
from reelscribe.video import runs
from reelscribe.video.decode import decode
from reelscribe.video.headers import read_header
from reelscribe.video.index import packets_of
from reelscribe.video.sampling import FrameBudget


def stretch(file: Path, start: float, end: float | None, budget: FrameBudget = EVERY_FRAME) -> Frames:
    return decode(Clip(source=str(file), start_seconds=start, end_seconds=end), budget)


def refusal(file: Path, start: float, end: float | None, budget: FrameBudget = EVERY_FRAME) -> ClipError:
    with pytest.raises(ClipError) as caught:
        stretch(file, start, end, budget)
    return caught.value


@pytest.mark.parametrize("name", [*KINDS, *LONG_KINDS])
def test_a_stretch_has_the_frames_that_are_shown_in_it(name: str, tmp_path: Path) -> None:
    file = write_clip(tmp_path / name, range(COUNT), **(KINDS | LONG_KINDS)[name])
    for start, end in ((0.0, 1.0), (0.52, 0.6), (3.0, 5.0), (6.4, None), (7.0, 8.0)):
        frames = stretch(file, start, end)
        first, stop = round(start * 25), COUNT if end is None else round(end * 25)
        assert read_numbers(frames.pixels) == list(range(first, stop))
        assert frames.timestamps == pytest.approx([number / 25 for number in range(stop - first)], abs=0.002)
        assert frames.duration_seconds == pytest.approx((stop - first) / 25, abs=0.002)
        assert frames.bounds == pytest.approx((start, stop / 25, 8.0), abs=0.002)


def test_frames_are_spread_over_the_stretch(tmp_path: Path) -> None:
    frames = stretch(write_clip(tmp_path / "a.mp4", range(COUNT)), 2.0, 6.0, replace(EVERY_FRAME, fps=1))
    assert read_numbers(frames.pixels) == [50, 83, 116, 149]
    assert frames.timestamps == pytest.approx([0, 1.32, 2.64, 3.96])


def test_what_an_edit_list_hides_is_before_the_start_of_the_file(tmp_path: Path) -> None:
    options = {"avoid_negative_ts": "disabled"}
    file = write_clip(tmp_path / "edited.mp4", range(60), times=range(-10, 50), container_options=options)
    assert read_numbers(stretch(file, 0.4, 0.8).pixels) == list(range(20, 30))


def test_the_picture_that_is_on_screen_at_the_start_is_the_first(tmp_path: Path) -> None:
    file = write_clip(tmp_path / "slides.mp4", range(5), rate=1000, times=[0, 3000, 5000, 7500, 9000])
    frames = stretch(file, 4.0, 8.0)
    assert read_numbers(frames.pixels) == [1, 2, 3]
    assert frames.timestamps == pytest.approx([0, 1.0, 3.5])
    assert frames.duration_seconds == pytest.approx(4.0)


def test_times_that_were_rounded_to_milliseconds_are_those_of_their_frames(tmp_path: Path) -> None:
    file = write_clip(tmp_path / "thirds.mp4", range(90), rate=30)
    assert read_numbers(stretch(file, 0.667, 1.333).pixels) == list(range(20, 40))


def test_a_long_stretch_of_a_long_file_is_decoded_where_frames_are_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_module, "_WHOLE_PACKETS", 20)
    file = write_clip(tmp_path / "long.mp4", range(COUNT), keyframe_every=10)
    frames = stretch(file, 2.0, 6.0, replace(EVERY_FRAME, fps=1))
    assert read_numbers(frames.pixels) == [50, 83, 116, 149]


@pytest.mark.parametrize(
    "options",
    [
        {"b_frames": 3},
        {"options": {"x264-params": "open-gop=1:bframes=3"}},
        {"codec": "mpeg2video"},
        {"times": range(2386000, 2386600)},
    ],
    ids=["h264", "open_groups", "mpeg2", "times_that_begin_again_at_0"],
)
def test_a_stretch_of_a_transport_stream_is_sought(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_clip(tmp_path / "long.ts", (number % 256 for number in range(600)), keyframe_every=25, **options)
    monkeypatch.setattr(decode_module, "_KEPT_BYTES", 0)
    monkeypatch.setattr(runs, "_SEEK_BYTES", 0)
    passed: list[int] = []

    def counted(*args: Any) -> Any:
        for packet in packets_of(*args):
            passed.append(packet.size)
            yield packet

    monkeypatch.setattr(runs, "packets_of", counted)
    with caplog.at_level(logging.DEBUG, "reelscribe"):
        frames = stretch(file, 20.0, 21.0)
    assert read_numbers(frames.pixels) == [number % 256 for number in range(500, 525)]
    assert len(passed) < 150, "of the 500 packets before, most are not read again"
    assert "once more" not in caplog.text


@pytest.mark.parametrize(
    ("start", "end", "says"),
    [
        (8.0, None, "is not in the file: the file is 8.000 seconds long"),
        (2.0, 9.5, "is not in the file: the file is 8.000 seconds long"),
        (-1.0, 2.0, "is not in the file: the file is 8.000 seconds long"),
        (3.0, 2.0, "ends before it begins; the file is 8.000 seconds long"),
        (3.0, 3.0, "ends where it begins; the file is 8.000 seconds long"),
    ],
)
def test_a_stretch_that_is_none_says_how_long_the_file_is(
    start: float, end: float | None, says: str, tmp_path: Path
) -> None:
    file = write_clip(tmp_path / "a.mp4", range(COUNT))
    error = refusal(file, start, end)
    assert error.kind == "row"
    assert says in str(error)
    with pytest.raises(ClipError, match=r"the file is 8\.000 seconds long"):
        read_header(Clip(source=str(file), start_seconds=start, end_seconds=end))


def test_an_end_a_little_behind_the_files_is_that_of_the_file(tmp_path: Path) -> None:
    frames = stretch(write_clip(tmp_path / "a.mp4", range(COUNT)), 7.0, 8.9)
    assert len(frames.pixels) == 25
    assert frames.bounds == pytest.approx((7.0, 8.0, 8.0))


def test_a_stretch_of_one_picture_is_too_short(tmp_path: Path) -> None:
    assert refusal(write_clip(tmp_path / "a.mp4", range(COUNT)), 1.0, 1.04).kind == "too_short"


def test_a_header_tells_how_long_a_stretch_is(tmp_path: Path) -> None:
    file = write_clip(tmp_path / "a.mp4", range(COUNT))
    header = read_header(Clip(source=str(file), start_seconds=2.0, end_seconds=6.0))
    assert (header.frames, header.duration_seconds) == (100, 4.0)


@pytest.mark.parametrize(("name", "rate"), [("a.mp4", 50), ("a.mkv", 50), ("a.mp4", 24), ("a.mkv", 24), ("a.ts", 50)])
def test_a_header_tells_which_frames_are_on_screen_in_a_stretch(name: str, rate: int, tmp_path: Path) -> None:
    file = write_clip(tmp_path / name, range(200), rate=rate)
    rounded = round(7 / rate, 3), round(69 / rate, 3)
    for start, end in ((0.75, 2.75), (0.005, 1.0), (0.5, 1.001), rounded, (1.0, None), (0.0, 1.51)):
        clip = Clip(source=str(file), start_seconds=start, end_seconds=end)
        header, numbers = read_header(clip), read_numbers(decode(clip, EVERY_FRAME).pixels)
        assert (header.first_frame, header.frames) == (numbers[0], len(numbers)), (start, end)


# Damage


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.ts"])
def test_a_file_that_is_cut_short_has_the_stretches_before(name: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"container_options": {"movflags": "faststart"}} if name.endswith("mp4") else {}
    whole = write_clip(tmp_path / f"whole_{name}", range(COUNT), keyframe_every=25, **options)
    file = cut(whole, tmp_path / name, keep=0.6)
    frames = stretch(file, 1.0, 3.0)
    assert read_numbers(frames.pixels) == list(range(25, 75))
    assert frames.decoded_share is None
    assert frames.duration_seconds == pytest.approx(2.0, abs=0.002)
    if name != "cut.ts":  # nothing says how long that was
        for start, end in ((6.0, 7.0), (3.0, 7.5), (3.0, None)):
            assert refusal(file, start, end).kind == "decode"


def test_damage_costs_the_stretches_that_it_is_in(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "a.mp4", range(COUNT), keyframe_every=25, b_frames=0)
    file = with_packet_overwritten(whole, tmp_path / "damaged.mp4", 60)
    with pytest.raises(ClipError):
        decode(Clip(source=str(file)), EVERY_FRAME)
    assert read_numbers(stretch(file, 0.0, 2.0).pixels) == list(range(50))
    assert read_numbers(stretch(file, 4.0, 6.0).pixels) == list(range(100, 150))
    assert refusal(file, 1.0, 3.0).kind == "decode"


def test_damage_elsewhere_costs_nothing_up_to_the_very_end(tmp_path: Path) -> None:
    """Of 7.32 s, 1.32 s are left from second 6 on: a difference that floats round up."""
    whole = write_clip(tmp_path / "a.mp4", range(183), keyframe_every=25, b_frames=0)
    file = with_packet_overwritten(whole, tmp_path / "damaged.mp4", 60, value=0xFF)
    for end in (7.32, None, 7.3):
        assert read_numbers(stretch(file, 6.0, end).pixels) == list(range(150, 183))


def test_part_of_a_stretch_will_do_where_the_budget_says_so(tmp_path: Path) -> None:
    options: dict[str, Any] = {"container_options": {"movflags": "faststart"}}
    whole = write_clip(tmp_path / "whole.mp4", range(COUNT), keyframe_every=25, **options)
    frames = stretch(cut(whole, tmp_path / "a.mp4", keep=0.6), 2.0, 7.0, replace(EVERY_FRAME, min_decoded=0.3))
    numbers = read_numbers(frames.pixels)
    assert numbers == list(range(50, 50 + len(numbers)))
    assert frames.decoded_share == pytest.approx(len(numbers) / 125, abs=0.01)
    assert 0.3 < len(numbers) / 125 < 0.8


@pytest.mark.parametrize("audio_seconds", [0.0, 8.0])
@pytest.mark.parametrize("name", ["mpeg4.avi", "mpeg4_b_frames.avi", "h264.avi"])
def test_where_times_are_a_count_damage_costs_all_stretches_behind_it(
    name: str, audio_seconds: float, tmp_path: Path
) -> None:
    options = KINDS[name] | {"keyframe_every": 25, "audio_seconds": audio_seconds}
    whole = write_clip(tmp_path / "whole.avi", range(COUNT), **options)
    with av.open(str(whole)) as container:
        at = [packet.pos for packet in container.demux(video=0)][90]
    assert at is not None
    data = bytearray(whole.read_bytes())
    data[at : at + 1500] = bytes(1500)
    file = tmp_path / "damaged.avi"
    file.write_bytes(data)
    assert read_numbers(stretch(file, 0.0, 2.0).pixels) == read_numbers(stretch(whole, 0.0, 2.0).pixels)
    for start, end in ((3.0, 5.0), (4.0, 6.0), (6.0, 8.0), (6.0, None)):
        error = refusal(file, start, end)
        assert (error.kind, "that it states are there; from number" in str(error)) == ("decode", True)
    assert failure(file, EVERY_FRAME).kind == "decode"
    frames = decode(Clip(source=str(file)), replace(EVERY_FRAME, min_decoded=0.2))
    assert (
        read_numbers(frames.pixels)
        == read_numbers(decode(Clip(source=str(whole)), EVERY_FRAME).pixels)[: len(frames.pixels)]
    )


def test_where_nothing_says_how_many_frames_there_were_a_gap_is_found(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.avi", range(COUNT), codec="mpeg4", b_frames=0, keyframe_every=25)
    data = bytearray(whole.read_bytes())
    length = data.index(b"vids") + 32
    data[length : length + 4] = bytes(4)
    with av.open(str(whole)) as container:
        at = [packet.pos for packet in container.demux(video=0)][90]
    assert at is not None
    file = tmp_path / "a.avi"
    file.write_bytes(data)
    assert read_numbers(stretch(file, 6.0, 7.0).pixels) == list(range(150, 175))
    data[at : at + 1500] = bytes(1500)
    file.write_bytes(data)
    assert refusal(file, 6.0, 7.0).kind == "decode"
    assert read_numbers(stretch(file, 1.0, 3.0).pixels) == list(range(25, 75))


def test_an_avi_file_that_is_cut_short_has_the_stretches_before(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.avi", range(COUNT), codec="mpeg4", b_frames=0, keyframe_every=25)
    file = cut(whole, tmp_path / "cut.avi", keep=0.6)
    assert read_numbers(stretch(file, 1.0, 3.0).pixels) == list(range(25, 75))
    assert "cut.avi is cut short" in str(refusal(file, 6.0, 7.0))


def test_messages_of_damage_name_the_file_and_then_the_stretch(tmp_path: Path) -> None:
    options: dict[str, Any] = {"container_options": {"movflags": "faststart"}, "keyframe_every": 25}
    file = cut(write_clip(tmp_path / "whole.mp4", range(COUNT), **options), tmp_path / "cut.mp4", keep=0.6)
    stretch(file, 0.0, 2.0)
    assert str(refusal(file, 3.0, 7.5)).startswith(f"{file} is cut short: ")
    assert f"Of {file}#t=3,7.5 " in str(refusal(file, 3.0, 7.5))
    assert str(refusal(file, 6.0, 7.0)).endswith(f"Of {file}#t=6,7 fewer than 2 frames can be decoded.")
