"""Votes that pages exported, and what they come to."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from flow import put_rows, read_rows_of

from compare.conftest import put_output
from reelscribe.cli import main
from reelscribe.compare.matching import match
from reelscribe.compare.sides import open_sides
from reelscribe.compare.votes import Vote, tally
from reelscribe.values import Row

NAMES = ["a.jsonl", "b.jsonl"]


@pytest.fixture
def ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Identifiers of six clips of `a.jsonl` and `b.jsonl`, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        put_output(Path(name), {str(clip): f"{name} {clip}" for clip in range(6)})
    return list(match(open_sides(NAMES)).ids.values())


def _row(clip: str, vote: str, voter: str = "v", **changes: Any) -> Row:
    what = {"vote": "better", "picked": vote} if vote in NAMES else {"vote": vote, "picked": None}
    return {"clip": clip, "video": "x", "sides": NAMES, "blind": True, "voter": voter, **what, **changes}


def _put(file: str, ids: list[str], votes: list[str], **changes: Any) -> str:
    put_rows(Path(file), [_row(clip, vote, **changes) for clip, vote in zip(ids, votes, strict=False)])
    return file


def _type(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["compare", *words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def test_votes_are_told_in_words(ids: list[str]) -> None:
    _put("votes.jsonl", ids, [NAMES[0], NAMES[0], NAMES[1], "tie", "bad"])
    assert _type("--votes", "votes.jsonl", *NAMES).splitlines() == [
        "5 votes of 1 voter on 5 clips, blind",
        "a.jsonl  picked on 2 of 3 clips: 66.7%, 95% interval 20.8% to 93.9%",
        "b.jsonl  picked on 1 of 3 clips: 33.3%, 95% interval 6.1% to 79.2%",
        "tie 1, both bad 1",
        "a.jsonl and b.jsonl: 2 to 1; no difference can be told at 95%: 32 more clips would tell it, "
        "if the picks of the two split as so far",
        "a.jsonl  model: m; prompt: p; words: 3.0 on average, median 3; faults and flags: none",
        "b.jsonl  model: m; prompt: p; words: 3.0 on average, median 3; faults and flags: none",
        "a.jsonl and b.jsonl: chrF 0.80, the same text for 0 of 5 clips",
    ]


def test_votes_of_several_count_a_clip_once(ids: list[str]) -> None:
    first = _put("first.jsonl", ids, [NAMES[0]] * 4)
    second = _put("second.jsonl", ids, [NAMES[0], NAMES[1], "tie"], voter="w", blind=False)
    told = json.loads(_type("--votes", first, "--votes", second, "--json", *reversed(NAMES)))
    assert (told["votes"], told["voters"], told["clips"], told["not_blind"]) == (7, 2, 4, 3)
    assert [(side["name"], side["picked"]) for side in told["sides"]] == [("b.jsonl", 0), ("a.jsonl", 2)]
    assert (told["ties"], told["decided"], told["stale"]) == (2, 2, 0)
    assert told["agreement"]["clips"] == 3
    assert told["agreement"]["same"] == pytest.approx(1 / 3)
    assert told["pairs"] == [{"sides": ["b.jsonl", "a.jsonl"], "picked": [0, 2], "needed": 2}]
    assert told["figures"]["a.jsonl"]["clips"] == 6
    assert told["clips_in_common"] == 6


def test_most_voters_decide_on_a_clip() -> None:
    def vote(voter: str, picked: str | None) -> Vote:
        return Vote(clip="c", voter=voter, verdict="better" if picked else "tie", picked=picked, blind=True)

    three = tally([vote("1", "x"), vote("2", "tie"), vote("3", "tie")], ["x", "tie", "z"])
    assert [side.picked for side in three.sides] == [0, 1, 0], "a side may be called like a verdict"
    assert [pair.needed for pair in three.pairs] == [3, None, 3]
    split = tally([vote("1", "x"), vote("2", "z")], ["x", "tie", "z"])
    assert (split.ties, split.decided, split.sides[0].share) == (1, 0, None)


def test_votes_on_texts_that_changed_are_left_out_and_told(ids: list[str]) -> None:
    _put("votes.jsonl", ids, [NAMES[0], NAMES[1]])
    rows = read_rows_of(Path("b.jsonl"))
    put_rows(Path("b.jsonl"), [rows[0] | {"caption": "anew", "caption_candidates": ["anew"]}, *rows[1:]])
    assert "not counted: 1 vote on texts that are not there, or not any more" in _type("--votes", "votes.jsonl", *NAMES)
    put_rows(Path("b.jsonl"), [row | {"caption": "x", "caption_candidates": ["x"]} for row in rows])
    assert "none of the votes is on a text that a.jsonl and b.jsonl have now" in _type(
        "--votes", "votes.jsonl", *NAMES, code=2
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vote": "worse"}, "votes.jsonl holds no votes in line 1; give a file that a page of compare exported"),
        ({"picked": None}, "holds no votes in line 1"),
        ({"picked": "c.jsonl"}, "holds no votes in line 1"),
        ({"vote": "tie"}, "holds no votes in line 1"),
        ({"clip": 3}, "holds no votes in line 1"),
        ({"sides": None}, "holds no votes in line 1"),
        ({"sides": ["a.jsonl", "c.jsonl"]}, "has votes on a.jsonl and c.jsonl, and not on a.jsonl and b.jsonl"),
    ],
)
def test_files_that_hold_something_else(ids: list[str], changes: Row, message: str) -> None:
    put_rows(Path("votes.jsonl"), [_row(ids[0], NAMES[0]) | changes])
    assert message in _type("--votes", "votes.jsonl", *NAMES, code=2)


def test_other_wrong_usage(ids: list[str]) -> None:
    votes = _put("votes.jsonl", ids, ["tie"])
    again = _type("--votes", votes, "--votes", votes, *NAMES, code=2)
    assert "votes of a voter that were given already" in again
    Path("empty.jsonl").touch()
    assert "there are no votes" in _type("--votes", "empty.jsonl", *NAMES, code=2)
    assert "there is no none.jsonl" in _type("--votes", "none.jsonl", *NAMES, code=2)
    assert "--blind does not go with --votes" in _type("--votes", votes, "--blind", *NAMES, code=2)
    assert "--json goes with --votes" in _type("--json", *NAMES, code=2)
    assert "must end in .html" in _type("-o", "b.jsonl", *NAMES, code=2)
    assert "clips must be a whole number of at least 1" in _type("--clips", "0", *NAMES, code=2)
    assert not list(Path().glob("*.html"))
