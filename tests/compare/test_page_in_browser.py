"""The page as a voter uses it, in Chromium."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from flow import read_rows_of
from playwright.sync_api import Locator, Page, expect
from report.conftest import EVIL, Opened, unfold, violations

from compare.conftest import LEFT, RIGHT
from reelscribe.cli import main
from reelscribe.compare.statistics import votes_needed, wilson
from reelscribe.compare.write import write_comparison

pytestmark = pytest.mark.browser
Look = Callable[..., Opened]
NAMES = ["left.jsonl", "right.jsonl"]


@pytest.fixture(scope="session")
def named(outputs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page that says whose the texts are."""
    return write_comparison(outputs, tmp_path_factory.mktemp("named") / "page.html").file


@pytest.fixture(scope="session")
def veiled(outputs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page that does not."""
    return write_comparison(outputs, tmp_path_factory.mktemp("veiled") / "page.html", blind=True).file


def _clip(page: Page, video: str) -> Locator:
    return page.locator(f"article[data-video$='{video}']")


def _shown(page: Page) -> list[str]:
    return page.locator("article").evaluate_all("all => all.map(one => one.dataset.video.split('/').pop())")  # type: ignore[no-any-return]


def _focused(page: Page) -> str:
    return page.evaluate("document.activeElement.dataset.video?.split('/').pop() ?? ''")  # type: ignore[no-any-return]


def _texts(clip: Locator) -> list[str]:
    return clip.locator(".caption").all_text_contents()


def _pressed(clip: Locator) -> list[str]:
    return clip.locator("[aria-pressed=true]").all_text_contents()


def _exported(page: Page, into: Path) -> list[dict[str, Any]]:
    page.get_by_role("tab", name="Votes and figures").click()
    with page.expect_download() as waiting:
        page.click("#export")
    waiting.value.save_as(into)
    return read_rows_of(into)


# What there is to see


def test_each_clip_is_there_once_with_its_frames_and_all_texts(look: Look, named: Path) -> None:
    page = look(named.as_uri()).page
    assert _shown(page) == list(LEFT)
    for video in LEFT:
        clip = _clip(page, video)
        assert _texts(clip) == [LEFT[video], RIGHT[video]]
        assert clip.locator("h4").all_text_contents() == [f"Text {n}: {name}" for n, name in enumerate(NAMES, 1)]
        assert clip.locator(".strip img").count() > 1
    assert "5 clips with 2 texts each." in page.inner_text("body > header")
    assert page.locator("article script, article img:not([src^='data:image/jpeg'])").count() == 0
    assert _texts(_clip(page, "evil.mp4"))[0] == EVIL


def test_differences_are_marked_by_words_and_by_letters_where_words_have_no_spaces(look: Look, named: Path) -> None:
    page = look(named.as_uri()).page

    def marked(video: str) -> list[list[str]]:
        return [text.locator("mark").all_text_contents() for text in _clip(page, video).locator(".caption").all()]

    assert marked("sea.mp4") == [["person", "along"], ["woman", "on"]]
    assert marked("zoo.mp4") == [["狗"], ["猫"]]
    assert marked("evil.mp4") == [[], []]
    assert _clip(page, "evil.mp4").locator(".badge").text_content() == "the same text"


def test_figures_are_beside_each_other(look: Look, named: Path) -> None:
    page = look(named.as_uri()).page
    page.get_by_role("tab", name="Votes and figures").click()
    rows = {
        row.locator("th").inner_text(): row.locator("td").all_inner_texts()
        for row in page.locator(".figures tbody tr").all()
    }
    assert rows["Agreement of candidates"] == ["1.00", "unknown"]
    assert rows["Faults and flags"] == ["cut off 1", "none"]
    assert rows["Cost of its last run"] == ["0.00", "unknown"]
    assert set(rows) == {
        *("Model", "Prompt", "Words", "Tokens of a text", "Tokens of a prompt"),
        *("Agreement of candidates", "Faults and flags", "Cost of its last run"),
    }
    assert "the same text for 1 of 5 clips" in page.inner_text(".overlaps")
    assert "cut off" in (_clip(page, "cut.mp4").locator(".facts").first.text_content() or "")


# Voting


def test_votes_by_key_go_on_to_the_next_clip_and_outlive_a_reload(look: Look, named: Path, tmp_path: Path) -> None:
    page = look(named.as_uri()).page
    assert page.is_disabled("#export")
    for key in ["j", "1", "2", "t", "b"]:
        page.keyboard.press(key)
    assert _focused(page) == "zoo.mp4"
    page.keyboard.press("2")
    page.keyboard.press("u")
    assert page.inner_text("#count") == "4 of 5 voted on"
    page.reload()
    pressed = [_pressed(_clip(page, video)) for video in LEFT]
    assert pressed == [["Text 1 is better"], ["Text 2 is better"], ["Tie"], ["Both bad"], []]
    found = _exported(page, tmp_path / "votes.jsonl")
    told = [(row["video"].split("/")[-1], row["vote"], row["picked"], row["blind"]) for row in found]
    assert told == [
        ("sea.mp4", "better", "left.jsonl", False),
        ("dog.mp4", "better", "right.jsonl", False),
        ("cut.mp4", "tie", None, False),
        ("evil.mp4", "bad", None, False),
    ]
    assert {len(row["voter"]) for row in found} == {16}


def test_buttons_vote_and_take_it_back(look: Look, named: Path) -> None:
    page = look(named.as_uri()).page
    button = _clip(page, "dog.mp4").get_by_role("button", name="Text 2 is better")
    button.click()
    _clip(page, "dog.mp4").get_by_role("button", name="Tie").click()
    assert _pressed(_clip(page, "dog.mp4")) == ["Tie"]
    _clip(page, "dog.mp4").get_by_role("button", name="Tie").click()
    assert page.inner_text("#count") == "0 of 5 voted on"


def test_clips_are_found_by_vote_and_by_difference(look: Look, named: Path) -> None:
    page = look(named.as_uri()).page
    page.keyboard.press("j")
    page.keyboard.press("1")
    for what, found in {
        "open": list(LEFT)[1:],
        "voted": ["sea.mp4"],
        "differ": [v for v in LEFT if v != "evil.mp4"],
    }.items():
        page.select_option("#show", what)
        assert _shown(page) == found
    page.select_option("#show", "voted")
    page.click("article [data-vote='1']")
    page.select_option("#show", "open")
    page.select_option("#show", "voted")
    assert page.is_visible("#nothing")


def test_a_clip_plays(look: Look, named: Path) -> None:
    page = look(named.as_uri()).page
    page.keyboard.press("j")
    page.keyboard.press(" ")
    expect(page.locator("video")).not_to_have_js_property("currentTime", 0)


def test_the_page_reckons_as_the_command_does(look: Look, named: Path) -> None:
    page = look(named.as_uri()).page
    pairs = [(2, 1), (3, 9), (60, 40), (0, 4), (51, 49)]
    for one, other in pairs:
        assert page.evaluate(f"wilson({one}, {one + other})") == pytest.approx(wilson(one, one + other), abs=1e-9)
        assert page.evaluate(f"needed({one}, {other})") == votes_needed(one, other)
    for key in ["j", "1", "1", "2"]:
        page.keyboard.press(key)
    page.get_by_role("tab", name="Votes and figures").click()
    rows = [row.locator("th, td").all_inner_texts() for row in page.locator("#tally tbody tr").all()]
    assert rows == [
        ["left.jsonl", "2", "66.7%", "20.8% to 93.9%"],
        ["right.jsonl", "1", "33.3%", "6.1% to 79.2%"],
    ]
    assert "No difference can be told at 95%; 32 more votes for the two together" in page.inner_text("#tally")


# Blind


def test_a_blind_page_gives_nothing_away(look: Look, veiled: Path, outputs: list[str]) -> None:
    source = veiled.read_text("utf-8")
    for word in ("left", "right", "agreement", "cut off", "a script"):
        assert f"{word}.jsonl" not in source
        assert word not in source.partition("<body")[2].partition("<script>")[0].replace("left out", "")
    page = look(veiled.as_uri()).page
    orders = {video: _texts(_clip(page, video)) for video in LEFT}
    assert all(sorted(texts) == sorted([LEFT[video], RIGHT[video]]) for video, texts in orders.items())
    page.get_by_role("tab", name="Votes and figures").click()
    assert page.inner_text("#results").split("\n")[-1] == "Shown when you end the voting."
    assert "left.jsonl" not in page.inner_text("body")
    page.keyboard.press("j")
    page.keyboard.press("1")
    assert "left" not in page.evaluate("JSON.stringify(localStorage)")
    assert not page.is_visible("#tally")


def test_sides_are_shuffled_for_each_clip(look: Look, outputs: list[str], tmp_path: Path) -> None:
    def first(seed: int) -> set[bool]:
        file = write_comparison(outputs, tmp_path / f"{seed}.html", blind=True, seed=seed).file
        page = look(file.as_uri()).page
        return {_texts(_clip(page, video))[0] == LEFT[video] for video in LEFT if video != "evil.mp4"}

    assert any(len(first(seed)) == 2 for seed in range(9)), "each would be drawn alike once in eight seeds"


def test_the_end_of_the_voting_shows_which_is_which(
    look: Look, veiled: Path, tmp_path: Path, outputs: list[str]
) -> None:
    page = look(veiled.as_uri()).page
    assert page.is_disabled("#end")
    wanted = {"sea.mp4": "left.jsonl", "dog.mp4": "left.jsonl", "zoo.mp4": "right.jsonl"}
    for video, side in wanted.items():
        text = (LEFT if side == "left.jsonl" else RIGHT)[video]
        place = _texts(_clip(page, video)).index(text) + 1
        _clip(page, video).locator(f"[data-vote='{place}']").click()
    page.click("#end")
    assert "You voted on 3 of 5 clips." in page.inner_text("#ending")
    page.keyboard.press("Escape")
    assert page.is_enabled("#end")
    page.click("#end")
    page.click("#ending [value=end]")
    page.reload()
    for video, side in wanted.items():
        (pressed,) = _pressed(_clip(page, video))
        assert f"{pressed.removesuffix(' is better')}: {side}" in _clip(page, video).locator("h4").all_text_contents()
    assert _clip(page, "sea.mp4").locator("[data-vote='tie']").is_disabled()
    _clip(page, "cut.mp4").focus()
    page.keyboard.press("t")
    assert page.inner_text("#count") == "3 of 5 voted on"
    page.get_by_role("tab", name="Votes and figures").click()
    assert "left.jsonl and right.jsonl: 2 to 1." in page.inner_text("#tally")
    assert page.locator(".figures").is_visible()
    found = _exported(page, tmp_path / "votes.jsonl")
    assert {row["video"].split("/")[-1]: row["picked"] for row in found} == wanted
    done = CliRunner().invoke(main, ["compare", *outputs, "--votes", str(tmp_path / "votes.jsonl"), "--json"])
    told = json.loads(done.stdout)
    assert [(side["name"], side["picked"]) for side in told["sides"]] == [("left.jsonl", 2), ("right.jsonl", 1)]
    assert told["not_blind"] == 0


def test_of_three_the_best_is_picked(look: Look, outputs: list[str], tmp_path: Path) -> None:
    sides = [*outputs, f"{outputs[0]}#:2"]
    page = look(write_comparison(sides, tmp_path / "page.html", blind=True, clips=3, seed=4).file.as_uri()).page
    assert "3 of 5 clips with 3 texts each, drawn by chance." in page.inner_text("body > header")
    page.keyboard.press("j")
    page.keyboard.press("3")
    page.keyboard.press("b")
    assert [_pressed(clip) for clip in page.locator("article").all()] == [["Text 3 is best"], ["All bad"], []]
    (best, bad) = _exported(page, tmp_path / "votes.jsonl")
    assert best["picked"] in best["sides"] == ["left.jsonl", "right.jsonl", "left.jsonl#:2"]
    assert bad["vote"] == "bad"


# Everyone can read it


@pytest.mark.parametrize(("color_scheme", "width"), [("light", 1280), ("dark", 360)])
@pytest.mark.parametrize("which", ["named", "veiled"])
def test_axe_finds_nothing(
    look: Look, request: pytest.FixtureRequest, which: str, color_scheme: str, width: int
) -> None:
    address = request.getfixturevalue(which).as_uri()
    page = look(address, color_scheme=color_scheme, viewport={"width": width, "height": 800}).page
    unfold(page)
    _clip(page, "sea.mp4").locator("[data-vote='1']").click()
    assert violations(page) == []
    if which == "veiled":
        if width < 640:
            page.click("#more")
        page.click("#end")
        assert violations(page) == []
        page.click("#ending [value=end]")
        unfold(page)
        assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_the_page_can_be_read_without_scripts(look: Look, named: Path) -> None:
    page = look(named.as_uri(), java_script_enabled=False).page
    assert page.locator("article").count() == len(LEFT)
    assert not page.is_visible(".toolbar")
    assert not page.is_visible(".votes >> nth=0")
