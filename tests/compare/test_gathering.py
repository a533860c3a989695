"""Sides as users name them, and clips that they have in common."""

from pathlib import Path
from typing import Any

import pytest
from flow import ScriptedEngine, put_rows, said

from compare.conftest import put_output
from reelscribe.compare.gathering import Gathered, gather
from reelscribe.compare.matching import match, sample
from reelscribe.compare.sides import open_sides
from reelscribe.config import Settings
from reelscribe.errors import DatasetError, ReelscribeError, SettingsError
from reelscribe.runners.local import run


def _gathered(*sides: Any) -> Gathered:
    return gather(open_sides([str(side) for side in sides]), list)


def _texts(gathered: Gathered) -> dict[str, tuple[str, ...]]:
    return {clip.entries[0].video.name: clip.texts for clip in gathered.clips}


# Sides


def test_a_side_is_an_output_a_task_or_a_candidate(tmp_path: Path) -> None:
    rows = [
        {
            "video": "a",
            "short": "one",
            "short_candidates": ["one", "two"],
            "short_meta": {"kept": [0]},
            "long": "more",
            "long_meta": {},
        }
    ]
    file = put_rows(tmp_path / "out.jsonl", rows)
    gathered = _gathered(f"{file}#short", f"{file}#long", f"{file}#short:2", f"{file}#short:1")
    assert gathered.names == ["out.jsonl#short", "out.jsonl#long", "out.jsonl#short:2", "out.jsonl#short:1"]
    assert _texts(gathered) == {"a": ("one", "more", "two", "one")}


def test_a_candidate_has_its_own_figures(tmp_path: Path) -> None:
    meta: dict[str, Any] = {"faults": ["", "cut_off"], "completion_tokens": [3, 5], "agreement": 0.5}
    file = put_output(tmp_path / "out.jsonl", {"a": ["one", "two three"]}, **meta)
    kept, second = _gathered(file, f"{file}#:2").figures
    assert (kept.tokens, kept.faults.total(), kept.agreement, kept.words) == ([3], 0, [0.5], [1])
    assert (second.tokens, dict(second.faults), second.agreement, second.words) == ([5], {"cut_off": 1}, [], [2])


def test_outputs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    files = [put_output(tmp_path / folder / "out.jsonl", {"/a": "x"}) for folder in "ab"]
    assert _gathered(*files).names == [str(file) for file in files]
    odd = put_output(tmp_path / "c#d.jsonl", {"/a": "x"})
    assert _gathered(odd, files[0]).names == ["c#d.jsonl", "out.jsonl"]


@pytest.mark.parametrize(
    ("sides", "error", "message"),
    [
        ([], SettingsError, "compare takes two sides or more"),
        (["out.jsonl"], SettingsError, "compare takes two sides or more"),
        (["out.jsonl"] * 10, SettingsError, "at most 9 sides; got 10"),
        (["out.jsonl", "./out.jsonl"], SettingsError, "out.jsonl is named twice"),
        (["out.jsonl", "out.jsonl#caption:0"], SettingsError, "from 1; got 'out.jsonl#caption:0'"),
        (["out.jsonl", "out.jsonl#"], SettingsError, "a side is OUTPUT, OUTPUT#TASK"),
        (["out.jsonl", "none.jsonl"], DatasetError, "there is no none.jsonl"),
        (["out.jsonl", "out.jsonl#captoin"], DatasetError, "has no task 'captoin'; did you mean caption?"),
        (["out.jsonl", "out.jsonl#:3"], DatasetError, "no clip has a text on all sides"),
        (["out.jsonl", "asked.jsonl"], DatasetError, "has the tasks short, long; say which, as asked.jsonl#short"),
        (["out.jsonl", "other.jsonl"], DatasetError, "out.jsonl and other.jsonl have no clip in common"),
        (["out.jsonl", "rows.jsonl"], DatasetError, "rows.jsonl holds no captions"),
        (["out.jsonl", "half.jsonl"], DatasetError, "the run on half.jsonl is not finished"),
        (["out.jsonl", "later.jsonl"], DatasetError, "later"),
    ],
)
def test_what_cannot_be_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sides: list[str], error: type[ReelscribeError], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    put_output(Path("out.jsonl"), {"a": ["x", "y"]})
    put_output(Path("other.jsonl"), {"b": "x"})
    put_rows(Path("asked.jsonl"), [{"video": "a", "short": "x", "short_meta": {}, "long": "y", "long_meta": {}}])
    put_rows(Path("rows.jsonl"), [{"video": "a"}])
    run([Path("rows.jsonl")], Path("half.jsonl"), Settings(decoders=0), engine=ScriptedEngine(lambda _: said("x")))
    Path("half.jsonl").unlink()
    Path("later.ledger.sqlite").write_bytes(b"what a later release would write")
    put_output(Path("later.jsonl"), {"a": "x"})
    with pytest.raises(error, match=message):
        _gathered(*sides)


# Matching


def test_clips_are_matched_by_video_and_stretch_and_not_by_row(tmp_path: Path) -> None:
    left = put_output(tmp_path / "a.jsonl", {"v.mp4#t=0,5": "start", "v.mp4#t=5,10": "end", "w.mp4": "other"})
    rights = {"w.mp4": "OTHER", str(tmp_path / "v.mp4#t=5.0,10.000"): "END", "v.mp4#t=0,5": "START"}
    (tmp_path / "v.mp4").write_bytes(b"is there")
    (tmp_path / "w.mp4").write_bytes(b"is there")
    right = put_output(tmp_path / "b.jsonl", rights)
    found = _texts(_gathered(left, right))
    assert found == {"v.mp4#t=0,5": ("start", "START"), "v.mp4#t=5,10": ("end", "END"), "w.mp4": ("other", "OTHER")}


def test_a_clip_that_is_there_twice_is_matched_in_order(tmp_path: Path) -> None:
    rows = [[{"video": "a", "caption": text} for text in texts] for texts in (("1", "2"), ("one", "two", "three"))]
    left, right = (put_rows(tmp_path / f"{name}.jsonl", each) for name, each in zip("ab", rows, strict=True))
    gathered = _gathered(left, right)
    assert [clip.texts for clip in gathered.clips] == [("1", "one"), ("2", "two")]
    assert gathered.left_out == ["1 clip not in a.jsonl"]


def test_what_a_side_lacks_is_counted(tmp_path: Path) -> None:
    left = put_output(tmp_path / "a.jsonl", {"1": "x", "2": None, "3": "x", "4": "x"})
    right = put_output(tmp_path / "b.jsonl", {"3": "y", "2": "y", "1": "y", "5": "y", "6": "y"})
    gathered = _gathered(left, right)
    assert list(_texts(gathered)) == ["1", "3"]
    assert (gathered.of, gathered.others) == (2, 4)
    assert gathered.left_out == [
        "2 clips not in a.jsonl",
        "1 clip without a text in a.jsonl",
        "1 clip not in b.jsonl",
    ]
    assert [side.words for side in gathered.figures] == [[1, 1], [1, 1]], "figures are of clips in common alone"


def test_identifiers_are_those_of_the_texts_in_whatever_order(tmp_path: Path) -> None:
    left = put_output(tmp_path / "a.jsonl", {"1": "x", "2": "x"})
    right = put_output(tmp_path / "b.jsonl", {"1": "y", "2": "y"})
    ids, swapped = (match(open_sides([str(a), str(b)])).ids for a, b in ((left, right), (right, left)))
    assert ids == swapped
    assert len(set(ids.values())) == 2
    put_output(right, {"1": "z", "2": "y"})
    changed = match(open_sides([str(left), str(right)])).ids
    assert [ids[key] == changed[key] for key in ids] == [False, True]


def test_overlap_is_chrf_and_says_how_many_are_the_same(tmp_path: Path) -> None:
    left = put_output(tmp_path / "a.jsonl", {"1": "the same", "2": "abc"})
    right = put_output(tmp_path / "b.jsonl", {"1": "the same", "2": "xyz"})
    (pair,) = _gathered(left, right).overlaps
    assert (pair.same, pair.clips) == (1, 2)
    assert pair.chrf == pytest.approx(0.5)


def test_a_sample_is_of_its_seed_and_in_order() -> None:
    keys = [(str(number), 0) for number in range(100)]
    assert sample(keys, 5, 0) == sample(keys, 5, 0) != sample(keys, 5, 1)
    assert sample(keys, 5, 0) == sorted(sample(keys, 5, 0), key=keys.index)
    assert sample(keys, 100, 0) == keys
