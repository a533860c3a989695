"""The page as a reader uses it, in Chromium."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flow import put_rows, read_rows_of
from playwright.sync_api import Locator, Page, expect

from reelscribe.report.write import write_report
from report.conftest import EVIL, Opened, unfold, violations

pytestmark = pytest.mark.browser
Look = Callable[..., Opened]


@pytest.fixture
def opened(look: Look, report: Path) -> Opened:
    """The report, from disk."""
    return look(report.as_uri())


@pytest.fixture
def page(opened: Opened) -> Page:
    """Its page."""
    return opened.page


def _clip(page: Page, video: str) -> Locator:
    return page.locator(f"article[data-video='{video}']")


def _shown(page: Page) -> list[str]:
    return page.locator("article:visible").evaluate_all("all => all.map(one => one.dataset.video)")  # type: ignore[no-any-return]


def _focused(page: Page) -> str:
    return page.evaluate("document.activeElement.dataset.video ?? document.activeElement.tagName")  # type: ignore[no-any-return]


def _exported(page: Page, into: Path) -> list[dict[str, Any]]:
    with page.expect_download() as waiting:
        page.click("#export")
    waiting.value.save_as(into)
    return read_rows_of(into)


ALL = ["sea.mp4", "dog.mp4", "cut.mp4", "loop.mp4", "evil.mp4", "same.mp4", "gone.mp4", "broken.mp4"]


# What there is to see


def test_all_videos_are_shown_with_what_became_of_them(page: Page) -> None:
    assert _shown(page) == ALL
    assert "6 captioned videos, 2 failed, 1 row without a video." in page.inner_text("body > header")
    assert page.inner_text("#count") == "8 clips"
    assert "there is no such file" in (_clip(page, "gone.mp4").text_content() or "")
    assert _clip(page, "cut.mp4").locator(".badge").all_text_contents() == ["cut off"]


def test_frames_are_those_that_the_model_saw(page: Page, data: Path) -> None:
    (row,) = [row for row in read_rows_of(data) if row.get("video") == "dog.mp4"]
    clip = _clip(page, "dog.mp4")
    told = [f"{second:.2f} s" for second in row["caption_meta"]["frame_timestamps"]]
    assert clip.locator(".strip li").all_text_contents() == told
    clip.scroll_into_view_if_needed()
    for image in clip.locator("img").all():
        expect(image).to_have_js_property("naturalWidth", 96)


def test_what_the_data_say_stays_text(page: Page) -> None:
    assert page.title() == "out.jsonl · captions"
    assert _clip(page, "evil.mp4").locator(".caption").text_content() == EVIL
    assert page.locator("article script, article img:not([src^='data:image/jpeg'])").count() == 0


def test_other_candidates_are_marked_where_they_differ(page: Page) -> None:
    clip = _clip(page, "dog.mp4")
    clip.locator("summary", has_text="2 other candidates").click()
    kept = clip.locator(".caption").text_content() or ""
    for other in clip.locator(".others p[data-text]").all():
        gone = other.evaluate("one => [...one.querySelectorAll('del')].map(part => part.textContent)")
        new = other.evaluate("one => [...one.querySelectorAll('ins')].map(part => part.textContent)")
        assert gone or new
        assert all(text in kept for text in gone)


def test_nothing_is_loaded_until_a_video_is_played(opened: Opened, report: Path) -> None:
    assert opened.requests == [report.as_uri()] + [url for url in opened.requests if url.startswith("data:image/jpeg")]
    _clip(opened.page, "dog.mp4").get_by_role("button", name="Play").click()
    expect(opened.page.locator("video")).not_to_have_js_property("readyState", 0)
    asked = {url for url in opened.requests if not url.startswith("data:")}
    assert asked == {report.as_uri(), (report.parent.parent / "in" / "dog.mp4").as_uri()}


# Finding


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("flag:cut_off", ["cut.mp4"]),
        ("flag:loop", ["loop.mp4"]),
        ("kind:unreadable", ["broken.mp4"]),
        ("failure", ["gone.mp4", "broken.mp4"]),
        ("caption", ALL[:6]),
        ("marked", []),
    ],
)
def test_filter(page: Page, wanted: str, found: list[str]) -> None:
    page.select_option("#show", wanted)
    assert _shown(page) == found
    assert page.inner_text("#count") == f"{len(found)} of 8 clips"
    assert page.is_visible("#nothing") == (not found)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("BEACH", ["sea.mp4"]),
        ("chinesisch", []),
        ("ein hund", ["same.mp4"]),
        ("nobody knows", ["gone.mp4"]),
        ("<script>", ["evil.mp4"]),
        ("broken", ["broken.mp4"]),
    ],
)
def test_search_looks_at_texts_names_and_messages(page: Page, text: str, found: list[str]) -> None:
    page.fill("#search", text)
    assert _shown(page) == found


def test_filter_by_words_leaves_what_has_no_caption_out(page: Page) -> None:
    page.fill("#least", "9")
    page.fill("#most", "15")
    assert _shown(page) == ["sea.mp4", "cut.mp4", "evil.mp4"]


@pytest.mark.parametrize(
    ("by", "first"), [("words", "gone.mp4"), ("-words", "loop.mp4"), ("-seconds", "same.mp4"), ("video", "broken.mp4")]
)
def test_sort(page: Page, by: str, first: str) -> None:
    page.select_option("#sort", by)
    assert _shown(page)[0] == first
    page.select_option("#sort", "place")
    assert _shown(page) == ALL


def test_a_link_to_a_clip_that_is_filtered_out_leads_there(look: Look, tmp_path: Path) -> None:
    said = "A person walks along the beach at sunset while waves roll onto the sand."
    captions = {"a": said, "b": "x", "c": said}
    rows = [
        {"video": name, "caption": text, "caption_candidates": [text], "caption_meta": {"model": "m"}}
        for name, text in captions.items()
    ]
    page = look(write_report(put_rows(tmp_path / "rows.jsonl", rows)).file.as_uri()).page
    assert _clip(page, "a").locator(".badge").all_text_contents() == ["near duplicate"]
    page.fill("#search", "a")
    page.select_option("#show", "flag:near_duplicate")
    assert _shown(page) == ["a", "c"]
    page.evaluate("answers[2].words = 1")
    page.fill("#least", "5")
    assert _shown(page) == ["a"]
    _clip(page, "a").get_by_role("link", name="c").click()
    assert _focused(page) == "c"
    assert _shown(page) == ["a", "b", "c"]


def test_a_search_that_finds_nothing_says_so_and_is_cleared(page: Page) -> None:
    page.fill("#search", "zebra")
    assert page.inner_text("#count") == "0 of 8 clips"
    assert page.inner_text("#what") == "No clip has “zebra”."
    page.click("#clear")
    assert (page.input_value("#search"), _shown(page)) == ("", ALL)


def test_a_long_list_is_laid_out_as_the_reader_goes_on(look: Look, tmp_path: Path) -> None:
    rows = [{"video": f"{number}.mp4", "caption": f"It is {number}."} for number in range(300)]
    page = look(write_report(put_rows(tmp_path / "rows.jsonl", rows)).file.as_uri()).page
    assert page.inner_text("#count") == "300 clips"
    assert page.locator("article").count() < 150
    page.fill("#search", "it is 299")
    assert _shown(page) == ["299.mp4"]
    page.fill("#search", "")
    page.evaluate("go(-1)")  # to the last one
    assert _focused(page) == "299.mp4"
    expect(_clip(page, "299.mp4")).to_be_in_viewport()


# The page as a whole


@pytest.mark.parametrize("size", [(1280, 800), (360, 800)])
def test_the_first_clip_is_in_the_first_screen_and_the_toolbar_stays(
    look: Look, report: Path, size: tuple[int, int]
) -> None:
    page = look(report.as_uri(), viewport={"width": size[0], "height": size[1]}).page
    expect(page.locator(".caption").first).to_be_in_viewport(ratio=1)
    page.locator("article").last.scroll_into_view_if_needed()
    expect(page.locator("#search")).to_be_in_viewport(ratio=1)
    assert page.locator(".toolbar").evaluate("one => one.offsetHeight") < 130


def test_tabs_are_opened_by_key(page: Page) -> None:
    page.get_by_role("tab", name="Clips").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Numbers", selected=True)).to_be_focused()
    expect(page.get_by_role("img", name="Words in a caption")).to_be_visible()
    assert not page.is_visible("#clips")
    page.keyboard.press("j")  # leads to the first clip, wherever one is
    assert _focused(page) == "sea.mp4"


def test_frames_that_run_off_the_side_are_counted(look: Look, report: Path) -> None:
    page = look(report.as_uri(), viewport={"width": 360, "height": 800}).page
    clip = _clip(page, "sea.mp4")
    expect(clip.locator(".later")).to_have_text(re.compile(r"^2\b"))
    clip.locator(".later").click()
    expect(clip.locator(".later")).to_be_hidden()
    expect(clip.locator(".earlier")).to_have_text(re.compile(r"\b2$"))


# Playing


def test_a_frame_leads_to_its_moment_in_the_video(page: Page) -> None:
    frame = _clip(page, "loop.mp4").locator(".strip img").nth(4)
    frame.click()
    seconds = float(frame.get_attribute("data-seconds") or -1)
    expect(page.locator("video")).to_have_js_property("currentTime", seconds)


def test_a_video_that_went_says_so(look: Look, data: Path, tmp_path: Path) -> None:
    opened = look(write_report(data, tmp_path / "a.html").file.as_uri())
    play = _clip(opened.page, "sea.mp4").locator(".play")
    play.evaluate("one => { one.dataset.href = './nowhere.mp4' }")
    play.click()
    opened.page.wait_for_selector("text=This browser cannot play the video")
    assert "ERR_FILE_NOT_FOUND" in opened.troubles.pop()


def test_videos_that_are_not_there_have_nothing_to_play(page: Page) -> None:
    assert _clip(page, "gone.mp4").get_by_role("button", name="Play").count() == 0


# Keyboard


def test_keys_move_play_flag_and_note(page: Page, tmp_path: Path) -> None:
    page.keyboard.press("j")
    assert _focused(page) == "sea.mp4"
    page.keyboard.press("j")
    assert _focused(page) == "dog.mp4"
    page.keyboard.press("k")
    page.keyboard.press("k")
    assert _focused(page) == "sea.mp4"
    page.keyboard.press(" ")
    expect(_clip(page, "sea.mp4").locator("video")).not_to_have_js_property("currentTime", 0)
    page.keyboard.press("j")
    page.keyboard.press("f")
    page.keyboard.press("n")
    page.keyboard.type("a fork, j")
    page.keyboard.press("Escape")
    assert _focused(page) == "dog.mp4"
    assert _exported(page, tmp_path / "marks.jsonl") == [
        {"row": 1, "video": "dog.mp4", "task": "caption", "flag": True, "note": "a fork, j"}
    ]


def test_keys_move_over_what_is_shown_only(page: Page) -> None:
    page.select_option("#show", "failure")
    page.locator("body").click(position={"x": 2, "y": 2})
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert _focused(page) == "broken.mp4"


def test_keys_can_be_turned_off(page: Page) -> None:
    page.click(".keys summary")
    page.uncheck("#keys")
    page.keyboard.press("j")
    assert _focused(page) != "sea.mp4"


# Marks


def test_marks_are_exported_as_rows_and_outlive_a_reload(page: Page, tmp_path: Path) -> None:
    assert page.is_disabled("#export")
    _clip(page, "gone.mp4").get_by_role("button", name="Flag").click()
    _clip(page, "evil.mp4").get_by_role("button", name="Note").click()
    page.keyboard.type('say "what"\nand why 一')
    page.wait_for_function("Object.values(localStorage).join().includes('and why 一')")
    page.reload()
    assert page.inner_text("#export") == "Export 2 marks"
    assert _clip(page, "gone.mp4").locator(".flag").get_attribute("aria-pressed") == "true"
    assert _exported(page, tmp_path / "marks.jsonl") == [
        {"row": 4, "video": "evil.mp4", "task": "caption", "flag": False, "note": 'say "what"\nand why 一'},
        {"row": 6, "video": "gone.mp4", "task": "caption", "flag": True, "note": ""},
    ]
    page.select_option("#show", "marked")
    assert _shown(page) == ["evil.mp4", "gone.mp4"]
    _clip(page, "gone.mp4").locator(".flag").click()
    assert page.inner_text("#export") == "Export 1 mark"


# Everyone can read it


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing(look: Look, report: Path, color_scheme: str, width: int) -> None:
    page = look(report.as_uri(), color_scheme=color_scheme, viewport={"width": width, "height": 900}).page
    unfold(page)
    _clip(page, "dog.mp4").locator(".flag").click()
    _clip(page, "dog.mp4").locator(".note").click()
    assert violations(page) == []


def test_a_phone_shows_the_page_without_sideways_scrolling(look: Look, report: Path) -> None:
    page = look(report.as_uri(), viewport={"width": 360, "height": 780}).page
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_the_page_can_be_read_without_scripts(look: Look, report: Path) -> None:
    page = look(report.as_uri(), java_script_enabled=False).page
    assert page.locator("article").count() == len(ALL)
    assert not page.is_visible(".toolbar")
    assert not page.is_visible("article .actions >> nth=0")
