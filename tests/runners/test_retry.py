"""Retries with something else than the run had: another prompt, model, engine or sampling."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from flow import EOC, VIDEO, ScriptedEngine, put_clip, put_rows, read_rows_of, said

from reelscribe.cli import main
from reelscribe.config import Settings
from reelscribe.dataset.remake import Mark
from reelscribe.errors import DatasetError, EngineError, SettingsError
from reelscribe.report.entries import CaptionedData, Entry
from reelscribe.runners import on_demand
from reelscribe.runners.local import run
from reelscribe.runners.retry import retry
from reelscribe.values import Failure, Row, Work


class _Model(ScriptedEngine):
    """Says who it is, what it was asked and how many candidates before; notes the rows that it was asked about."""

    def __init__(self, name: str = "first", *, fails: str = "never", break_after: int = 10**9) -> None:
        super().__init__(self._say)
        self.info = replace(self.info, model=name)
        self.asked: list[int] = []
        self._fails, self._break_after = fails, break_after

    def _say(self, work: Work) -> Any:
        [request] = work.requests
        if len(self.asked) >= self._break_after:
            raise EngineError("broken")
        self.asked.append(request.id.row)
        if self._fails in request.prompt:
            return Failure(id=request.id, video=request.clip.name, kind="engine", message="it does not like it")
        return said(*(f"{self.info.model}: {request.prompt} {n}" for n in range(request.num_captions)))


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a run made of four rows."""
    monkeypatch.chdir(tmp_path)
    rows = [{"video": put_clip(tmp_path / f"{name}.mp4").name, "name": name} for name in "abcd"]
    put_rows(tmp_path / "in.jsonl", rows)
    _again(_Model())
    return tmp_path / "out.jsonl"


def _again(engine: _Model, **settings: Any) -> list[int]:
    """The run's own command; rows that it asked about."""
    told: dict[str, Any] = {"prompt": "What?", "decoders": 0} | settings
    run([Path("in.jsonl")], Path("out.jsonl"), Settings(**told), engine=engine)
    return engine.asked


def _captions() -> list[str]:
    return [row["caption"] for row in read_rows_of(Path("out.jsonl"))]


def _retried_with(row: int) -> Any:
    told = read_rows_of(Path("out.jsonl"))[row]["caption_meta"]["retried_with"]
    return json.loads(told) if told else None


def _type(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["retry", "out.jsonl", *words])
    assert result.exit_code == code, (result.output, result.exc_info)
    return result


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Callable[[_Model], list[Settings]]:
    """Has the command use an engine; the settings that it is loaded with come into the list."""
    seen: list[Settings] = []

    def use(engine: _Model) -> list[Settings]:
        def load(settings: Settings) -> _Model:
            seen.append(settings)
            return engine

        monkeypatch.setattr(on_demand, "load_engine", load)
        return seen

    return use


@pytest.mark.parametrize(
    ("words", "caption", "told"),
    [
        (["--prompt", "Who is {name}?"], "first: Who is b? 0", {"prompt": "Who is {name}?"}),
        (["--sampling", "seed=3"], "first: What? 0", {"sampling": {"seed": 3}}),
        (["--num-captions", "2"], "first: What? ", {"num_captions": 2}),
        (["--fps", "1", "--batch-size", "7"], "first: What? 0", {"fps": 1.0}),
        (["--system-prompt", "Hm.", "--seed", "9"], "first: What? 0", {"system_prompt": "Hm.", "seed": 9}),
    ],
)
def test_what_is_marked_is_made_with_something_else_and_stays_so(
    output: Path, loaded: Callable[[_Model], list[Settings]], words: list[str], caption: str, told: Any
) -> None:
    put_rows(Path("marks.jsonl"), [{"row": 1, "video": "b.mp4", "task": "caption", "flag": True, "note": ""}])
    before, engine = read_rows_of(output), _Model()
    loaded(engine)
    _type("--marks", "marks.jsonl", *words)
    after = read_rows_of(output)
    assert engine.asked == [1]
    assert after[1]["caption"].startswith(caption)
    assert after[1] != before[1]
    assert [_retried_with(row) for row in range(4)] == [None, told, None, None]
    assert [row for row in after if row["name"] != "b"] == [row for row in before if row["name"] != "b"]

    written = output.read_bytes()
    assert _again(_Model()) == []
    nothing = _type()
    assert nothing.stderr.splitlines() == ["nothing to retry in out.jsonl: nothing failed."]
    _type("--kind", "decode")
    assert (engine.asked, output.read_bytes()) == ([1], written)


def test_other_sampling_is_put_to_that_of_the_run_by_whichever_name(output: Path) -> None:
    _again(_Model(), sampling={"max_tokens": 9, "top_k": 3})
    retry(output, marked=[Mark(0)], settings={"sampling": {"max_new_tokens": "20"}}, engine=_Model())
    meta = read_rows_of(output)[0]["caption_meta"]
    assert (json.loads(meta["sampling"]), _retried_with(0)) == (
        {"max_tokens": 20, "top_k": 3},
        {"sampling": {"max_tokens": 20}},
    )


def test_another_model_makes_what_is_chosen_and_nothing_else(output: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = _Model("second")
    retry(output, marked=[Mark(2)], settings={"model": "second"}, engine=engine)
    assert engine.asked == [2]
    assert _captions() == ["first: What? 0"] * 2 + ["second: What? 0", "first: What? 0"]
    assert _retried_with(2) == {"model": "second"}
    record = json.loads(Path("out.run.json").read_text())
    assert record["settings"]["model"] == record["model"]["model"] == "second"
    written = output.read_bytes()
    assert _again(_Model()) == []
    third = _Model("third")
    retry(output, marked=[Mark(0)], settings={"model": "third", "sampling": {"top_k": 1}}, engine=third)
    assert third.asked == [0]
    assert _retried_with(0) == {"model": "third", "sampling": {"top_k": 1}}
    assert output.read_bytes().splitlines()[1:] == written.splitlines()[1:]
    assert _again(_Model()) == []
    assert not caplog.messages


def test_the_same_retry_makes_nothing_twice_and_goes_on_where_it_broke_off(
    output: Path, caplog: pytest.LogCaptureFixture
) -> None:
    marks = [Mark(row) for row in range(3)]
    before = output.read_bytes()
    with pytest.raises(EngineError):
        retry(output, marked=marks, settings={"model": "second"}, engine=_Model("second", break_after=2))
    assert output.read_bytes() == before
    engine = _Model("second")
    retry(output, marked=marks, settings={"model": "second"}, engine=engine)
    assert len(engine.asked) == 1
    assert _captions() == ["second: What? 0"] * 3 + ["first: What? 0"]
    summary = retry(output, marked=marks, settings={"model": "second"}, engine=engine)
    assert (summary.asked, len(engine.asked)) == (0, 1)
    told = "marked captions had been made with just this before: they stay."
    assert caplog.messages == [f"2 {told}", f"3 {told}"]


def test_what_cannot_be_made_again_stays_and_is_told(output: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = read_rows_of(output)
    rows = read_rows_of(Path("in.jsonl"))
    put_rows(Path("in.jsonl"), [*rows[:3], {"video": "d.mp4"}])
    engine = _Model(fails="Who is b")
    summary = retry(output, marked=[Mark(1), Mark(3)], settings={"prompt": "Who is {name}?"}, engine=engine)
    assert (engine.asked, summary.captions, summary.failures) == ([1], 4, {})
    after = read_rows_of(output)
    assert [row["caption_meta"] for row in after] == [row["caption_meta"] for row in before]
    assert [row["caption"] for row in after] == ["first: What? 0"] * 4
    row_1, row_3 = (
        "row 1: it does not like it",
        "row 3: the prompt has {name}, but the row's column 'name' holds nothing.",
    )
    assert caplog.messages == [
        f"2 captions could not be made or judged again, and stay as they are, as: {row_1}; {row_3}"
    ]
    put_rows(Path("in.jsonl"), rows)
    assert _again(_Model()) == []


def test_what_another_model_cannot_make_as_the_run_would_ends_the_retry(output: Path) -> None:
    before = output.read_bytes()
    os.utime(output.parent / "d.mp4", ns=(1, 1))
    engine = _Model("second")
    told = r"row 3 is not known from the last run, as its video .* Give its command once more, and retry then"
    with pytest.raises(DatasetError, match=told):
        retry(output, marked=[Mark(1)], settings={"model": "second"}, engine=engine)
    assert output.read_bytes() == before
    assert _again(_Model()) == [3]
    retry(output, marked=[Mark(1)], settings={"model": "second"}, engine=engine)
    assert engine.asked in ([1], [1, 1])
    assert _captions()[1] == "second: What? 0"


def test_failures_are_made_with_something_else_as_well(output: Path) -> None:
    rows = [*read_rows_of(output.parent / "in.jsonl"), {"video": "a.mp4", "name": "a", "ask": "bad"}]
    put_rows(output.parent / "in.jsonl", rows)
    _again(_Model(fails="bad"), prompt_key="ask")
    engine = _Model("second")
    assert retry(output, settings={"model": "second", "prompt": "Else?"}, engine=engine).failures == {}
    assert engine.asked == [4], "its own prompt gives way as well"
    assert _captions()[4] == "second: Else? 0"
    assert _again(_Model(fails="bad"), prompt_key="ask") == []


def test_a_part_of_a_clip_or_a_flagged_caption_is_not_tried_again_by_the_run(output: Path) -> None:
    """Though the run would take neither for what it asks."""
    retry(output, marked=[Mark(0)], settings={"sampling": {"max_tokens": 1}}, engine=_Looping())
    assert read_rows_of(output)[0]["caption_meta"]["flags"] == "loop"
    assert _again(_Model(), retry_flagged=True) == []


class _Looping(_Model):
    def _say(self, work: Work) -> Any:
        return said("round and round it goes " * 9)


TASKS = {
    "short": "5 words.",
    "long": "All of it.",
    "check": {"prompt": "Is {long} right?", "after": "long", "video": False},
}


def test_one_of_several_tasks_may_be_asked_otherwise_and_what_comes_after_follows(output: Path) -> None:
    _again(_Model(), tasks=TASKS, prompt=None)
    before = read_rows_of(output)
    with pytest.raises(SettingsError, match="several tasks, short, long, check: say with --task whose prompt it is"):
        retry(output, marked=[Mark(1)], settings={"prompt": "All?"}, engine=_Model())
    engine = _Model("second")
    retry(output, marked=[Mark(1)], tasks=["long"], settings={"prompt": "All?", "model": "second"}, engine=engine)
    after = read_rows_of(output)
    assert engine.asked == [1, 1]
    assert after[1]["long"] == "second: All? 0"
    assert after[1]["check"] == "second: Is second: All? 0 right? 0"
    told = [json.loads(after[1][f"{task}_meta"]["retried_with"] or "{}") for task in ("short", "long", "check")]
    assert told == [{}, {"prompt": "All?", "model": "second"}, {"model": "second"}]
    assert (after[1]["short"], [*after[:1], *after[2:]]) == (before[1]["short"], [*before[:1], *before[2:]])
    assert _again(_Model(), tasks=TASKS, prompt=None) == []


def test_conditions_choose_rows_as_those_of_an_export_do(
    output: Path, loaded: Callable[[_Model], list[Settings]]
) -> None:
    engine = _Model("second")
    seen = loaded(engine)
    result = _type("--where", "name=c", "--where", "words<9", "--model", "second", "--temperature-is-no-option", code=2)
    assert "No such option" in result.output
    _type("--where", "name=c", "--where", "words<9", "--model", "second")
    assert (engine.asked, seen[0].model) == ([2], "second")
    line = "nothing to retry in out.jsonl: nothing is marked that was not made so already."
    assert _type("--where", "name=z", "--model", "second").stderr.splitlines() == [line]
    assert len(seen) == 1, "no model is loaded for that"
    for words, told in (
        (["--where", "nme=c", "--model", "x"], "no row has a column 'nme'"),
        (["--where", "name", "--model", "x"], "--where takes NAME, a comparison"),
        (["--where", "name=c", "--task", "gone", "--model", "x"], "there is no task 'gone'"),
        (["--where", "name=c"], "marked rows would come out as they are"),
        (["--where", "name=c", "--prompt", "What?"], "marked rows would come out as they are"),
        (["--where", "name=c", "--prompt", "{title}"], "title"),
        (["--where", "name=c", "--fps", "none"], "is not a valid float"),
    ):
        assert told in _type(*words, code=2).stderr
    assert engine.asked == [2]


def test_settings_that_cannot_be_others_are_told(output: Path) -> None:
    with pytest.raises(SettingsError, match="a retry cannot have another 'layout'"):
        retry(output, settings={"layout": "columns"}, engine=_Model())
    stage = {"prompt": "{caption}?", "after": "caption", "video": False, "engine": {"model": "small"}}
    _again(_Model(), tasks={"caption": "What?", "check": stage}, prompt=None)
    with pytest.raises(SettingsError, match="have models of their own: retry with the same model"):
        retry(output, settings={"model": "x"}, engine=_Model())


def test_a_report_on_captions_in_the_text_finds_what_was_made_with_another_prompt(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"videos": [put_clip(tmp_path / f"{name}.mp4").name], "text": f"{VIDEO} words {EOC}"} for name in "ab"
    ]
    data, output = put_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    run([data], output, Settings(decoders=0), engine=_Model())
    retry(output, marked=[Mark(1)], settings={"prompt": "Else?", "num_captions": 3}, engine=_Model())
    entries = [entry for entry in CaptionedData(output).entries() if isinstance(entry, Entry)]
    assert [entry.meta.get("prompt") for entry in entries][1] == "Else?"
    assert len(entries[1].others) == 2


@pytest.mark.transformers
def test_a_real_model_takes_the_place_of_another_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    put_rows(tmp_path / "in.jsonl", [{"video": put_clip(tmp_path / f"{name}.mp4").name} for name in "abc"])
    words = ["caption", "in.jsonl", "-o", "out.jsonl", "--engine", "fake"]
    assert CliRunner().invoke(main, words).exit_code == 0
    before = read_rows_of(Path("out.jsonl"))
    put_rows(Path("marks.jsonl"), [{"row": 1, "video": "b.mp4", "flag": True}])
    _type("--marks", "marks.jsonl", "--engine", "transformers", "--model", "shapes", "--sampling", "max_tokens=8")
    after = read_rows_of(Path("out.jsonl"))
    assert [row["caption_meta"]["engine"] for row in after] == ["fake", "transformers", "fake"]
    assert _retried_with(1) == {"sampling": {"max_tokens": 8}, "engine": "transformers", "model": "shapes"}
    assert [after[0], after[2]] == [before[0], before[2]]
    written = Path("out.jsonl").read_bytes()
    assert CliRunner().invoke(main, words).exit_code == 0
    assert Path("out.jsonl").read_bytes() == written
