"""Clocks that jump: every frame is kept, at times that go on without the jump."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from clips import read_numbers, write_clip
from decoding import EVERY_FRAME, decoded

from reelscribe.values import Clip
from reelscribe.video.decode import decode
from reelscribe.video.headers import read_header

WRAP = (1 << 33) // 3600
"""Frames, at 25 a second, after which a transport stream's clock starts at 0 again."""


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
@pytest.mark.parametrize("start", [0, 1, 7, 29, 30, 31, 34, 50, 100, 400, 1000, 90_000, 2_000_000])
def test_a_clock_that_starts_again_at_any_time(codec: str, start: int, tmp_path: Path) -> None:
    first = write_clip(tmp_path / "a.ts", range(30), codec=codec).read_bytes()
    second = write_clip(tmp_path / "b.ts", range(30, 60), codec=codec, times=range(start, start + 30)).read_bytes()
    for data, numbers in (
        (first + second, list(range(60))),
        (second + first, [*range(30, 60), *range(30)]),
        (first + second + second, [*range(60), *range(30, 60)]),
    ):
        frames, header = decode(Clip(source=data), EVERY_FRAME), read_header(Clip(source=data))
        assert read_numbers(frames.pixels) == numbers
        assert [b - a for a, b in pairwise(frames.timestamps)] == pytest.approx([0.04] * (len(numbers) - 1))
        assert frames.duration_seconds == pytest.approx(0.04 * len(numbers))
        assert (header.frames, header.duration_seconds) == (len(numbers), frames.duration_seconds)


@pytest.mark.parametrize("jump", [300, 1000, 125_000])
@pytest.mark.parametrize("at", [20, 25, 33])
def test_a_clock_that_jumps_between_any_frames(jump: int, at: int, tmp_path: Path) -> None:
    times = [*range(at), *range(at + jump, 60 + jump)]
    file = write_clip(tmp_path / "a.ts", range(60), times=times, keyframe_every=20)
    frames, header = decoded(file, EVERY_FRAME), read_header(Clip(source=str(file)))
    assert read_numbers(frames.pixels) == list(range(60))
    assert frames.duration_seconds == pytest.approx(2.4, abs=0.1)
    assert (header.frames, header.duration_seconds) == (60, frames.duration_seconds)


def set_on(data: bytes, frame: int, ticks: int) -> bytes:
    """A transport stream whose clock goes on by some ticks more from a frame on, in order of decoding."""

    def moved(field: bytes) -> bytes:  # 33 bits, of which 3, 15 and 15 have a mark behind them
        time = (field[0] >> 1 & 7) << 30 | field[1] << 22 | field[2] >> 1 << 15 | field[3] << 7 | field[4] >> 1
        time = (time + ticks) % (1 << 33)
        middle, low = time >> 15 & 0x7FFF, time & 0x7FFF
        high = field[0] & 0xF1 | time >> 30 << 1
        return bytes([high, middle >> 7, middle << 1 & 0xFF | 1, low >> 7, low << 1 & 0xFF | 1])

    changed, count = bytearray(data), 0
    for at in range(0, len(data), 188):
        payload = at + 4 + (1 + data[at + 4] if data[at + 3] & 0x20 else 0)
        if not data[at + 1] & 0x40 or data[payload : payload + 4] != b"\0\0\1\xe0":
            continue
        count += 1
        places = (9, 14)[: {2: 1, 3: 2}.get(data[payload + 7] >> 6, 0)] if count > frame else ()
        for place in places:
            field = slice(payload + place, payload + place + 5)
            changed[field] = moved(bytes(changed[field]))
    return bytes(changed)


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
@pytest.mark.parametrize("seconds", [-7, -2, -0.2, 11, 5000, 40_000])
def test_a_clock_that_jumps_within_a_group_of_pictures(codec: str, seconds: float, tmp_path: Path) -> None:
    data = write_clip(tmp_path / "a.ts", range(60), codec=codec, times=range(200, 260), keyframe_every=20).read_bytes()
    for frame in (2, 13, 14, 15, 16, 47):
        frames = decode(Clip(source=set_on(data, frame, round(90_000 * seconds))), EVERY_FRAME)
        assert read_numbers(frames.pixels) == list(range(60)), frame
        assert frames.duration_seconds == pytest.approx(2.4, abs=0.2), frame


@pytest.mark.parametrize("before", [3, 20, 55])
@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_a_clock_that_comes_to_its_end(codec: str, before: int, tmp_path: Path) -> None:
    times = range(WRAP - before, WRAP - before + 60)
    options = {"mpegts_copyts": "1"}
    frames = decoded(
        write_clip(tmp_path / "a.ts", range(60), codec=codec, times=times, container_options=options), EVERY_FRAME
    )
    assert read_numbers(frames.pixels) == list(range(60))
    assert frames.timestamps == pytest.approx([number / 25 for number in range(60)])


@pytest.mark.parametrize(
    "times",
    [
        [0, 300, 600, 900, 1200],
        [0, 75, 150, 225, 600, 675],
        [0, 1, 2, 3, 4, 5, 6, 7, 200, 201, 202, 203],
        [0, 10, 20, 30, 40, 1000, 1010, 1020, 1030],
    ],
)
@pytest.mark.parametrize("suffix", ["ts", "mkv", "mp4", "flv"])
def test_pictures_that_stay_on_screen_are_no_jump(times: Sequence[int], suffix: str, tmp_path: Path) -> None:
    if suffix == "ts" and max(times) == 1030:
        pytest.skip("in a transport stream that is a jump")
    frames = decoded(write_clip(tmp_path / f"a.{suffix}", range(len(times)), times=times), EVERY_FRAME)
    assert frames.timestamps == pytest.approx([time / 25 for time in times], abs=0.001)


@pytest.mark.parametrize("start", [0, 7, 30, 400])
def test_program_streams_that_are_joined(start: int, tmp_path: Path) -> None:
    first = write_clip(tmp_path / "a.mpg", range(30), codec="mpeg2video").read_bytes()
    second = write_clip(tmp_path / "b.mpg", range(30, 60), codec="mpeg2video", times=range(start, start + 30))
    frames = decode(Clip(source=first + second.read_bytes()), EVERY_FRAME)
    assert read_numbers(frames.pixels) == list(range(60))
    assert frames.duration_seconds == pytest.approx(2.4, abs=0.1)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_packets_without_times_are_frames_too(codec: str, tmp_path: Path) -> None:
    # A pack of a program stream has one time, however many frames it holds.
    frames = decoded(write_clip(tmp_path / "a.mpg", range(60), codec=codec, keyframe_every=20), EVERY_FRAME)
    assert read_numbers(frames.pixels) == list(range(60))
    assert frames.duration_seconds == pytest.approx(2.4)
