"""What a page may do to captions, and what it may not."""

from pathlib import Path
from typing import Any

import pytest
from flow import put_rows, read_rows_of

from reelscribe.dataset.edits import edits_of
from reelscribe.report.editor import BadEditError, ConflictError
from report.correcting import Desk, put_output, row

ALL: dict[str, Any] = {"find": "man", "with": "person", "task": "caption", "case": True, "words": True, "count": None}


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An output."""
    return put_output(tmp_path)


@pytest.fixture
def desk(output: Path) -> Desk:
    """A page open on it."""
    return Desk(output)


def test_an_edit_is_kept_beside_the_output_which_stays(desk: Desk, output: Path) -> None:
    before = output.read_bytes()
    told = desk.do(text=" A woman walks. ")
    assert told["states"]["0-0"] == {
        "version": 1,
        "text": "A woman walks.",
        "events": None,
        "verdict": "",
        "note": "",
        "outdated": False,
        "words": 3,
    }
    assert output.read_bytes() == before
    [line] = read_rows_of(edits_of(output))
    assert line["how"] == "edit"
    assert line["changes"][0]["base"] == "A man walks a dog."


def test_of_two_rows_with_the_same_video_one_is_changed(desk: Desk) -> None:
    desk.do("1-0", text="Mine.")
    assert desk.editor.states()["states"].keys() == {"1-0"}
    [line] = read_rows_of(desk.editor._log.file)
    assert (line["changes"][0]["row"], line["changes"][0]["copy"]) == (1, 1)


def test_candidates_verdicts_and_notes(desk: Desk) -> None:
    desk.do(verdict="approved")
    desk.do(note="two\nlines")
    assert desk.state()["verdict"] == "approved"
    desk.do(candidate=1)  # approved was another text
    assert (desk.state()["text"], desk.state()["verdict"], desk.state()["note"]) == (
        "A man and a dog.",
        "",
        "two\nlines",
    )
    desk.do(text=None)
    assert desk.state()["text"] is None
    desk.do("3-0", verdict="rejected")  # a failure
    hows = [line["how"] for line in read_rows_of(desk.editor._log.file)]
    assert hows == ["approve", "note", "candidate", "model", "reject"]


@pytest.mark.parametrize(
    ("name", "what", "problem"),
    [
        ("9-9", {"text": "x"}, "no such caption"),
        ("0-0", {"text": "  "}, "cannot be empty"),
        ("0-0", {"text": "x" * 100_001}, "at most 100,000 letters"),
        ("0-0", {"text": "\ud800 lone"}, "half a surrogate pair"),
        ("0-0", {"note": "\ud800 lone"}, "half a surrogate pair"),
        ("0-0", {"text": 3}, "an edit is"),
        ("0-0", {"candidate": 7}, "an edit is"),
        ("0-0", {"verdict": "fine"}, "an edit is"),
        ("0-0", {}, "an edit is"),
        ("3-0", {"text": " "}, "cannot be empty"),
    ],
)
def test_what_makes_no_sense_changes_nothing(desk: Desk, name: str, what: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadEditError, match=problem):
        desk.editor.change({"id": name, "version": 0, **what})
    assert desk.editor.states() == {"line": 0, "states": {}}


def test_two_people_do_not_write_over_each_other(output: Path) -> None:
    one, other = Desk(output), Desk(output)
    one.do(text="Mine.")
    with pytest.raises(ConflictError, match="somebody else") as conflict:
        other.editor.change({"id": "0-0", "version": 0, "text": "Yours."})
    assert conflict.value.told["states"]["0-0"]["text"] == "Mine."
    other.do(text="Both.")
    with pytest.raises(ConflictError, match="changed again since"):
        one.editor.undo({"line": 1})
    assert one.state()["text"] == "Both."


def test_undo_puts_back_what_was_before_and_can_be_undone(desk: Desk) -> None:
    desk.do(text="1")
    line = desk.do(text="2")["done"]
    line = desk.editor.undo({"line": line})["done"]
    assert desk.state()["text"] == "1"
    desk.editor.undo({"line": line})
    assert desk.state()["text"] == "2"
    desk.editor.undo({"line": 2})
    desk.editor.undo({"line": 1})  # undone actions do not stand in the way of those before them
    assert desk.state()["text"] is None
    with pytest.raises(BadEditError, match="nothing to undo"):
        desk.editor.undo({"line": 99})
    with pytest.raises(BadEditError, match="nothing to undo"):
        desk.editor.undo({"line": None})


def test_an_edit_of_a_text_that_the_model_replaced_is_out_of_date(output: Path) -> None:
    Desk(output).do(text="Mine.", note="")
    rows = read_rows_of(output)
    rows[0]["caption"], rows[0]["caption_candidates"] = "A cat.", ["A cat."]
    put_rows(output, rows)
    desk = Desk(output)
    assert (desk.state()["outdated"], desk.state()["text"]) == (True, "Mine.")
    desk.do(verdict="approved")  # of the text that is there now
    assert (desk.state()["outdated"], desk.state()["text"]) == (False, None)


def test_an_edit_follows_its_video_when_rows_are_added_before_it(output: Path) -> None:
    Desk(output).do("2-0", text="Mine.")
    put_rows(output, [row("0.mp4", "New."), *read_rows_of(output)])
    desk = Desk(output)
    assert desk.state("3-0")["text"] == "Mine."


# Find and replace


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        ({}, 2),
        ({"case": False}, 3),
        ({"words": False}, 3),
        ({"find": "a.m"}, 0),
        ({"task": "other"}, 0),
        ({"with": "man"}, 0),
    ],
)
def test_a_preview_counts_and_changes_nothing(desk: Desk, asked: dict[str, Any], count: int) -> None:
    told = desk.editor.replace(ALL | asked)
    assert (told["count"], len(told["samples"])) == (count, count)
    assert desk.editor.states()["line"] == 0


def test_all_are_replaced_in_one_action_which_one_undo_takes_back(desk: Desk) -> None:
    desk.do(text="The other man.")
    asked = ALL | {"case": False}
    told = desk.editor.replace(asked)
    pieces = [("same", "The other "), ("gone", "man"), ("new", "person"), ("same", ".")]
    assert told["samples"][0] == {"video": "a.mp4", "pieces": pieces}
    done = desk.editor.replace(asked | {"count": told["count"]})
    texts = [desk.state(f"{number}-0")["text"] for number in range(3)]
    assert texts == ["The other person.", "A person walks a dog.", "The person sits on a mantelpiece."]
    desk.editor.undo({"line": done["done"]})
    assert [desk.state(f"{number}-0")["text"] for number in range(3)] == ["The other man.", None, None]


def test_nothing_is_replaced_that_was_not_in_the_preview(desk: Desk, output: Path) -> None:
    told = desk.editor.replace(ALL)
    Desk(output).do(text="No such word.")
    desk.editor.states()
    with pytest.raises(ConflictError, match="since the preview"):
        desk.editor.replace(ALL | {"count": told["count"]})


def test_what_would_be_empty_or_drop_captions_is_left_out_and_counted(tmp_path: Path) -> None:
    rows = [row("a.mp4", "man"), row("b.mp4", "A man.", "One man.", kept=[0, 1])]
    desk = Desk(put_rows(tmp_path / "out.jsonl", rows))
    told = desk.editor.replace(ALL | {"with": ""})
    assert told["count"] == 0
    assert told["left_out"] == {"a caption cannot be empty; reject it.": 1, "it has several captions.": 1}


def test_a_character_of_a_script_without_spaces_is_a_word(tmp_path: Path) -> None:
    desk = Desk(put_rows(tmp_path / "out.jsonl", [row("a.mp4", "一只狗在GPU旁奔跑。")]))
    for found in ("狗", "在GPU", "GPU"):
        assert desk.editor.replace(ALL | {"find": found})["count"] == 1
    assert desk.editor.replace(ALL | {"find": "GP"})["count"] == 0


@pytest.mark.parametrize("asked", [{"find": ""}, {"find": None}, {"with": None}, {"task": 3}])
def test_what_is_no_replacement(desk: Desk, asked: dict[str, Any]) -> None:
    with pytest.raises(BadEditError, match="needs a text to find"):
        desk.editor.replace(ALL | asked)


# Answers that are no plain text


def test_structured_captions_stay_json(tmp_path: Path) -> None:
    text = '{"animal": "dog"}'
    desk = Desk(put_rows(tmp_path / "out.jsonl", [row("a.mp4", text) | {"caption": {"animal": "dog"}}]))
    with pytest.raises(BadEditError, match="no JSON"):
        desk.do(text="a dog")
    with pytest.raises(BadEditError, match="does not fit"):
        desk.do(text="[]")
    desk.do(text='{"animal": "cat"}')
    assert desk.state()["text"] == '{"animal": "cat"}'


def test_answers_with_times_are_rewritten_if_the_new_one_has_times_too(tmp_path: Path) -> None:
    events = [{"start": 4.0, "end": 5.0, "text": "A dog runs."}]
    said = row("a.mp4", "0-1: A dog runs.", "0-2 s: A hound.", clip_start=4.0, clip_end=6.0) | {"caption": events}
    desk = Desk(put_rows(tmp_path / "out.jsonl", [said]))
    for wrong in ("A cat runs.", "1-9 s: A cat runs.", "1-0 s: A cat runs."):
        with pytest.raises(BadEditError, match="no events, or some that cannot be: write lines"):
            desk.do(text=wrong)
    assert not desk.editor._log.lines
    desk.do(text="0-1 s: A cat runs.\n1-2 s: It stops.")
    told = [(event["start"], event["end"], event["text"]) for event in desk.state()["events"]]
    assert told == [(4.0, 5.0, "A cat runs."), (5.0, 6.0, "It stops.")]
    desk.do(candidate=1)
    assert desk.state()["events"][0]["text"] == "A hound."
    desk.do(text=None)
    assert desk.state()["events"] is None
