"""What a person sees of a run that goes on: in a terminal of 80 columns, in a file, in a notebook."""

import io
import logging
import os
import pty
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from flow import put_clip, put_rows, wait_for_progress

from reelscribe.cli import main
from reelscribe.config import Settings
from reelscribe.engines.fake import FakeEngine
from reelscribe.runners import progress as module
from reelscribe.runners.live import Live
from reelscribe.runners.local import run
from reelscribe.runners.progress import Progress, parts_of
from reelscribe.runners.spending import Spending
from reelscribe.runners.tally import Tally
from reelscribe.runners.watch import Watch


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    put_clip(tmp_path / "a.mp4")
    put_rows(tmp_path / "in.jsonl", [{"video": "a.mp4", "text": str(number)} for number in range(3)])
    return tmp_path


def _live(total: int | None, rows: int, seconds: float, **settings: Any) -> Live:
    """A run that is this far."""
    watch, tally = Watch(FakeEngine()), Tally()
    tally.failures["missing"] = 1
    watch.rows_done = watch._rows_made = rows
    watch.clips, watch.tokens = 30, 600
    watch._began = time.monotonic() - seconds
    watch._first_answer, watch._last_answer, watch._last_made = 0.1 * seconds, seconds, seconds
    return Live(total=total, watch=watch, tally=tally, spending=Spending(Settings(**settings)))


def _told(live: Live) -> str:
    return ", ".join(text for text, _ in parts_of(live))


def test_a_line_says_what_is_known_and_no_more() -> None:
    rates = "1 failure, limit: engine, 6 tokens/s, engine busy 0%"
    assert _told(_live(4_000, 1_000, 100.0)) == f"1,000 of 4,000 rows, 0.30 clips/s, 5 min left, {rates}"
    assert _told(_live(None, 1_000, 100.0)) == f"1,000 rows, 0.30 clips/s, {rates}"
    assert "engine busy" in _told(_live(10, 1, 100.0))
    assert "cost under 0.01, engine" in _told(_live(10, 1, 100.0, price=1.0))
    young = _live(10, 1, 1.0)
    assert "limit" not in _told(young)
    young.watch.clips = young.watch.tokens = 0
    assert _told(replace(young, unit="clip", tally=Tally())) == "1 of 10 clips, 9 s left"
    several = replace(_live(10, 1, 100.0), tally=Tally(None, ["short", "long"]))
    several.watch.answers = 60
    assert "0.60 answers/s, 6 tokens/s" in _told(several)
    several.watch.clips = 0
    assert next(parts_of(several, is_stopping=True))[0] == "finishing what is in flight"


def test_lines_come_now_and_then_while_no_row_is_done(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_for_progress(monkeypatch, module, "_print", "clips/s")
    lines = CliRunner().invoke(main, ["caption", "in.jsonl", "-o", "out.jsonl", "--engine", "fake"]).stderr.splitlines()
    pattern = r"\d of 3 rows, \d+\.\d\d clips/s(, \d+ s left)?, \d+ tokens/s, engine busy \d+%"
    assert sum(re.fullmatch(pattern, line) is not None for line in lines) >= 2, lines


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb"), ("TERM", "xterm")])
def test_a_terminal_has_one_line_that_fits(here: Path, name: str, value: str) -> None:
    put_clip(here / "b.mp4")
    typed = [sys.executable, "-m", "reelscribe.cli", "caption", "a.mp4", "b.mp4", "-o", "out.jsonl", "--engine", "fake"]
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", name: value}
    with subprocess.Popen(typed, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        sent = b""
        try:
            while piece := os.read(ours, 4096):
                sent += piece
        except OSError:  # the other end is closed
            os.close(ours)
    assert process.returncode == 0
    text = sent.decode()
    assert (value == "xterm") == ("\x1b[32m" in text)
    if value == "dumb":
        assert "\x1b" not in text
        return
    order = ["reading the inputs ...", "loading the fake engine ...", "0 of 2 clips", "2 captions for 2 rows"]
    assert sorted(order, key=text.index) == order
    assert text.index("2 captions") == text.rindex("\r\x1b[K", 0, text.index("2 captions")) + len("\r\x1b[K")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_does_not_fit_is_left_out_and_what_is_logged_has_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    handler = logging.StreamHandler(terminal)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    with Progress() as progress:
        progress.start(_live(4_000, 1_000, 100.0))
        logging.getLogger().warning("a warning")
        shown = re.sub(r"\x1b\[\d+m", "", terminal.getvalue())
    assert shown == "1,000 of 4,000 rows, 0.30 clips/s, 5 min left, 1 failure\r\x1b[Ka warning\n"
    assert handler.filters == []


@pytest.mark.parametrize(("progress", "shows"), [(None, True), (True, True), (False, False)])
def test_a_notebook_shows_it_unless_it_is_told_not_to(
    here: Path, progress: bool | None, shows: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=True))
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    run("in.jsonl", "out.jsonl", Settings(engine="fake"), progress=progress)
    said = capsys.readouterr()
    assert ("0 of 3 rows" in said.out) == shows
    assert "\x1b" not in said.out
    assert said.err == ""


def test_elsewhere_a_run_from_python_shows_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("in.jsonl", "out.jsonl", Settings(engine="fake"))
    assert capsys.readouterr() == ("", "")
