"""Clips that are cut short or damaged, of which a part is enough: real frames at their true times, told as a part."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import copy_packets, cut, read_numbers, write_clip
from decoding import EVERY_FRAME, decoded, failure
from flow import as_input, put_rows, read_rows_of

from reelscribe.config import Settings
from reelscribe.engines.fake import FakeEngine
from reelscribe.errors import ClipError
from reelscribe.pipeline import caption_rows
from reelscribe.runners.local import run
from reelscribe.values import Clip, Frames
from reelscribe.video.decode import decode
from reelscribe.video.isolate import DecoderPool
from reelscribe.video.sampling import FrameBudget

COUNT, RATE = 100, 25
FIRST: dict[str, Any] = {"container_options": {"movflags": "faststart"}}
CUT: dict[str, dict[str, Any]] = {
    "h264.mp4": FIRST,
    "h264.mov": FIRST,
    "hevc.mp4": {"codec": "libx265", **FIRST},
    "h264.mkv": {},
    "hevc.mkv": {"codec": "libx265"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "av1.webm": {"codec": "libsvtav1"},
    "mpeg4.avi": {"codec": "mpeg4", "b_frames": 0},
    "h264.avi": {},
}


def _part(file: Path, share: float, budget: FrameBudget = EVERY_FRAME) -> Frames:
    return decoded(file, replace(budget, min_decoded=share))


@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("keep", [0.6, 0.9])
def test_cut_file_gives_the_frames_that_are_there_and_no_other(name: str, keep: float, tmp_path: Path) -> None:
    whole = write_clip(tmp_path / f"whole_{name}", range(COUNT), keyframe_every=20, **CUT[name])
    file = cut(whole, tmp_path / name, keep=keep)
    assert failure(file).kind == "decode"
    frames = _part(file, 0.2)
    count = len(frames.pixels)
    assert (keep - 0.3) * COUNT < count < (keep + 0.15) * COUNT
    assert read_numbers(frames.pixels) == list(range(count))
    assert frames.timestamps == pytest.approx([number / RATE for number in range(count)], abs=2e-3)
    assert frames.duration_seconds == pytest.approx(count / RATE, abs=0.05)
    assert frames.decoded_share == pytest.approx(count / COUNT, abs=0.02)
    assert frames.decoded_share is not None
    expected = decoded(whole, EVERY_FRAME).pixels[:count]
    assert np.array_equal(frames.pixels, expected)
    assert _part(file, frames.decoded_share).decoded_share == frames.decoded_share
    if count < COUNT - 1:
        with pytest.raises(ClipError, match=rf"Of it {count / COUNT:.0%} can be decoded; min_decoded asks for 99%\.$"):
            _part(file, 0.99)


@pytest.mark.parametrize("source", [Path, bytes])
def test_frames_are_spread_over_the_part(source: type, tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mp4", range(COUNT), keyframe_every=20, **FIRST)
    file = cut(whole, tmp_path / "cut.mp4", keep=0.6)
    budget = replace(EVERY_FRAME, fps=2, min_decoded=0.3)
    clip = Clip(source=str(file) if source is Path else file.read_bytes())
    frames = decode(clip, budget)
    last = len(_part(file, 0.3).pixels) - 1
    assert read_numbers(frames.pixels)[0] == 0
    assert read_numbers(frames.pixels)[-1] == last
    assert len(frames.pixels) == 4
    pool = DecoderPool(seconds=60, max_memory=4 << 30)
    apart = pool.decode(clip, budget, threads=1)
    assert np.array_equal(apart.pixels, frames.pixels)
    assert (apart.decoded_share, apart.duration_seconds) == (frames.decoded_share, frames.duration_seconds)


def test_stream_that_states_no_length_is_whole_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.ts", range(COUNT), keyframe_every=20)
    file = cut(whole, tmp_path / "cut.ts", keep=0.6)
    frames = _part(file, 0.9)
    assert frames.decoded_share is None
    assert np.array_equal(frames.pixels, decoded(file, EVERY_FRAME).pixels)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("h264.mp4", FIRST),
        ("h264.mkv", {}),
        ("mpeg4.avi", {"codec": "mpeg4"}),
        ("h264.avi", {}),
        ("h264.ts", {}),
        ("mpeg2.ts", {"codec": "mpeg2video"}),
    ],
)
def test_damaged_file_gives_frames_up_to_the_damage(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """In the last third some kilobytes are gone: what comes before is as in the whole file, frame for frame."""
    whole = write_clip(tmp_path / f"whole_{name}", range(COUNT), keyframe_every=20, **settings)
    data, expected = whole.read_bytes(), decoded(whole, EVERY_FRAME).pixels
    parts = 0
    for number in range(10):
        rng = random.Random(number)
        at = rng.randrange(len(data) * 2 // 3, len(data) - 3000)
        clip = Clip(source=data[:at] + rng.randbytes(2000) + data[at + 2000 :])
        try:
            frames = decode(clip, replace(EVERY_FRAME, min_decoded=0.1))
        except ClipError as error:
            assert error.kind in ("decode", "unreadable")  # noqa: PT017
            continue
        if frames.decoded_share is not None:
            parts += 1
            count = len(frames.pixels)
            assert 20 <= count < COUNT
            assert np.array_equal(frames.pixels, expected[:count])
            assert frames.decoded_share == pytest.approx(count / COUNT, abs=0.05)
    assert parts >= 3


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_share_is_of_all_parts_that_are_joined(codec: str, tmp_path: Path) -> None:
    def change(packets: list[bytes]) -> list[bytes]:
        return [data[:40] + bytes(len(data) - 40) if number == 30 else data for number, data in enumerate(packets)]

    settings: dict[str, Any] = {"codec": codec, "keyframe_every": 25, "b_frames": 0}
    whole = write_clip(tmp_path / "whole.ts", range(50), **settings)
    damaged = copy_packets(whole, tmp_path / "damaged.ts", change)
    (tmp_path / "joined.ts").write_bytes(whole.read_bytes() + damaged.read_bytes())
    frames = _part(tmp_path / "joined.ts", 0.5)
    count = len(frames.pixels)
    assert 70 < count < 80
    assert read_numbers(frames.pixels) == [*range(50), *range(count - 50)]
    assert frames.decoded_share == pytest.approx(count / 100, abs=0.01)


def test_whole_file_is_no_part(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mp4", range(COUNT))
    assert _part(whole, 0.1).decoded_share is None


@pytest.mark.parametrize("data", [b"", b"this is no video", b"\0" * 5000])
def test_what_is_no_video_stays_what_it_is(data: bytes) -> None:
    assert failure(data, replace(EVERY_FRAME, min_decoded=0.01)).kind == "unreadable"


def test_caption_of_a_part_says_so_and_what_it_is_worth_is_up_to_the_settings(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mp4", range(COUNT), keyframe_every=20, **FIRST)
    cut(whole, tmp_path / "cut.mp4", keep=0.6)
    rows = [{"video": "whole.mp4"}, {"video": "cut.mp4"}]
    first, second = caption_rows(as_input(rows, tmp_path), Settings(min_decoded=0.3), FakeEngine())
    assert first.rows[0]["caption_meta"]["flags"] == ""
    assert first.rows[0]["caption_meta"]["decoded_share"] == 1
    meta = second.rows[0]["caption_meta"]
    assert meta["flags"] == "truncated"
    assert 0.3 < meta["decoded_share"] < 0.6
    assert meta["decoded_seconds"] == pytest.approx(4 * meta["decoded_share"], abs=0.01)
    assert meta["frame_timestamps"][-1] < meta["decoded_seconds"]

    data, output = put_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    for share, failures, flags in [
        (1.0, {"decode": 1}, {}),
        (0.3, {}, {"truncated": 1}),
        (0.9, {"decode": 1}, {}),
        (0.2, {}, {"truncated": 1}),
    ]:
        summary = run([data], output, Settings(min_decoded=share), engine=FakeEngine())
        assert (summary.failures, summary.flags) == (failures, flags)
        assert [row["caption"] is None for row in read_rows_of(output)] == [False, bool(failures)]
    assert summary.known == 2, "the caption of the part was kept in the meantime"
