"""Events on the page: a list whose times lead into the video, and subtitles while it plays."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flow import ScriptedEngine, put_rows, said
from playwright.sync_api import Locator, Page, expect

from reelscribe.config import Settings
from reelscribe.report.write import write_report
from reelscribe.runners.local import run
from reelscribe.values import Row, Work
from report.conftest import EVIL, Opened, put_videos, unfold, violations

pytestmark = pytest.mark.browser
Look = Callable[..., Opened]
ROWS: list[Row] = [{"video": "sea.mp4#t=1,3"}, {"video": "dog.mp4"}, {"video": "gone.mp4"}, {"video": "dog.mp4#t=0,2"}]
NOTHING = '{"events": []}'


def _answer(asked: Work) -> Any:
    request = asked.requests[0]
    if request.id.task == "plain":
        return said("A plain caption.")
    says = {0: f"0-1 s: waves roll in\n1-2 s: {EVIL}", 1: "no times", 3: NOTHING}[request.id.row]
    return said(says, "0-0.5 s: another candidate" if request.id.row == 0 else says)


@pytest.fixture(scope="module", params=["alone", "beside another"])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report about a task with times."""
    folder = tmp_path_factory.mktemp("events")
    put_videos(folder, ["dog.mp4", "same.mp4", "sea.mp4"])
    tasks: dict[str, Any] = {"events": {"prompt": "List the events.", "times": True, "num_captions": 2}}
    if request.param != "alone":
        tasks = {"plain": "Describe it.", **tasks}
    settings = Settings(tasks=tasks, decoders=0, seed=1)
    run([put_rows(folder / "rows.jsonl", ROWS)], folder / "out.jsonl", settings, engine=ScriptedEngine(_answer))
    return write_report(folder / "out.jsonl").file


@pytest.fixture
def page(look: Look, report: Path) -> Page:
    """Its page."""
    return look(report.as_uri()).page


def _events(page: Page, row: int) -> Locator:
    return page.locator(f"article[data-row='{row}'] .events")


def test_events_stand_in_the_place_of_the_text(page: Page) -> None:
    items = _events(page, 0).locator("li")
    assert items.locator(".time").all_text_contents() == ["1.00–2.00 s", "2.00–3.00 s"]  # noqa: RUF001
    assert items.locator("[data-text]").all_text_contents() == ["waves roll in", EVIL]
    shown = page.locator("article[data-row='0'] .caption").all_text_contents()
    assert shown in ([], ["A plain caption."])
    assert page.locator("article[data-row='0'] .others").count() == 1
    assert page.title() == "out.jsonl · captions"


def test_what_has_no_events_is_shown_as_it_is(page: Page) -> None:
    assert _events(page, 1).count() == 0
    assert page.locator("article[data-row='1'] .caption").last.text_content() == "no times"
    assert "times" in page.locator("article[data-row='1'] .badge").all_text_contents()
    assert (_events(page, 3).text_content() or "").strip() == "Nothing happens."


def test_a_click_on_an_event_leads_to_its_moment(page: Page) -> None:
    video = page.locator("article[data-row='0'] video")
    _events(page, 0).get_by_role("button").last.click()
    expect(video).to_have_js_property("currentTime", 2)
    _events(page, 0).get_by_text("waves roll in").click()
    expect(video).to_have_js_property("currentTime", 1)


def test_events_are_subtitles_while_the_video_plays(page: Page) -> None:
    _events(page, 0).get_by_role("button").last.click()
    tracks = """video => [...video.textTracks].map(track => [track.kind, track.label, track.mode,
        ...[...track.cues].map(cue => [cue.startTime, cue.endTime, cue.getCueAsHTML().textContent])])"""
    video = page.locator("article[data-row='0'] video")
    cues = [[1, 1.999, "waves roll in"], [2, 2.999, EVIL]]
    assert video.evaluate(tracks) == [["subtitles", "events", "showing", *cues]]
    shown = """(video, wanted) => new Promise(done => {
        const look = (left) => {
            const texts = [...video.textTracks[0].activeCues].map(cue => cue.getCueAsHTML().textContent);
            if (left === 0 || texts[0] === wanted) done(texts);
            else requestAnimationFrame(() => look(left - 1));
        };
        look(300);
    })"""
    assert video.evaluate(shown, EVIL) == [EVIL]


def test_search_finds_events(page: Page) -> None:
    page.fill("#search", "waves roll")
    shown = page.locator("article:visible").evaluate_all("all => all.map(one => one.dataset.row)")
    assert shown == ["0"]


def test_axe_finds_nothing(page: Page) -> None:
    unfold(page)
    _events(page, 0).get_by_role("button").last.click()
    assert violations(page) == []


def test_events_can_be_read_without_scripts(look: Look, report: Path) -> None:
    page = look(report.as_uri(), java_script_enabled=False).page
    assert "waves roll in" in (_events(page, 0).text_content() or "")
    assert _events(page, 0).get_by_role("button").count() == 0
