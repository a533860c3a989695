"""A page about several tasks: a video once, with all that was said about it below its frames."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flow import EOC, VIDEO, ScriptedEngine, put_rows, read_rows_of, said
from playwright.sync_api import Locator, Page, expect

from reelscribe.config import Settings
from reelscribe.report.entries import CaptionedData, Entry, by_video
from reelscribe.report.overview import Overview
from reelscribe.report.write import write_report
from reelscribe.runners.local import run
from reelscribe.values import Failure, Row, Work
from report.conftest import Opened, put_videos, unfold, violations

Look = Callable[..., Opened]
SHOT = {
    "type": "object",
    "properties": {"animal": {"type": "string"}, "moves": {"type": "boolean"}},
    "required": ["animal", "moves"],
}
TASKS: dict[str, Any] = {
    "long": {"prompt": "Tell all.", "num_captions": 2},
    "shot": {"schema": SHOT},
    "check": {"prompt": "Is this right? {long}", "after": ["long"], "video": False},
}
ROWS: list[Row] = [
    {"video": "sea.mp4", "text": "stock footage of the sea"},
    {"video": "dog.mp4"},
    {"video": "gone.mp4"},
    {"id": 3},
]
SHOTS = ['{"animal": "größte <b>seal</b>", "moves": false}', '{"animal": "dog", "moves": true}']


def _answer(asked: Work) -> Any:
    request = asked.requests[0]
    if (request.id.row, request.id.task) == (1, "check"):
        return Failure(id=request.id, video=request.clip.name, kind="engine", message="it does not like dogs")
    texts = {
        "long": ("A dog runs over the sand and barks.", "A dog sits."),
        "shot": (SHOTS[request.id.row % 2],),
        "check": ("Yes, all of that is right.",),
    }
    return said(*texts[request.id.task])


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with answers to three tasks."""
    folder = tmp_path_factory.mktemp("tasks")
    put_videos(folder, ["sea.mp4", "dog.mp4"])
    data = put_rows(folder / "rows.jsonl", ROWS)
    settings = Settings(tasks=TASKS, decoders=0, seed=1)
    run([data], folder / "out.jsonl", settings, engine=ScriptedEngine(_answer))
    return folder / "out.jsonl"


@pytest.fixture(scope="module")
def report(output: Path) -> Path:
    """A report about it."""
    return write_report(output).file


def test_entries_are_together_by_video(output: Path) -> None:
    videos = list(by_video(CaptionedData(output).entries()))
    told = [[(entry.task, entry.failure, entry.structured) for entry in answers] for answers in videos]
    assert told == [
        [("long", None, False), ("shot", None, True), ("check", None, False)],
        [("long", None, False), ("shot", None, True), ("check", "engine", False)],
        [("long", "missing", False), ("shot", "missing", True), ("check", "after", False)],
        [],
    ]
    assert videos[1][1].captions == (SHOTS[1],)


def test_columns_tell_the_tasks_where_the_ledger_is_gone(output: Path, tmp_path: Path) -> None:
    put_rows(tmp_path / "moved.jsonl", read_rows_of(output))
    moved, known = (list(by_video(CaptionedData(file).entries())) for file in (tmp_path / "moved.jsonl", output))
    told = [
        [[(each.task, each.captions, each.others, each.failure) for each in answers] for answers in videos]
        for videos in (moved, known)
    ]
    assert told[0] == told[1]
    assert moved[0][1].structured
    assert not moved[0][0].structured


@pytest.mark.parametrize("name", ["out.parquet", "out.jsonl.gz"])
def test_formats_tell_the_same(output: Path, tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    settings = Settings(tasks=TASKS, decoders=0, seed=1)
    run([output.parent / "rows.jsonl"], tmp_path / name, settings, engine=ScriptedEngine(_answer))

    def told(of: Path) -> list[tuple[Any, ...]]:
        entries = [entry for entry in CaptionedData(of).entries() if isinstance(entry, Entry)]
        return [(entry.row, entry.task, entry.captions, entry.others, entry.failure) for entry in entries]

    assert told(tmp_path / name) == told(output)


@pytest.mark.parametrize("columns", ["text", "candidates", "meta", "text,failure", "candidates,failure"])
def test_what_columns_tell_is_shown(output: Path, tmp_path: Path, columns: str) -> None:
    settings = Settings(tasks=TASKS, decoders=0, seed=1, columns=columns)
    run([output.parent / "rows.jsonl"], tmp_path / "out.jsonl", settings, engine=ScriptedEngine(_answer))
    entries = [entry for entry in CaptionedData(tmp_path / "out.jsonl").entries() if isinstance(entry, Entry)]
    good = [(entry.row, entry.task) for entry in entries if entry.captions]
    known = [(0, "long"), (0, "shot"), (0, "check"), (1, "long"), (1, "shot")]
    assert good == ([] if columns == "meta" else known)
    failed = {(entry.row, entry.task) for entry in entries if entry.failure}
    assert failed == (
        {(1, "check"), (2, "long"), (2, "shot"), (2, "check")} if columns not in ("text", "candidates") else set()
    )
    write_report(tmp_path / "out.jsonl")


def test_counts_are_of_answers_and_what_is_of_a_video_is_counted_once(output: Path) -> None:
    overview = Overview.of(CaptionedData(output).entries())
    assert (overview.tasks, overview.failed) == (
        {"long": 2, "shot": 2, "check": 1},
        {"long": 1, "shot": 1, "check": 2},
    )
    assert (overview.captions, overview.without_video, overview.failures["missing"]) == (5, 1, 2)
    assert overview.strata == ["", "engine", "missing after"]
    assert len(overview.seconds) == len(overview.video_tokens) == 2


def test_of_several_videos_some_are_shown_with_all_their_answers(output: Path, tmp_path: Path) -> None:
    summary = write_report(output, tmp_path / "a.html", clips=2)
    page = summary.file.read_text("utf-8")
    assert (summary.shown, summary.videos) == (2, 3)
    assert (page.count("<article"), page.count('class="answer"')) == (2, 6)


def test_the_page_says_how_many_answers_there_are(report: Path) -> None:
    page = report.read_text("utf-8")
    assert "5 answers of 3 tasks about 3 videos, 4 failed, 1 row without a video." in " ".join(page.split())
    assert re.search(r'<th scope="row">check<small>2 failed</small></th><td>1</td>', page)


def test_frames_are_there_once(report: Path) -> None:
    page = report.read_text("utf-8")
    assert page.count('class="strip"') == 2
    assert "gone.mp4" in page
    assert len(set(re.findall(r' id="(\w[\w-]*)"', page))) == len(re.findall(r' id="(\w[\w-]*)"', page))


def test_json_has_a_line_for_each_value(report: Path) -> None:
    page = report.read_text("utf-8")
    assert (
        '<pre class="caption json" data-text>\n{\n  &#34;animal&#34;: &#34;größte &lt;b&gt;seal&lt;/b&gt;&#34;,\n'
        "  &#34;moves&#34;: false\n}</pre>" in page
    )


def test_json_that_is_none_is_shown_as_it_is(output: Path, tmp_path: Path) -> None:
    rows = read_rows_of(output)
    rows[1] |= {"shot": None, "shot_candidates": ['{"animal": "dog", "mo']}
    before = output.read_text()
    put_rows(output, rows)
    page = write_report(output, tmp_path / "a.html").file.read_text("utf-8")
    output.write_text(before)
    assert "{&#34;animal&#34;: &#34;dog&#34;, &#34;mo</pre>" in page


def test_interleaved_failures_are_those_of_the_task_that_goes_into_the_text(tmp_path: Path) -> None:
    put_videos(tmp_path, ["sea.mp4"])
    rows = [
        {"videos": ["gone.mp4", "sea.mp4"], "text": f"{VIDEO}{VIDEO}two{EOC}"},
        {"videos": ["sea.mp4"], "text": f"{VIDEO}one{EOC}"},
    ]
    data, output = put_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    tasks = {"long": "Tell all.", "caption": {"prompt": "Sum up: {long}", "after": ["long"], "video": False}}
    run([data], output, Settings(tasks=tasks, decoders=0), engine=ScriptedEngine(lambda _: said("A.")))
    entries = [entry for entry in CaptionedData(output).entries() if isinstance(entry, Entry)]
    told = [(entry.row, entry.slot, entry.task, entry.video.name, entry.failure) for entry in entries]
    assert told == [(0, 0, "caption", "gone.mp4", "after"), (1, 0, "caption", "sea.mp4", None)]
    assert "there is no such file" in entries[0].message


# In Chromium


@pytest.fixture
def page(look: Look, report: Path) -> Page:
    """The report, from disk."""
    return look(report.as_uri()).page


def _of(page: Page, row: int, task: str) -> Locator:
    return page.locator(f"article[data-row='{row}'] .answer[data-task='{task}']")


def _focused(page: Page) -> tuple[str, str]:
    told = page.evaluate(
        "(one => [one.closest('article')?.dataset.row, one.dataset.task])(document.activeElement)",
    )
    return told[0], told[1]


def _exported(page: Page, into: Path) -> list[Row]:
    with page.expect_download() as waiting:
        page.click("#export")
    waiting.value.save_as(into)
    return read_rows_of(into)


@pytest.mark.browser
def test_keys_go_from_answer_to_answer_and_marks_are_of_each(page: Page, tmp_path: Path) -> None:
    stops = []
    for key in "jjjjk":
        page.keyboard.press(key)
        stops.append(_focused(page))
    assert stops == [("0", "long"), ("0", "shot"), ("0", "check"), ("1", "long"), ("0", "check")]
    page.keyboard.press("f")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("n")
    page.keyboard.type("no dog")
    page.keyboard.press("Escape")
    assert _focused(page) == ("1", "shot")
    page.keyboard.press(" ")
    expect(page.locator("article[data-row='1'] video")).not_to_have_js_property("currentTime", 0)
    assert page.locator("video").count() == 1
    marks = [
        {"row": 0, "video": "sea.mp4", "task": "check", "flag": True, "note": ""},
        {"row": 1, "video": "dog.mp4", "task": "shot", "flag": False, "note": "no dog"},
    ]
    assert _exported(page, tmp_path / "marks.jsonl") == marks
    page.reload()
    assert page.inner_text("#export") == "Export 2 marks"
    assert _of(page, 0, "check").locator(".flag").get_attribute("aria-pressed") == "true"
    assert _of(page, 0, "long").locator(".flag").get_attribute("aria-pressed") == "false"
    assert _of(page, 1, "shot").locator("textarea").input_value() == "no dog"


@pytest.mark.browser
def test_buttons_are_of_their_answer(page: Page, tmp_path: Path) -> None:
    _of(page, 2, "shot").get_by_role("button", name="Flag").click()
    _of(page, 2, "check").get_by_role("button", name="Note").click()
    page.keyboard.type("why")
    assert _exported(page, tmp_path / "marks.jsonl") == [
        {"row": 2, "video": "gone.mp4", "task": "shot", "flag": True, "note": ""},
        {"row": 2, "video": "gone.mp4", "task": "check", "flag": False, "note": "why"},
    ]
    page.locator("article[data-row='0']").get_by_role("button", name="Play").click()
    assert page.locator("article[data-row='0'] video").count() == 1


@pytest.mark.browser
@pytest.mark.parametrize(
    ("field", "value", "rows"),
    [
        ("#search", "seal", ["0"]),
        ("#search", "stock footage", ["0"]),
        ("#search", "does not like dogs", ["1"]),
        ("#show", "kind:engine", ["1"]),
        ("#show", "caption", ["0", "1"]),
        ("#show", "failure", ["1", "2"]),
        ("#least", "6", ["0"]),
    ],
)
def test_a_video_is_found_by_any_of_its_answers(page: Page, field: str, value: str, rows: list[str]) -> None:
    if field == "#show":
        page.select_option(field, value)
    else:
        page.fill(field, value)
    shown = page.locator("article:visible").evaluate_all("all => all.map(one => one.dataset.row)")
    assert shown == rows
    assert page.inner_text("#count") == f"{len(rows)} of 3 clips"


@pytest.mark.browser
def test_what_is_asked_for_has_to_be_true_of_one_answer(page: Page) -> None:
    page.select_option("#show", "failure")
    page.fill("#search", "barks")
    assert page.locator("article:visible").count() == 0


@pytest.mark.browser
@pytest.mark.parametrize("color_scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing(look: Look, report: Path, color_scheme: str, width: int) -> None:
    page = look(report.as_uri(), color_scheme=color_scheme, viewport={"width": width, "height": 900}).page
    unfold(page)
    _of(page, 1, "shot").locator(".flag").click()
    _of(page, 1, "shot").locator(".note").click()
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.browser
def test_nearly_the_same_is_looked_for_within_a_task(page: Page) -> None:
    assert _of(page, 0, "long").locator(".badge").all_text_contents() == ["near duplicate"]
    _of(page, 0, "long").get_by_role("link", name="dog.mp4").click()
    assert _focused(page) == ("1", "long")
    assert _of(page, 0, "check").locator(".badge").count() == 0
