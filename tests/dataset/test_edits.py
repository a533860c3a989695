"""The log of what people made of captions: what is in it stays, whoever writes and whatever dies."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from reelscribe.dataset.edits import CaptionKey, Edit, EditLog, edits_of, undone
from reelscribe.dataset.lock import holder
from reelscribe.dataset.sources import find_sources
from reelscribe.errors import DatasetError


def _edit(video: str = "a.mp4", **changes: Any) -> Edit:
    told: dict[str, Any] = {"row": 0, "slot": 0, "key": CaptionKey(video, "caption", "5f0e", 0), "base": "A dog."}
    return Edit(**told | changes)


def _append(log: EditLog, how: Any = "edit", **changes: Any) -> int:
    return log.append(how, lambda: [_edit(**changes)])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Of a log."""
    return edits_of(tmp_path / "out.jsonl")


def test_a_line_says_when_what_it_was_about_what_it_was_based_on_and_what_became_of_it(file: Path) -> None:
    assert file.name == "out.edits.jsonl"
    assert _append(EditLog(file), text="Ein Hund — 犬.") == 1
    [line] = file.read_text("utf-8").splitlines()
    told = json.loads(line)
    assert told.pop("time").endswith("+00:00")
    change = {"row": 0, "slot": 0, "video": "a.mp4", "task": "caption", "asked": "5f0e", "copy": 0, "base": "A dog."}
    change |= {"also": []}
    assert told == {"how": "edit", "changes": [change | {"text": "Ein Hund — 犬.", "verdict": "", "note": ""}]}


def test_the_last_line_about_a_caption_holds_and_the_others_are_what_was_before(file: Path) -> None:
    log = EditLog(file)
    lines = [_append(log, text="1"), _append(log, text="2"), _append(log, video="b.mp4", verdict="approved")]
    assert lines == [1, 2, 3]
    again = EditLog(file)
    latest = again.latest(_edit().key)
    assert latest is not None
    assert (latest.text, latest.line) == ("2", 2)
    assert [edit.key.video for edit in again.since(2)] == ["b.mp4"]
    assert [edit.text for edit in undone(again.before(2))] == ["1"]
    assert [edit.says_nothing for edit in undone(again.before(1))] == [True]
    assert again.latest(CaptionKey("a.mp4", "caption", "5f0e", 1)) is None


def test_two_logs_on_one_file_know_of_each_other(file: Path) -> None:
    one, other = EditLog(file), EditLog(file)
    _append(one, text="mine")

    def on_top() -> list[Edit]:
        latest = other.latest(_edit().key)  # known before it appends
        assert latest is not None
        return [_edit(text=f"{latest.text}, and yours")]

    assert other.append("edit", on_top) == 2
    one.refresh()
    assert [edit.text for edit in one.edits()] == ["mine, and yours"]


@pytest.mark.skipif(os.name == "nt", reason="this system has no such locks")
def test_nobody_else_appends_between_a_look_at_the_log_and_its_new_line(file: Path) -> None:
    def look() -> list[Edit]:
        assert holder(file) is not None
        return [_edit(text="1")]

    assert EditLog(file).append("edit", look) == 1
    assert holder(file) is None


def test_a_half_written_line_costs_its_own_change_and_says_so(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = EditLog(file)
    _append(log, text="1")
    whole = file.read_bytes()
    _append(log, text="2")
    file.write_bytes(file.read_bytes()[:-9])
    log = EditLog(file)
    assert [edit.text for edit in log.edits()] == ["1"]
    assert "The last line of" in caplog.text
    assert "half written" in caplog.text
    assert _append(log, text="3") == 3
    assert file.read_bytes().startswith(whole)
    again = EditLog(file)
    assert [edit.text for edit in again.edits()] == ["3"]
    assert again.lines == 3
    assert "Line 2 of" in caplog.text


@pytest.mark.parametrize(
    "line",
    [b"[]", b"{}", b'{"how": "edit", "changes": [{}]}', b'{"how": "sing", "changes": []}', b"\xff", b"", b"[" * 99999],
)
def test_a_line_that_is_none_costs_nothing_else(file: Path, line: bytes, caplog: pytest.LogCaptureFixture) -> None:
    _append(EditLog(file), text="1")
    file.write_bytes(line + b"\n" + file.read_bytes())
    assert [(edit.text, edit.line) for edit in EditLog(file).edits()] == [("1", 2)]
    assert "Line 1 of" in caplog.text


@pytest.mark.parametrize(
    "wrong", [{"text": 3}, {"verdict": "fine"}, {"copy": "x"}, {"video": None}, {"note": None}, {"also": [1]}]
)
def test_values_of_other_kinds_are_no_edit(file: Path, wrong: dict[str, Any]) -> None:
    _append(EditLog(file), text="1")
    told = json.loads(file.read_bytes())
    told["changes"][0] |= wrong
    file.write_text(json.dumps(told) + "\n")
    assert list(EditLog(file).edits()) == []


def test_what_cannot_be_written_leaves_the_log_as_it_was(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EditLog(file)
    _append(log, text="1")
    before = file.read_bytes()

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(DatasetError, match=r"cannot write to .*out\.edits\.jsonl: No space left on device"):
            _append(log, text="2")
    assert file.read_bytes() == before
    assert _append(log, text="3") == 2


def test_nothing_is_appended_where_nothing_changes(file: Path) -> None:
    assert EditLog(file).append("edit", list) == 0
    assert file.read_bytes() == b""


def test_a_log_among_shards_is_no_shard(tmp_path: Path) -> None:
    (tmp_path / "0.jsonl").write_text("{}\n")
    log = edits_of(tmp_path / "{shard}.jsonl")
    _append(EditLog(log), text="1")
    assert log.name == "shards.edits.jsonl"
    for named in (tmp_path, tmp_path / "*.jsonl"):
        assert [Path(source.location).name for source in find_sources([named])] == ["0.jsonl"]
