"""Scorers of the user's: every candidate gets a number or its caption says so, and nothing is generated for that."""

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from flow import KeepingEngine, ScriptedEngine, put_clip, put_rows, read_rows_of, said

from reelscribe.config import Settings
from reelscribe.errors import SettingsError
from reelscribe.runners.local import RunSummary, run
from reelscribe.runners.merge import merge
from reelscribe.scores import ToScore
from reelscribe.values import Row, Work

LONGEST, SHORTEST = "test_scoring:longest", "test_scoring:longest(sign=-1)"

_TEXT_STAGE = {"prompt": "{a}", "after": "a", "video": False, "keep": "scored"}
_calls: list[list[str]] = []
"""The texts of rows that scorers were given, a list for each call."""
_may_score = threading.Event()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    _calls.clear()
    _may_score.set()


def longest(clips: Sequence[ToScore], sign: int = 1) -> list[list[int]]:
    assert _may_score.wait(20)
    _calls.append([clip.row["text"] for clip in clips])
    assert all(clip.frames.pixels.shape[1:] == (64, 64, 3) for clip in clips)
    return [[sign * len(text) for text in clip.texts] for clip in clips]


def odd(clips: Sequence[ToScore]) -> list[Any]:
    """Does to each row what its text says."""
    scores: list[Any] = longest(clips)
    for number, clip in enumerate(clips):
        match clip.row["text"]:
            case "raises":
                raise KeyError("on purpose")
            case "nan":
                scores[number][1] = float("nan")
            case "few":
                scores[number].pop()
            case "none":
                scores[number] = None
            case "fewer":
                return scores[1:]
    return scores


def _engine(asked: list[str] | None = None) -> ScriptedEngine:
    def answer(work: Work) -> Any:
        if asked is not None:
            asked.append(work.requests[0].prompt)
        return said("short", "much longer", "")

    return ScriptedEngine(answer, batch_size=3)


def _run(
    folder: Path, engine: Any, *texts: str, output: str = "out.jsonl", **settings: Any
) -> tuple[list[Row], RunSummary]:
    clips = [folder / f"{number}.mp4" for number in range(len(texts))]
    for clip in clips:
        if not clip.exists():  # what is written again is another video
            put_clip(clip)
    put_rows(folder / "in.jsonl", [{"video": str(clip), "text": text} for clip, text in zip(clips, texts, strict=True)])
    told = Settings(**{"layout": "columns", "num_captions": 3, "max_frames": 2, "scorer": LONGEST, **settings})
    summary = run([folder / "in.jsonl"], folder / output, told, engine=engine)
    return read_rows_of(folder / output), summary


def test_best_is_kept_and_what_waits_is_scored_together(tmp_path: Path) -> None:
    _may_score.clear()
    engine = _engine()
    answer = engine._answer

    def last(work: Work) -> Any:
        if work.requests[0].id.row == 5:
            _may_score.set()
        return answer(work)

    engine._answer = last
    rows, _ = _run(tmp_path, engine, *"abcdef", keep="scored")
    assert [row["caption"] for row in rows] == ["much longer"] * 6
    meta = rows[0]["caption_meta"]
    assert [json.loads(told) if told else None for told in meta["scores"]] == [{LONGEST: 5.0}, {LONGEST: 11.0}, None]
    assert meta["reason"] == f"best score of 2 by {LONGEST}: 11; left out before: 1 with faults"
    assert sorted(text for call in _calls for text in call) == list("abcdef")
    assert len(_calls) < 6


def test_row_that_cannot_be_scored_costs_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = ("good", "raises", "nan", "few", "none", "fewer", "fine")
    rows, summary = _run(tmp_path, _engine(), *texts, keep="scored", scorer="test_scoring:odd")
    scored = [bool(row["caption_meta"]["scores"][0]) for row in rows]
    assert scored == [True, False, False, False, False, False, True]
    assert ["unscored" in row["caption_meta"]["flags"].split() for row in rows] == [not each for each in scored]
    assert all(row["caption"] for row in rows)
    assert summary.flags == {"unscored": 5}
    assert not summary.failures
    assert caplog.text.count("gave no scores of") == 3
    assert "KeyError: 'on purpose'" in caplog.text


def test_other_choice_or_scorer_asks_the_model_nothing(tmp_path: Path) -> None:
    asked: list[str] = []
    engine = _engine(asked)
    _run(tmp_path, engine, "a", "b", keep="all", scorer=None)
    assert len(asked) == 2
    for sign, kept in ((1, "much longer"), (-1, "short")):
        params = {} if sign == 1 else {"sign": sign}
        rows, _ = _run(tmp_path, engine, "a", "b", keep="scored", scorer_params=params)
        assert [row["caption"] for row in rows] == [kept] * 2
    assert json.loads(rows[0]["caption_meta"]["scores"][0]) == {LONGEST: 5.0, SHORTEST: -5.0}
    done = len(_calls)
    for keep in ("scored", "random_any"):
        _run(tmp_path, engine, "a", "b", keep=keep)
    assert (len(asked), len(_calls)) == (2, done)
    _run(tmp_path, engine, "raises", keep="scored", scorer="test_scoring:odd")
    rows, _ = _run(tmp_path, engine, "now good", keep="scored", scorer="test_scoring:odd")
    assert rows[0]["caption_meta"]["flags"] == ""
    assert len(asked) == 2


@pytest.mark.parametrize("engine", [_engine, lambda: KeepingEngine(lambda _: said("one", "two", "three"))])
def test_frames_are_held_within_the_bound_of_bytes(
    tmp_path: Path, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    monkeypatch.setattr("reelscribe.scoring.Scoring.hold", _noting(held))
    rows, _ = _run(tmp_path, engine(), *"abcdef", keep="scored", prefetch_bytes=1)
    assert all(row["caption_meta"]["scores"][0] for row in rows)
    assert max(held) == 1


def _noting(held: list[int]) -> Any:
    from reelscribe.scoring import Scoring

    hold = Scoring.hold

    def noting(scoring: Any, request: Any, frames: Any) -> None:
        hold(scoring, request, frames)
        held.append(len(scoring._held))

    return noting


def test_shards_with_a_row_without_scores_are_merged(tmp_path: Path) -> None:
    texts, scorer = ("a", "raises", "c", "d"), "test_scoring:odd"
    for part in ("1/2", "2/2"):
        _run(tmp_path, _engine(), *texts, keep="scored", scorer=scorer, shard=part, output=f"part-{part[0]}.jsonl")
    merge(tmp_path / "out.jsonl", [tmp_path / f"part-{number}.jsonl" for number in (1, 2)])
    flags = [row["caption_meta"]["flags"] for row in read_rows_of(tmp_path / "out.jsonl")]
    assert flags == ["", "unscored", "", ""]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"scorer": "not_there:score"}, "cannot be imported: ModuleNotFoundError"),
        ({"scorer": "math:not_there"}, "cannot be imported: AttributeError"),
        ({"scorer": "math"}, "scorer must be module:function"),
        ({"scorer": "math:pi"}, "must be a function or a class; it is float"),
        ({"scorer": "test_scoring:longest", "scorer_params": {"size": 2}}, "does not take a list of clips"),
        ({"keep": "scored"}, "there is no scorer: set scorer"),
        ({"scorer_params": {"sign": 1}}, "scorer_params are for a scorer"),
        ({"scorer": LONGEST, "engine": "openai", "send": "video"}, "with send = video none are decoded"),
        ({"scorer": LONGEST, "tasks": {"a": "Who?", "b": _TEXT_STAGE}}, "has no frames to score with"),
    ],
)  # fmt: skip
def test_what_cannot_score_is_told_before_a_model_is_loaded(
    tmp_path: Path, settings: dict[str, Any], says: str
) -> None:
    put_rows(tmp_path / "in.jsonl", [{"video": str(put_clip(tmp_path / "a.mp4"))}])
    with pytest.raises(SettingsError) as caught:
        run([tmp_path / "in.jsonl"], tmp_path / "out.jsonl", Settings(model="no/such", layout="columns", **settings))
    assert says in str(caught.value)
