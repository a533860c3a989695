"""The page as a file."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from flow import put_rows

from reelscribe.errors import DatasetError, MissingExtraError, SettingsError
from reelscribe.report import write as module
from reelscribe.report.write import needs_report, write_report
from reelscribe.values import Row
from report.conftest import EVIL, ROWS, captioned


def _row(**changes: Any) -> Row:
    meta = {"model": "m", "prompt": "p", "kept": [0], "flags": []}
    return {"video": "a.mp4", "caption": "one", "caption_candidates": ["one"], "caption_meta": meta} | changes


def _addresses(page: str) -> Iterator[tuple[str, str]]:
    """All attributes that a browser may load or go to, but the icon, which is empty so that none is asked for."""
    found: list[tuple[str, str]] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend((name, value or "") for name, value in attrs if name in ("src", "href", "data-href", "action"))

    Parser().feed(page)
    yield from (each for each in found if each[1] != "data:,")


def test_the_page_is_beside_the_data_by_default(tmp_path: Path) -> None:
    summary = write_report(captioned(tmp_path))
    assert (summary.file, summary.shown, summary.videos) == (tmp_path / "out.report.html", 8, 8)
    assert not list(tmp_path.glob("*.partial"))


def test_the_page_names_nothing_outside_but_the_videos(report: Path) -> None:
    page = report.read_text("utf-8")
    names = {value for _, value in _addresses(page) if not value.startswith(("data:image/jpeg;base64,", "#"))}
    assert names == {f"./../in/{row['video']}" for row in ROWS if row.get("video") != "gone.mp4" and "video" in row}
    assert "http" not in re.sub(r"http-equiv|data:image/jpeg;base64,[^\"]*", "", page).replace(EVIL, "")
    assert EVIL not in page


def test_names_of_videos_are_written_as_links(tmp_path: Path) -> None:
    name = 'a b#?&"%<é>.mp4'
    put_rows(tmp_path / "rows.jsonl", [_row(video=name)])
    (tmp_path / name).write_bytes(b"")
    page = write_report(tmp_path / "rows.jsonl", tmp_path / "a.html").file.read_text("utf-8")
    assert ("data-href", "./a%20b%23%3F%26%22%25%3C%C3%A9%3E.mp4") in _addresses(page)


def test_sentences_that_were_judged_false_are_shown(tmp_path: Path) -> None:
    meta = _row()["caption_meta"] | {"flags": ["false_claim"], "failed_claims": "It is <red>.\nIt stops."}
    put_rows(tmp_path / "rows.jsonl", [_row(caption_meta=meta), _row()])
    page = write_report(tmp_path / "rows.jsonl", tmp_path / "a.html").file.read_text("utf-8")
    assert page.count("Judged false") == 1
    assert "It is &lt;red&gt;.\nIt stops." in page


def test_a_stretch_is_played_from_where_it_begins_on_the_clock_of_its_file(tmp_path: Path) -> None:
    output = captioned(tmp_path, rows=[{"video": "same.mp4", "start": 1, "end": 3}])
    page = write_report(output).file.read_text("utf-8")
    assert ("data-href", "./in/same.mp4#t=1,3") in _addresses(page)
    seconds = [float(found) for found in re.findall(r'data-seconds="([0-9.]+)"><span>', page)]
    assert (len(seconds), seconds[0], seconds[-1]) == (4, 1.0, 2.875)


def test_odd_texts_are_written(tmp_path: Path) -> None:
    put_rows(tmp_path / "rows.jsonl", [_row(caption="half \ud83d pair", caption_candidates=["half \ud83d pair"])])
    page = write_report(tmp_path / "rows.jsonl").file.read_bytes()
    assert b"half &#55357; pair" in page


ODD_TIMES: list[dict[str, Any]] = [
    {"clip_start": 0, "clip_end": 5, "file_seconds": 10},
    {"clip_start": "0", "clip_end": [], "file_seconds": "10"},
    {"clip_start": float("nan"), "clip_end": float("inf"), "file_seconds": 10**400},
    {"clip_start": 9, "clip_end": 3, "file_seconds": -1},
    {"clip_start": None, "clip_end": True, "file_seconds": 0},
]


@pytest.mark.parametrize("known", [True, False])
def test_a_film_has_a_timeline_whatever_its_times_are(tmp_path: Path, known: bool) -> None:
    metas = [{"model": "m", **times} for times in ODD_TIMES[0 if known else 1 :]]
    rows = [_row(video="a.mp4", start=start, end=end, caption_meta=meta, caption=f"{start} {end}")
            for meta in metas for start, end in [(0, 3), (-5, 2), (3, 1), (2, None), (8e8, 9e8), ("x", 1)]]  # fmt: skip
    rows.append(_row(video="a.mp4#t=x", caption="no times"))
    page = write_report(put_rows(tmp_path / "rows.jsonl", rows)).file.read_text("utf-8")
    assert page.count('class="film"') == 1
    stops = set(re.findall(r'<a class="stop [^>]*href="#([^"]*)"', page))
    assert len(stops) == len(metas) * 5
    assert all(f'<article id="{stop}"' in page for stop in stops)
    assert ("0:10 · " in page) == known


ODD: list[dict[str, Any]] = [
    {"frame_timestamps": 5, "video_tokens": "many", "flags": {"a": 1}, "kept": 0},
    {"frame_timestamps": [float("nan"), float("inf"), -1, "x", None, 1e300], "video_tokens": -1},
    {"video_tokens": 10**400, "completion_tokens": [10**400], "stop_reasons": 7, "kept": [0]},
    {"completion_tokens": [None, []], "stop_reasons": [None], "kept": [0, 0, 1], "flags": [3, None, "a b"]},
    {"model": ["m"], "revision": 5, "engine": None, "prompt": {"a": [1, {"b": None}]}, "sampling": "hot"},
    {"failure": 3, "message": None},
]


@pytest.mark.parametrize("meta", ODD)
def test_odd_records_have_their_page(tmp_path: Path, meta: dict[str, Any]) -> None:
    rows = [_row(caption_meta=meta, caption_candidates=["one", "two"]), _row()]
    page = write_report(put_rows(tmp_path / "rows.jsonl", rows)).file.read_text("utf-8")
    assert page.count("<article") == 2


def test_a_web_address_is_a_link_and_no_other_scheme_is(tmp_path: Path) -> None:
    rows = [_row(video=name) for name in ("https://example.org/a.mp4", "javascript://x", "s3://b/a")]
    put_rows(tmp_path / "rows.jsonl", rows)
    page = write_report(tmp_path / "rows.jsonl").file.read_text("utf-8")
    assert [value for _, value in _addresses(page) if not value.startswith("#")] == ["https://example.org/a.mp4"]


def test_of_many_videos_some_are_shown_and_the_page_says_so(tmp_path: Path) -> None:
    summary = write_report(captioned(tmp_path), clips=4, frames=2)
    page = summary.file.read_text("utf-8")
    assert (summary.shown, summary.videos) == (4, 8)
    assert page.count("<article") == 4
    assert "6 captioned videos, 2 failed" in page
    assert "4 of them are shown here, some of each flag and each kind of failure" in page
    assert max(map(int, re.findall(r'aria-label="(\d) of the \d+ frames', page))) <= 2


def test_nothing_but_failures(tmp_path: Path) -> None:
    page = write_report(captioned(tmp_path, rows=ROWS[6:8])).file.read_text("utf-8")
    assert "0 captioned videos, 2 failed." in page
    assert "<svg" not in page


@pytest.mark.parametrize("name", ["out.jsonl", "page", "page.txt"])
def test_a_page_must_be_named_as_one(data: Path, name: str) -> None:
    with pytest.raises(SettingsError, match=rf"its name must end in \.html; got '.*{name}'"):
        write_report(data, data.parent / name)


@pytest.mark.parametrize("wrong", ["clips", "frames"])
def test_numbers_must_be_above_0(data: Path, tmp_path: Path, wrong: str) -> None:
    given = {"clips": 1, "frames": 1} | {wrong: 0}
    with pytest.raises(SettingsError, match=f"{wrong} must be a whole number of at least 1; got 0"):
        write_report(data, tmp_path / "a.html", clips=given["clips"], frames=given["frames"])


def test_a_page_that_cannot_be_written(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"cannot write to .*file/a\.html: "):
        write_report(data, tmp_path / "file" / "a.html")


def test_a_missing_extra_is_named() -> None:
    told = r"a report needs jinja2: pip install 'reelscribe\[report\]'"
    with pytest.raises(MissingExtraError, match=told), needs_report():
        raise ModuleNotFoundError(name="jinja2.loaders")
    with pytest.raises(ModuleNotFoundError, match="ours"), needs_report():
        raise ModuleNotFoundError("ours", name="reelscribe.nothing")


def test_rows_that_go_while_the_page_is_made_are_not_waited_for(tmp_path: Path) -> None:
    entries = iter("abc")
    assert list(module._pick(entries, iter([0, 2, 9]))) == ["a", "c"]


def test_notes_stay_with_their_caption(tmp_path: Path) -> None:
    def ids(text: str) -> list[str]:
        put_rows(tmp_path / "rows.jsonl", [_row(caption=text, caption_candidates=[text])])
        return re.findall(r'<article id="(\w+)"', write_report(tmp_path / "rows.jsonl").file.read_text("utf-8"))

    assert ids("one") == ids("one")
    assert ids("one") != ids("two")
