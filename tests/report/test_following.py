"""A run is looked at while it goes on in another process, and makes a caption each time a test says so."""

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flow import put_clip, put_rows, read_rows_of
from playwright.sync_api import expect

from reelscribe.dataset.edits import edits_of
from reelscribe.errors import DatasetError
from reelscribe.report.entries import CaptionedData, Entry
from reelscribe.report.following import Follower
from reelscribe.report.write import write_report
from report.conftest import Opened, violations
from report.correcting import served

pytestmark = pytest.mark.browser
Look = Callable[..., Opened]
TESTS = Path(__file__).parent.parent
PROGRAM = """
import sys
from pathlib import Path
from flow import ScriptedEngine, said
from reelscribe.config import Settings
from reelscribe.runners.local import run

def answer(asked):
    return said(sys.stdin.readline().strip() or "nothing")

run([Path(sys.argv[1])], Path(sys.argv[2]), Settings(decoders=0), engine=ScriptedEngine(answer))
"""


class Going:
    """A run in another process."""

    def __init__(self, folder: Path, rows: int) -> None:
        self.output = folder / "out.jsonl"
        put_clip(folder / "a.mp4")
        data = put_rows(folder / "in.jsonl", [{"video": "a.mp4", "n": number} for number in range(rows)])
        self._command = [sys.executable, "-c", PROGRAM, str(data), str(self.output)]
        self.start()

    def start(self) -> None:
        """Start the run, or resume it."""
        self.process = subprocess.Popen(self._command, stdin=subprocess.PIPE, cwd=TESTS, text=True)

    def say(self, *texts: str) -> None:
        """Let it make captions."""
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{text}\n" for text in texts))
        self.process.stdin.flush()

    def wait_for(self, lines: int) -> None:
        """Wait until so many rows are there."""
        partial, pause = self.output.with_name("out.jsonl.partial"), threading.Event()
        while not partial.is_file() or partial.read_bytes().count(b"\n") < lines:
            assert self.process.poll() is None
            pause.wait(0.01)


@pytest.fixture
def going(tmp_path: Path) -> Iterator[Going]:
    """A run of six rows."""
    run = Going(tmp_path, 6)
    yield run
    run.process.kill()
    run.process.wait()


def test_a_page_follows_a_run_to_its_end(look: Look, going: Going) -> None:
    going.say("First.")
    going.wait_for(1)
    with served(going.output) as address:
        page = look(address).page
        expect(page.locator("#run")).to_contain_text("The run is going on: 1 of 6 rows · 1 caption", timeout=20_000)
        expect(page.locator("article .caption")).to_have_text(["First."])
        going.say("Second.", "Third.")
        expect(page.locator("article .caption")).to_have_text(["First.", "Second.", "Third."], timeout=20_000)
        expect(page.locator("article img").nth(8)).to_have_js_property("naturalWidth", 64)
        expect(page.locator("#count")).to_have_text("3 clips")
        expect(page.locator("#run")).to_contain_text("3 of 6 rows", timeout=20_000)
        # A clip that came later is like the others.
        page.locator("article").nth(2).focus()
        page.keyboard.press("r")
        expect(page.locator("article").nth(2).locator(".by-people")).to_have_text(["rejected"])
        assert violations(page) == []
        page.locator("article").nth(1).get_by_role("button", name="Play").click()
        expect(page.locator("video")).not_to_have_js_property("readyState", 0)
        page.fill("#search", "fourth")
        going.say("Fourth.", "Fifth.", "Sixth.")
        assert going.process.wait(60) == 0
        expect(page.locator("#run")).to_have_text(
            re.compile("The run is finished: 6 of 6 rows.*view again"), timeout=20_000
        )
        expect(page.locator("#count")).to_have_text("1 of 6 clips", timeout=20_000)
        page.fill("#search", "")
        expect(page.locator("article .caption")).to_have_count(6)
        [line] = read_rows_of(edits_of(going.output))
        assert (line["changes"][0]["row"], line["changes"][0]["copy"], line["changes"][0]["base"]) == (2, 2, "Third.")
        page.close()  # before the server goes, which it would ask


def test_a_page_waits_for_a_run_that_broke_off(look: Look, going: Going) -> None:
    going.say("First.")
    going.wait_for(1)
    with served(going.output) as address:
        page = look(address).page
        expect(page.locator("#run")).to_contain_text("The run is going on: 1 of 6 rows", timeout=20_000)
        going.process.kill()
        expect(page.locator("#run")).to_contain_text("The run broke off: 1 of 6 rows", timeout=20_000)
        going.start()  # all are of one clip, so that it knows what is said of the others
        expect(page.locator("#run")).not_to_contain_text("broke off", timeout=20_000)
        page.close()


def test_a_report_of_a_run_that_goes_on_says_so(look: Look, going: Going) -> None:
    going.say("First.", "Second.")
    going.wait_for(2)
    summary = write_report(going.output)
    assert (summary.shown, summary.videos) == (2, 2)
    assert "The run is not finished" in look(summary.file.as_uri()).page.inner_text("body > header")


def test_each_question_is_answered_with_little_work(tmp_path: Path, going: Going) -> None:
    going.say("First.", "Second.")
    going.wait_for(2)
    shown: list[int] = []

    def show(videos: list[tuple[Entry, ...]]) -> list[str]:
        shown.append(len(videos))
        return [answers[0].captions[0] for answers in videos]

    data = CaptionedData(going.output, unfinished="running", corrected=False)
    follower = Follower(data, rows=1, most=3, show=show)
    partial = going.output.with_name("out.jsonl.partial")
    with partial.open("ab") as opened:  # as if it were much faster
        whole = partial.read_bytes().splitlines(keepends=True)[0]
        opened.write(whole * 500 + whole[:40])
    assert follower.news(0)["clips"] == ["Second.", "First.", "First."]
    assert [follower.news(3)["clips"] for _ in range(3)] == [[], [], []]
    assert follower.news(0)["clips"] == ["Second.", "First.", "First."]  # of another page
    assert shown[0] == 3
    assert follower._rows == 502
    partial.write_bytes(b"")
    assert follower.news(3)["begun_anew"]


def test_what_cannot_be_followed(going: Going, tmp_path: Path) -> None:
    going.say("First.")
    going.wait_for(1)
    with pytest.raises(DatasetError, match="is under way: wait until it is finished"):
        CaptionedData(going.output)
    data = CaptionedData(going.output, unfinished="running")
    assert data.is_partial
