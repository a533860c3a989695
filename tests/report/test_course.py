"""The course of a run, from a record that it wrote or from one that holds anything."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from reelscribe.report.course import Course
from reelscribe.runners.status import record_of


def put(folder: Path, told: Any) -> Path:
    output = folder / "out.jsonl"
    record_of(output).write_text(json.dumps(told))
    return output


def test_rates_are_those_between_the_moments(tmp_path: Path) -> None:
    course = Course.of(put(tmp_path, {"course": [[60, 30], [120.0, 30], [240, 150]], "bottleneck": "decoding"}))
    assert course == Course(
        edges=[0, 1, 2, 4],
        unit="minutes",
        rates=[0.5, 0, 1],
        on_the_whole=150 / 240,
        bottleneck="decoding",
        seconds=240,
    )


def test_a_run_tells_it(data: Path) -> None:
    course = Course.of(data)
    assert course
    assert course.unit == "seconds"
    assert course.on_the_whole > 0
    spans = [end - begin for begin, end in itertools.pairwise(course.edges)]
    clips = sum(rate * span for rate, span in zip(course.rates, spans, strict=True))
    assert clips == pytest.approx(6)  # those that could be decoded


@pytest.mark.parametrize(
    "told",
    [
        {}, [], "text", {"course": None}, {"course": []}, {"course": [[1]]}, {"course": [["a", "b"]]}, {"course": [1]},
        {"course": [[0, 0]]}, {"course": [[-1, 3]]}, {"course": [[True, 3]]}, {"course": [[1, float("inf")]]},
    ],
)  # fmt: skip
def test_none_is_made_up(tmp_path: Path, told: Any) -> None:
    assert Course.of(put(tmp_path, told)) is None


def test_there_is_none_without_a_record(tmp_path: Path) -> None:
    assert Course.of(tmp_path / "out.jsonl") is None
