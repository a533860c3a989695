"""Counts over a data set, and the choice of what to show."""

from collections import Counter
from pathlib import Path

import pytest

from reelscribe.report.entries import CaptionedData
from reelscribe.report.overview import Overview, choose


@pytest.fixture(scope="module")
def overview(data: Path) -> Overview:
    return Overview.of(CaptionedData(data).entries())


def test_counts(overview: Overview) -> None:
    assert (overview.captions, overview.without_video) == (6, 1)
    assert overview.failures == {"missing": 1, "unreadable": 1}
    assert "no such file" in overview.examples["missing"]
    assert overview.flags == {"cut_off": 1, "loop": 1}
    assert overview.stop_reasons == {"stop": 15, "length": 3}
    assert overview.made_by == {("a script at 1", "scripted"): 6}
    assert overview.prompts.total() == 6


def test_values(overview: Overview) -> None:
    assert sorted(overview.lengths)[-1] == 20
    assert len(overview.caption_tokens) == len(overview.lengths) == 6
    assert overview.seconds == pytest.approx([0.875, 1.875, 2.875, 3.875, 4.875, 5.875])
    assert len(overview.video_tokens) == 6


def test_words(overview: Overview) -> None:
    assert overview.top_openings == [("the video shows", overview.openings["the video shows"])]
    assert overview.words == sum(overview.lengths)
    assert 0 < overview.once < len(overview.vocabulary) < overview.words


def test_all_are_chosen_where_they_are_few() -> None:
    assert choose(["", "a", ""], 3, 0) == [0, 1, 2]


def test_rare_ones_are_chosen_whole_and_the_choice_is_seeded() -> None:
    strata = ["" for _ in range(1000)] + ["cut_off"] * 5 + ["decode"] * 200 + ["missing"]
    chosen = choose(strata, 100, 1)
    assert chosen == sorted(set(chosen))
    assert Counter(strata[place] for place in chosen) == {"": 47, "decode": 47, "cut_off": 5, "missing": 1}
    assert choose(strata, 100, 1) == chosen
    assert choose(strata, 100, 2) != chosen


def test_more_kinds_than_places() -> None:
    assert len(choose(list("abcdefgh"), 3, 0)) == 3
