"""Parses events with times from a model's text or JSON. Pure functions, which need no clip and no model.

Models write times in many ways, so many forms are accepted: seconds or clock times, brackets, bullets, Markdown,
subtitle cues. But the numbers must be times: "3-4 people: they wave" is not an event. An event with only a start, as
"At 2.0 s he stops" or "stops (2.0 s)", lasts until the next one starts, and the last one until the clip ends.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from reelscribe.schemas import Schema
from reelscribe.schemas.nodes import ROOT, plain, types_of
from reelscribe.stretches import MOST_SECONDS, time_of
from reelscribe.templates import is_utf8

Times = Literal[False, True, "overlapping"]
"""Whether an answer is parsed as events. With True each event must begin after the one before has ended; with
"overlapping" it may begin earlier."""

LATE_SECONDS: Final = 0.5
"""An end at most this many seconds after the clip's end is set to the clip's end: models round to seconds or halves."""
SHORTEST_SHOWN_SECONDS: Final = 1.0
"""Seconds that the subtitle of an event without length is shown: players do not show a cue without duration."""


class Event(NamedTuple):
    """An event: start and end in seconds, and a description."""

    start: float
    end: float
    text: str

    @property
    def shown_until(self) -> float:
        """When the event's subtitle ends: at the event's end, or a second after its start if it has no length."""
        return self.end if self.end > self.start else self.start + SHORTEST_SHOWN_SECONDS


_STARTS: Final = ("start", "start_time", "start_seconds", "begin", "from")
_ENDS: Final = ("end", "end_time", "end_seconds", "stop", "to")
_SPANS: Final = ("time", "times", "time_range", "timestamp", "timestamps", "range", "interval", "span", "segment")
_TEXTS: Final = ("text", "description", "caption", "event", "action", "sentence", "label", "title", "summary")
"""Names that schemas and models give to the parts of an event. The first one that exists is used."""
_Read = tuple[float, float | None, str]
"""Start, end and text of a parsed event. The end is None if the text gives none."""


# Checks and conversions of events


def checked(events: Iterable[Event], seconds: float | None, times: Times) -> list[Event] | None:
    """Check the events of a clip.

    Args:
        events: parsed events, in seconds from the clip's start.
        seconds: length of the clip; None if it is not known. Then any end is accepted.
        times: whether events may overlap. They must always be in the order of their starts.

    Returns:
        The events, with ends at most `LATE_SECONDS` after the clip's end set to that; None if any event is impossible.
    """
    made: list[Event] = []
    for event in events:
        if event.start < 0 or event.end < event.start:
            return None
        if seconds is not None:
            if event.end > seconds + LATE_SECONDS:
                return None
            event = event._replace(start=min(event.start, seconds), end=min(event.end, seconds))  # noqa: PLW2901
        if made and event.start < (made[-1].start if times == "overlapping" else made[-1].end):
            return None
        made.append(event)
    return made


def moved(events: Iterable[Event], seconds: float) -> tuple[Event, ...]:
    """Events shifted to later times by this many seconds, rounded to milliseconds."""
    return tuple(Event(round(start + seconds, 3), round(end + seconds, 3), text) for start, end, text in events)


def as_rows(events: Iterable[Event]) -> list[dict[str, Any]]:
    """Events as a column holds them: objects with `start`, `end` and `text`."""
    return [event._asdict() for event in events]


def from_rows(value: Any) -> tuple[Event, ...] | None:
    """The events in a column's value; None if the value is not a list of events."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        return None
    try:
        return tuple(Event(float(item["start"]), float(item["end"]), str(item["text"])) for item in value)
    except (LookupError, TypeError, ValueError):
        return None


# Reading


def in_text(text: str, seconds: float | None) -> list[Event] | None:
    """The events in a text: JSON, possibly in a Markdown fence, or lines. None if there are none.

    Args:
        text: the model's answer.
        seconds: length of the clip, at which a last event without an end ends. If it is None (not known), such an event
            has no length.
    """
    fenced = _FENCED.search(text)
    body = (fenced[1] if fenced else text).strip()
    if body[:1] in ("[", "{"):
        try:
            found = _in_json(_list_in(json.loads(body)))
        except (ValueError, RecursionError):
            found = None
        if found is not None:
            return _ended(found, seconds)
    return _ended(_in_lines(body) or _starts_in(body), seconds) or None


def in_value(value: Any, schema: Schema, seconds: float | None) -> list[Event] | None:
    """The events in a JSON value that fits a schema with a list of events; None if an entry is not an event.

    Args:
        value: value of the whole answer.
        schema: schema that the value fits.
        seconds: length of the clip; see `in_text`.
    """
    found = _in_json(value.get(list_of(schema)))
    return None if found is None else _ended(found, seconds)


def _ended(found: Sequence[_Read], seconds: float | None) -> list[Event]:
    """Events with ends. If a parsed event has none, it ends when the next one starts, or else when the clip ends."""
    starts = [start for start, *_ in found]
    nexts = [*starts[1:], max([seconds or 0.0, *starts])]
    return [
        Event(start, after if end is None else end, text)
        for (start, end, text), after in zip(found, nexts, strict=False)
    ]


def list_of(schema: Schema) -> str | None:
    """Name of the schema's property that holds events: its only list of objects with start, end and text; else None."""
    root = schema.asked
    found = []
    for name, item in root.get("properties", {}).items():
        node, seen = plain(root, item, ROOT)
        if isinstance(node, dict) and types_of(node) == ["array"]:
            entry, _ = plain(root, node.get("items"), seen)
            if isinstance(entry, dict) and _parts(entry.get("properties", {})):
                found.append(name)
    return found[0] if len(found) == 1 else None


def _list_in(value: Any) -> Any:
    """The value itself if it is not an object; else the object's only list of events, or its only list; else None."""
    if not isinstance(value, Mapping):
        return value
    lists = [item for item in value.values() if isinstance(item, list)]
    timed = [item for item in lists if item and all(isinstance(each, Mapping) and _parts(each) for each in item)]
    chosen = timed or lists
    return chosen[0] if len(chosen) == 1 else None


def _in_json(items: Any) -> list[_Read] | None:
    if not isinstance(items, list):
        return None
    events = [_of_object(item) for item in items]
    return None if None in events else [event for event in events if event]


def _parts(names: Iterable[str]) -> tuple[tuple[str, ...], str] | None:
    """The names of an event's times (start and end, or one span) and of its text; None if any of them is missing."""
    there = set(names)

    def first(wanted: Sequence[str]) -> str | None:
        return next((name for name in wanted if name in there), None)

    start, end, span, text = first(_STARTS), first(_ENDS), first(_SPANS), first(_TEXTS)
    if text is None:
        return None
    if start and end:
        return (start, end), text
    return ((span,), text) if span else None


def _of_object(item: Any) -> _Read | None:
    parts = _parts(item) if isinstance(item, Mapping) else None
    if not parts:
        return None
    times, text = [item[name] for name in parts[0]], item[parts[1]]
    times = _pair(times[0]) if len(times) == 1 else times
    start, end = (_seconds(times[0]), _seconds(times[-1])) if 1 <= len(times) <= 2 else (None, None)
    if start is None or end is None or not isinstance(text, str) or not _is_text(text):
        return None
    return start, end if len(times) == 2 else None, text.strip()


def _pair(value: Any) -> list[Any]:
    """The two times of a pair, or of a text with a range; else a list of the value itself, which may be one time."""
    if isinstance(value, list):
        return value if len(value) == 2 else []
    if not isinstance(value, str):
        return [value]
    bare = value.strip(" \t[](){}")
    found = _RANGE.fullmatch(bare)
    return [found["start"], found["end"]] if found else [bare]


def _seconds(value: Any) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if abs(value) < MOST_SECONDS else None  # the comparison is False for NaN as well
    found = _ALONE.fullmatch(value.strip()) if isinstance(value, str) else None
    return time_of(found[1]) if found else None


def _is_text(text: str) -> bool:
    """Whether a text is not blank and can be encoded as UTF-8: JSON may hold half of a surrogate pair."""
    return bool(text.strip()) and is_utf8(text)


# Lines

_FENCED: Final = re.compile(r"```\w*[ \t]*\n(.*?)```", re.DOTALL)
_TIME: Final = r"(?:(?:\d{1,4}:)?[0-5]?\d:[0-5]?\d(?:[.,]\d{1,9})?|-?\d{1,9}(?:\.\d{1,9})?)"
_UNIT: Final = r"\s?(?:seconds?|secs?|s)\b"
_RANGE: Final = re.compile(
    rf"(?P<from>from\s+)?<?(?P<start>{_TIME})(?P<unit>{_UNIT})?>?\s*(?P<dash>-->|->|[-→\u2013\u2014~,]|to\b|until\b)\s*"
    rf"<?(?P<end>{_TIME})(?P<units>{_UNIT})?>?",
    re.IGNORECASE,
)
_ALONE: Final = re.compile(rf"<?({_TIME})(?:{_UNIT})?>?", re.IGNORECASE)
_LEAD: Final = re.compile(
    r"\s*(?:[-*•\u2013\u2014]\s+|[*_•#|>]+\s*|-(?=\d+:)|\(?\d+[.)]\s+|(?!from\b|at\b)[a-z]+\s+\d+\s*[:.)\u2013\u2014-]?\s+)*",
    re.IGNORECASE,
)
"""Matches what may precede a range: bullets, Markdown, a number, or a word with a number, such as `Scene 2:`."""
_BREAK: Final = re.compile(r"(\n|(?<=;)[ \t]+|(?<=[^\d\s][,.])[ \t]+)")
"""Matches where another event may begin: at a new line, after a semicolon, or after a comma or full stop that follows a
word."""
_BETWEEN: Final = " \t])}>*_|:,.;\u2013\u2014-"
"""Characters that may stand between a range and its text."""
_AROUND: Final = " \t\n;,|*_"
"""Characters that are stripped from both ends of a text."""


def _in_lines(text: str) -> list[_Read]:
    """The events in lines of text; an empty list if any of them has no words.

    Text before the first event, or after a blank line that ends an event, belongs to no event.
    """
    events: list[tuple[float, float, list[str]]] = []
    parts, open_event = _BREAK.split(text), False
    for number in range(0, len(parts), 2):
        piece = parts[number]
        behind = "\n" if number == 0 or parts[number - 1] == "\n" else parts[number - 2][-1:]
        found = _begun(piece, behind)
        if found:
            events.append(found)
            open_event = True
        elif piece.strip() and open_event:
            events[-1][2].extend(("\n" if behind == "\n" else " ", piece.strip()))
        elif behind == "\n" and open_event and not piece.strip():
            open_event = not _is_text("".join(events[-1][2]))
    made: list[_Read] = [(start, end, "".join(words).strip(_AROUND)) for start, end, words in events]
    return made if all(_is_text(words) for *_, words in made) else []


def _begun(piece: str, behind: str) -> tuple[float, float, list[str]] | None:
    """The event with which a piece of text begins, with the first of its words; None if it begins with none.

    A range of plain numbers counts only if a unit, a bracket or the like marks it as times. After a comma or a full
    stop it must also be followed by a colon.

    Args:
        piece: the text.
        behind: the character before the piece: a line break, or a punctuation mark within the line.
    """
    lead = _LEAD.match(piece)
    at = lead.end() if lead else 0
    opened = piece[at : at + 1] in ("[", "(", "{")
    found = _RANGE.match(piece, at + opened)
    if not found:
        return None
    rest = piece[found.end() :]
    closed = opened and rest.lstrip()[:1] in ("]", ")", "}")
    if found["dash"] == "," and not closed:
        return None
    rest = rest.lstrip()[1:] if closed else rest
    words = rest.lstrip(_BETWEEN)
    mark = rest[: len(rest) - len(words)]
    clocks = ":" in found["start"] or found["dash"] in ("-->", "->", "→")
    decimals = "." in found["start"] and "." in found["end"]
    timed = closed or clocks or decimals or found["unit"] or found["units"] or (found["from"] and "," in mark)
    if words and not (mark or closed):  # for example "2-4x"
        return None
    if not (timed or ":" in mark or "|" in mark):
        return None
    if behind in (",", ".") and not (timed and ":" in mark):
        return None
    start, end = time_of(found["start"]), time_of(found["end"])
    return None if start is None or end is None else (start, end, [words.strip()])


# Events that have only a start

_START: Final = rf"(?P<time>{_TIME})(?P<unit>{_UNIT})?"
_BEFORE: Final = re.compile(
    rf"(?P<at>at\s+)?(?P<opened>[\[(<]\s*)?{_START}(?P<mark>[{re.escape(_BETWEEN)}]*)(?P<text>.*)", re.IGNORECASE
)
_BEHIND: Final = re.compile(rf"[(\[](?:at\s+)?{_START}[)\]]$", re.IGNORECASE)
_PIECES: Final = re.compile(r"\n|(?<=;)[ \t]+|(?<=\.)[ \t]+(?=at\s+\d)", re.IGNORECASE)
_END: Final = re.compile(
    r"(?:(?:the|this)\s+)?(?:(?:video|clip|film|scene)\s+)?ends?|(?:the\s+)?end\s+of\s+(?:the\s+)?(?:video|clip|film|scene)",
    re.IGNORECASE,
)
"""Matches the words of a last entry that is not an event, but gives the end of the event before."""


def _starts_in(text: str) -> list[_Read]:
    """The events of a text that gives only their starts; an empty list if it has other text, or an event has no words.

    A heading, or words that end with a colon, may precede the first event; anything may follow after a blank line.
    """
    events: list[tuple[float, list[str]]] = []
    open_event = False
    for piece in _PIECES.split(text):
        found = _start_of(piece)
        if found:
            events.append(found)
            open_event = True
        elif not piece.strip():
            open_event = open_event and not _is_text("".join(events[-1][1]))
        elif open_event:
            events[-1][1].append(piece.strip())
        elif not events and not (piece.strip(" \t*_")[-1:] in (":", "|") or piece.startswith("#")):
            return []
    made: list[_Read] = [(start, None, "\n".join(filter(None, words)).strip(_AROUND)) for start, words in events]
    if made and _END.fullmatch(made[-1][2].rstrip(".")):
        end, *_ = made.pop()
        made[-1:] = [(start, end, words) for start, _, words in made[-1:]]
    return made if all(_is_text(words) for *_, words in made) else []


def _start_of(piece: str) -> tuple[float, list[str]] | None:
    """The start that a piece of text gives before or after its words, and the words; None if it gives none.

    It must be a clock time, or seconds with a unit: a number alone may count something.
    """
    lead = _LEAD.match(piece)
    bare = piece[lead.end() if lead else 0 :].strip(_AROUND)
    found = _BEHIND.search(bare.rstrip("."))
    words = bare[: found.start()] if found else ""
    if not found:
        found = _BEFORE.match(bare)
        if not found:
            return None
        mark, words = found["mark"], found["text"]
        if words[:1].isdigit() and mark:  # for example "2 s - 1 h": meant as a range, but not a valid one
            return None
        closed = found["opened"] and mark[:1] in ("]", ")", ">")
        if words and not (found["at"] or closed or mark.strip() or (mark and ":" in found["time"])):
            return None  # for example "5 seconds later"
    start = time_of(found["time"])
    is_time = found["unit"] or re.search(r":\d\d", found["time"])  # "4:3" is an aspect ratio
    return (start, [words.strip()]) if start is not None and is_time else None
