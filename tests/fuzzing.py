"""Containers broken at random: each gives frames or a failure, and the next clip is none the worse."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from clips import read_numbers, write_clip
from decoding import BUDGET, KINDS
from flow import named

from reelscribe.values import Clip, Frames, Request
from reelscribe.video.prefetch import decode_ahead

NAMES = (
    "h264.mp4",
    "hevc.mp4",
    "h264.mkv",
    "vp9.webm",
    "av1.mkv",
    "mpeg4.avi",
    "mpeg2.ts",
    "h264.flv",
    "fragments.mp4",
)

Change = Callable[[bytearray, random.Random], None]


def flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 10, 100])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def flip_bits_of_the_header(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 3, 10])):
        data[rng.randrange(min(len(data), 1500))] ^= 1 << rng.randrange(8)


def truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(1, len(data)) :]


def resize_a_box(data: bytearray, rng: random.Random) -> None:
    """Give a box of MP4, or else four bytes anywhere, another length."""
    names = (b"moov", b"trak", b"mdia", b"stbl", b"stsd", b"stsz", b"stco", b"stts", b"ctts", b"stsc", b"mdat", b"moof")
    found = [at - 4 for name in names if (at := data.find(name)) >= 4]
    at = rng.choice(found) if found else rng.randrange(len(data) - 4)
    length = rng.choice([0, 1, 7, 8, 1 << 16, 1 << 31, (1 << 32) - 1, rng.randrange(1 << 32)])
    data[at : at + 4] = length.to_bytes(4)


def cut_out(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.randrange(1, 2000)]


def repeat_a_part(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at:at] = data[at : at + rng.randrange(1, 2000)]


def wipe(data: bytearray, rng: random.Random) -> None:
    at, length = rng.randrange(len(data)), rng.randrange(1, 500)
    data[at : at + length] = bytes([rng.choice([0, 255])]) * length


CHANGES: tuple[Change, ...] = (
    flip_bits, flip_bits_of_the_header, truncate, resize_a_box, cut_out, repeat_a_part, wipe,
)  # fmt: skip


def fuzz(folder: Path, *, count: int, min_decoded: float) -> Counter[str]:
    """Break files, decode them, and whole ones between them.

    Returns:
        How many gave frames, how many a part, and how many failed, by kind.

    Raises:
        AssertionError: a broken file gave what it should not, or a whole one suffered.
    """
    whole = {name: write_clip(folder / name, **KINDS[name]).read_bytes() for name in NAMES}
    budget = replace(BUDGET, min_decoded=min_decoded)

    def requests() -> Iterator[Request]:
        for number in range(count):
            rng = random.Random(number)
            name, change = NAMES[number % len(NAMES)], rng.choice(CHANGES)
            data = bytearray(whole[name])
            change(data, rng)
            key = f"{number}: {name}, {change.__name__}"
            yield Request(id=named(key), clip=Clip(source=bytes(data)), prompt="")
            if number % 10 == 9:
                yield Request(id=named("whole"), clip=Clip(source=whole[name]), prompt="")

    answers, kinds = 0, Counter[str]()
    for request, outcome in decode_ahead(requests(), budget, max_bytes=1 << 26, decode_seconds=60.0):
        answers += 1
        if request.id.task == "whole":
            assert isinstance(outcome, Frames)
            assert read_numbers(outcome.pixels) == [0, 5, 11, 17, 23, 29]
        elif isinstance(outcome, Frames):
            kinds["frames" if outcome.decoded_share is None else "part"] += 1
            assert outcome.decoded_share is None or min_decoded <= outcome.decoded_share <= 1
            assert len(outcome.pixels) == len(outcome.timestamps) > 0
            assert outcome.pixels.nbytes <= BUDGET.max_bytes
        else:
            kinds[outcome.kind] += 1
            assert outcome.kind not in ("timeout", "missing"), (request.id.task, outcome.message)
    assert answers == count + count // 10
    return kinds
