"""Plots that a page can hold several of, and colour."""

import xml.etree.ElementTree as ET

import pytest

from reelscribe.report.plots import histogram, steps


@pytest.mark.parametrize("values", [[5], [0, 0, 0], [1, 2, 2, 9], list(range(10_000)), [0.0, 0.5, 0.25], [1e9, 1]])
@pytest.mark.parametrize("whole", [True, False])
def test_a_drawing_stands_alone_and_has_the_page_s_colours(values: list[float], whole: bool) -> None:
    drawing = histogram(values, whole=whole)
    assert ET.fromstring(drawing).tag == "svg"
    assert "var(--accent)" in drawing
    assert not any(part in drawing for part in (" id=", "url(", "href=", "#010203", "<metadata", "<?xml"))
    assert len(drawing) < 30_000


def test_each_whole_number_has_a_bar_of_its_own() -> None:
    bars = histogram([1, 2, 2, 3]).count("fill: var(--accent)")
    assert bars == 3


@pytest.mark.parametrize(
    ("values", "expected"), [([1320] * 5, ["1320"]), ([5.958] * 3, ["5.958"]), ([9, 10], ["9", "10"])]
)
def test_the_axis_names_values_that_there_are(values: list[float], expected: list[str]) -> None:
    whole = all(isinstance(value, int) for value in values)
    texts = [each.text for each in ET.fromstring(histogram(values, whole=whole)).iter() if each.tag.endswith("text")]
    assert texts[: len(expected)] == expected
    assert all(str(text).isdecimal() for text in texts[len(expected) :])  # how many there are


def test_drawings_are_the_same_each_time() -> None:
    assert histogram([1, 2, 3]) == histogram([1, 2, 3])


def test_steps_stand_alone_too() -> None:
    drawing = steps([0, 0.5, 2.0], [3.0, 0.0])
    assert ET.fromstring(drawing).tag == "svg"
    assert "var(--accent)" in drawing
    assert not any(part in drawing for part in (" id=", "url(", "href=", "#010203"))
    assert drawing != steps([0, 0.5, 2.0], [3.0, 1.0])
