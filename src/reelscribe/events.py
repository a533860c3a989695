"""Events with times, as models write them: in lines of text or in JSON. Pure, without a clip or a model.

Models write times in many ways, so reading is generous: seconds or clocks, brackets, bullets, Markdown, cues of
subtitles. But what is read has to be a time: "3-4 people: they wave" is no event. Events of which only the start is
said, as "At 2.0 s he stops" or "stops (2.0 s)", last until the next one starts, and the last one until the clip ends.
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
"""Whether an answer is read as events. True: each begins once the one before has ended. "overlapping": it may begin
before that."""

LATE_SECONDS: Final = 0.5
"""An end that is at most this far past the clip's is taken for the clip's: models round to seconds and halves."""
SHORTEST_SHOWN_SECONDS: Final = 1.0
"""How long an event is shown that ends when it begins: players show nothing for no time."""


class Event(NamedTuple):
    """What happens from when to when, in seconds."""

    start: float
    end: float
    text: str

    @property
    def shown_until(self) -> float:
        """When a subtitle of it goes: at its end, or a second after its start if it has no length."""
        return self.end if self.end > self.start else self.start + SHORTEST_SHOWN_SECONDS


_STARTS: Final = ("start", "start_time", "start_seconds", "begin", "from")
_ENDS: Final = ("end", "end_time", "end_seconds", "stop", "to")
_SPANS: Final = ("time", "times", "time_range", "timestamp", "timestamps", "range", "interval", "span", "segment")
_TEXTS: Final = ("text", "description", "caption", "event", "action", "sentence", "label", "title", "summary")
"""Names that schemas and models give to the parts of an event. The first that is there counts."""
_Read = tuple[float, float | None, str]
"""Start, end and text, as they were read. None: no end was said."""


# What is an event, and what is wrong with several


def checked(events: Iterable[Event], seconds: float | None, times: Times) -> list[Event] | None:
    """Events of a clip, on its own clock; None if they cannot be right.

    Args:
        events: as they were read.
        seconds: length of the clip; None if it is not known, and then any end will do.
        times: whether they may overlap. They have to be in the order of their starts in any case.

    Returns:
        The same, with an end that is at most `LATE_SECONDS` past the clip's set to that.
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
    """Events on a clock that began this many seconds earlier, rounded to milliseconds."""
    return tuple(Event(round(start + seconds, 3), round(end + seconds, 3), text) for start, end, text in events)


def as_rows(events: Iterable[Event]) -> list[dict[str, Any]]:
    """Events as a column holds them: tables of start, end and text."""
    return [event._asdict() for event in events]


def from_rows(value: Any) -> tuple[Event, ...] | None:
    """The events that a column holds; None if it holds something else."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        return None
    try:
        return tuple(Event(float(item["start"]), float(item["end"]), str(item["text"])) for item in value)
    except (LookupError, TypeError, ValueError):
        return None


# Reading


def in_text(text: str, seconds: float | None) -> list[Event] | None:
    """The events in a text: JSON, also in a Markdown fence, or lines. None if there are none.

    Args:
        text: what the model said.
        seconds: length of the clip, where the last event ends if no end is said; None if it is not known, and then
            such an event has no length.
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
    """The events in a value that fits a schema which has a list of them; None if an entry is none.

    Args:
        value: of the whole answer.
        schema: that it fits.
        seconds: length of the clip; see `in_text`.
    """
    found = _in_json(value.get(list_of(schema)))
    return None if found is None else _ended(found, seconds)


def _ended(found: Sequence[_Read], seconds: float | None) -> list[Event]:
    """Events with an end each: what was said, or when the next one starts, or when the clip ends."""
    starts = [start for start, *_ in found]
    nexts = [*starts[1:], max([seconds or 0.0, *starts])]
    return [
        Event(start, after if end is None else end, text)
        for (start, end, text), after in zip(found, nexts, strict=False)
    ]


def list_of(schema: Schema) -> str | None:
    """The property of a schema that holds events: its only list of objects with start, end and text, by their names."""
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
    """The list that JSON is, or the only list of objects that it holds by a name."""
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
    """The names of an event's times, one or two, and of its text; None if they are not there."""
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
    """The two times of a pair, or of a text with a range; else what may be one time."""
    if isinstance(value, list):
        return value if len(value) == 2 else []
    if not isinstance(value, str):
        return [value]
    bare = value.strip(" \t[](){}")
    found = _RANGE.fullmatch(bare)
    return [found["start"], found["end"]] if found else [bare]


def _seconds(value: Any) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if abs(value) < MOST_SECONDS else None  # which no NaN is, either
    found = _ALONE.fullmatch(value.strip()) if isinstance(value, str) else None
    return time_of(found[1]) if found else None


def _is_text(text: str) -> bool:
    """Whether it has something to say that can be encoded: JSON may hold half of a surrogate pair."""
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
"""What may stand before a range: bullets, Markdown, a number, or a word with a number, as `Scene 2:`."""
_BREAK: Final = re.compile(r"(\n|(?<=;)[ \t]+|(?<=[^\d\s][,.])[ \t]+)")
"""Where another event may begin: at a line, or within one after a semicolon, or a comma or full stop behind a word."""
_BETWEEN: Final = " \t])}>*_|:,.;\u2013\u2014-"
"""What may stand between a range and its text."""
_AROUND: Final = " \t\n;,|*_"
"""What is left out around a text."""


def _in_lines(text: str) -> list[_Read]:
    """The events in lines; none if one of them has no words.

    What stands before the first, or after a blank line that ends one, is no part of any.
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
    """The event that begins a piece of text, with the beginning of its words; None if none does.

    Numbers with nothing that makes times of them are none. After a comma or a full stop a colon has to follow, too.

    Args:
        piece: the text.
        behind: what it stands behind: a line break, or a mark within the line.
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
    if words and not (mark or closed):  # as in 2-4x
        return None
    if not (timed or ":" in mark or "|" in mark):
        return None
    if behind in (",", ".") and not (timed and ":" in mark):
        return None
    start, end = time_of(found["start"]), time_of(found["end"])
    return None if start is None or end is None else (start, end, [words.strip()])


# Starts alone

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
"""A last event with these words is no event, but the end of the one before."""


def _starts_in(text: str) -> list[_Read]:
    """The events of a text that says of each when it starts; none if there is more in it, or one has no words.

    Before the first there may be a heading, or words that end with a colon; behind a blank line anything.
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
    """The start that a piece of text says before or behind its words, with these; None if it says none.

    It has to be a clock, or seconds with their unit: a number alone says how many.
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
        if words[:1].isdigit() and mark:  # as in 2 s - 1 h: it was meant for a range, and is none
            return None
        closed = found["opened"] and mark[:1] in ("]", ")", ">")
        if words and not (found["at"] or closed or mark.strip() or (mark and ":" in found["time"])):
            return None  # as in "5 seconds later"
    start = time_of(found["time"])
    is_time = found["unit"] or re.search(r":\d\d", found["time"])  # not as in 4:3
    return (start, [words.strip()]) if start is not None and is_time else None
