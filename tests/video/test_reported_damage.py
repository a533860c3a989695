"""Damage that a plain decode reports is a failure, whichever frames are wanted: see `damaging`, and `make damage`."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from av.codec.context import ThreadType
from clips import write_clip
from damaging import (
    CLIPS,
    X264,
    as_unreferenced,
    damage_each_packet,
    damaged,
    evenly,
    flip_a_bit,
    halve,
    pan,
    zero_behind_header,
    zero_behind_length,
)
from decoding import failure, index_of

from reelscribe.errors import ClipError
from reelscribe.values import Clip, Frames
from reelscribe.video import decode as decode_module
from reelscribe.video.checked import set_up
from reelscribe.video.decode import decode
from reelscribe.video.opening import open_clip, video_stream
from reelscribe.video.sampling import FramesAt

BEGINNING = FramesAt(seconds=(0.0, 0.2), max_width=160, max_height=120, min_decoded=1.0)
CHANGES = (zero_behind_length, zero_behind_header, halve, flip_a_bit)


@pytest.mark.parametrize("name", CLIPS)
def test_reported_damage_is_a_failure_however_many_frames_are_wanted(name: str, tmp_path: Path) -> None:
    tally = damage_each_packet(tmp_path, name, changes=CHANGES, frames=24, counts=(4, 10))
    assert {key for key in tally if key.startswith("reported")} == {"reported, failure"}


@pytest.mark.parametrize("name", CLIPS)
def test_frames_of_a_long_clip_are_right_or_it_fails(name: str, tmp_path: Path) -> None:
    tally = damage_each_packet(tmp_path, name, changes=CHANGES, frames=24, counts=(4,), whole_packets=0, threads=2)
    assert tally["reported, failure"] > 0
    assert tally["reported, wrong"] == 0


@pytest.mark.parametrize("name", ["h264.mp4", "hevc.mp4", "mpeg4.mp4", "vp9.webm", "av1.mkv"])
def test_part_of_a_clip_with_reported_damage_is_right(name: str, tmp_path: Path) -> None:
    tally = damage_each_packet(tmp_path, name, changes=CHANGES, frames=24, counts=(4,), min_decoded=0.2)
    assert tally["reported, right part"] > 0
    assert {"reported, wrong", "reported, wrong part", "reported, right"}.isdisjoint(tally)


def stretch(file: Path, start: float, end: float) -> Frames:
    return decode(Clip(source=str(file), start_seconds=start, end_seconds=end), evenly(4))


@pytest.mark.parametrize("name", ["h264.mp4", "h264_open_groups.mkv"])
def test_a_reference_that_looks_unneeded_makes_no_frame_of_a_stretch_wrong(name: str, tmp_path: Path) -> None:
    file = write_clip(tmp_path / name, range(48), size=(128, 96), rate=24, keyframe_every=24, paint=pan, **CLIPS[name])
    right = {start: stretch(file, start, start + 1).pixels for start in (0, 1)}
    unreferenced, tally = index_of(file).unreferenced, Counter[str]()
    assert len(unreferenced) > 10
    for number, data in enumerate(damaged(file, as_unreferenced)):
        (bad := tmp_path / f"{number}-{name}").write_bytes(data or b"")
        assert index_of(bad).unreferenced <= unreferenced
        for start, pixels in right.items():
            try:
                tally["right" if np.array_equal(stretch(bad, start, start + 1).pixels, pixels) else "wrong"] += 1
            except ClipError:
                tally["failure"] += 1
    assert tally["wrong"] == 0
    assert min(tally["right"], tally["failure"]) > 10


def test_picture_in_front_of_a_stretch_that_gives_no_frame_is_a_failure(tmp_path: Path) -> None:
    options = {**X264, "slices": "3"}
    file = write_clip(tmp_path / "clip.mkv", range(24), size=(128, 96), rate=24, paint=pan, options=options)
    assert len(stretch(file, 0.7, 1.0).pixels) == 4
    (bad := tmp_path / "bad.mkv").write_bytes(next(iter(damaged(file, as_unreferenced))) or b"")
    with pytest.raises(ClipError):
        stretch(bad, 0.7, 1.0)


def zeroed(file: Path, number: int) -> bytes:
    """The file with a packet zeroed behind its length."""
    return [data for data in damaged(file, zero_behind_length) if data][number]


def test_damage_behind_the_last_wanted_frame_is_a_failure(tmp_path: Path) -> None:
    file = write_clip(tmp_path / "clip.mp4", range(60), keyframe_every=20)
    assert len(decode(Clip(source=str(file)), BEGINNING).pixels) == 2
    assert failure(zeroed(file, 50), BEGINNING).kind == "decode"


@pytest.mark.parametrize("count", [4, 10, 60])
def test_packet_without_a_picture_fails_a_long_clip_wherever_it_is(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_module, "_WHOLE_PACKETS", 0)
    file = write_clip(tmp_path / "clip.mp4", range(120), keyframe_every=10, options={"x264-params": "scenecut=0"})
    assert failure(zeroed(file, 57), evenly(count)).kind == "decode"


def test_frame_that_is_missing_where_a_container_has_no_times_is_a_failure(tmp_path: Path) -> None:
    file = write_clip(tmp_path / "clip.avi", range(60), codec="mpeg4", keyframe_every=20)
    for number, budget in ((25, evenly(4)), (26, BEGINNING)):
        assert failure(zeroed(file, number), budget).kind == "decode"


@pytest.mark.parametrize(("codec", "threads"), [("libx264", 1), ("mpeg4", 1), ("mpeg2video", 1), ("libx265", 4)])
def test_threads_are_had_where_they_report_damage(codec: str, threads: int, tmp_path: Path) -> None:
    """Others let damage through by chance: no test of frames would fail each time."""
    clip = Clip(source=str(write_clip(tmp_path / "clip.mkv", codec=codec)))
    with open_clip(clip) as container:
        stream = video_stream(container, clip)
        set_up(stream, 4)
        assert stream.codec_context.thread_count == threads
        assert stream.codec_context.thread_type == ThreadType.FRAME
