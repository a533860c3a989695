"""Common texts in bounded memory."""

import random
from collections import Counter

import pytest

from reelscribe.audit.counting import Common


def test_few_texts_are_counted_exactly() -> None:
    common = Common(10)
    common.add(f"text {number % 20}" for number in range(105))
    assert (len(common), common.total, common.missing) == (20, 105, 0)
    assert common.top(1) == [("text 0", 6)]
    assert common.above(5) == [(f"text {number}", 6) for number in (0, 1, 2, 3, 4)]


@pytest.mark.parametrize("seed", range(3))
def test_what_is_common_among_many_is_never_missed_nor_counted_too_high(seed: int) -> None:
    draw, most = random.Random(seed), 50
    texts = [draw.choice("abcde") if draw.random() < 0.2 else f"{draw.random()}" for _ in range(20_000)]
    common, true = Common(most), Counter(texts)
    for start in range(0, len(texts), 7):
        common.add(texts[start : start + 7])
        assert len(common) <= 2 * most
    assert 0 < common.missing <= len(texts) / most
    told = dict(common.above(common.missing))
    assert {text for text, count in true.items() if count > common.missing} <= told.keys()
    assert all(true[text] - common.missing <= count <= true[text] for text, count in told.items())
    assert all(text in dict(common.above(true[text] - 1)) for text in "abcde")
    assert {text for text, _ in common.top(5)} == set("abcde")
