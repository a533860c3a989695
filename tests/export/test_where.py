"""Conditions, and what names stand for."""

from pathlib import Path
from typing import Any

import pytest
from flow import put_rows

from export.exporting import exported, film, row
from reelscribe.errors import SettingsError
from reelscribe.export.where import Condition


@pytest.mark.parametrize(
    ("written", "value", "holds"),
    [
        ("seconds<=61", 61.0, True),
        ("seconds <= 61", 61.5, False),
        ("n>2", 3, True),
        ("n > 2", "2", False),
        ("n>=1e2", 100, True),
        ("n<2", None, False),
        ("n<2", "much", False),
        ("n=2", 2.0, True),
        ("n==2", "2", True),
        ("n!=2", 2, False),
        ("n!=2", None, True),
        ("n=", "", True),
        ("n=", "a", False),
        ("lang = en us", "en us", True),
        ("lang=en", "EN", False),
        ("safe=true", True, True),
        ("safe=true", False, False),
        ("flags has loop", "truncated loop", True),
        ("flags has loop", "loops", False),
        ("flags lacks loop", "truncated", True),
        ("flags lacks loop", None, True),
        ("tags has a b", ["a b", "c"], True),
        ("tags has 1", [1], True),
    ],
)
def test_conditions(written: str, value: Any, holds: bool) -> None:
    assert Condition.parse(written).holds(value) == holds


@pytest.mark.parametrize("written", ["", "seconds", "<3", "a ~ b", "a b < 3", "flags has", "__import__('os')"])
def test_what_is_no_condition(written: str) -> None:
    with pytest.raises(SettingsError, match="--where takes NAME, a comparison"):
        Condition.parse(written)


def test_a_limit_is_a_number() -> None:
    with pytest.raises(SettingsError, match="compares with 'long', which is no number"):
        Condition.parse("seconds<long")


def test_names_stand_for_what_is_computed_for_metadata_and_for_columns(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", 100)
    rows = [
        row("a.mp4#t=0,1", "One two three.", clip_start=0.0, clip_end=1.0, flags="") | {"score": 0.9},
        row("a.mp4", "One two three four.", clip_start=0.0, clip_end=4.0, flags="loop") | {"score": 0.1},
        row("a.mp4", "Eins.") | {"score": None},
    ]
    output = put_rows(tmp_path / "out.jsonl", rows)
    for number, (conditions, kept) in enumerate(
        {
            ("seconds<2",): 1,
            ("seconds>=4",): 2,
            ("flags=loop",): 1,
            ("flags lacks loop",): 2,
            ("score>0.5",): 1,
            ("words>=3",): 2,
            ("words>=3", "flags lacks loop"): 1,
            ("chars<6",): 1,
            ("width=96", "height=64"): 3,
            ("frames=25",): 1,
            ("prompt=What?",): 3,
            ("row_number=2",): 1,
            ("source has a.mp4",): 2,
            ("task=caption",): 3,
        }.items()
    ):
        summary = exported(output, "table", f"set-{number}", where=conditions, dry_run=True)
        assert (summary.samples, sum(summary.left_out.values())) == (kept, 3 - kept), conditions


def test_names_of_nothing(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4")
    output = put_rows(tmp_path / "out.jsonl", [row("a.mp4", "a")])
    with pytest.raises(SettingsError, match=r"--where 'second<3': no row has a column 'second'; did you mean seconds"):
        exported(output, "table", where=("second<3",))
    with pytest.raises(SettingsError, match=r"known are columns of the rows, keys of caption_meta, and words, chars"):
        exported(output, "table", where=("zzz=3",))
    assert not (tmp_path / "set").exists()
