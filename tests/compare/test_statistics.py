"""Intervals, votes that are needed, and agreement, held to published figures and to each other."""

import math

import pytest

from reelscribe.compare.statistics import agreement, votes_needed, wilson


@pytest.mark.parametrize(
    ("picked", "votes", "low", "high"),
    [(8, 10, 0.49016, 0.94332), (0, 10, 0.0, 0.27753), (10, 10, 0.72247, 1.0), (50, 100, 0.40383, 0.59617)],
)
def test_interval_is_wilson_s(picked: int, votes: int, low: float, high: float) -> None:
    assert wilson(picked, votes) == pytest.approx((low, high), abs=2e-5)


@pytest.mark.parametrize(("first", "second"), [(2, 1), (1, 2), (11, 9), (1, 0), (30, 20)])
def test_with_the_votes_that_are_needed_the_interval_leaves_out_one_half(first: int, second: int) -> None:
    needed = votes_needed(first, second)
    assert needed
    votes, scale = first + second + needed, 1000  # of which shares are no whole numbers
    share = max(first, second) / (first + second)

    def low(count: int) -> float:
        square = 1.959964**2 / count
        half = 1.959964 * math.sqrt(share * (1 - share) / count + square / count / 4)
        return (share + square / 2 - half) / (1 + square)

    assert low(votes) > 0.5 >= low(votes - 1)
    assert wilson(round(share * scale), scale).low == pytest.approx(low(scale), abs=1e-3)


def test_votes_that_are_enough_or_level() -> None:
    assert votes_needed(60, 40) == 0
    assert wilson(60, 100).low > 0.5
    assert votes_needed(7, 7) is None
    assert votes_needed(0, 0) is None


def test_agreement_is_krippendorff_s_alpha() -> None:
    two = agreement(zip("0100000010", "1110010000", strict=True))  # his example A
    assert two is not None
    assert (two.clips, two.same) == (10, 0.6)
    assert two.alpha == pytest.approx(0.095, abs=5e-4)
    rows = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]  # example C, where votes are missing
    four = agreement([vote for vote in votes if vote != "."] for votes in zip(*rows, strict=True))
    assert four is not None
    assert four.clips == 11
    assert four.alpha == pytest.approx(0.743, abs=5e-4)


def test_agreement_that_cannot_be_told() -> None:
    assert agreement([["a"], ["b"]]) is None
    same = agreement([["a", "a"]])
    assert same is not None
    assert (same.same, same.alpha) == (1.0, None)
