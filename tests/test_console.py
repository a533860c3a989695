"""What the command says on standard error: JSON events, the summary, the next step."""

import json
import logging
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from commands import Run, ended
from flow import put_clip, put_rows, wait_for_progress

from reelscribe import console
from reelscribe.cli import main
from reelscribe.errors import FailureKind
from reelscribe.runners.local import RunSummary


def _events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def _caption(*words: str) -> tuple[int, list[dict[str, Any]]]:
    result = CliRunner().invoke(
        main, ["caption", "in.jsonl", "-o", "out.jsonl", "--engine", "fake", "--log-json", *words]
    )
    return result.exit_code, _events(result.stderr)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    put_clip(tmp_path / "a.mp4")
    put_rows(tmp_path / "in.jsonl", [{"video": "a.mp4"}, {"video": "none.mp4"}])
    return tmp_path


@pytest.fixture
def waiting_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that answers its second request once progress was told of after the first, and so on."""
    wait_for_progress(monkeypatch, click, "echo", '"progress"')


@pytest.mark.usefixtures("waiting_engine")
def test_all_is_json(here: Path) -> None:
    put_rows(here / "in.jsonl", [{"video": "a.mp4"}, {"video": "none.mp4"}, {"video": "a.mp4"}])
    code, events = _caption("--price", "1")
    assert code == 3
    start, *told, summary = events
    assert (start["event"], start["engine"], start["model"], start["total"]) == ("start", "scripted", "a script", 3)
    assert {event["event"] for event in told} == {"progress"}
    for name in ("rows", "captions", "failures", "seconds_left", "clips_per_second", "tokens_per_second", "in_flight"):
        assert name in told[-1]
    assert 0 <= told[-1]["engine_busy_share"] <= 1
    assert told[-1]["bottleneck"] in ("reading", "decoding", "engine", "writing")
    assert told[-1]["cost"] > 0
    assert summary["event"] == "summary"
    assert (summary["rows"], summary["captions"], summary["failures"]) == (3, 2, {"missing": 1})
    assert summary["next"] == "fix what is listed, then reelscribe retry out.jsonl"
    assert all("T" in event["time"] for event in events)


def test_an_error_is_json(here: Path) -> None:
    (here / "run.toml").write_text("[model_params]\nbreak_after = 0\n")
    code, events = _caption("--config", "run.toml")
    assert code == 1
    assert (events[-1]["event"], events[-1]["exit_code"]) == ("error", 1)
    assert events[-1]["message"] == "the fake engine breaks after 0 requests, as it was told to."


def test_warnings_and_signals_are_json(here: Path) -> None:
    rows = [{"video": "a.mp4", "id": number} for number in range(10_000)]
    put_rows(here / "in.jsonl", rows)
    (here / "slow.toml").write_text("[model_params]\nclips_per_second = 200\n")
    with ended(
        Run(here, "run", "--engine", "fake", "--config", "slow.toml", "--log-json", "--keep", "similar_one_simhash")
    ) as command:
        command.wait_until(lambda: command.lines() > 2)
        command.process.send_signal(signal.SIGTERM)
        events = _events(command.end())
    assert command.process.returncode == 128 + signal.SIGTERM
    named = {event["event"]: event for event in events}
    assert named["log"]["level"] == "warning"
    assert named["log"]["message"].startswith("None of the first rows has a text for captions")
    assert re.fullmatch(r"finishing .*; once more stops at once\.", named["stop"]["message"])
    assert named["error"]["exit_code"] == 128 + signal.SIGTERM


def test_a_traceback_is_part_of_the_line() -> None:
    try:
        raise ValueError("odd")
    except ValueError as exc:
        record = logging.LogRecord("a", logging.ERROR, "a.py", 1, "it %s", ("broke",), (ValueError, exc, None))
    told = json.loads(console.JsonFormatter().format(record))
    assert (told["message"], told["level"]) == ("it broke", "error")
    assert "ValueError: odd" in told["traceback"]


# The summary


def _summary(**failures: int) -> RunSummary:
    kinds: dict[FailureKind, int] = failures  # type: ignore[assignment]
    return RunSummary(
        rows=9,
        captions=5,
        without_video=1,
        flags={"cut_off": 2},
        failures=kinds,
        examples={kind: [f"row {number}: bad" for number in range(3)] for kind in kinds},
        failures_file=Path("out.failures.jsonl"),
        speed={
            "clips": 9,
            "answers": 9,
            "seconds": 20.0,
            "clips_per_second": 4.5,
            "answers_per_second": 4.5,
            "tokens_per_second": 45.0,
            "shares_waited_for": {"decoding": 0.25},
            "bottleneck": "engine",
        },
        cost=1.25,
    )


def test_ten_lines_at_most() -> None:
    summary = _summary(decode=3, missing=3, download=3)
    assert list(console.summary_lines(summary, Path("my out.jsonl"))) == [
        "5 captions for 9 rows in my out.jsonl",
        "in 20.0 s: 4.50 clips/s, 45 tokens/s, cost 1.25; the engine waited for frames 25% of the time",
        "1 row without a video; if theirs is in another column, name it with --video-key",
        "flagged captions: cut_off 2; allow more with --sampling max_tokens=N",
        "9 failures (3 decode, 3 download, 3 missing), listed in out.failures.jsonl",
        "  decode: row 0: bad",
        "  decode: row 1: bad",
        "  decode: row 2: bad",
        "  download: row 0: bad",
        "next: reelscribe retry 'my out.jsonl' --kind download",
    ]


def test_a_short_run_tells_nothing_that_it_does_not_know() -> None:
    summary = replace(_summary(), cost=0.001)
    summary.speed.update(seconds=0.3, tokens_per_second=0.0, bottleneck="decoding")
    assert "in 0.3 s: 4.50 clips/s, cost under 0.01" in list(console.summary_lines(summary, Path("out.jsonl")))


def test_several_tasks_are_told_one_by_one_and_videos_once() -> None:
    summary = replace(
        _summary(decode=3, missing=3, download=3),
        videos=4,
        captions=5,
        tasks={
            "short": {"captions": 4, "failures": {}},
            "long": {"captions": 1, "failures": {"decode": 2, "missing": 1}},
        },
    )
    summary.speed.update(answers=27, answers_per_second=13.5)
    lines = list(console.summary_lines(summary, Path("out.jsonl")))
    assert lines[:3] == [
        "5 answers about 4 clips for 9 rows in out.jsonl",
        "by task: short: 4 answers; long: 1 answer, 3 failures (2 decode, 1 missing)",
        "in 20.0 s: 4.50 clips/s, 13.50 answers/s, 45 tokens/s, cost 1.25; "
        "the engine waited for frames 25% of the time",
    ]
    assert lines[4] == "flagged answers: cut_off 2; allow more with --sampling max_tokens=N"
    assert len(lines) == 10


def test_the_next_step() -> None:
    output = Path("out.jsonl")
    assert console.next_step(_summary(timeout=1, engine=2, missing=9), output) == (
        "reelscribe retry out.jsonl --kind engine,timeout"
    )
    assert console.next_step(_summary(missing=1), output) == "fix what is listed, then reelscribe retry out.jsonl"
    assert console.next_step(_summary(), output) == "reelscribe report out.jsonl"
