"""A run is looked at while it goes on in another process, and makes a caption each time a test says so."""

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from sqlite3 import connect
from typing import Any

import pytest
from flow import EOC, VIDEO, ScriptedEngine, put_clip, put_rows, read_rows_of, said
from playwright.sync_api import expect

from reelscribe.config import Settings
from reelscribe.dataset.edits import edits_of
from reelscribe.dataset.identity import scenes_key
from reelscribe.errors import DatasetError
from reelscribe.report.edited import key_of
from reelscribe.report.entries import CaptionedData, Entry
from reelscribe.report.following import Follower
from reelscribe.report.write import write_report
from reelscribe.runners.local import run
from reelscribe.runners.status import ledger_of, read_status
from reelscribe.values import Clip, Row, Work
from reelscribe.video.fetch import FetchLimits
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
        for number in range(rows):
            put_clip(folder / f"{number}.mp4")
        data = put_rows(folder / "in.jsonl", [{"video": f"{number}.mp4"} for number in range(rows)])
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

    def wait_for(self, rows: int) -> None:
        """Wait until the ledger has so many rows."""
        pause = threading.Event()
        while self._known() < rows:
            assert self.process.poll() is None
            pause.wait(0.05)

    def _known(self) -> int:
        try:
            return read_status(self.output).rows
        except DatasetError:
            return 0


@pytest.fixture
def going(tmp_path: Path) -> Iterator[Going]:
    """A run of six rows."""
    going = Going(tmp_path, 6)
    yield going
    going.process.kill()
    going.process.wait()


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
        assert (line["changes"][0]["row"], line["changes"][0]["copy"], line["changes"][0]["base"]) == (2, 0, "Third.")
        page.close()  # before the server goes, which it would ask


def test_a_page_waits_for_a_run_that_broke_off(look: Look, going: Going) -> None:
    going.say("First.")
    going.wait_for(1)
    with served(going.output) as address:
        page = look(address).page
        expect(page.locator("#run")).to_contain_text("The run is going on: 1 of 6 rows", timeout=20_000)
        going.process.kill()
        expect(page.locator("#run")).to_contain_text("The run broke off: 1 of 6 rows", timeout=20_000)
        going.start()
        expect(page.locator("#run")).not_to_contain_text("broke off", timeout=20_000)
        page.close()


def test_a_report_of_a_run_that_goes_on_says_so(look: Look, going: Going) -> None:
    going.say("First.", "Second.")
    going.wait_for(2)
    summary = write_report(going.output)
    assert (summary.shown, summary.videos) == (2, 2)
    assert "The run is not finished" in look(summary.file.as_uri()).page.inner_text("body > header")


def _broken_off(output: Path, rows: list[Row], **settings: Any) -> None:
    """A run that breaks off at the clip `end.mp4`."""
    for name in {row.get("video") or row["videos"][0] for row in rows} - {"gone.mp4"}:
        put_clip(output.parent / name)
    data = put_rows(output.parent / "in.jsonl", rows)
    with pytest.raises(KeyboardInterrupt):
        run([data], output, Settings(decoders=0, **settings), engine=ScriptedEngine(_until_the_end))


def test_each_question_is_answered_with_little_work(tmp_path: Path) -> None:
    shown: list[int] = []

    def show(videos: list[tuple[Entry, ...]]) -> list[str]:
        shown.append(len(videos))
        return [answers[0].captions[0] for answers in videos]

    rows: list[Row] = [{"video": name} for name in ["a.mp4", "end.mp4"]]
    _broken_off(tmp_path / "out.jsonl", rows)
    rows = [{"video": name} for name in ["a.mp4", "b.mp4", *["a.mp4"] * 500, "end.mp4"]]
    put_rows(tmp_path / "in.jsonl", rows)
    data = CaptionedData(tmp_path / "out.jsonl", unfinished="running", corrected=False)
    assert len(list(data.entries())) == 1
    follower = Follower(data, most=3, show=show)
    assert follower.news(0)["clips"] == []
    _broken_off(tmp_path / "out.jsonl", rows)
    three = ["What b shows.", "What a shows.", "What a shows."]
    assert follower.news(0)["clips"] == three
    assert [follower.news(3)["clips"] for _ in range(3)] == [[], [], []]
    assert follower.news(0)["clips"] == three  # of another page
    assert max(shown) == 3
    assert follower._known.taken == 502
    assert not follower.news(3)["begun_anew"]
    _broken_off(tmp_path / "out.jsonl", [{"video": "end.mp4"}], prompt="Another one.")
    assert follower.news(3)["begun_anew"]


INTERLEAVED: dict[str, Any] = {"original": True, "keep": "all", "num_captions": 2}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("out.jsonl", {}),
        ("out.jsonl.gz", {}),
        ("out.parquet", {}),
        ("out.tar", {}),
        ("out-{shard}.tar", {"shard_rows": 1}),
        ("out.jsonl.gz", {"tasks": {"one": "1?", "two": "2?"}}),
        ("out.jsonl", INTERLEAVED),
        ("out.parquet", INTERLEAVED),
    ],
)
def test_a_run_is_seen_in_any_format_as_it_will_be(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    if "parquet" in name:
        pytest.importorskip("pyarrow")
    text = f"{VIDEO} words {EOC}"
    rows: list[Row] = [{"videos": [f"{stem}.mp4"], "text": text} for stem in ("a", "gone", "b", "end")]
    if settings is not INTERLEAVED:
        rows = [{"video": row["videos"][0]} for row in rows]
    output = tmp_path / name
    _broken_off(output, rows, **settings)
    seen = _entries(CaptionedData(output, unfinished="running", corrected=False))
    engine = ScriptedEngine(lambda asked: said(*("The end.",) * asked.requests[0].num_captions))
    run([tmp_path / "in.jsonl"], output, Settings(decoders=0, **settings), engine=engine)
    whole = _entries(CaptionedData(output, corrected=False))
    assert {item[0] for item in seen if item[3]} == {0, 2}
    assert seen == [item for item in whole if item[0] < 3]


def test_rows_with_captions_in_the_text_are_known_to_be_that_before_the_first_is_there(tmp_path: Path) -> None:
    output, text = tmp_path / "out.jsonl", f"{VIDEO} words {EOC}"
    rows: list[Row] = [{"videos": [f"{name}.mp4"], "text": text} for name in ("end", "a")]
    _broken_off(output, rows, original=False)
    data = CaptionedData(output, unfinished="running", corrected=False)
    assert list(data.entries()) == []
    assert data.is_interleaved
    settings = Settings(decoders=0, original=False)
    assert data.reached
    known = data.reached[0]
    run([tmp_path / "in.jsonl"], output, settings, engine=ScriptedEngine(lambda asked: said("Now.")))
    found = data.entries_of_next(known, 10)
    assert [entry.captions for entry in found if isinstance(entry, Entry)] == [("Now.",), ("Now.",)]


@pytest.mark.parametrize("is_found", [False, True])
def test_films_are_seen_as_far_as_their_scenes_are_found(is_found: bool, tmp_path: Path) -> None:
    rows: list[Row] = [{"video": name} for name in ("a.mp4", "end.mp4")]
    _broken_off(tmp_path / "out.jsonl", rows, split="scenes")
    if not is_found:
        last = scenes_key(Clip(source=str(tmp_path / "end.mp4")), FetchLimits())
        with connect(ledger_of(tmp_path / "out.jsonl")) as base:
            assert base.execute("DELETE FROM scenes WHERE film = ?", (last,)).rowcount == 1
    data = CaptionedData(tmp_path / "out.jsonl", unfinished="running")
    assert [entry.row for entry in data.entries()] == [0]


def _until_the_end(asked: Work) -> Any:
    if asked.clip.path.name == "end.mp4":
        raise KeyboardInterrupt
    stem, [request] = asked.clip.path.stem, asked.requests
    return said(*(f"What {stem} shows.", f"{stem}, once more.")[: request.num_captions])


def _entries(data: CaptionedData) -> list[tuple[Any, ...]]:
    """What corrections and pages go by."""
    return [
        (item.row, item.slot, key_of(item), item.captions, item.others, item.failure, item.original)
        for item in data.entries()
        if isinstance(item, Entry)
    ]


def test_what_cannot_be_followed(going: Going, tmp_path: Path) -> None:
    going.say("First.")
    going.wait_for(1)
    with pytest.raises(DatasetError, match="is under way: wait until it is finished"):
        CaptionedData(going.output)
    data = CaptionedData(going.output, unfinished="running")
    assert data.is_partial
