"""Films on the page: a timeline of the stretches of each, whose links lead to clips and to moments."""

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
FILM, TO = "film.mp4", "\N{EN DASH}"
ROWS: list[Row] = [
    {"video": FILM, "stretches": [[0, 2], [1, 3], [3, None]]},
    {"video": "dog.mp4#t=0.5,1"},
    {"video": f"{FILM}#t=4,5.5"},
    {"video": f"{FILM}#t=50,60"},
    {"video": "gone.mp4", "start": 1, "end": 2},
    {"video": "gone.mp4", "start": 2, "end": 8},
    {"video": "gone.mp4"},
]
TEXTS = {0.0: "A dog runs.", 0.5: "Waves.", 1.0: "It cuts off...", 3.0: EVIL, 4.0: "A cat sits."}
EVENTS = {
    0.0: "waves roll in",
    0.5: "nothing much",
    1.0: "a door opens",
    3.0: "birds fly over roofs",
    4.0: "snow falls all night",
}
TASKS: dict[str, Any] = {
    "plain": "Describe it.",
    "events": {"prompt": "List the events.", "times": True},
    "story": {"prompt": "Sum up: {clips}", "after": ["plain"], "video": False, "over": "video"},
}


def _answer(asked: Work) -> Any:
    request = asked.requests[0]
    if request.id.task == "events":
        return said(f"0-0.5 s: {EVENTS[request.clip.start_seconds]}")
    return said("All of it." if request.id.task == "story" else TEXTS[request.clip.start_seconds])


def _report(folder: Path, tasks: dict[str, Any]) -> Path:
    put_videos(folder, ["1.mp4", "2.mp4", "3.mp4", "4.mp4", "5.mp4", FILM, "dog.mp4"])  # the film has 6 seconds
    settings = Settings(tasks=tasks, decoders=0, seed=1)
    run([put_rows(folder / "rows.jsonl", ROWS)], folder / "out.jsonl", settings, engine=ScriptedEngine(_answer))
    return write_report(folder / "out.jsonl").file


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report about films."""
    return _report(tmp_path_factory.mktemp("films"), TASKS)


@pytest.fixture(scope="module")
def report_of_one_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One about a task alone."""
    return _report(tmp_path_factory.mktemp("film"), {"plain": "Describe it."})


@pytest.fixture
def page(look: Look, report: Path) -> Page:
    """Its page, with the films."""
    page = look(report.as_uri()).page
    page.get_by_role("tab", name="Films").click()
    return page


def _film(page: Page, name: str = FILM) -> Locator:
    return page.locator(".film").filter(has=page.locator("h3", has_text=name))


def _stop(page: Page, start: str) -> Locator:
    return _film(page).locator(f"a.stop[title^='{start}{TO}']")


def _focused(page: Page) -> str:
    """The clip that has the focus, or else the stop of a timeline."""
    return page.evaluate("document.activeElement.closest('article')?.dataset.video ?? document.activeElement.title")  # type: ignore[no-any-return]


def test_each_film_has_its_stretches_in_order_with_what_came_of_them(page: Page) -> None:
    assert page.locator(".film h3").all_text_contents() == [FILM, "gone.mp4"]
    assert _film(page).locator(".bar a.stop").evaluate_all("all => all.map(one => one.title)") == [
        f"0:00{TO}0:02; A dog runs.",
        f"0:01{TO}0:03; cut off; It cuts off...",
        f"0:03{TO}0:06; {EVIL}",
        f"0:04{TO}0:05.5; frozen; A cat sits.",
    ]
    assert _film(page).locator(".outside a.stop").get_attribute("title") == f"0:50{TO}1:00; failed: row"
    assert "0:06 · 5 clips, 1 failed, 2 with a flag" in (_film(page).locator("p").text_content() or "")
    gone = _film(page, "gone.mp4").locator("a.stop")
    assert gone.evaluate_all("all => all.map(one => one.title.split(';')[0])") == [f"0:01{TO}0:02", f"0:02{TO}0:08"]


def test_stretches_lie_on_the_clock_and_those_that_overlap_below_each_other(page: Page) -> None:
    bar = _film(page).locator(".bar").bounding_box()
    boxes = {start: _stop(page, start).bounding_box() for start in ("0:00", "0:01", "0:03", "0:04")}
    assert bar is not None
    tops = []
    for start, box in boxes.items():
        assert box is not None
        assert box["x"] == pytest.approx(bar["x"] + bar["width"] * int(start[-1]) / 6, abs=1.5)
        tops.append(box["y"])
    assert tops[0] == tops[2] < tops[1] == tops[3]


def test_what_failed_or_has_a_flag_differs_by_more_than_colour(page: Page) -> None:
    failed = _film(page).locator(".outside a.stop")
    assert "repeating-linear-gradient" in failed.evaluate("one => getComputedStyle(one).backgroundImage")
    width = "one => parseFloat(getComputedStyle(one).borderBottomWidth)"
    assert _stop(page, "0:01").evaluate(width) >= 3 * _stop(page, "0:00").evaluate(width)


def test_a_stop_leads_to_its_clip_and_the_player_to_its_start(page: Page) -> None:
    _stop(page, "0:04").click()
    assert _focused(page) == f"{FILM}#t=4,5.5"
    expect(page.locator("video")).to_have_js_property("currentTime", 4)
    expect(page.locator(f"article[data-video='{FILM}#t=4,5.5']")).to_be_in_viewport()


def test_a_film_has_one_player_which_is_where_the_reader_is(page: Page) -> None:
    for start in ("0:00", "0:01", "0:03"):
        page.get_by_role("tab", name="Films").click()
        _stop(page, start).click()
        expect(page.locator("video")).to_have_js_property("currentTime", int(start[-1]))
    assert page.locator("video").count() == 1
    assert page.locator(".player:not([hidden])").count() == 1
    page.locator("article[data-video='dog.mp4#t=0.5,1'] .play").click()
    assert page.locator("video").count() == 2


def test_the_answer_about_all_of_it_is_reached_from_the_film(page: Page) -> None:
    _film(page).get_by_role("link", name="story").first.click()
    assert _focused(page) == FILM
    assert "All of it." in page.inner_text("article:focus-within, .answer:focus")


def test_one_stop_is_reached_with_tab_and_arrows_lead_to_the_others(page: Page) -> None:
    _stop(page, "0:00").focus()
    for key, start in [
        ("ArrowRight", "0:01"), ("ArrowRight", "0:03"), ("ArrowLeft", "0:01"), ("ArrowUp", "0:00"),
        ("ArrowDown", "0:01"), ("ArrowDown", "0:50"), ("ArrowDown", "0:50"), ("Home", "0:00"), ("End", "0:50"),
    ]:  # fmt: skip
        page.keyboard.press(key)
        assert _focused(page).startswith(start), key
    for _ in range(_film(page, "gone.mp4").locator("p a").count() + 1):
        page.keyboard.press("Tab")
    assert _focused(page).startswith(f"0:01{TO}0:02; failed: missing")
    _stop(page, "0:50").focus()
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    assert _focused(page) == f"{FILM}#t=0,2"


def test_the_way_back_leads_to_the_stop(page: Page) -> None:
    page.get_by_role("tab", name="Clips").click()
    page.locator(f"article[data-video='{FILM}#t=3'] .back").click()
    assert _focused(page).startswith("0:03")
    expect(_stop(page, "0:03")).to_be_in_viewport()
    assert page.locator("article[data-video='dog.mp4#t=0.5,1'] .back").count() == 0


def test_the_clip_that_the_reader_is_at_is_marked(page: Page) -> None:
    page.keyboard.press("j")
    page.keyboard.press("j")  # to another answer about the film
    page.keyboard.press("j")
    current = _film(page).locator("a.stop[aria-current='true']")
    assert (current.get_attribute("title") or "").startswith("0:00")
    page.keyboard.press("f")
    assert (current.get_attribute("aria-label") or "").startswith("flagged by you; 0:00")


def test_what_a_search_does_not_find_is_dimmed_and_a_stop_still_leads_there(page: Page) -> None:
    page.get_by_role("tab", name="Clips").click()
    page.fill("#search", "cat sits")
    page.get_by_role("tab", name="Films").click()
    dimmed = _film(page).locator("a.stop.out")
    assert dimmed.count() == 4
    assert "out" not in (_stop(page, "0:04").get_attribute("class") or "")
    _stop(page, "0:00").click()
    assert _focused(page) == f"{FILM}#t=0,2"
    assert dimmed.count() == 0


def test_events_lie_on_the_timeline_and_lead_to_their_moments(page: Page) -> None:
    marks = _film(page).locator(".happenings span")
    assert marks.evaluate_all("all => all.map(one => one.title)") == [
        f"0:0{start}{TO}0:0{start}.5; {EVENTS[start]}" for start in (0, 1, 3, 4)
    ]
    marks.nth(1).click()
    assert _focused(page) == f"{FILM}#t=1,3"
    expect(page.locator("video")).to_have_js_property("currentTime", 1)


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_axe_finds_nothing(look: Look, report: Path, color_scheme: str, width: int) -> None:
    page = look(report.as_uri(), color_scheme=color_scheme, viewport={"width": width, "height": 900}).page
    page.fill("#search", "cat sits")
    unfold(page)
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_film_of_hundreds_of_stretches_costs_one_stop_of_the_tab_key(look: Look, tmp_path: Path) -> None:
    meta = {"model": "m", "prompt": "p", "kept": [0], "flags": "", "file_seconds": 7200}
    said = [f"Clip number {number}." for number in range(720)]
    rows = [
        {"video": "long.mp4", "start": 10 * number, "end": 10 * number + 10, "caption": text,
         "caption_candidates": [text], "caption_meta": meta} for number, text in enumerate(said)
    ]  # fmt: skip
    page = look(write_report(put_rows(tmp_path / "rows.jsonl", rows)).file.as_uri()).page
    page.get_by_role("tab", name="Films").click()
    stops = page.locator(".film a.stop")
    assert (stops.count(), page.locator(".film a.stop[tabindex='0']").count()) == (720, 1)
    boxes = stops.evaluate_all("all => all.map(one => one.getBoundingClientRect().toJSON())")
    assert min(box["width"] for box in boxes) >= 16
    stops.first.focus()
    page.keyboard.press("End")
    assert _focused(page).startswith("1:59:50")
    expect(stops.last).to_be_in_viewport()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('.film')") is None


def test_with_one_task_stops_lead_to_the_clips_as_well(look: Look, report_of_one_task: Path) -> None:
    page = look(report_of_one_task.as_uri()).page
    page.get_by_role("tab", name="Films").click()
    _stop(page, "0:01").click()
    assert _focused(page) == f"{FILM}#t=1,3"
    assert "about all of it: plain" in " ".join((_film(page, "gone.mp4").locator("p").text_content() or "").split())


def test_timelines_can_be_used_without_scripts(look: Look, report: Path) -> None:
    page = look(report.as_uri(), java_script_enabled=False).page
    stop = _stop(page, "0:04")
    target = stop.get_attribute("href")
    assert stop.get_attribute("tabindex") is None
    assert page.locator(f"article{target}").get_attribute("data-video") == f"{FILM}#t=4,5.5"
