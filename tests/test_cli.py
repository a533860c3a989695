"""The command, typed as a user types it."""

import importlib.util
import json
import logging
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner, Result
from flow import EOC, VIDEO, ScriptedEngine, put_clip, put_rows, read_rows_of, said

from reelscribe import demo
from reelscribe.cli import main
from reelscribe.config import Settings
from reelscribe.config.groups import GROUPS
from reelscribe.engines.base import Engine
from reelscribe.engines.fake import FakeEngine
from reelscribe.errors import MissingExtraError, ModelError
from reelscribe.models import model_path
from reelscribe.models.shapes.scenes import Scene
from reelscribe.runners import on_demand
from reelscribe.sampling_params import DEFAULT_MAX_TOKENS, SamplingParams
from reelscribe.tasks import DEFAULT_PROMPT, Keep
from reelscribe.values import Row


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _type(*words: str, code: int = 0) -> Result:
    """Run the command; without a traceback, and with this exit code."""
    result = CliRunner().invoke(main, words)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    assert result.exit_code == code, result.output
    return result


def _caption(*words: str, code: int = 0) -> Result:
    return _type("caption", *words, "-o", "out.jsonl", "--engine", "fake", code=code)


def _counts(result: Result) -> list[str]:
    """What a command said at the end, but for how fast it was and what to do next."""
    lines = result.stderr.splitlines()
    return [line for line in lines if " clips/s, " not in line and not line.startswith("next: ")]


def _refused(*words: str, code: int = 2) -> str:
    """The one line that a command is refused with."""
    result = _type(*words, code=code)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("reelscribe: ")
    return line.removeprefix("reelscribe: ")


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings with which engines are loaded."""
    seen: list[Settings] = []

    def load(settings: Settings) -> Engine:
        seen.append(settings)
        return FakeEngine()

    monkeypatch.setattr(on_demand, "load_engine", load)
    return seen


# Help


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_help_shows_all_commands_with_whole_summaries(words: tuple[str, ...]) -> None:
    text = CliRunner().invoke(main, words, terminal_width=80).stdout
    summaries = dict(re.findall(r"^  ([a-z-]+)  +(.*)$", text.partition("Start:")[2], re.MULTILINE))
    assert set(summaries) == set(main.commands)
    assert all(summary.endswith(".") and not summary.endswith("...") for summary in summaries.values())


@pytest.mark.parametrize("name", main.commands)
def test_help_fits_80_columns(name: str) -> None:
    for option in ("--help", "--help-all") if name == "caption" else ("--help",):
        lines = CliRunner().invoke(main, [name, option], terminal_width=80).stdout.splitlines()
        assert 1 < max(map(len, lines)) <= 80


def test_short_help_shows_what_is_used_most() -> None:
    text = _type("caption", "--help").stdout
    options = re.findall(r"^ +(?:-\w, )?--([\w-]+)", text, re.MULTILINE)
    own = ["output", "config", "help-all", "help"]
    common = [item for item in fields(Settings) if item.metadata["common"]]
    flags = [(item.metadata["option"] or (f"--{item.name.replace('_', '-')}",))[0][2:] for item in common]
    assert sorted(options) == sorted([*own, *flags])
    assert len(common) == 10


def test_options_are_the_settings() -> None:
    text = _type("caption", "--help-all").stdout
    options = set(re.findall(r"^  (?:-\w, )?--([\w-]+)", text, re.MULTILINE)) - {"output", "config", "help"}
    options -= {"help-all", "log-json", "metrics-port", "metrics-host"}
    named = {
        item.name: (item.metadata["option"] or (f"--{item.name.replace('_', '-')}",))[0] for item in fields(Settings)
    }
    assert options == {option[2:] for name, option in named.items() if name not in ("model_params", "extra_body")}
    words = " ".join(text.split())
    assert all(
        item.metadata["help"] in words for item in fields(Settings) if item.name not in ("model_params", "extra_body")
    )
    assert "[default: 2.0]" in words
    assert "--original / --no-original" in words
    assert "[default: original]" in words
    assert "[default: no-" in words
    headings = re.findall(r"^([A-Z][\w ]+):$", text, re.MULTILINE)
    assert headings == ["Options", *GROUPS, "Watching the run"]


def test_help_says_defaults_and_choices_where_they_are_not_the_option_s_own() -> None:
    words = " ".join(_type("caption", "--help").stdout.split())
    assert f"by default '{DEFAULT_PROMPT}'" in words
    assert f"max_tokens is {DEFAULT_MAX_TOKENS} if it has none" in words
    assert all(f"{mode}: " in words for mode in get_args(Keep))
    assert ", ".join(item.name for item in fields(SamplingParams)) in words


def test_version_is_told() -> None:
    assert _type("--version").stdout.startswith("reelscribe, version ")


# Options


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ((), {}),
        (("--model", "shapes", "--revision", "main", "--device", "cpu", "--dtype", "float32"),
         {"model": "shapes", "revision": "main", "device": "cpu", "dtype": "float32"}),
        (("--num-captions", "3", "--keep", "all"), {"num_captions": 3, "keep": "all"}),
        (("--prompt", "What?", "--prompt-key", "ask", "--system-prompt", "Be brief."),
         {"prompt": "What?", "prompt_key": "ask", "system_prompt": "Be brief."}),
        (("--no-original", "--layout", "columns"), {"original": False, "layout": "columns"}),
        (("--text-key", "title", "--video-key", "clip"), {"text_key": "title", "video_key": "clip"}),
        (("--fps", "1", "--min-frames", "2", "--max-frames", "8", "--max-video-tokens", "64"),
         {"fps": 1.0, "min_frames": 2, "max_frames": 8, "max_video_tokens": 64}),
        (("--seed", "-3", "--batch-size", "2", "--prefetch-bytes", "1"),
         {"seed": -3, "batch_size": 2, "prefetch_bytes": 1}),
        (("--decoders", "0", "--decode-seconds", "2.5", "--decoder-bytes", "9"),
         {"decoders": 0, "decode_seconds": 2.5, "decoder_bytes": 9}),
        (("--root", "videos", "--allow-private-urls", "--max-video-bytes", "5", "--download-seconds", "6"),
         {"root": "videos", "allow_private_urls": True, "max_video_bytes": 5, "download_seconds": 6.0}),
        (("--max-line-bytes", "7", "--output-format", "jsonl", "--sidecar", "txt"),
         {"max_line_bytes": 7, "output_format": "jsonl", "sidecar": "txt"}),
        (("--sampling", "temperature=0.7", "--sampling", "stop=a=b", "--sampling", "top_k = 5"),
         {"sampling": {"temperature": "0.7", "stop": "a=b", "top_k": " 5"}}),
        (("--sampling", "stop=a", "--sampling", "stop=b"), {"sampling": {"stop": ["a", "b"]}}),
    ],
)  # fmt: skip
def test_options_set_the_settings(
    here: Path, used: list[Settings], words: tuple[str, ...], settings: dict[str, Any]
) -> None:
    named = Settings(**settings).named_columns.values()
    put_rows(here / "data.jsonl", [dict.fromkeys(("video", *named), "gone.mp4")])
    _caption("data.jsonl", *words, code=3)
    assert used == [Settings(**{"engine": "fake"} | settings)]


def test_options_win_over_the_config_file(here: Path, used: list[Settings]) -> None:
    put_rows(here / "data.jsonl", [{"video": "gone.mp4"}])
    (here / "run.toml").write_text("fps = 4\nseed = 7\n[sampling]\ntop_k = 5\n[model_params]\nx = 1\n")
    _caption("data.jsonl", "--config", "run.toml", "--fps", "1", "--sampling", "top_p=0.5", code=3)
    sampling = {"top_k": 5, "top_p": "0.5"}
    assert used == [Settings(engine="fake", fps=1.0, seed=7, sampling=sampling, model_params={"x": 1})]


@pytest.mark.parametrize(
    ("toml", "told"),
    [
        ("max-frames = 4", "unknown setting 'max-frames'; did you mean max_frames"),
        ('fps = "fast"', "fps must be a number; got 'fast'."),
        ("model = 3", "model must be a string; got 3."),
        ("sampling = 3", "sampling must be a table of names and values; got 3."),
        ("[sampling]\ntemp = 1", "unknown sampling parameter 'temp'; did you mean temperature?"),
        ("fps =", "run.toml is not valid TOML: "),
    ],
)
def test_wrong_config_file_is_told_in_one_line(here: Path, toml: str, told: str) -> None:
    put_rows(here / "data.jsonl", [])
    (here / "run.toml").write_text(toml)
    assert told in _refused("caption", "data.jsonl", "-o", "out.jsonl", "--config", "run.toml")


HELP = "Try 'reelscribe caption --help'."


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("statsu", "No such command 'statsu'. Did you mean 'status'? Try 'reelscribe --help'."),
        ("--nope", "No such option '--nope'. Try 'reelscribe --help'."),
        ("caption", f"Missing argument 'INPUT...'. {HELP}"),
        ("caption in.jsonl", f"Missing option '-o' / '--output'. {HELP}"),
        ("caption in.jsonl -o o.jsonl --layoutx x", f"No such option '--layoutx'. Did you mean '--layout'? {HELP}"),
        ("caption in.jsonl -o out.jsonl --fps fast", "Invalid value for '--fps': 'fast' is not a valid float."),
        ("caption in.jsonl -o out.jsonl --fps 0", "fps must be a number above 0; got 0.0."),
        ("caption in.jsonl -o out.jsonl --keep best", "'best' is not one of 'random_any', 'similar_one_simhash', "),
        ("caption in.jsonl -o out.jsonl --num-captions 0", "num_captions must be a whole number of at least 1; got 0."),
        ("caption in.jsonl -o out.jsonl --sampling hot", "--sampling takes KEY=VALUE, as temperature=0.7; got 'hot'."),
        ("caption in.jsonl -o out.jsonl --sampling top_p=2",
         "sampling parameter top_p must be a number above 0 and at most 1; got '2'."),
        ("caption in.jsonl -o out.jsonl --sampling top_p=0.1 --sampling top_p=0.2",
         "sampling parameter top_p must be a number above 0 and at most 1; got ['0.1', '0.2']."),
        ("caption in.jsonl -o out.jsonl --config no.toml",
         "cannot read the settings in no.toml: No such file or directory."),
        ("caption in.jsonl -o in.jsonl", "cannot write to in.jsonl: it is an input, too; choose another output."),
        ("caption in.jsonl -o .", "cannot write to .: it is a folder; name a file, as captions.jsonl."),
        ("caption in.jsonl gone.mp4 -o out.jsonl",
         "there is no gone.mp4; give a data set (.jsonl, .parquet, .tar), a video or a folder of them."),
        ("caption 'no*.jsonl' -o out.jsonl", "nothing is called as 'no*.jsonl'."),
        ("caption in.jsonl -o out.csv", "cannot write to out.csv: .csv files are read, not written; end it in .jsonl"),
        ("caption in.jsonl -o out.jsonl --shard-rows 0", "shard_rows must be a whole number of at least 1; got 0."),
        ("caption in.jsonl -o out.jsonl --sidecar srt", "'srt' is not one of 'txt', 'json'"),
        ("caption in.jsonl -o out.jsonl", "there is nothing to caption: in.jsonl has no rows."),
        ("caption empty -o out.jsonl", "the folder empty holds no video (.264, "),
        ("caption in.jsonl -o out.jsonl --max-failures few", "max_failures must be a whole number, or a share "),
        ("status out.jsonl", "there is no out.ledger.sqlite in .: no run has begun to write there."),
        ("retry out.jsonl", "there is no out.ledger.sqlite in .: no run has begun to write there."),
        ("retry out.jsonl --sampling hot", "--sampling takes KEY=VALUE, as temperature=0.7; got 'hot'."),
        ("demo in.jsonl", "cannot write to in.jsonl: File exists."),
    ],
)  # fmt: skip
def test_wrong_usage_is_told_in_one_line_and_leaves_no_file(here: Path, words: str, told: str) -> None:
    put_rows(here / "in.jsonl", [])
    (here / "empty").mkdir()
    line = _refused(*shlex.split(words)) if not words.startswith("demo") else _type(*words.split(), code=2).stderr
    assert told in line
    assert sorted(file.name for file in here.iterdir()) == ["empty", "in.jsonl"]


@pytest.mark.parametrize("error", [ModelError("the model 'x' cannot be loaded:\nno such file"), MissingExtraError("x")])
def test_engine_that_cannot_be_loaded_is_told_in_one_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(_: Settings) -> Engine:
        raise error

    monkeypatch.setattr(on_demand, "load_engine", fail)
    put_rows(here / "in.jsonl", [{"video": "gone.mp4"}])
    line = _refused("caption", "in.jsonl", "-o", "out.jsonl", code=1)
    assert line == " ".join(str(error).split("\n"))


def test_engine_that_breaks_is_told_and_leaves_what_was_done(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_demand, "load_engine", lambda _: FakeEngine(break_after=1))
    put_clip(here / "a.mp4")
    line = _refused("caption", "a.mp4", "a.mp4", "-o", "out.jsonl", code=1)
    assert line == "the fake engine breaks after 1 requests, as it was told to."
    assert len(read_rows_of(here / "out.jsonl.partial")) == 1
    assert not (here / "out.jsonl").exists()


# Runs


def test_columns_row_by_row(here: Path) -> None:
    put_clip(here / "data" / "clips" / "a.mp4")
    rows: list[Row] = [{"video": "clips/a.mp4", "id": 0}, {"id": 1}, {"videos": ["clips/a.mp4"], "id": 2}]
    put_rows(here / "data" / "in.jsonl", rows)
    result = _caption("data/in.jsonl", "--num-captions", "2", "--keep", "all")
    texts = [f"Candidate {number}: 4 frames of 64x64 over 1.0 s." for number in range(2)]
    written = read_rows_of(here / "out.jsonl")
    assert [{name: row[name] for name in ("id", "caption", "caption_candidates")} for row in written] == [
        {"id": 0, "caption": texts[0], "caption_candidates": texts},
        {"id": 1, "caption": None, "caption_candidates": []},
        {"id": 2, "caption": [texts[0]], "caption_candidates": [texts]},
    ]
    assert written[0]["video"] == "clips/a.mp4"
    assert written[0]["caption_meta"]["kept"] == [0, 1]
    assert result.stdout == ""
    assert _counts(result) == [
        "2 captions for 3 rows in out.jsonl",
        "1 row without a video; if theirs is in another column, name it with --video-key",
    ]


@pytest.mark.parametrize("original", [True, False])
def test_interleaved_row_by_row(here: Path, original: bool) -> None:
    put_clip(here / "a.mp4")
    rows: list[Row] = [
        {"text": f"{VIDEO}old{EOC}", "videos": ["a.mp4"], "id": 0},
        {"text": f"{VIDEO}lost{EOC}", "videos": ["gone.mp4"], "id": 1},
        {"text": "words", "videos": [], "id": 2},
    ]
    put_rows(here / "in.jsonl", rows)
    _caption("in.jsonl", *([] if original else ["--no-original"]), code=3)
    new = {**rows[0], "text": f"{VIDEO} Candidate 0: 4 frames of 64x64 over 1.0 s. {EOC}"}
    assert read_rows_of(here / "out.jsonl") == [*(rows[:1] if original else []), new, rows[1], rows[2]]


def test_globs_and_shards(here: Path) -> None:
    put_clip(here / "a.mp4")
    for name in ("1.jsonl", "2.jsonl"):
        put_rows(here / "data" / name, [{"video": "../a.mp4", "id": number} for number in range(3)])
    _type("caption", "data/*.jsonl", "-o", "out-{shard}.jsonl", "--shard-rows", "4", "--engine", "fake")
    shards = [read_rows_of(here / f"out-0000{number}.jsonl") for number in range(2)]
    assert [[row["id"] for row in shard] for shard in shards] == [[0, 1, 2, 0], [1, 2]]


def test_captions_beside_videos(here: Path) -> None:
    put_clip(here / "clips" / "a.mp4")
    _caption("clips", "--sidecar", "txt")
    assert (here / "clips" / "a.txt").read_text() == "Candidate 0: 4 frames of 64x64 over 1.0 s.\n"


def test_failures_end_with_3_and_are_counted_and_listed(here: Path) -> None:
    put_clip(here / "clips" / "a.mp4")
    (here / "clips" / "text.mp4").write_text("this is no video")
    (here / "in.jsonl").write_text('{"video": "gone.mp4"}\nbroken\n{"video": "clips/a.mp4"}\n')
    result = _caption("clips", "in.jsonl", code=3)
    assert _counts(result) == [
        "2 captions for 5 rows in out.jsonl",
        "3 failures (1 missing, 1 row, 1 unreadable), listed in out.failures.jsonl",
        f"  missing: row 2: gone.mp4: there is no such file; paths start from {here}.",
        "  row: row 3: line 2 of in.jsonl is not a row: Expecting value at column 1.",
        "  unreadable: row 1: clips/text.mp4 cannot be opened as a video: it looks like text.",
    ]
    listed = read_rows_of(here / "out.failures.jsonl")
    assert [(item["row"], item["kind"]) for item in listed] == [(1, "unreadable"), (2, "missing"), (3, "row")]
    (here / "clips" / "text.mp4").unlink()
    assert _counts(_caption("clips")) == ["1 caption for 1 row in out.jsonl (1 taken from the ledger)"]
    assert not (here / "out.failures.jsonl").exists()


def test_ledger_status_and_retry(here: Path) -> None:
    put_clip(here / "a.mp4")
    put_rows(here / "in.jsonl", [{"video": "a.mp4", "ask": str(number)} for number in range(3)])
    (here / "run.toml").write_text("prompt_key = 'ask'\n[model_params]\nbreak_after = 2\n")
    line = _refused("caption", "in.jsonl", "-o", "out.jsonl", "--engine", "fake", "--config", "run.toml", code=1)
    assert line == "the fake engine breaks after 2 requests, as it was told to."
    lines = _type("status", "out.jsonl").stdout.splitlines()
    assert lines[:5] == [
        f"broken off  {line}",
        "done        2 of 3 rows, 2 captions",
        "failed      0",
        "flagged     0",
        "left        1 row",
    ]
    assert re.fullmatch(r"rate        \d+\.\d\d videos/s", lines[5])
    assert re.fullmatch(r"begun       \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", lines[6])
    assert lines[7:] == [
        "model       fake with fake",
        "inputs      in.jsonl",
        "settings    engine='fake', model_params={'break_after': 2}, prompt_key='ask'",
    ]
    told = _counts(_caption("in.jsonl", "--config", "run.toml"))
    assert told == ["3 captions for 3 rows in out.jsonl (2 taken from the ledger)"]
    assert _type("status", "out.jsonl").stdout.startswith("finished\ndone        3 of 3 rows, 3 captions\n")
    nothing = "nothing to retry in out.jsonl: nothing failed."
    assert _type("retry", "out.jsonl").stderr.splitlines() == [nothing]


def test_retry_takes_kinds_and_sampling(here: Path) -> None:
    put_clip(here / "a.mp4")
    (here / "text.mp4").write_text("this is no video")
    put_rows(here / "in.jsonl", [{"video": f"{name}.mp4"} for name in ("a", "gone", "text")])
    _caption("in.jsonl", code=3)
    os.utime(put_clip(here / "text.mp4"), ns=(1, (here / "in.jsonl").stat().st_mtime_ns))
    result = _type("retry", "out.jsonl", "--kind", "missing,unreadable", "--sampling", "max_tokens=9", code=3)
    assert _counts(result)[:2] == [
        "2 captions for 3 rows in out.jsonl (1 taken from the ledger)",
        "1 failure (1 missing), listed in out.failures.jsonl",
    ]
    told = json.loads(_type("status", "out.jsonl", "--json").stdout)
    assert (told["state"], told["rows"], told["left"], told["failures"]) == ("finished", 3, 0, {"missing": 1})
    shown = _type("status", "out.jsonl").stdout
    assert f"\n            missing: row 1: gone.mp4: there is no such file; paths start from {here}.\n" in shown
    assert "no failure of kind 'decoding'; kinds are row, missing" in _refused(
        "retry", "out.jsonl", "--kind", "decoding"
    )


def test_several_tasks_are_told_and_retried_by_name(here: Path) -> None:
    put_clip(here / "a.mp4")
    put_rows(here / "in.jsonl", [{"video": f"{name}.mp4"} for name in ("a", "gone")])
    tasks = ("--task", "short=In 5 words.", "--task", "long=Tell all.")
    by_task = [f"{name}: 1 answer, 1 failure (1 missing)" for name in ("short", "long")]
    assert _counts(_caption("in.jsonl", *tasks, code=3))[:2] == [
        "2 answers about 2 clips for 2 rows in out.jsonl",
        f"by task: {'; '.join(by_task)}",
    ]
    lines = _type("status", "out.jsonl").stdout.splitlines()
    assert lines[1:5] == [
        "done        2 of 2 rows, 2 clips, 2 answers",
        *(f"            {line}" for line in by_task),
        "failed      2 (2 missing)",
    ]
    assert json.loads(_type("status", "out.jsonl", "--json").stdout)["tasks"]["long"]["captions"] == 1
    result = _type("retry", "out.jsonl", "--task", "short", "--task", "long", "--log-json", code=3)
    summary = json.loads(result.stderr.splitlines()[-1])
    assert (summary["videos"], summary["tasks"]["short"]["failures"]) == (2, {"missing": 1})
    assert _refused("retry", "out.jsonl", "--task", "lon") == "the run has no task 'lon'; tasks are short, long."


def test_too_many_failures_end_with_1(here: Path) -> None:
    put_rows(here / "in.jsonl", [{"video": "gone.mp4", "text": str(number)} for number in range(9)])
    line = _refused("caption", "in.jsonl", "-o", "out.jsonl", "--engine", "fake", "--max-failures", "3", code=1)
    assert line.startswith("stopped: 4 of 4 videos failed, more than max_failures allows (3). The commonest reason is ")


def test_a_budget_ends_with_4(here: Path) -> None:
    put_clip(here / "a.mp4")
    put_rows(here / "in.jsonl", [{"video": "a.mp4", "text": str(number)} for number in range(99)])
    words = ("caption", "in.jsonl", "-o", "out.jsonl", "--engine", "fake", "--price", "1e9", "--budget", "1e-9")
    assert _refused(*words, code=4).startswith("stopped after 0 rows, at a cost of ")
    assert _refused(*words[:-4], "--budget", "5") == "a budget needs a price: what a GPU hour costs."


def test_cut_off_captions_are_told(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_demand, "load_engine", lambda _: ScriptedEngine(lambda _: said("cut ...")))
    put_clip(here / "a.mp4")
    assert _counts(_caption("a.mp4"))[1] == "flagged captions: cut_off 1; allow more with --sampling max_tokens=N"
    assert "flagged     cut_off 1" in _type("status", "out.jsonl").stdout.splitlines()


def test_verbose_names_the_model(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    put_rows(here / "in.jsonl", [{"video": "gone.mp4"}])
    with caplog.at_level(logging.INFO):
        _type("-v", "caption", "in.jsonl", "-o", "out.jsonl", "--engine", "fake", code=3)
    assert "fake with fake" in caplog.messages


def test_nothing_but_the_result_is_said_where_there_is_no_terminal(here: Path) -> None:
    put_clip(here / "a.mp4")
    with (here / "said.txt").open("wb") as file:
        command = [sys.executable, "-m", "reelscribe.cli", "caption", "a.mp4", "a.mp4", "-o", "out.jsonl"]
        subprocess.run([*command, "--engine", "fake"], cwd=here, stderr=file.fileno(), check=True)
    counts, speed, step = (here / "said.txt").read_text().splitlines()
    assert step == "next: reelscribe report out.jsonl"
    assert counts == "2 captions for 2 rows in out.jsonl"
    assert re.fullmatch(r"in \d+\.\d s: \d+\.\d\d clips/s, \d+ tokens/s", speed)


def test_nothing_is_said_of_speed_where_all_is_known(here: Path) -> None:
    put_clip(here / "a.mp4")
    _caption("a.mp4")
    assert _caption("a.mp4").stderr.splitlines() == [
        "1 caption for 1 row in out.jsonl (1 taken from the ledger)",
        "next: reelscribe report out.jsonl",
    ]


# The report


@pytest.mark.skipif(importlib.util.find_spec("jinja2") is None, reason="the extra report is not installed")
def test_report_writes_a_page(here: Path) -> None:
    put_clip(here / "a.mp4")
    put_rows(here / "in.jsonl", [{"video": "a.mp4"}, {"video": "b.mp4"}])
    _caption("in.jsonl", code=3)
    assert _type("report", "out.jsonl").stderr == "2 videos in out.report.html\n"
    assert "<article" in (here / "out.report.html").read_text("utf-8")
    assert _type("report", "out.jsonl", "-o", "a/b.html", "--clips", "1").stderr == "1 video of 2 in a/b.html\n"
    assert _refused("report", "none.jsonl").startswith("there is no none.jsonl;")
    assert _refused("report", "in.jsonl").startswith("in.jsonl holds no captions:")
    assert _refused("report", "out.jsonl", "--clips", "0").startswith("clips must be a whole number of at least 1")


@pytest.mark.transformers
def test_chat_template_is_the_model_s_with_the_bare_video_token(here: Path) -> None:
    pair = "<|vision_start|><|video_pad|><|vision_end|>"
    own = (Path(model_path("shapes")) / "chat_template.jinja").read_text("utf-8")
    assert pair in own
    assert _type("chat-template", "--model", "shapes").stdout == own.replace(pair, "<|video_pad|>")
    assert _refused("chat-template", "--model", "gone", code=1).startswith("the model 'gone' cannot be loaded:")


# The demo


def test_demo_compares_captions_with_the_truth_and_leaves_the_data_set(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(file: Path, frames: Iterator[Scene], **_: Any) -> None:
        truths[file.name] = next(frames).caption
        put_clip(file)

    def know_all_but_one(_: Settings) -> Engine:
        return FakeEngine(
            lambda item, _: truths[item.requests[0].clip.name] if "07" not in item.requests[0].clip.name else "no"
        )

    truths: dict[str, str] = {}
    monkeypatch.setattr(demo, "film", lambda scene, **_: iter([scene]))
    monkeypatch.setattr(demo, "write_video", put)
    monkeypatch.setattr(on_demand, "load_engine", know_all_but_one)
    lines = _type("demo", "shown").stdout.splitlines()
    assert lines[:2] == [
        f"clip-00.mp4   truth  {truths['clip-00.mp4']}",
        f"              =  model  {truths['clip-00.mp4']}",
    ]
    assert lines[14:16] == [f"clip-07.mp4   truth  {truths['clip-07.mp4']}", "            !=  model  no"]
    assert "11 of 12 captions exactly right. The data set stays in shown:" in lines
    assert [row["video"] for row in read_rows_of(here / "shown" / "captioned.jsonl")] == sorted(truths)


# The shell


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str) -> None:
    script = _type("completion", shell).stdout
    assert f"_REELSCRIBE_COMPLETE={shell}_complete" in script


def test_the_script_of_bash_completes() -> None:
    script = _type("completion", "bash").stdout
    typed = "COMP_WORDS=(reelscribe ret); COMP_CWORD=1; _reelscribe_completion reelscribe; echo ${COMPREPLY[@]}"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{typed}"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PATH": path},
    )
    assert done.stdout.strip() == "retry", done.stderr
