"""Counters of MPEG transport streams: parts that are joined lose nothing, and what is lost is damage."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from clips import read_numbers, write_clip
from decoding import EVERY_FRAME, failure

from reelscribe.values import Clip
from reelscribe.video.decode import decode
from reelscribe.video.headers import read_header
from reelscribe.video.transport import find_jumps

PACKET = 188


def write_part(file: Path, numbers: range, *, codec: str = "libx264", start: int | None = None) -> bytes:
    """A transport stream whose clock starts at a frame; at that of its first number, unless said otherwise."""
    begin = numbers.start if start is None else start
    options = {"x265-params": "log-level=none:scenecut=0"} if codec == "libx265" else {}
    times = range(begin, begin + len(numbers))
    return write_clip(file, numbers, codec=codec, times=times, keyframe_every=10, options=options).read_bytes()


def count_from(data: bytes, offset: int) -> bytes:
    """The same with all counters moved on."""
    moved = bytearray(data)
    for at in range(3, len(moved), PACKET):
        moved[at] = moved[at] & 0xF0 | (moved[at] + offset) & 0x0F
    return bytes(moved)


def without(data: bytes, first: int, count: int) -> bytes:
    """The same without some packets."""
    return data[: first * PACKET] + data[(first + count) * PACKET :]


def pid(data: bytes, number: int) -> int:
    """Which stream a packet belongs to."""
    return int.from_bytes(data[number * PACKET + 1 : number * PACKET + 3]) & 0x1FFF


def numbers_of(data: bytes) -> list[int]:
    return read_numbers(decode(Clip(source=data), EVERY_FRAME).pixels)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg2video"])
@pytest.mark.parametrize("offset", [0, 3, 8, 13])
def test_parts_with_counters_of_their_own_lose_nothing(codec: str, offset: int, tmp_path: Path) -> None:
    first = write_part(tmp_path / "a.ts", range(30), codec=codec)
    second = count_from(write_part(tmp_path / "b.ts", range(30, 60), codec=codec), offset)
    third = count_from(write_part(tmp_path / "c.ts", range(60, 90), codec=codec), 2 * offset)
    frames = decode(Clip(source=first + second + third), EVERY_FRAME)
    assert read_numbers(frames.pixels) == list(range(90))
    assert frames.duration_seconds == pytest.approx(3.6)
    header = read_header(Clip(source=first + second + third))
    assert header.frames == 90
    assert header.duration_seconds == pytest.approx(3.6)


@pytest.mark.parametrize("stride", [192, 204])
def test_packets_with_bytes_between_them(stride: int, tmp_path: Path) -> None:
    data = write_part(tmp_path / "a.ts", range(30)) + count_from(write_part(tmp_path / "b.ts", range(30, 60)), 7)
    packets = [data[at : at + PACKET] for at in range(0, len(data), PACKET)]
    between = bytes(stride - PACKET)
    spaced = b"".join(between + each if stride == 192 else each + between for each in packets)
    assert numbers_of(spaced) == list(range(60))


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_lost_packets_are_damage_wherever_they_were(codec: str, count: int, tmp_path: Path) -> None:
    data = write_part(tmp_path / "a.ts", range(30), codec=codec)
    total = len(data) // PACKET
    second = [number for number in range(total) if pid(data, number) == 0x100 and data[number * PACKET + 1] & 0x40][1]
    for first in range(second, total - count):
        lost = any(pid(data, number) == 0x100 for number in range(first, first + count))
        damaged = without(data, first, count)
        if lost:
            assert failure(damaged, EVERY_FRAME).kind == "decode", first
        else:
            assert numbers_of(damaged) == list(range(30)), first


def test_a_loss_beside_a_join_is_damage_all_the_same(tmp_path: Path) -> None:
    first = write_part(tmp_path / "a.ts", range(30))
    data = first + count_from(write_part(tmp_path / "b.ts", range(30, 60)), 7)
    ours = [number for number in range(len(data) // PACKET) if pid(data, number) == 0x100]
    joint = sum(number < len(first) // PACKET for number in ours)
    for number in (ours[joint // 2], ours[joint - 3], ours[joint + 1]):
        error = failure(without(data, number, 1))
        assert error.kind == "decode"
        assert " is damaged: of its " in str(error)


def test_a_part_that_starts_between_keyframes_is_damage(tmp_path: Path) -> None:
    whole = write_part(tmp_path / "b.ts", range(30, 60), start=0)
    tables, number = whole[: 3 * PACKET], 20
    while not whole[number * PACKET + 1] & 0x40 or pid(whole, number) != 0x100:
        number += 1
    second = count_from(tables + whole[number * PACKET :], 7)
    assert failure(write_part(tmp_path / "a.ts", range(30)) + second).kind == "decode"


def test_bytes_that_are_no_packets_between_parts_are_passed_over(tmp_path: Path) -> None:
    first, second = write_part(tmp_path / "a.ts", range(30)), write_part(tmp_path / "b.ts", range(30, 60))
    assert numbers_of(first + b"\x00\x47" * 700 + count_from(second, 7)) == list(range(60))


def test_the_part_before_a_loss_reaches_over_a_join(tmp_path: Path) -> None:
    data = write_part(tmp_path / "a.ts", range(30)) + count_from(write_part(tmp_path / "b.ts", range(30, 60)), 7)
    damaged = without(data, len(data) // PACKET * 9 // 10, 1)
    frames = decode(Clip(source=damaged), replace(EVERY_FRAME, min_decoded=0.5))
    numbers = read_numbers(frames.pixels)
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 40


@pytest.mark.parametrize(
    ("field", "whole"),
    [
        (b"", False),  # no room beside the frame
        (b"\x00", True),
        (b"\x01\x00", True),
        (b"\x05\x00" + b"\xff" * 4, True),
        (b"\x07\x10" + bytes(6), False),  # a clock, and no more
        (b"\x09\x10" + bytes(6) + b"\xff" * 2, True),
        (b"\x03\x02\x01\x00", False),  # data of others
    ],
)
def test_padding_tells_that_a_frame_is_whole(field: bytes, whole: bool) -> None:
    def packet(counter: int, start: bool, field: bytes) -> bytes:
        head = bytes([0x47, start << 6 | 1, 0, (0x30 if field else 0x10) | counter]) + field
        return head + bytes(PACKET - len(head))

    data = packet(3, True, b"") + packet(4, False, field) + packet(9, True, b"") + packet(10, True, b"")
    [jump], _ = find_jumps(io.BytesIO(data), 0x100)
    assert (jump.before, jump.place) == (PACKET, 2 * PACKET)
    assert jump.between_frames is whole


def renumber(data: bytes, numbers: dict[int, int]) -> bytes:
    """The same with other numbers of streams; what the tables say is put right, but for their checksums."""
    moved = bytearray(data)
    for number in range(len(data) // PACKET):
        if (new := numbers.get(pid(data, number))) is not None:
            at = number * PACKET + 1
            moved[at : at + 2] = (int.from_bytes(moved[at : at + 2]) & 0xE000 | new).to_bytes(2)
    return bytes(moved)


def test_video_that_goes_on_as_another_stream_is_not_left_out(tmp_path: Path) -> None:
    first, second = write_part(tmp_path / "a.ts", range(30)), write_part(tmp_path / "b.ts", range(30, 60))
    error = failure(first + renumber(second, {0x100: 0x101}))
    assert error.kind == "decode"
    assert "is joined of parts whose videos have different numbers" in str(error)
