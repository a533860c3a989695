"""Plots that a page can hold several of, and colour."""

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from reelscribe.report.plots import histogram, steps


def _parsed(drawing: str) -> tuple[list[float], list[str]]:
    """Heights of the bars, and what the axes say."""
    assert not any(part in drawing for part in (" id=", "url(", "href=", "#", "<?xml"))
    root = ET.fromstring(drawing)
    assert root.tag == "svg"
    assert (root.findtext("title"), root.findtext("desc")) == ("Words <1>", "1 & more")
    bars = root.findall("rect")
    assert all(bar.get("fill") == "var(--accent)" for bar in bars)
    return [float(bar.get("height", "")) for bar in bars], [text.text or "" for text in root.findall("text")]


SAID: dict[str, Any] = {"title": "Words <1>", "said": "1 & more"}


@pytest.mark.parametrize("values", [[5], [0, 0, 0], [1, 2, 2, 9], list(range(10_000)), [0.0, 0.5, 0.25], [1e9, 1]])
@pytest.mark.parametrize("whole", [True, False])
def test_a_drawing_stands_alone_and_has_the_page_s_colours(values: list[float], whole: bool) -> None:
    drawing = histogram(values, whole=whole, **SAID)
    bars, said = _parsed(drawing)
    assert bars
    assert said
    assert len(drawing) < 8_000


def test_each_whole_number_has_a_bar_of_its_own() -> None:
    bars, _ = _parsed(histogram([1, 2, 2, 3, 3, 3, 3], **SAID))
    assert [bar / bars[0] for bar in bars] == pytest.approx([1, 2, 4], abs=0.01)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1320] * 5, ["1320"]), ([5.958] * 3, ["5.958"]), ([9, 10], ["9", "10"]), ([0.2, 0.7], ["0.2", "0.3", "0.4"])],
)
def test_the_axis_names_values_that_there_are(values: list[float], expected: list[str]) -> None:
    whole = all(isinstance(value, int) for value in values)
    levels = len({"0", "1"}) if len(values) < 3 else 4  # how many there are, by ones or by twos
    _, said = _parsed(histogram(values, whole=whole, **SAID))
    assert said[-len(expected) :] == expected or said[levels : levels + len(expected)] == expected


def test_steps_stand_alone_too() -> None:
    bars, said = _parsed(steps([0, 0.5, 2.0], [3.0, 1.5], **SAID))
    assert bars[0] == pytest.approx(2 * bars[1], abs=0.01)
    assert said[:4] == ["0", "1", "2", "3"]
    assert len(_parsed(steps([0, 0.5, 2.0], [3.0, 0.0], **SAID))[0]) == 1
