"""Tasks whose answers are events with times: from what a model says to what is written, in every form."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clips import write_clip
from flow import EOC, VIDEO, ScriptedEngine, put_rows, read_rows_of, request, said

from reelscribe.captioner import VideoCaption, VideoCaptioner
from reelscribe.config import Settings
from reelscribe.dataset.identity import Keys
from reelscribe.errors import SettingsError
from reelscribe.events import Event
from reelscribe.outcomes import choose
from reelscribe.report.entries import CaptionedData, Entry
from reelscribe.runners.local import run
from reelscribe.runners.status import read_status
from reelscribe.values import Answer, Candidate, Clip, Row, Work

Say = Callable[[Work], Any]
TASKS: dict[str, Any] = {"events": {"prompt": "List the events.", "times": True}}
LINES = "0.0-1.0 s: moves left; 1.0-2.0 s: stops"
MOVED = [{"start": 4.0, "end": 5.0, "text": "moves left"}, {"start": 5.0, "end": 6.0, "text": "stops"}]


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """8 seconds at 25 frames a second."""
    return write_clip(tmp_path / "film.mp4", range(200), size=(64, 64))


def _run(folder: Path, say: Say, *, output: str = "out.jsonl", rows: list[Row] | None = None, **settings: Any) -> Path:
    data = put_rows(folder / "in.jsonl", rows or [{"video": "film.mp4#t=4,6"}])
    given: dict[str, Any] = {"tasks": TASKS, "decoders": 0, **settings}
    run([data], folder / output, Settings(**given), engine=ScriptedEngine(say))
    return folder / output


def _made(output: Path) -> Row:
    [row] = read_rows_of(output)
    return row


def test_events_are_moved_to_the_clock_of_the_file(film: Path) -> None:
    made = _made(_run(film.parent, lambda _: said(LINES)))
    assert made["events"] == MOVED
    assert made["events_candidates"] == [LINES]
    assert (made["events_meta"]["flags"], made["events_meta"]["faults"]) == ("", [""])


@pytest.mark.parametrize("says", ["moves left (0.0 s); stops (1.0 s); ends (2.0 s)", "[0:00] moves left\n[0:01] stops"])
def test_events_without_ends_last_until_the_next_one_or_the_clips_end(film: Path, says: str) -> None:
    assert _made(_run(film.parent, lambda _: said(says)))["events"] == MOVED


def test_rows_without_stretches_keep_the_clock_of_the_clip(film: Path) -> None:
    made = _made(_run(film.parent, lambda _: said("[00:07 - 00:08.4] stops"), rows=[{"video": "film.mp4"}]))
    assert made["events"] == [{"start": 7.0, "end": 8.0, "text": "stops"}]


@pytest.mark.parametrize(
    ("says", "times"),
    [
        ("1.5-2.6 s: past the end", True),
        ("1.0-0.5 s: backwards", True),
        ("moves left (0.0 s); stops (2.6 s)", True),
        ("moves left (0.0 s); ends (2.6 s)", True),
        ("stops (1.0 s); moves left (0.0 s)", "overlapping"),
        ("0.0-1.0 s: one; 0.5-2.0 s: two", True),
        ("1.0-2.0 s: one; 0.0-0.5 s: out of order", "overlapping"),
        ("It moves left, and then it stops.", True),
    ],
)
def test_events_that_cannot_be_are_a_fault(film: Path, says: str, times: Any) -> None:
    tasks = {"events": {**TASKS["events"], "times": times}}
    output = _run(film.parent, lambda _: said(says), tasks=tasks)
    made = _made(output)
    assert (made["events"], made["events_candidates"], made["events_failure"]) == (None, [says], "")
    assert (made["events_meta"]["faults"], made["events_meta"]["flags"]) == (["times"], "times")
    assert read_status(output).flags == {"times": 1}


def test_events_may_overlap_where_that_is_said(film: Path) -> None:
    tasks = {"events": {**TASKS["events"], "times": "overlapping"}}
    made = _made(_run(film.parent, lambda _: said("0-2 s: he walks\n1-1.5 s: she waves"), tasks=tasks))
    assert [(event["start"], event["end"]) for event in made["events"]] == [(4.0, 6.0), (5.0, 5.5)]


def test_a_candidate_whose_events_can_be_is_kept(film: Path) -> None:
    tasks = {"events": {**TASKS["events"], "num_captions": 3}}
    made = _made(_run(film.parent, lambda _: said("no times", LINES, "9-10 s: past the end"), tasks=tasks))
    assert made["events"] == MOVED
    assert (made["events_meta"]["kept"], made["events_meta"]["faults"]) == ([1], ["times", "", "times"])


def test_retry_flagged_asks_once_more(film: Path) -> None:
    made = _made(
        _run(film.parent, lambda work: said(LINES if work.requests[0].attempt == 2 else "none"), retry_flagged=True)
    )
    assert (made["events"], made["events_meta"]["tries"]) == (MOVED, 2)


def test_a_fault_and_a_schema_that_does_not_fit_are_one(film: Path) -> None:
    tasks = {"events": {**TASKS["events"], "schema": _schema()}}
    made = _made(_run(film.parent, lambda _: said("0-1 s: no JSON"), tasks=tasks))
    assert (made["events"], made["events_meta"]["faults"]) == (None, ["not_json"])


def _schema() -> Row:
    times = {"start": {"type": "number"}, "end": {"type": "number"}, "text": {"type": "string"}}
    items = {"type": "object", "properties": times, "required": ["start", "end", "text"]}
    return {"type": "object", "required": ["what"], "properties": {"what": {"type": "array", "items": items}}}


def test_events_come_from_json_by_a_schema(film: Path) -> None:
    tasks = {"events": {**TASKS["events"], "schema": _schema()}}
    texts = json.dumps(
        {"what": [{"start": 0, "end": 1, "text": "moves left"}, {"start": 1, "end": 2, "text": "stops"}]}
    )
    made = _made(_run(film.parent, lambda _: said(texts), tasks=tasks))
    assert (made["events"], made["events_candidates"]) == (MOVED, [texts])
    made = _made(_run(film.parent, lambda _: said('{"what": []}'), tasks=tasks, output="none.jsonl"))
    assert (made["events"], made["events_meta"]["flags"]) == ([], "")


# What is known stays


def test_times_make_nothing_again(film: Path) -> None:
    plain = {"events": {"prompt": "List the events."}}
    _run(film.parent, lambda _: said(LINES), tasks=plain)
    assert _made(_run(film.parent, _never))["events"] == MOVED
    back = _made(_run(film.parent, _never, tasks=plain))
    assert (back["events"], back["events_meta"]["faults"]) == (LINES, [""])


def test_a_fault_comes_and_goes_with_times(film: Path) -> None:
    plain = {"events": {"prompt": "List the events."}}
    _run(film.parent, lambda _: said("none"))
    made = _made(_run(film.parent, _never, tasks=plain))
    assert (made["events"], made["events_meta"]["faults"], made["events_meta"]["flags"]) == ("none", [""], "")
    made = _made(_run(film.parent, lambda _: said(LINES), retry_flagged=True))
    assert (made["events"], made["events_meta"]["tries"]) == (MOVED, 1), "it was never tried as one with faults"


def _never(work: Work) -> Any:
    raise AssertionError(f"{work.requests[0].prompt} is known")


def test_times_are_no_part_of_the_key() -> None:
    keys = Keys(Settings(), ScriptedEngine(_never).info)
    assert keys.key(request(times=True), ()) == keys.key(request(), ())


@pytest.mark.parametrize(
    ("meta", "clip", "found"),
    [
        ({}, Clip(source="a.mp4"), (Event(0.0, 99.0, "a"),)),  # by release 0.1.0, or by a server that takes files
        ({}, Clip(source="a.mp4", start_seconds=5.0), (Event(5.0, 104.0, "a"),)),
        ({}, Clip(source="a.mp4", start_seconds=5.0, end_seconds=9.0), None),
        ({"clip_start": 5.0, "clip_end": 200.0}, Clip(source="a.mp4"), (Event(5.0, 104.0, "a"),)),
        ({"clip_start": 5.0, "clip_end": 9.0}, Clip(source="a.mp4"), None),
    ],
)
def test_the_clip_says_where_it_is_if_no_frames_do(meta: Row, clip: Clip, found: Any) -> None:
    asked = request(times=True, clip=clip)
    candidate = Candidate(text="0-99 s: a", stop_reason="stop", num_tokens=1)
    answer = Answer(id=asked.id, candidates=(candidate,), meta={"seed": 1, "faults": [""], **meta})
    assert choose(asked, answer).events == found


# Where events go


def test_a_later_task_is_asked_with_what_the_model_said(film: Path) -> None:
    summary = {"prompt": "Sum up: {events}", "after": ["events"], "video": False}
    made = _made(_run(film.parent, lambda _: said(LINES), tasks={**TASKS, "summary": summary}))
    assert made["summary_meta"]["prompt"] == f"Sum up: {LINES}", "its clip begins at 0, too"


def test_a_text_stage_may_have_times(film: Path) -> None:
    refined = {"prompt": "Refine: {events}", "after": ["events"], "video": False, "times": True}
    made = _made(_run(film.parent, lambda _: said(LINES), tasks={**TASKS, "refined": refined}))
    assert (made["events"], made["refined"]) == (MOVED, MOVED)


def test_lists_of_stretches_have_lists_of_events(film: Path) -> None:
    rows: list[Row] = [{"video": "film.mp4", "stretches": [[0, 2], [9, 10], [4, 6]]}, {"video": "film.mp4"}]
    output = _run(film.parent, lambda _: said(LINES), rows=rows)
    made = read_rows_of(output)[0]
    first = [{"start": 0.0, "end": 1.0, "text": "moves left"}, {"start": 1.0, "end": 2.0, "text": "stops"}]
    assert made["events"] == [first, None, MOVED]
    entries = [entry for entry in CaptionedData(output).entries() if isinstance(entry, Entry)]
    found = [(entry.row, entry.slot, len(entry.events or ()), entry.failure) for entry in entries]
    assert found == [(0, 0, 2, None), (0, 1, 0, "row"), (0, 2, 2, None), (1, 0, 2, None)]


@pytest.mark.parametrize("columns", ["text,candidates,meta,failure", "text", "text,candidates"])
@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet", "out.tar"])
def test_every_format_is_read_back(film: Path, name: str, columns: str) -> None:
    pytest.importorskip("pyarrow")
    rows: list[Row] = [{"video": "film.mp4", "start": 4, "end": 6}, {"video": "gone.mp4"}, {"video": "film.mp4"}]
    said_of = {True: LINES, False: "no times"}
    output = _run(
        film.parent, lambda work: said(said_of[work.clip.start_seconds > 0]), output=name, rows=rows, columns=columns
    )
    entries = [entry for entry in CaptionedData(output).entries() if isinstance(entry, Entry)]
    events = {entry.row: entry.events for entry in entries}
    assert events[0] == (Event(4.0, 5.0, "moves left"), Event(5.0, 6.0, "stops"))
    assert not {events.get(row) for row in (1, 2)} - {None}
    assert entries[0].task == "events"
    assert "moves left" in entries[0].captions[0]


def test_parquet_has_types_for_events(film: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows: list[Row] = [{"video": "gone.mp4"}, {"video": "film.mp4#t=4,6"}]
    event = pa.struct([("start", pa.float64()), ("end", pa.float64()), ("text", pa.string())])
    table = pq.read_table(_run(film.parent, lambda _: said(LINES), output="out.parquet", rows=rows))
    assert table.schema.field("events").type == pa.list_(event)
    assert table.column("events").to_pylist() == [None, MOVED]
    listed: list[Row] = [{"video": "film.mp4", "stretches": [[9, 10], [4, 6]]}]
    table = pq.read_table(_run(film.parent, lambda _: said(LINES), output="listed.parquet", rows=listed))
    assert table.schema.field("events").type == pa.list_(pa.list_(event))
    assert table.column("events").to_pylist() == [[None, MOVED]]
    again = film.parent / "again.parquet"
    pq.write_table(pa.table({"video": ["film.mp4#t=4,6"]}), film.parent / "in.parquet")
    run(
        [film.parent / "in.parquet"],
        again,
        Settings(tasks=TASKS, decoders=0),
        engine=ScriptedEngine(lambda _: said(LINES)),
    )
    assert pq.read_table(again).column("events").to_pylist() == [MOVED]


def test_files_beside_videos_and_members_of_tar_files_are_json(film: Path) -> None:
    output = _run(film.parent, lambda _: said(LINES), output="out.tar", sidecar="txt")
    assert json.loads((film.parent / "film.00004.0-00006.0.events.txt").read_text()) == MOVED
    with tarfile.open(output) as tar:
        assert json.loads(tar.extractfile("000000000.events.json").read()) == MOVED  # type: ignore[union-attr]


@pytest.mark.transformers
def test_a_captioner_gives_events(film: Path) -> None:
    captioner = VideoCaptioner("shapes", tasks=TASKS, decoders=0)
    captioner._engine = ScriptedEngine(lambda _: said(LINES))
    caption = captioner(f"{film}#t=4,6")
    assert isinstance(caption, VideoCaption)
    assert (caption.value, caption.text) == (MOVED, LINES)


def test_text_with_tokens_has_no_room_for_events(film: Path) -> None:
    rows: list[Row] = [{"videos": ["film.mp4"], "text": f"{VIDEO}{EOC}"}]
    with pytest.raises(SettingsError, match="no room for a list of events"):
        _run(film.parent, _never, rows=rows)
    assert _made(_run(film.parent, lambda _: said(LINES), rows=rows, layout="columns"))["events"][0]
