"""An audit, as the command is typed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from export.exporting import row
from flow import EOC, VIDEO, ScriptedEngine, put_clip, put_rows, read_rows_of, said

from reelscribe.cli import main
from reelscribe.config import Settings
from reelscribe.dataset.ledger_file import connect
from reelscribe.runners.local import run
from reelscribe.runners.status import ledger_of
from reelscribe.values import Row, Work
from reelscribe.words import tells_languages

LONG = "A quiet street in the rain, where a man walks slowly to the camera while the dog of a woman runs by a house"
CAPTIONS: Mapping[str, str] = {
    "a": "A brown dog runs.",
    "b": "a brown  dog runs.",
    "c": LONG,
    "d": f"{LONG} again.",
    "e": "I'm sorry, but I cannot view the video.",
    "f": "The video shows a cat, and at 9.5 seconds it jumps.",
    "g": "一只狗在跑。",
    "h": "Round it goes, round it goes.",
}
FOUND = {
    "duplicate": [0, 1],
    "near_duplicate": [2, 3],
    "refusal": [4],
    "mention": [5],
    "past_end": [5],
    "other_script": [6],
    "loop": [7],
}


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output without a run, with one of everything."""
    monkeypatch.chdir(tmp_path)
    rows = [row(f"{name}.mp4", text, clip_start=0.0, clip_end=4.0) for name, text in CAPTIONS.items()]
    rows[-1]["caption_meta"]["flags"] = "loop thinned"
    return put_rows(tmp_path / "out.jsonl", [*rows, row("x.mp4", None, failure="decode: no")])


def _audit(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["audit", "out.jsonl", *words])
    assert result.exit_code == code, (result.output, result.exc_info)
    return result


def _task(*words: str, task: str = "caption") -> dict[str, Any]:
    told: dict[str, Any] = json.loads(_audit("--json", *words).stdout)["tasks"][task]
    return told


def _refused(*words: str) -> str:
    result = _audit(*words, code=2)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line.removeprefix("reelscribe: ")


def test_all_is_found_and_counted(output: Path) -> None:
    told = _task()
    assert {name: found["rows"] for name, found in told["findings"].items()} == FOUND | {
        "mention": told["findings"]["mention"]["rows"]
    }
    assert 5 in told["findings"]["mention"]["rows"]
    assert (told["captions"], told["failed"], told["flags"]) == (8, {"decode": 1}, {"loop": 1, "thinned": 1})
    assert told["findings"]["duplicate"] == {"captions": 2, "share": 0.25, "rows": [0, 1], "clips": ["a.mp4", "b.mp4"]}
    assert told["words"]["most"] == 25
    assert told["scripts"] == {"Latin": 7, "Han": 1}
    assert sum(told["languages"].values()) == (8 if tells_languages() else 0)
    assert told["openings"][0] == {"text": "a brown dog", "captions": 2, "share": 0.25}
    assert {"text": "a quiet street in", "captions": 2, "share": 0.25} in told["phrases"]
    assert told["vocabulary"]["top"][0] == ["a", 11]
    assert told["durations"] == [{"from_seconds": 2, "to_seconds": 5, "captions": 8, "mean_words": 11.0}]
    assert told["correlation"] is None, "all clips are of one length"


def test_text_is_for_a_terminal_of_80_columns(output: Path) -> None:
    lines = _audit().stdout.splitlines()
    assert lines[0] == "captions    8 captions, 1 failed (1 decode)"
    place = lines.index("  duplicate              2  25.00%")
    assert lines[place + 2].split() == ["in", "a.mp4,", "b.mp4"]
    assert not any("rows" in line for line in lines)
    assert max(map(len, lines)) <= 80


def test_marks_are_taken_by_retry_and_no_file_of_marks_is_lost(output: Path) -> None:
    _audit("--marks", "all.jsonl")
    marks = read_rows_of(Path("all.jsonl"))
    assert [mark["row"] for mark in marks] == list(range(8))
    assert marks[5] == {"row": 5, "video": "f.mp4", "task": "caption", "flag": True, "note": "mention, past_end"}
    _audit("--marks", "some.jsonl", "--mark", "refusal", "--mark", "loop")
    assert [mark["row"] for mark in read_rows_of(Path("some.jsonl"))] == [4, 7]
    assert "may hold marks of yours" in _refused("--marks", "some.jsonl")
    assert "there is no finding 'refusals'" in _refused("--marks", "new.jsonl", "--mark", "refusals")
    assert not Path("new.jsonl").exists()


def test_marks_are_of_the_answers_whose_captions_they_are(output: Path) -> None:
    rows = [row(f"{name}.mp4", f"{name} runs.") for name in "ab"]
    rows[0] |= {"caption_candidates": ["a runs.", "I'm sorry, but I cannot view the video."]}
    rows[1] |= {"caption_candidates": ["b runs.", "b sits."]}
    for each in rows:
        each["caption_meta"]["kept"] = [0, 1]
    put_rows(output, rows)
    _audit("--marks", "marks.jsonl", "--mark", "refusal")
    assert [mark["row"] for mark in read_rows_of(Path("marks.jsonl"))] == [0]


@pytest.mark.parametrize(
    ("conditions", "told"),
    [
        (["refusal>1"], []),
        (["refusal", "duplicate>20%"], ["refusal: it is 1 of 8", "duplicate>20%: it is 2 of 8"]),
        (
            ["common_opening>24%", "common_phrase>=2", "failed"],
            ["common_opening>24%: it is 2", "common_phrase>=2: it is 2", "failed: it is 1 of 9"],
        ),
    ],
)
def test_conditions_that_hold_end_with_3(output: Path, conditions: list[str], told: list[str]) -> None:
    words = [word for condition in conditions for word in ("--fail-on", condition)]
    lines = _audit(*words, code=3 if told else 0).stderr.splitlines()
    assert [line.startswith(f"too much: {start}") for line, start in zip(lines, told, strict=True)] == [True] * len(
        told
    )


def test_what_is_wrong_is_told_before_anything_is_read_or_written(output: Path) -> None:
    assert "there is no finding 'gone'" in _refused("--fail-on", "gone", "--html", "a.html")
    assert _refused("--task", "capton") == "there is no task 'capton'; did you mean caption?"
    assert "its name must end in .html" in _refused("--html", "page.txt")
    assert "--common takes a share above 0%" in _refused("--common", "0")
    assert "--tokenizer the folder to count with" in _refused("--max-tokens", "9")
    assert "there is no " in _refused("--tokenizer", "nowhere")
    output.unlink()
    assert "out.jsonl" in _refused()
    assert sorted(path.name for path in output.parent.iterdir()) == []


def test_tokens_are_those_of_the_tokenizer(output: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    pieces = tokenizers.models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(pieces)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    (output.parent / "t5").mkdir()
    tokenizer.save(str(output.parent / "t5" / "tokenizer.json"))
    told = _task("--tokenizer", "t5", "--max-tokens", "20")
    assert (told["tokens"]["least"], told["tokens"]["most"]) == (1, 25)
    assert told["findings"]["too_long"]["rows"] == [2, 3]


def test_a_data_set_without_captions_is_told_as_such(output: Path) -> None:
    put_rows(output, [row("x.mp4", None, failure="decode: no")])
    assert _audit().stdout == "captions    0 captions, 1 failed (1 decode)\n"
    assert _task()["words"] is None


# Outputs of runs


def _reply(work: Work) -> Any:
    [request] = work.requests
    return said(f"{request.id.task} of {request.clip.name}", *["A dog."] * (request.num_captions - 1))


def _run(folder: Path, name: str, rows: list[Row], **settings: Any) -> None:
    for item in "ab":
        put_clip(folder / f"{item}.mp4")
    run(
        [put_rows(folder / "in.jsonl", rows)],
        folder / name,
        Settings(decoders=0, **settings),
        engine=ScriptedEngine(_reply),
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_task_is_looked_at_by_itself(here: Path) -> None:
    rows: list[Row] = [{"video": "a.mp4"}, {"video": "b.mp4"}, {"video": "gone.mp4"}]
    _run(here, "out.jsonl", rows, tasks={"one": "1?", "two": "2?"}, num_captions=2, keep="all")
    told = json.loads(_audit("--json").stdout)["tasks"]
    assert {name: (task["captions"], task["failed"]) for name, task in told.items()} == {
        "one": (4, {"missing": 1}),
        "two": (4, {"missing": 1}),
    }
    assert told["one"]["findings"]["duplicate"]["captions"] == 2
    assert list(json.loads(_audit("--json", "--task", "two").stdout)["tasks"]) == ["two"]
    line = _audit("--fail-on", "duplicate>1", code=3).stderr.splitlines()[0]
    assert line == "too much: duplicate>1: it is 2 of 4 captions of one (50.00%)"
    _audit("--marks", "marks.jsonl")
    assert {(mark["row"], mark["task"]) for mark in read_rows_of(here / "marks.jsonl")} == {
        (number, task) for number in (0, 1) for task in ("one", "two")
    }


def test_captions_in_the_text_are_read_as_well(here: Path) -> None:
    rows: list[Row] = [{"videos": [f"{name}.mp4"], "text": f"{VIDEO} words {EOC}"} for name in "ab"]
    _run(here, "out.jsonl", rows)
    assert _task()["captions"] == 2
    ledger_of(here / "out.jsonl").unlink()
    assert "is told by its ledger, out.ledger.sqlite, which is not there" in _refused()


def test_tar_files_and_videos_in_the_rows_are_read(here: Path) -> None:
    _run(here, "out.tar", [{"video": "a.mp4"}, {"video": "b.mp4"}])
    result = CliRunner().invoke(main, ["audit", "out.tar", "--json", "--marks", "marks.jsonl"])
    assert json.loads(result.stdout)["tasks"]["caption"]["captions"] == 2


def test_runs_that_cannot_be_looked_at_are_told(here: Path) -> None:
    _run(here, "out.jsonl", [{"video": "a.mp4"}, {"video": "b.mp4"}])
    (here / "out.jsonl").rename(here / "out.jsonl.partial")
    assert "is not finished: give its command again" in _refused("--marks", "m.jsonl")
    (here / "out.jsonl.partial").write_text((here / "out.jsonl.partial").read_text()[:-9])
    (here / "out.jsonl.partial").rename(here / "out.jsonl")
    assert "is not a row" in _refused("--marks", "m.jsonl")
    with connect(ledger_of(here / "out.jsonl")) as base:
        base.execute("PRAGMA user_version = 99")
    assert "it is of version 99" in _refused()
    assert not (here / "m.jsonl").exists()


# The page


def test_the_page_holds_what_was_found_and_trusts_no_text(output: Path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("jinja2")
    put_rows(
        output,
        [row(f"{n}.mp4", "<script>alert(1)</script> \ud800 & a dog", clip_start=0.0, clip_end=4.0) for n in "ab"],
    )
    _audit("--html", "page.html")
    page = Path("page.html").read_text("utf-8")
    assert "<script" not in page
    assert "near duplicate" not in page
    assert "duplicate<small>has the same text as the caption of another clip</small>" in page
    _, _, details = page.partition("<summary>Details</summary>")
    assert page.count("their rows, from 0") == details.count("their rows, from 0") == 1
    assert "<dt>clips</dt><dd>a.mp4, b.mp4</dd>" in details
    assert "script-src" not in page


def test_captions_are_counted_by_language(output: Path) -> None:
    pytest.importorskip("py3langid")
    english = "A brown dog with a red collar runs along the beach while its owner throws a ball into the water."
    french = "Un chien brun avec un collier rouge court sur la plage pendant que son maître lui lance une balle."
    put_rows(output, [row(f"{place}.mp4", text) for place, text in enumerate((english, english, french, "A dog."))])
    assert _task()["languages"] == {"en": 2, "fr": 1, "uncertain": 1}
    assert "languages   2 en, 1 fr, 1 uncertain" in _audit().stdout.splitlines()
