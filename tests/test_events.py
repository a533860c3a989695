"""Events as models write them, and what is wrong with them."""

import json
from pathlib import Path
from typing import Any

import pytest

from reelscribe.errors import SettingsError
from reelscribe.events import Event, checked, from_rows, in_text, in_value, list_of, moved
from reelscribe.schemas import READY, Schema
from reelscribe.tasks import Task, tasks_of

TWO = [(0.0, 2.5, "moves left"), (2.5, 5.0, "stops")]
READ: dict[str, list[tuple[float, float, str]]] = {
    "0.0-2.5 s: moves left; 2.5-5.0 s: stops": TWO,
    "0.0-2.5 s: moves left\n2.5-5.0 s: stops": TWO,
    "0.0-2.5 s: moves left, 2.5-5.0 s: stops": TWO,
    "0.0s – 2.5s moves left\n2.5s – 5.0s stops": TWO,  # noqa: RUF001 - a dash as models write it
    "[0.0 - 2.5] moves left\n[2.5 - 5] stops": TWO,
    "[0.0, 2.5] moves left\n[2.5, 5] stops": TWO,
    "(0.0 to 2.5 seconds) moves left\n(2.5 to 5.0 seconds) stops": TWO,
    "<0.0 seconds> - <2.5 seconds> moves left\n<2.5 seconds> - <5.0 seconds> stops": TWO,
    "00:00:00.000 --> 00:00:02.500\nmoves left\n\n00:00:02.500 --> 00:00:05.000\nstops": TWO,
    "1\n00:00:00,000 --> 00:00:02,500\nmoves left\n\n2\n00:00:02,500 --> 00:00:05,000\nstops\n": TWO,
    "WEBVTT\n\n00:00.000 --> 00:02.500\nmoves left\n\n00:02.500 --> 00:05.000\nstops": TWO,
    "Here are the events:\n\n- **0:00 - 0:02.5**: moves left\n- **0:02.5 - 0:05:** stops\n\nThat is all.": TWO,
    "```srt\n1\n00:00:00,000 --> 00:00:02,500\nmoves left\n```": TWO[:1],
    "1. 0-2.5 s: moves left\n2. 2.5-5 s: stops": TWO,
    "Scene 1 (0.0-2.5 s): moves left\nScene 2: 2.5s to 5s - stops": TWO,
    "| time | what |\n| --- | --- |\n| 0:00-0:02.5 | moves left |\n| 0:02.5-0:05 | stops |": TWO,
    "From 0 to 2.5 seconds, moves left\nFrom 2.5 to 5, stops": TWO,
    "0:02-0:05 a cook, 3 eggs and a pan.\nHe stirs.\n\nBye.": [(2.0, 5.0, "a cook, 3 eggs and a pan.\nHe stirs.")],
    "1:00:02-1:00:05: late": [(3602.0, 3605.0, "late")],
    "0-5 s: he counts; 3-4 people: they look": [(0.0, 5.0, "he counts; 3-4 people: they look")],
    "0-9 s: he waits, 2-3 s at a time. 4-5 s.": [(0.0, 9.0, "he waits, 2-3 s at a time. 4-5 s.")],
    "-1.0-2.0 s: before the start": [(-1.0, 2.0, "before the start")],
    '[{"start": 0, "end": "2.5", "text": "moves left"}, {"start": 2.5, "end": 5.0, "text": "stops"}]': TWO,
    '```json\n[{"start_time": "00:00", "end_time": "00:02.5", "event": "moves left"}]\n```': TWO[:1],
    '{"events": [{"time_range": "0:00-0:02.5", "description": "moves left"}], "tags": ["a"]}': TWO[:1],
    '[{"timestamp": [0, 2.5], "caption": "moves left"}]': TWO[:1],
    '{"actions": [{"timestamp": "[0.0s - 2.5s]", "action": "moves left"}]}': TWO[:1],
    "[]": [],
}


@pytest.mark.parametrize("text", READ)
def test_models_write_times_in_many_ways(text: str) -> None:
    assert in_text(text, 9.0) == READ[text]


@pytest.mark.parametrize("piece", ["(1 s)", "(1 s) ", "at 1 s "])
def test_long_texts_of_starts_are_read_to_their_end(piece: str) -> None:
    assert len(in_text(piece * 100_000, 9.0) or ()) == 1


STARTS: dict[str, list[tuple[float, float, str]]] = {
    "moves left (0.0 s); stops (2.5 s); ends (5.0 s)": TWO,  # as the built-in model says it
    "moves left (0.0 s)\nstops (2.5 s)": TWO,
    "1. moves left (at 0:00)\n2. stops (at 0:02.5)": TWO,
    "At 0.0 s, moves left. At 2.5 s, stops.": [(0.0, 2.5, "moves left."), (2.5, 5.0, "stops.")],
    "At 0 seconds: moves left\nAt 2.5 seconds: stops\nAt 5 seconds, the video ends.": TWO,
    "0.0 s: moves left; 2.5 s: stops": TWO,
    "0:00 moves left\n0:02.5 stops\n0:05 End of video": TWO,
    "[00:00] moves left\n[00:02.5] stops": TWO,
    "<0.0 seconds> moves left\n<2.5 seconds> stops": TWO,
    "# Events\n\n- **0:00** moves left\n\n- **0:02.5** - stops\n\nThat is all.": TWO,
    "Here are the events:\n[0:00]\nmoves\nleft\n[0:02.5]\nstops": [(0.0, 2.5, "moves\nleft"), TWO[1]],
    "| Time | Event |\n|---|---|\n| 0:00 | moves left |\n| 0:02.5 | stops |": TWO,
    '[{"timestamp": "00:00", "event": "moves left"}, {"timestamp": "00:02.5", "event": "stops"}]': TWO,
    '{"events": [{"time": 0, "text": "moves left"}, {"time": "2.5 s", "text": "stops"}]}': TWO,
    "stops (2.5 s); moves left (0.0 s)": [(2.5, 0.0, "stops"), (0.0, 5.0, "moves left")],
    "moves left (0.0 s); stops (7.0 s)": [(0.0, 7.0, "moves left"), (7.0, 7.0, "stops")],
    "moves left (0.0 s); stops (2.5 s); ends (9.0 s)": [TWO[0], (2.5, 9.0, "stops")],
}
"""Of a clip of 5 seconds. What cannot be is for `checked` to find."""


@pytest.mark.parametrize("text", STARTS)
def test_events_last_until_the_next_one_starts_if_no_end_is_said(text: str) -> None:
    assert in_text(text, 5.0) == STARTS[text]


def test_the_last_event_has_no_length_if_the_clip_has_no_known_one() -> None:
    assert in_text("moves left (0.0 s); stops (2.5 s)", None) == [TWO[0], (2.5, 2.5, "stops")]


def test_lines_with_ranges_are_read_as_before_where_starts_stand_between_them() -> None:
    text = "0:00-0:05 he counts\n0:02 is when she waves"
    assert in_text(text, 5.0) == [(0.0, 5.0, "he counts\n0:02 is when she waves")]


@pytest.mark.parametrize(
    "text",
    [
        "A man walks to the left.",
        "3-4 people: they wave",
        "2-3 dogs run",
        "2.0 he stops",
        "5 seconds later, he stops",
        "4:3: the shape of the picture",
        "A man walks. At 2.0 s he stops.",
        "A man walks.\n0:02 he stops",
        "0:00:\n0:02: the first has no words",
        "ends (5.0 s)",
        '[{"time": 0, "text": "a"}, {"time": [2, 3, 4], "text": "b"}]',
        '[{"time": "soon", "text": "a"}]',
        "0:00-0:02:\n0:02-0:04: the first has no words",
        '[{"start": 0, "text": "no end"}]',
        '[{"start": 0, "end": 2, "text": ""}]',
        '[{"start": 0, "end": 2, "text": "a"}, {"start": 2, "text": "no end"}]',
        '[{"start": NaN, "end": 2, "text": "a"}]',
        '[{"start": true, "end": 2, "text": "a"}]',
        '[{"start": 0, "end": 2, "text": "\\ud800"}]',
        '{"a": [{"start": 0, "end": 2, "text": "a"}], "b": [{"start": 0, "end": 2, "text": "b"}]}',
        '[{"start": 1e999, "end": 2, "text": "a"}]',
        '[{"start": 0, "end": 1%s, "text": "a"}]' % ("0" * 400),
        "0-1%s s: a" % ("0" * 400),
        "0:00-1%s:00:00 a" % ("0" * 5000),
        "[" * 100_000,
        "",
    ],
)
def test_what_is_no_event_is_not_made_one(text: str) -> None:
    assert in_text(text, 9.0) is None


@pytest.mark.parametrize(
    "piece",
    ["0:", "- ", "a 1 ", "[0 - ", "*", "0-", "(", "1. ", " ", "\n", "1", "1 - ", "a, "],
)
def test_long_texts_without_end_are_read_to_it(piece: str) -> None:
    assert in_text(piece * 100_000, 9.0) is None


# What can be


def _events(*times: tuple[float, float]) -> list[Event]:
    return [Event(start, end, "a") for start, end in times]


@pytest.mark.parametrize(
    ("times", "right", "overlapping"),
    [
        ([(0, 2), (2, 5)], True, True),
        ([(0, 2), (3, 3)], True, True),
        ([], True, True),
        ([(0, 2), (1, 5)], False, True),
        ([(0, 5), (1, 2)], False, True),
        ([(2, 5), (0, 1)], False, False),
        ([(2, 1)], False, False),
        ([(-0.1, 1)], False, False),
        ([(0, 5.6)], False, False),
        ([(7, 8)], False, False),
    ],
)
def test_events_are_in_the_clip_in_order_and_do_not_overlap(
    times: list[tuple[float, float]], right: bool, overlapping: bool
) -> None:
    assert (checked(_events(*times), 5.0, True) is not None) == right
    assert (checked(_events(*times), 5.0, "overlapping") is not None) == overlapping


def test_an_end_that_is_rounded_up_is_the_clips() -> None:
    assert checked(_events((0, 4.8), (4.8, 5.3)), 4.9, True) == _events((0, 4.8), (4.8, 4.9))
    assert checked(_events((5, 5.3)), 4.9, True) == _events((4.9, 4.9))
    assert checked(_events((0, 999)), None, True) == _events((0, 999))


def test_events_move_to_the_clock_of_the_file() -> None:
    assert moved(_events((0.1, 0.2)), 12.0004) == (Event(12.1, 12.2, "a"),)


def test_columns_hold_events_and_other_things() -> None:
    assert from_rows([{"start": 1, "end": 2.5, "text": "a"}]) == (Event(1.0, 2.5, "a"),)
    assert from_rows([]) == ()
    for other in (None, "text", {"start": 1}, ["a"], [None], [{"start": 1, "end": 2}], [{"start": "x", "end": 2}]):
        assert from_rows(other) is None


# Schemas


def _schema(**properties: Any) -> Schema:
    return Schema.of({"type": "object", "properties": properties}, folder=Path())


def _listed(*names: str) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "object", "properties": {name: {} for name in names}}}


def test_a_schema_has_one_list_of_events() -> None:
    schema = _schema(tags={"type": "array", "items": {"type": "string"}}, events=_listed("from", "to", "label"))
    assert list_of(schema) == "events"
    assert in_value({"tags": [], "events": []}, schema, 9.0) == []
    assert in_value({"tags": [], "events": [{"from": 1, "to": "2 s", "label": "a"}]}, schema, 9.0) == [Event(1, 2, "a")]
    assert in_value({"tags": [], "events": [{"from": 1, "label": "a"}]}, schema, 9.0) is None
    assert list_of(_schema(a=_listed("start", "text"))) is None
    assert list_of(_schema(a=_listed("time", "text"), b=_listed("time", "text"))) is None


def test_a_schema_may_refer_to_its_parts() -> None:
    event = {"type": "object", "properties": {"time": {"type": "string"}, "text": {"type": "string"}}}
    root = {"type": "object", "$defs": {"event": event}}
    items = {"type": "array", "items": {"$ref": "#/$defs/event"}}
    assert list_of(Schema.of({**root, "properties": {"what": items}}, folder=Path())) == "what"


@pytest.mark.parametrize("name", READY)
def test_ready_schemas_have_no_list_of_events_or_several(name: str) -> None:
    with pytest.raises(SettingsError, match=f"tasks.a: times needs a schema with one list of .*; {name} has none"):
        tasks_of({"a": {"schema": name, "times": True}}, Task())


@pytest.mark.parametrize("value", [1, "yes", None, [True]])
def test_times_is_a_choice(value: Any) -> None:
    if value is None:
        assert tasks_of({"a": {"times": value}}, Task())[0].times is False
        return
    with pytest.raises(SettingsError, match=r'tasks\.a: times must be true, false or "overlapping"; got'):
        tasks_of({"a": {"times": value}}, Task())


def test_a_task_with_times_asks_for_them() -> None:
    [task] = tasks_of({"a": {"times": "overlapping"}}, Task())
    assert task.template == (
        "List the events of the video in order, each on a line with its times, as: 0.0-2.5 s: what happens",
    )
    own = {"times": True, "schema": json.loads(_schema(events=_listed("start", "end", "text")).text)}
    [task] = tasks_of({"a": own}, Task())
    assert "- events: a list" in str(task.template[0])
