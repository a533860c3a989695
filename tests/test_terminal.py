"""What names in data may do to a terminal: nothing."""

import contextlib
import json
import logging
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from flow import clip_bytes, put_rows

from reelscribe.cli import main
from reelscribe.terminal import PlainFormatter, printable

EVIL = "\x1b]0;title\x07\x9b31m\r\u202egnp\u2066.\x7f.mp4"
ACTS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029]")


def test_control_characters_are_escaped_and_all_else_stays() -> None:
    assert printable("ünï 👩‍🚀 字\tx") == "ünï 👩‍🚀 字\tx"
    assert printable("a\x1b[2K\x9b\x7f\r\u202e\udcff\u2028") == r"a\x1b[2K\x9b\x7f\r\u202e\udcff\u2028"
    assert (printable("a\nb"), printable("a\nb\x1b", one_line=False)) == (r"a\nb", "a\nb\\x1b")


@pytest.mark.parametrize(("name", "told"), [("reelscribe.x", r"a\n\x1b\n"), ("other", "a\n\\x1b\n")])
def test_records_of_logging_are_escaped_with_their_tracebacks(name: str, told: str) -> None:
    try:
        raise ValueError("b\x1b")
    except ValueError:
        record = logging.LogRecord(name, logging.ERROR, "", 1, "a\n%s\n", ("\x1b",), sys.exc_info())
    text = PlainFormatter("%(message)s").format(record)
    assert text.startswith(told)
    assert text.endswith("ValueError: b\\x1b")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with videos of names that act, one of which is whole."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / EVIL).write_bytes(clip_bytes())
    (tmp_path / f"broken {EVIL}").write_bytes(b"no video")
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ("caption", ".", "-o", f"{EVIL}.jsonl", "--engine", "fake"),
        ("caption", "in.jsonl", "-o", "out.jsonl", "--engine", "fake"),
        ("caption", f"gone {EVIL}", "-o", "out.jsonl", "--engine", "fake"),
        ("caption", "in.jsonl", "-o", EVIL, "--engine", "fake"),
        ("caption", "in.jsonl", "-o", "out.jsonl", "--engine", "fake", "--prompt", f"{{name}} {EVIL}"),
        ("caption", "in.jsonl", "-o", "out.jsonl", "--engine", "fake", "--video-key", EVIL),
        ("plan", ".", "--engine", "fake"),
        ("plan", "in.jsonl", "--engine", "fake", "--json"),
        ("doctor", EVIL, "--engine", "fake"),
        ("status", EVIL),
        ("retry", EVIL),
        ("report", EVIL),
        (EVIL,),
    ],
)
def test_no_command_sends_a_name_that_acts(here: Path, words: tuple[str, ...]) -> None:
    put_rows(here / "in.jsonl", [{"video": EVIL, EVIL: 1}, {"video": f"gone {EVIL}"}, {"video": [EVIL, 3]}])
    result = CliRunner().invoke(main, ["-v", *words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    assert result.output
    assert ACTS.findall(result.output) == []


def test_what_a_run_was_about_is_told_without_acting(here: Path) -> None:
    CliRunner().invoke(main, ["caption", ".", "-o", f"{EVIL}.jsonl", "--engine", "fake"])
    for words in (["status", f"{EVIL}.jsonl"], ["retry", f"{EVIL}.jsonl"]):
        result = CliRunner().invoke(main, words)
        assert "broken" in result.output
        assert ACTS.findall(result.output) == []


def test_terminal_gets_no_sequence_of_a_name(here: Path) -> None:
    put_rows(here / "in.jsonl", [{"video": f"gone {EVIL}"}])
    command = [sys.executable, "-m", "reelscribe.cli", "caption", "in.jsonl", "-o", "out.jsonl", "--engine", "fake"]
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, cwd=here, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        sent = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while piece := os.read(ours, 4096):
                sent += piece
    os.close(ours)
    assert process.returncode == 3
    assert b"gone \\x1b]0;title\\x07\\x9b31m" in sent
    assert b"\x1b]0;" not in sent
    assert json.loads((here / "out.failures.jsonl").read_text())["video"] == f"gone {EVIL}"
