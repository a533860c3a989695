"""Captions corrected on the page of `view`: by its reader in Chromium, and by whoever should not."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from flow import put_rows
from playwright.sync_api import Locator, Page, expect

from reelscribe.dataset.edits import EditLog, edits_of
from report.conftest import Opened, unfold, violations
from report.correcting import Desk, failed, row, served

pytestmark = pytest.mark.browser
Look = Callable[..., Opened]
NAMES = ("edit", "keys", "other", "judge", "find", "found", "two", "draft", "seen", "plain", "odd")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output with a clip for each test."""
    rows = [row(name, f"A man walks to {name}.", f"One man at {name}.", f"{name}, a man.") for name in NAMES]
    events = [{"start": 4.0, "end": 5.0, "text": "A dog runs."}]
    timed = row("timed#t=4,6", "0-1: A dog runs.", clip_start=4.0, clip_end=6.0) | {"caption": events}
    return put_rows(tmp_path_factory.mktemp("correct") / "out.jsonl", [*rows, failed("gone"), timed])


@pytest.fixture(scope="module")
def address(output: Path) -> Iterator[str]:
    """Where it is served."""
    with served(output) as found:
        yield found


@pytest.fixture
def page(look: Look, address: str) -> Page:
    """The page, with what the log says."""
    return opened(look, address)


def opened(look: Look, address: str, **options: Any) -> Page:
    """The page, once it knows what the log says."""
    page = look(address, **options).page
    page.locator("body[data-ready]").wait_for()
    return page


def clip(page: Page, name: str) -> Locator:
    """A clip."""
    return page.locator(f"article[data-video='{name}']")


def start(page: Page, name: str) -> Locator:
    """A clip with the focus."""
    clip(page, name).focus()
    return clip(page, name)


def texts(output: Path) -> dict[str, str | None]:
    """What is kept as corrected text, by video."""
    desk = Desk(output)
    states = desk.editor.states()["states"]
    return {desk.entries[name].video.name: state["text"] for name, state in states.items()}


def test_a_caption_is_edited_in_place_kept_and_shown_again(page: Page, output: Path, look: Look, address: str) -> None:
    item = start(page, "edit")
    page.keyboard.press("e")
    area = item.get_by_label("Caption of edit")
    expect(area).to_be_focused()
    expect(area).to_have_value("A man walks to edit.")
    area.fill("A woman walks, jkl.")
    page.keyboard.press("Control+Enter")
    expect(item.locator(".caption")).to_have_text("A woman walks, jkl.")
    expect(item.locator(".by-people")).to_have_text(["edited"])
    expect(page.locator("#done")).to_have_text("Saved.")
    assert texts(output)["edit"] == "A woman walks, jkl."
    again = opened(look, address)
    expect(clip(again, "edit").locator(".caption")).to_have_text("A woman walks, jkl.")
    again.fill("#search", "jkl")
    expect(again.locator("#count")).to_have_text(f"1 of {len(NAMES) + 2} clips")
    clip(again, "edit").locator(".said summary").click()
    clip(again, "edit").get_by_role("button", name="Put it back").click()
    expect(clip(again, "edit").locator(".caption")).to_have_text("A man walks to edit.")
    expect(clip(page, "edit").locator(".caption")).to_have_text("A man walks to edit.")  # which polls


def test_what_failed_gets_a_caption_by_hand(page: Page, output: Path, look: Look, address: str) -> None:
    item = start(page, "gone")
    expect(item.locator(".caption")).to_be_hidden()
    item.get_by_role("button", name="Write a caption").click()
    area = item.get_by_label("Caption of gone")
    area.fill(" ")
    item.get_by_role("button", name="Save").click()  # nothing is nothing
    expect(area).to_have_count(0)
    page.keyboard.press("e")
    area.fill("A bird sings.")
    page.keyboard.press("Control+Enter")
    expect(item.locator(".caption")).to_have_text("A bird sings.")
    expect(item.locator(".by-people")).to_have_text(["written by hand"])
    assert texts(output)["gone"] == "A bird sings."
    assert violations(page) == []
    again = clip(opened(look, address), "gone")
    expect(again.locator(".caption")).to_be_visible()
    again.get_by_role("button", name="Take it away").click()
    expect(again.locator(".caption")).to_be_hidden()
    expect(again.locator(".by-people")).to_have_count(0)


def test_events_are_edited_as_the_model_writes_them(look: Look, address: str) -> None:
    held = look(address)
    page = held.page
    page.locator("body[data-ready]").wait_for()
    item = start(page, "timed#t=4,6")
    shown = item.locator(".events [data-text]")
    expect(shown).to_have_text(["A dog runs."])
    page.keyboard.press("e")
    area = item.get_by_label("Caption of timed")
    expect(area).to_have_value("0-1: A dog runs.")
    expect(item.locator(".events")).to_be_hidden()
    area.fill("A cat runs.")
    page.keyboard.press("Control+Enter")
    expect(item.get_by_role("status")).to_contain_text("This has no events, or some that cannot be")
    assert "400" in held.troubles.pop()  # which browsers say in the console
    expect(area).to_have_value("A cat runs.")
    area.fill("0-1 s: A cat runs.\n1-2 s: It stops.")
    page.keyboard.press("Control+Enter")
    expect(shown).to_have_text(["A cat runs.", "It stops."])
    expect(item.locator(".events .time")).to_have_text(["4.00\u20135.00 s", "5.00\u20136.00 s"])
    expect(item.locator(".caption")).to_be_hidden()
    assert violations(page) == []
    page.keyboard.press("u")
    expect(shown).to_have_text(["A dog runs."])


def test_keys_judge_take_candidates_and_undo(page: Page, output: Path) -> None:
    item = start(page, "keys")
    page.keyboard.press("2")
    expect(item.locator(".caption")).to_have_text("keys, a man.")
    page.keyboard.press("a")
    expect(clip(page, "other")).to_be_focused()
    expect(item.locator(".approve")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("k")
    page.keyboard.press("r")
    expect(item.locator(".by-people")).to_have_text(["edited", "rejected"])
    page.keyboard.press("u")
    expect(item.locator(".by-people")).to_have_text(["edited", "approved"])
    page.keyboard.press("u")
    expect(item.locator(".by-people")).to_have_text(["edited"])
    page.keyboard.press("u")
    expect(item.locator(".by-people")).to_have_count(0)
    expect(item.locator(".caption")).to_have_text("A man walks to keys.")
    page.keyboard.press("u")
    expect(page.locator("#done")).to_have_text("There is nothing to undo.")


def test_verdicts_can_be_looked_for(page: Page) -> None:
    clip(page, "judge").get_by_role("button", name="Reject").click()
    expect(clip(page, "judge").locator(".reject")).to_have_attribute("aria-pressed", "true")
    page.select_option("#show", "flag:rejected")
    expect(page.locator("article:visible")).to_have_count(1)
    page.select_option("#show", "flag:undecided")
    expect(clip(page, "judge")).to_have_count(0)
    expect(clip(page, "gone")).to_have_count(0)


def test_notes_are_kept_in_the_log(page: Page, output: Path) -> None:
    item = start(page, "judge")
    page.keyboard.press("n")
    page.keyboard.type("a fork, not a spoon")
    page.keyboard.press("Escape")
    expect(page.locator("#done")).to_have_text("Noted.")
    notes = [each["note"] for each in Desk(output).editor.states()["states"].values()]
    assert "a fork, not a spoon" in notes
    expect(item).to_be_focused()


def test_find_and_replace_shows_what_it_would_do_and_is_undone_at_once(page: Page, output: Path) -> None:
    page.locator("body").press("h")
    page.get_by_label("Find", exact=True).fill("walks to foun")
    page.get_by_label("Replace with").fill("x")
    page.get_by_role("button", name="Preview").click()
    expect(page.locator("#preview")).to_have_text("No caption would change.")
    page.get_by_label("Find", exact=True).fill("man walks to found")
    page.get_by_label("Replace with").fill("person finds")
    expect(page.locator("#preview")).to_have_text("")
    page.keyboard.press("Enter")
    expect(page.locator("#preview ins")).to_have_text(["person finds"])
    page.get_by_role("button", name="Replace in 1 caption").click()
    expect(page.locator("#replacing")).not_to_be_visible()
    expect(clip(page, "found").locator(".caption")).to_have_text("A person finds.")
    assert texts(output)["found"] == "A person finds."
    page.locator("#undo").click()
    expect(clip(page, "found").locator(".caption")).to_have_text("A man walks to found.")


def test_of_two_people_who_edit_one_caption_both_are_shown(page: Page, output: Path, look: Look, address: str) -> None:
    held = look(address)
    other = held.page
    other.locator("body[data-ready]").wait_for()
    for each in (page, other):
        start(each, "two")
        each.keyboard.press("e")
    page.keyboard.type(" First.")
    page.keyboard.press("Control+Enter")
    expect(clip(page, "two").locator(".by-people")).to_have_text(["edited"])
    area = clip(other, "two").locator("textarea").first
    area.fill("Second.")
    other.get_by_role("button", name="Save").click()
    expect(clip(other, "two").locator("q")).to_contain_text("First.")
    expect(area).to_have_value("Second.")
    other.get_by_role("button", name="Put mine there").click()
    expect(clip(other, "two").locator(".caption")).to_have_text("Second.")
    assert texts(output)["two"] == "Second."
    assert "409" in held.troubles.pop()  # which browsers say in the console


def test_of_two_people_who_note_something_both_notes_are_kept(
    page: Page, output: Path, look: Look, address: str
) -> None:
    held = look(address)
    held.page.locator("body[data-ready]").wait_for()
    for each, text in ((page, "mine"), (held.page, "yours")):
        start(each, "other")
        each.keyboard.press("n")
        each.keyboard.type(text)
    page.keyboard.press("Escape")
    expect(page.locator("#done")).to_have_text("Noted.")
    held.page.keyboard.press("Escape")
    expect(clip(held.page, "other").locator(".noting textarea")).to_have_value("mine\nyours")
    expect(clip(page, "other").locator(".noting textarea")).to_have_value("mine\nyours")
    held.troubles.clear()  # 409, if it had not heard of the first one yet


def test_what_is_written_outlives_the_page(page: Page) -> None:
    item = start(page, "draft")
    page.keyboard.press("e")
    page.keyboard.type(" A long thought.")
    page.reload()
    area = item.locator(".editor textarea")
    expect(area).to_have_value("A man walks to draft. A long thought.")
    area.press("Escape")
    area.press("Escape")
    expect(area).to_have_count(0)
    page.reload()
    expect(item.locator(".caption")).to_be_visible()
    expect(page.locator(".editor")).to_have_count(0)


def test_the_help_lists_the_keys(page: Page) -> None:
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    expect(page.locator("#help")).to_contain_text("find and replace")
    page.keyboard.press("j")
    page.keyboard.press("Escape")
    expect(page.locator("#help")).not_to_be_visible()


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_everyone_can_use_it(look: Look, address: str, color_scheme: str, width: int) -> None:
    page = opened(look, address, color_scheme=color_scheme, viewport={"width": width, "height": 900})
    start(page, "plain")
    page.keyboard.press("e")
    unfold(page)
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    if width < 640:
        page.locator("#more").click()
        assert violations(page) == []
    page.locator("#help-button").click()
    assert violations(page) == []


def test_clips_beyond_the_first_come_when_the_page_is_there(look: Look, tmp_path: Path) -> None:
    (tmp_path / "249").write_text("no video")
    rows = [row(f"{number}", f"It is {number}.", frame_timestamps=[0.0]) for number in range(250)]
    with served(put_rows(tmp_path / "out.jsonl", rows)) as address:
        found = look(address)
        page = found.page
        expect(page.locator("#count")).to_have_text("250 clips")
        page.fill("#search", "it is 249")
        item = start(page, "249")
        expect(item).to_contain_text("The frames cannot be shown: 249 cannot be opened as a video")
        page.keyboard.press("a")
        expect(item.locator(".by-people")).to_have_text(["approved"])
        assert all("404" in trouble for trouble in found.troubles)  # which browsers say in the console
        found.troubles.clear()
        page.close()


# Whoever should not


def post(address: str, path: str, body: Any, **headers: str | None) -> int:
    """The status of what a program sends; by default as the page would."""
    parts = urlsplit(address)
    origin = f"http://{parts.netloc}"
    sent = {"Host": parts.netloc, "Origin": origin, "Content_Type": "application/json", **headers}
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    kept = {name.replace("_", "-"): value for name, value in sent.items() if value is not None}
    connection.request("POST", parts.path + path, data, kept)
    status = connection.getresponse().status
    connection.close()
    return status


def an_edit() -> dict[str, Any]:
    """An edit that would be one."""
    return {"id": "c0", "version": 0, "verdict": "approved"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 400),  # it gets to the editor, which knows no such caption
        ({"Origin": None}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://example.org"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "https://HOST"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content_Type": None}, 415),
        ({"Host": "example.org"}, 400),
    ],
)
@pytest.mark.parametrize("path", ["change", "undo", "replace"])
def test_only_the_page_itself_changes_anything(
    address: str, output: Path, path: str, headers: dict[str, str | None], status: int
) -> None:
    before = edits_of(output).read_bytes() if edits_of(output).exists() else b""
    told = {name: value and value.replace("HOST", urlsplit(address).netloc) for name, value in headers.items()}
    assert post(address, path, an_edit(), **told) == status
    assert (edits_of(output).read_bytes() if edits_of(output).exists() else b"") == before


def test_nobody_without_the_token_changes_or_reads_anything(address: str) -> None:
    wrong = address[:-10] + "x" * 9 + "/"
    assert [post(wrong, path, an_edit()) for path in ("change", "undo", "replace", "states")] == [404, 404, 404, 405]


@pytest.mark.parametrize(
    ("body", "status"), [(b"{", 400), (b"[]", 400), (b"\xff", 400), (b'"' + b"x" * (1 << 21), 413)]
)
def test_what_is_sent_is_checked(address: str, body: bytes, status: int) -> None:
    assert post(address, "change", body) == status


def test_half_a_surrogate_pair_is_refused_and_breaks_nothing_where_it_is_in_the_log(
    page: Page, address: str, output: Path
) -> None:
    asked = {"id": clip(page, "odd").get_attribute("id"), "version": 0, "text": "\ud800 lone"}
    before = edits_of(output).read_bytes() if edits_of(output).exists() else b""
    assert post(address, "change", asked) == 400
    assert (edits_of(output).read_bytes() if edits_of(output).exists() else b"") == before
    desk = Desk(output)
    entry = next(each for each in desk.entries.values() if each.video.name == "odd")
    EditLog(edits_of(output)).append("edit", lambda: [replace(desk.editor._present(entry), text="\ud800 lone")])
    expect(clip(page, "odd").locator(".by-people")).to_have_text(["edited"])  # which polls


def test_another_site_in_the_same_browser_can_change_nothing(look: Look, address: str, output: Path) -> None:
    before = edits_of(output).read_bytes() if edits_of(output).exists() else b""
    tries = """async ([address, body]) => {
        const told = [];
        for (const more of [{ mode: "no-cors", headers: { "Content-Type": "text/plain" } },
                            { headers: { "Content-Type": "application/json" } }]) {
            try {
                const response = await fetch(address + "change", { method: "POST", body, ...more });
                told.push(response.type);
            } catch { told.push("refused"); }
        }
        return told;
    }"""
    ids = look(address).page.locator("article").first.get_attribute("id")
    with other_site() as other:
        evil = look(other)
        body = json.dumps(an_edit() | {"id": ids})
        assert evil.page.evaluate(tries, [address, body]) == ["opaque", "refused"]
        evil.troubles.clear()
    assert (edits_of(output).read_bytes() if edits_of(output).exists() else b"") == before


@contextmanager
def other_site() -> Iterator[str]:
    """A site on this machine, at another port."""

    class Empty(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(HTTPStatus.NO_CONTENT if self.path == "/favicon.ico" else HTTPStatus.OK)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
