"""Runs that go on where another one ended: the same bytes in the end, and nothing made twice."""

import itertools
import json
import os
import re
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, get_args

import pytest
from flow import EOC, VIDEO, ScriptedEngine, clip_bytes, put_clip, put_rows, read_rows_of, said

from reelscribe.config import Settings
from reelscribe.dataset.ledger_file import read_runs
from reelscribe.dataset.lock import locked
from reelscribe.errors import DatasetError, EngineError, FailuresError, SettingsError
from reelscribe.runners.local import RunSummary, run
from reelscribe.runners.retry import retry
from reelscribe.runners.status import ledger_of, lock_of, read_status
from reelscribe.tasks import Keep
from reelscribe.values import Failure, Row, Work

Output = dict[str, bytes]


class _Counting(ScriptedEngine):
    """Says the prompt and the clip, counts what it is asked, and breaks after so many answers."""

    def __init__(self, *, break_after: int = 10**9, batch_size: int = 1) -> None:
        super().__init__(self._say, batch_size=batch_size)
        self.asked: list[str] = []
        self._break_after = break_after

    def _say(self, item: Work) -> Any:
        if len(self.asked) >= self._break_after:
            raise EngineError("broken")
        request = item.requests[0]
        self.asked.append(request.reference)
        if "bad" in request.reference and request.sampling.max_tokens != 99:
            return Failure(id=request.id, video=request.clip.name, kind="engine", message="it does not like it")
        return said(*(f"{request.prompt} {request.reference} {number}" for number in range(request.num_captions)))


def _rows(folder: Path) -> list[Row]:
    """Rows of all kinds, each with a text and a video of its own; some of them are the same."""
    for name in "abcdefg":
        put_clip(folder / f"{name}.mp4")
    rows: list[Row] = []
    for number in range(3):
        (folder / f"{'xyz'[number]}.mp4").write_text("this is no video")
        rows += [
            {"video": f"{'ade'[number]}.mp4", "text": f"one {number}"},
            {"text": f"none {number}"},
            {"video": "gone.mp4", "text": f"gone {number}"},
            {"video": f"{'xyz'[number]}.mp4", "text": f"unreadable {number}"},
            {"video": "b.mp4", "text": "same"},
            {"video": 5, "text": f"odd {number}"},
            {"video": f"{'cfg'[number]}.mp4", "text": f"two {number}"},
        ]
    return rows


def _own(folder: Path, text: str) -> Row:
    """A row with a text and a video of its own."""
    return {"video": put_clip(folder / f"{text}.mp4").name, "text": text}


def _files(folder: Path) -> Output:
    """What a run made, by name, less what tells of the run itself; a folder's files, too."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.endswith(("ledger.sqlite", "run.json"))}


def _run(output: Path, *inputs: Path, engine: Any = None, **settings: Any) -> tuple[RunSummary, list[str]]:
    """Run; returns also what the engine was asked, sorted: clips that are ready pass others."""
    engine = engine or _Counting()
    summary = run(inputs, output, Settings(**settings), engine=engine)
    return summary, sorted(engine.asked)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return put_rows(tmp_path / "in.jsonl", _rows(tmp_path))


# Going on


@pytest.mark.parametrize(
    ("output", "settings"),
    [
        ("out.jsonl", {}),
        ("out.jsonl", {"num_captions": 5}),
        ("out.jsonl", {"sidecar": "json"}),
        ("out.jsonl.gz", {}),
        ("part-{shard}.jsonl", {"shard_rows": 4}),
        ("out.tar", {}),
        ("out.parquet", {"num_captions": 3, "keep": "all"}),
        ("shards", {"output_format": "parquet", "shard_rows": 4}),
        ("out", {"output_format": "hf"}),
    ],
)
def test_run_that_broke_off_comes_to_the_same_bytes_and_makes_nothing_twice(
    tmp_path: Path, data: Path, output: str, settings: dict[str, Any]
) -> None:
    if output.endswith(".parquet") or "output_format" in settings:
        pytest.importorskip("pyarrow")
    summary, whole = _run(tmp_path / "whole" / output, data, **settings)
    videos = {name: (tmp_path / name).stat().st_mtime_ns for name in ("a.mp4", "x.mp4")}
    expected = _files(tmp_path / "whole")
    sidecars = {path.name: path.read_bytes() for path in tmp_path.glob("?.json")}
    assert bool(sidecars) == ("sidecar" in settings)
    for path in tmp_path.glob("?.json"):
        path.unlink()
    asked: list[str] = []
    for break_after in (0, 1, 2, 1, 0):
        engine = _Counting(break_after=break_after, batch_size=2)
        with pytest.raises(EngineError, match="broken"):
            _run(tmp_path / "again" / output, data, engine=engine, **settings)
        asked += engine.asked
    last, rest = _run(tmp_path / "again" / output, data, **settings)
    assert _files(tmp_path / "again") == expected
    assert {path.name: path.read_bytes() for path in tmp_path.glob("?.json")} == sidecars
    assert sorted(set(asked + rest)) == sorted(set(whole))
    once = [name for name in asked + rest if name != "same"]  # of which several may be under way
    assert len(once) == len(set(once))
    assert replace(last, known=0, failures_file=summary.failures_file) == replace(summary, known=0)
    assert last.known > 0
    assert videos == {name: (tmp_path / name).stat().st_mtime_ns for name in videos}


def test_interleaved_rows_with_several_videos_and_candidates(tmp_path: Path) -> None:
    for name in ("a", *(f"{number}{slot}" for number in range(4) for slot in range(3))):
        put_clip(tmp_path / f"{name}.mp4")
    rows: list[Row] = [
        {
            "text": f"{VIDEO}old {number}{EOC}{VIDEO}{VIDEO}older {number}{EOC}",
            "videos": [f"{number}{slot}.mp4" for slot in range(3)],
            "id": number,
        }
        for number in range(4)
    ]
    rows.insert(2, {"text": f"{VIDEO}bad{EOC}", "videos": ["a.mp4"], "id": 9})
    data = put_rows(tmp_path / "in.jsonl", rows)
    settings: dict[str, Any] = {"num_captions": 3, "keep": "all"}
    _run(tmp_path / "whole" / "out.jsonl", data, **settings)
    answered: list[str] = []
    for _ in range(3):
        engine = _Counting(break_after=2)
        with pytest.raises(EngineError):
            _run(tmp_path / "again" / "out.jsonl", data, engine=engine, **settings)
        answered += engine.asked
    _, asked = _run(tmp_path / "again" / "out.jsonl", data, **settings)
    assert len(answered) == 3 * 2
    assert len([name for name in answered + asked if name != "bad"]) == 12  # what failed is tried again
    assert _files(tmp_path / "again") == _files(tmp_path / "whole")


def test_videos_as_bytes_are_known_by_their_content(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"video": [clip_bytes()] * 3, "text": ["x", "y", "z"]}), tmp_path / "in.parquet")
    assert _run(tmp_path / "out.parquet", tmp_path / "in.parquet")[1] == ["x", "y", "z"]
    os.utime(tmp_path / "in.parquet", (1, 1))
    assert _run(tmp_path / "out.parquet", tmp_path / "in.parquet")[1] == []


def test_what_is_recorded_is_there_although_an_earlier_row_is_not_finished(tmp_path: Path, data: Path) -> None:
    """The first row is answered last; the others must not wait for it."""
    engine = _Counting(break_after=5, batch_size=100)
    with pytest.raises(EngineError):
        _run(tmp_path / "out.jsonl", data, engine=engine)
    assert "one 0" not in engine.asked
    _, asked = _run(tmp_path / "out.jsonl", data)
    assert set(asked).isdisjoint(set(engine.asked) - {"same"})


def test_rows_in_another_order_and_new_ones_are_known_by_what_they_are(tmp_path: Path) -> None:
    rows: list[Row] = [_own(tmp_path, str(number)) for number in range(5)]
    _run(tmp_path / "out.jsonl", put_rows(tmp_path / "in.jsonl", rows))
    rows = [_own(tmp_path, "new"), *rows[::-1], {**rows[0], "text": "edited"}]
    _, asked = _run(tmp_path / "out.jsonl", put_rows(tmp_path / "other.jsonl", rows))
    assert asked == ["new"]
    assert [row["caption"].split()[-2] for row in read_rows_of(tmp_path / "out.jsonl")] == [
        "new",
        "4",
        "3",
        "2",
        "1",
        "0",
        "0",
    ]  # fmt: skip  (what was said of a video stays when its text is edited)


@pytest.mark.parametrize("before", [keep for keep in get_args(Keep) if keep != "scored"])  # which needs a scorer
@pytest.mark.parametrize("after", [keep for keep in get_args(Keep) if keep not in ("likeliest", "judged", "scored")])
def test_other_candidates_are_kept_without_making_any_again(
    tmp_path: Path, data: Path, before: str, after: str
) -> None:
    _run(tmp_path / "whole" / "out.jsonl", data, num_captions=4, keep=after)
    _run(tmp_path / "again" / "out.jsonl", data, num_captions=4, keep=before)
    summary, asked = _run(tmp_path / "again" / "out.jsonl", data, num_captions=4, keep=after)
    assert asked == []
    assert summary.known == summary.captions + sum(summary.failures.values()) - summary.failures["row"] > 0
    assert _files(tmp_path / "again") == _files(tmp_path / "whole")


def test_candidates_are_judged_once(tmp_path: Path, data: Path) -> None:
    """Those of a run that judged none are made again, as those without log-probabilities are, and then have both."""
    output, judged = tmp_path / "out.jsonl", {"num_captions": 4, "keep": "judged"}
    _run(output, data, num_captions=4)
    _, made = _run(output, data, **judged)
    assert made
    for settings in (judged, {**judged, "keep": "likeliest"}, judged):
        assert _run(output, data, **settings)[1] == []
    assert _run(output, data, **judged, judge_prompt="Right? {caption}")[1] == made


KEEPS: Final[tuple[Keep, ...]] = ("random_any", "similar_one_simhash", "all")


@pytest.mark.parametrize("order", [*itertools.permutations(KEEPS), ("all", "all", "random_any", "all")], ids="-".join)
@pytest.mark.parametrize("retry_flagged", [False, True])
def test_order_of_runs_makes_no_difference_and_no_good_candidate_is_lost(
    tmp_path: Path, order: tuple[Keep, ...], retry_flagged: bool
) -> None:
    """Candidates without words, with faults and without, and all of a video silent: whatever is kept first."""
    said_of = {
        "mixed": said("", "a sheep talks", "it talks ...", "a dog runs"),
        "silent": said("", "?", " ", "!"),
        "good": said("one word", "two words", "three words", "four words"),
    }
    seconds = [f"second {number}" for number in range(5)]  # good at the second try alone, which has another seed
    rows = [_own(tmp_path, name) for name in (*said_of, *seconds)]
    data = put_rows(tmp_path / "in.jsonl", rows)

    def texts(folder: str, keep: Keep, reply: Callable[[Work], Any]) -> bytes:
        settings = Settings(num_captions=4, keep=keep, retry_flagged=retry_flagged)
        output = tmp_path / folder / "out.jsonl"
        run([data], output, settings, engine=ScriptedEngine(reply))
        return output.read_bytes()

    asked: list[str] = []

    def reply(item: Work) -> Any:
        asked.append(name := item.requests[0].reference)
        if name in said_of:
            return said_of[name]
        return said(
            *[f"{name} {item.requests[0].seed} {n}" + " ..." * (item.requests[0].attempt == 1) for n in range(4)]
        )

    fresh = {keep: texts(keep, keep, reply) for keep in KEEPS}
    asked.clear()
    assert [texts("order", keep, reply) for keep in order] == [fresh[keep] for keep in order]
    again = 2 if retry_flagged else 1
    tries = ["silent"] * 3 * again + seconds * again
    assert sorted(asked) == sorted(["mixed", "good", *tries]), "a failure of the moment is tried by three runs"
    mixed, silent, *_ = read_rows_of(tmp_path / "all" / "out.jsonl")
    assert mixed["caption_meta"]["kept"] == [1, 2, 3]
    assert mixed["caption_candidates"] == ["", "a sheep talks", "it talks ...", "a dog runs"]
    assert silent["caption"] is None


def test_video_that_changes_or_comes_later_is_made_again(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    data = put_rows(tmp_path / "in.jsonl", [{"video": f"{name}.mp4", "text": name} for name in "ab"])
    assert _run(tmp_path / "out.jsonl", data)[0].failures == {"missing": 1}
    put_clip(tmp_path / "b.mp4")
    assert _run(tmp_path / "out.jsonl", data)[1] == ["b"]
    os.utime(tmp_path / "a.mp4", (1, 1))
    assert _run(tmp_path / "out.jsonl", data)[1] == ["a"]


def test_other_format_takes_up_the_same_captions(tmp_path: Path, data: Path) -> None:
    _run(tmp_path / "out.jsonl", data)
    assert _run(tmp_path / "out.jsonl.gz", data)[1] == []


@pytest.mark.parametrize("settings", [{"batch_size": 1, "decoders": 1, "device": "cpu"}, {"original": False}])
def test_how_the_work_is_done_makes_nothing_again(
    tmp_path: Path, data: Path, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    _run(tmp_path / "out.jsonl", data)
    assert _run(tmp_path / "out.jsonl", data, **settings)[1] == []
    assert caplog.messages == []


def test_changed_setting_is_told_with_what_is_made_again(
    tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "out.jsonl"
    _, whole = _run(output, data)
    assert set(_run(output, data, prompt="Who?" * 50, fps=3)[1]) == set(whole)
    assert caplog.messages == [
        f"Since the last run on {output} this changed: fps (2.0 → 3), prompt (not set → {'Who?' * 15}...). Captions "
        f"that depend on it are made again; the {len(set(whole))} that there are stay in the ledger, for when it "
        "changes back."
    ]
    caplog.clear()
    assert _run(output, data)[1] == []
    assert caplog.messages == [
        f"Since the last run on {output} this changed: fps (3 → 2.0), prompt ({'Who?' * 15}... → not set). An earlier "
        "run had it so, too: its captions are taken up."
    ]


def test_setting_that_the_last_run_did_not_know_had_its_default(
    tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "out.jsonl"
    _run(output, data)
    with sqlite3.connect(ledger_of(output)) as ledger:
        ledger.execute("UPDATE runs SET work = json_remove(work, '$.thinking')")
    assert _run(output, data)[1] == []
    assert caplog.messages == []
    with sqlite3.connect(ledger_of(output)) as ledger:
        ledger.execute("UPDATE runs SET work = json_remove(work, '$.thinking')")
    assert _run(output, data, thinking=True)[1] != []
    assert f"Since the last run on {output} this changed: thinking (not set → True). " in caplog.text


def test_changed_prompt_leaves_rows_alone_that_have_their_own(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    rows: list[Row] = [{"video": "a.mp4", "text": "own", "ask": "Who?"}, {"video": "a.mp4", "text": "common"}]
    data = put_rows(tmp_path / "in.jsonl", rows)
    _run(tmp_path / "out.jsonl", data, prompt_key="ask")
    assert _run(tmp_path / "out.jsonl", data, prompt_key="ask", prompt="What?")[1] == ["common"]


def test_without_resume_all_is_made_anew_and_the_old_ledger_set_aside(tmp_path: Path, data: Path) -> None:
    output = tmp_path / "out.jsonl"
    _, whole = _run(output, data)
    assert _run(output, data, resume=False)[1] == whole
    assert (tmp_path / "out.ledger.sqlite.older").is_file()
    assert len(read_runs(ledger_of(output))) == 1
    assert _run(output, data)[1] == []


# One at a time


def test_outputs_that_share_a_ledger_are_told_apart(
    tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output, other = tmp_path / "out.jsonl", tmp_path / "out.jsonl.gz"
    _run(output, data)
    _run(other, data, fps=3)
    told = "Since the last run on out.jsonl, which shares its ledger with out.jsonl.gz, this changed: fps (2.0 → 3)."
    assert told in caplog.text
    refused = r"a run is writing to out\.jsonl, which shares its ledger \(process .*an output with another stem"
    with locked(lock_of(output), output):
        with pytest.raises(DatasetError, match=refused):
            _run(other, data)
        assert (read_status(output).state, read_status(other).state) == ("running", "finished")


def test_second_run_on_an_output_is_refused_and_changes_nothing(tmp_path: Path, data: Path) -> None:
    output = tmp_path / "out.jsonl"
    _run(output, data)
    (tmp_path / "out.jsonl.partial").write_text("of the run that goes on")
    before = _files(tmp_path)
    with locked(lock_of(output), output), pytest.raises(DatasetError, match=r"another run is writing to .*out\.jsonl"):
        _run(output, data, resume=False)
    assert _files(tmp_path) == before
    assert len(read_runs(ledger_of(output))) == 1


# Failures


def test_failures_that_say_more_of_the_moment_are_tried_by_later_runs(tmp_path: Path) -> None:
    data = put_rows(tmp_path / "in.jsonl", [_own(tmp_path, "bad"), _own(tmp_path, "good")])
    asked = [_run(tmp_path / "out.jsonl", data)[1] for _ in range(4)]
    assert asked == [["bad", "good"], ["bad"], ["bad"], []]


def test_limit_of_failures_stops_the_run_early_and_it_can_go_on(tmp_path: Path) -> None:
    data = put_rows(tmp_path / "in.jsonl", [_own(tmp_path, f"bad {n}") for n in range(50)])
    output, engine = tmp_path / "out.jsonl", _Counting()
    words = r"3 of 3 videos failed, more than max_failures allows \(2\)\. The commonest reason is engine \(3\), as: it "
    with pytest.raises(FailuresError, match=words):
        _run(output, data, engine=engine, max_failures="2")
    assert len(engine.asked) < 10
    assert not output.exists()
    assert len(read_rows_of(tmp_path / "out.jsonl.partial")) == 3
    assert read_runs(ledger_of(output))[0].progress["failures"] == {"engine": 3}
    assert _run(output, data, max_failures="50")[0].failures == {"engine": 50}


def test_retry_tries_named_kinds_with_other_sampling_and_later_runs_keep_what_came_out(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.write_bytes(data.read_bytes() + f"{json.dumps(_own(tmp_path, 'bad'))}\n".encode())
    monkeypatch.chdir(tmp_path)
    output = Path("out.jsonl")
    first, _ = _run(output, Path("in.jsonl"), prompt="Well?", resume=False)
    assert first.failures == {"missing": 3, "unreadable": 3, "row": 3, "engine": 1}
    for name in "xyz":
        put_clip(tmp_path / f"{name}.mp4")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    output = tmp_path / "out.jsonl"

    engine = _Counting()
    assert retry(output, kinds=["decode"], engine=engine).failures == {"missing": 3, "row": 3, "engine": 1}
    assert set(engine.asked) == {"bad", *(f"unreadable {number}" for number in range(3))}
    engine = _Counting()
    summary = retry(output, kinds=["engine", "missing"], settings={"sampling": {"max_tokens": "99"}}, engine=engine)
    assert (engine.asked, summary.failures) == (["bad"], {"missing": 3, "row": 3})
    (row,) = [row for row in read_rows_of(output) if row["text"] == "bad"]
    assert row["caption"] == "Well? bad 0"
    assert row["caption_meta"]["sampling"] == '{"max_tokens": 99}'
    monkeypatch.chdir(tmp_path)
    written = output.read_bytes()
    assert _run(Path("out.jsonl"), Path("in.jsonl"), prompt="Well?")[1] == []
    assert output.read_bytes() == written
    assert Path.cwd() == tmp_path


def test_marked_rows_are_made_again_with_other_sampling(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows: list[Row] = [_own(tmp_path, text) for text in ("fine", "dull", "noted", "also bad")]
    data, output = (
        put_rows(tmp_path / "in.jsonl", [*rows, {"video": "gone.mp4", "text": "gone"}]),
        tmp_path / "out.jsonl",
    )
    run([data], output, Settings(decoders=0), engine=_Counting())
    flags = {1: True, 2: False, 3: True, 4: False}
    marks = put_rows(
        tmp_path / "marks.jsonl",
        [
            {"row": row, "video": (rows[row]["video"] if row < 4 else "a.mp4"), "flag": flag, "note": "why"}
            for row, flag in flags.items()
        ],
    )
    engine = _Counting()
    summary = retry(output, marks=marks, settings={"sampling": {"max_tokens": 99}}, engine=engine)
    assert (engine.asked, summary.captions, summary.known) == (["dull", "also bad"], 4, 3)
    sampled = [json.loads(row["caption_meta"]["sampling"] or "{}").get("max_tokens") for row in read_rows_of(output)]
    assert sampled == [None, 99, None, 99, None]
    written, engine = output.read_bytes(), _Counting()
    written_row = read_rows_of(output)[3]
    run([data], output, Settings(decoders=0), engine=engine)
    assert (engine.asked, output.read_bytes()) == ([], written)
    engine = _Counting()
    retry(output, marks=marks, kinds=["missing"], settings={"sampling": {"max_tokens": 9}}, engine=engine)
    assert engine.asked == ["dull", "also bad"]
    told = "1 captions could not be made or judged again, and stay as they are, as: row 3: it does not like it"
    assert caplog.messages == [told]
    assert read_rows_of(output)[3]["caption"] == written_row["caption"]
    caplog.clear()
    retry(
        output,
        marks=put_rows(marks, [{"row": 5, "flag": True}]),
        settings={"sampling": {"max_tokens": 9}},
        engine=engine,
    )
    assert caplog.messages == ["Not made again, since they are not what was marked: the videos of rows 5."]
    assert len(engine.asked) == 2


def test_marks_of_a_tar_file_that_was_made_of_paths_are_known(tmp_path: Path) -> None:
    rows: list[Row] = [_own(tmp_path, text) for text in ("one", "two")]
    data, output = put_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.tar"
    _run(output, data)
    marks = put_rows(tmp_path / "marks.jsonl", [{"row": 1, "video": "000000001", "flag": True}])
    engine = _Counting()
    retry(output, marks=marks, settings={"sampling": {"max_tokens": 99}}, engine=engine)
    assert engine.asked == ["two"]


def test_marks_of_a_shard_are_refused(tmp_path: Path, data: Path) -> None:
    _run(tmp_path / "out.jsonl", data, shard="1/2")
    marks = put_rows(tmp_path / "marks.jsonl", [{"row": 0, "flag": True}])
    with pytest.raises(SettingsError, match="marks count the rows of all shards' output: merge these"):
        retry(tmp_path / "out.jsonl", marks=marks, settings={"sampling": {"seed": 1}})


def test_a_mark_holds_for_its_video_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in "abc":
        put_clip(tmp_path / f"{name}.mp4")
    rows: list[Row] = [{"videos": ["a.mp4", "b.mp4"], "text": "two"}, {"videos": ["c.mp4"], "text": "one"}]
    data, output = put_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    _run(output, data)
    marks = put_rows(tmp_path / "marks.jsonl", [{"row": row, "video": "b.mp4", "flag": True} for row in (0, 1)])
    retry(output, marks=marks, settings={"sampling": {"max_tokens": 99}}, engine=_Counting())
    assert caplog.messages == ["Not made again, since they are not what was marked: the videos of rows 1."]
    metas = [meta for row in read_rows_of(output) for meta in row["caption_meta"]]
    sampled = [json.loads(meta["sampling"]).get("max_tokens") for meta in metas]
    assert sampled == [None, 99, None]


@pytest.mark.parametrize(
    "line", ['{"row": "1", "flag": true}', '{"row": 1}', '{"flag": true}', '{"row": 1, "flag": 1}', "[1]", "no"]
)
def test_marks_that_are_none_are_told(tmp_path: Path, line: str) -> None:
    (tmp_path / "marks.jsonl").write_text('{"row": 0, "flag": true, "note": ""}\n' + line + "\n")
    with pytest.raises(DatasetError, match=r"marks\.jsonl, line 2: a mark has a row .* as a report exports it; got "):
        retry(tmp_path / "out.jsonl", marks=tmp_path / "marks.jsonl", settings={"sampling": {"seed": 1}})
    with pytest.raises(SettingsError, match="marked rows would come out as they are; give something else for them: "):
        retry(tmp_path / "out.jsonl", marks=tmp_path / "marks.jsonl")


def test_retry_that_is_interrupted_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = put_rows(tmp_path / "in.jsonl", [_own(tmp_path, f"bad {n}") for n in range(4)])
    output = tmp_path / "out.jsonl"
    _run(output, data)
    before = output.read_bytes()
    with pytest.raises(EngineError):
        retry(output, settings={"sampling": {"max_tokens": 99}}, engine=_Counting(break_after=2))
    assert output.read_bytes() == before
    assert not caplog.messages
    engine = _Counting()
    assert retry(output, settings={"sampling": {"max_tokens": 99}}, engine=engine).captions == 4
    assert len(engine.asked) == 2
    [told] = caplog.messages
    assert told == f"The last run on {output} did not come to its end: what it left is made, too."


def test_what_cannot_be_retried_is_told(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out.jsonl"
    with pytest.raises(DatasetError, match=r"there is no out\.ledger\.sqlite in "):
        retry(output)
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    _run(output, data)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=r"there is no failure of kind 'decoding'; kinds are row, missing, "):
        retry(output, kinds=["decoding"])
    with pytest.raises(SettingsError, match="unknown sampling parameter 'hot'"):
        retry(output, settings={"sampling": {"hot": 1}}, engine=_Counting())
    with pytest.raises(DatasetError, match=r"no run has begun to write .*out\.tar; out\.ledger\.sqlite is the ledger "):
        retry(tmp_path / "out.tar")
    (tmp_path / "home").rmdir()
    with pytest.raises(DatasetError, match=r"the folder .*home, where the run on .*out\.jsonl was started, is gone"):
        retry(output)


# In the middle


class _Halting(_Counting):
    """Does something before it answers its second request."""

    def __init__(self, then: Callable[[], None]) -> None:
        super().__init__()
        self._then = then

    def _say(self, item: Work) -> Any:
        if len(self.asked) == 1:
            self._then()
        return super()._say(item)


def test_keyboard_interrupt_of_a_user_of_the_library_keeps_what_was_made(tmp_path: Path, data: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    engine, before = _Halting(interrupt), threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "out.jsonl", data, engine=engine)
    [answered] = engine.asked
    assert answered not in _run(tmp_path / "out.jsonl", data)[1]
    assert [run.ending for run in read_runs(ledger_of(tmp_path / "out.jsonl"))] == ["finished", "KeyboardInterrupt"]
    assert threading.active_count() <= before + 2


def test_settings_of_a_run_can_be_read_again(tmp_path: Path, data: Path) -> None:
    settings = Settings(engine="fake", sampling={"stop": ["a", "b"], "top_k": 3}, model_params={}, fps=3)
    run([data], tmp_path / "out.jsonl", settings, engine=_Counting())
    (told,) = read_runs(ledger_of(tmp_path / "out.jsonl"))
    assert Settings.load(None, **told.settings) == settings
    assert re.fullmatch(r"\d+\.\d+", json.dumps(told.started))
