"""The same and nearly the same text about different clips."""

import random

import numpy as np
import pytest

from reelscribe.audit import alike
from reelscribe.audit.alike import Alike, Copies
from reelscribe.report.words import NEAR_BITS
from reelscribe.selection import simhash

WORDS = [f"word{number}" for number in range(400)]


def _told(*captions: tuple[str, str]) -> tuple[list[bool], list[bool]]:
    found = Alike()
    for text, clip in captions:
        found.add(text, clip)
    return found.same().tolist(), found.near().tolist()


def test_the_same_text_of_another_clip_counts_and_of_the_same_clip_does_not() -> None:
    same, near = _told(
        ("A dog runs.", "a"), ("A cat.", "a"), ("a  DOG runs.\n", "b"), ("One bird.", "c"), ("One bird.", "c")
    )
    assert same == near == [True, False, True, False, False]


def test_nearly_the_same_counts_and_a_word_alone_does_not() -> None:
    draw = random.Random(3)
    text = " ".join(draw.sample(WORDS, 60))
    other = " ".join(draw.sample(WORDS, 60))
    same, near = _told(
        (text, "a"), (f"{text} today", "b"), (other, "c"), (other + " now", "c"), ("dog", "d"), ("cat", "e")
    )
    assert not any(same)
    assert near == [True, True, False, False, False, False]


def test_no_captions_are_none() -> None:
    assert _told() == ([], [])


@pytest.mark.parametrize("in_a_bucket", [16, 2])
def test_pairs_are_those_of_comparing_each_with_each(in_a_bucket: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With small buckets, as in a large data set: none is wrong, and those that differ in few bits are there."""
    monkeypatch.setattr(alike, "_IN_A_BUCKET", in_a_bucket)
    draw = np.random.default_rng(1)
    first = draw.integers(1, 1 << 63, 300, dtype=np.uint64)
    prints = list(first)
    for number, print_ in enumerate(first):  # each with a neighbour that differs in 1 to 10 bits
        mask = sum(1 << int(bit) for bit in draw.choice(63, number % 10 + 1, replace=False))
        prints.append(np.uint64(int(print_) ^ mask))
    found = Alike()
    for number, print_ in enumerate(prints):
        found._texts.append(number)
        found._clips.append(number)
        found._prints.append(int(print_))
    near = found.near()
    differ = [bin(int(one) ^ int(other)).count("1") for one, other in zip(prints, prints[300:], strict=False)]
    assert not near[:300][np.array(differ) > NEAR_BITS].any()
    assert near[:300][np.array(differ) <= 4].all()
    assert near[:300][np.array(differ) <= NEAR_BITS].mean() > (0.95 if in_a_bucket == 16 else 0.8)


def test_bits_are_counted_with_an_older_numpy_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.array([0, 1, 255, (1 << 64) - 1, simhash("a dog runs")], np.uint64)
    counted = alike._bits(values).tolist()
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert alike._bits(values).tolist() == counted == [bin(int(value)).count("1") for value in values]


def test_near_copies_are_clips_of_others_that_show_nearly_the_same() -> None:
    draw = np.random.default_rng(5)
    full, other = (int.from_bytes(draw.bytes(16), "big") for _ in range(2))
    few = (1 << 80) | (1 << 20) | (1 << 3) | (1 << 90)
    prints = {
        "a": full,
        "b": full ^ 0b111 ^ (0b111 << 64),
        "c": other,
        "d": full ^ 0xFFFF,
        "e": few,
        "f": few ^ (1 << 5),
    }
    copies = Copies()
    for name, each in (*prints.items(), ("c", other)):
        copies.add(f"{each:032x}", name)
    for name in ("g", "h"):
        copies.add("", name)
        copies.add("0" * 32, name)
    assert copies.near().tolist() == [True, True, *[False] * 9]
