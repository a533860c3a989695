"""Damage that a plain decode reports is a failure, whichever frames are wanted: see `damaging`, and `make damage`."""

from pathlib import Path

import pytest
from damaging import CLIPS, damage_each_packet, flip_a_bit, halve, zero_behind_header, zero_behind_length

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
