"""Finds faults of a generated text from the text alone. Pure functions, in time linear in the length of the text.

Texts are compared letter by letter, without case and white space, so that languages written without spaces are treated
like all others. Lengths are in letters. A letter of Han, kana or Hangul carries about as much as three of an alphabet,
and counts as three.

Thresholds are set for few false alarms, since a fault costs a second generation or a good candidate. Holtzman et al.
(2020), "The Curious Case of Neural Text Degeneration", call a text a loop if a phrase comes three times in a row at its
end. But songs, slogans and lists do that as well. So here a loop is a phrase that comes four times in a row, anywhere,
if the phrase has some words and its repetitions make up most of the text, or if the repetitions are much longer than
what is repeated on purpose. Phrases that differ only in a number or a colour are not repetitions: such lists may be
right, and an endless one is found by being cut off.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, Literal

from reelscribe.checks import CHECK_FAULTS, CheckFault
from reelscribe.events import Event, checked, in_text, in_value, moved
from reelscribe.schemas import Facts
from reelscribe.values import Answer, Candidate, Request

Fault = (
    Literal["cut_off", "loop", "echo", "empty", "unclosed", "not_json", "schema", "times", "false_claim"] | CheckFault
)
"""A fault of a candidate's text.

cut_off: the text ends at the token limit.
loop: it repeats a phrase over and over.
echo: it repeats the prompt or the system prompt.
empty: it has no words, at most punctuation.
unclosed: the model was still thinking when it ended, so there is no text.
not_json: the request has a schema, and the text is not JSON.
schema: the text is JSON, but does not fit the schema.
times: the request has times, and the text has no events or impossible ones: after the clip's end, backwards, out of
order, or overlapping although that is not allowed.
false_claim: the text was verified, and the model judged one of its claims false.
All others are faults of checks that a user sets.
"""
WITHOUT_TEXT: Final[frozenset[Fault]] = frozenset({"empty", "unclosed"})
"""Faults of candidates without text, which are never kept."""

_LONGEST_PHRASE: Final = 300
"""Maximum letters of a repeated phrase: about fifty words. It limits the search time per letter."""
_IN_A_ROW: Final = 4
_LOOP = re.compile(rf"(.{{1,{_LONGEST_PHRASE}}}?)\1{{{_IN_A_ROW - 1},}}", re.DOTALL)
_PHRASE_LETTERS: Final = 12
"""Minimum letters of a phrase for `_SHARE` to apply. A shorter one ("left, right", "ha") may be repeated on purpose."""
_SHARE: Final = 0.5
"""Minimum share of the text that a phrase and its repetitions make up in a loop."""
_RUN_LETTERS: Final = 120
"""A phrase of any length is a loop if its repetitions have this many letters, some 25 words, whatever the rest is."""
_PART: Final = 8
_REPEATED_PARTS: Final = 20
"""A loop of these sizes has at least this many 8-character parts that occurred before. Few good texts have, so most
of them need no search."""
_ECHO_LETTERS: Final = 20
"""Minimum letters of a prompt for an echo. A shorter one ("dog", "The video shows") may be part of a good answer."""
_DENSE = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")


def find_faults(candidate: Candidate, request: Request) -> tuple[Fault, ...]:
    """The faults of a candidate that its text shows; usually none. Checks, times and claims are not included."""
    if candidate.unclosed:
        return ("unclosed",)
    if not has_words(candidate.text):
        return ("empty",)
    faults: list[Fault] = []
    if candidate.stop_reason == "length":
        faults.append("cut_off")
    if request.schema and candidate.value is None:
        _, fault = request.schema.read(candidate.text)
        faults += [fault] if fault else []
    letters = _letters(candidate.text)
    if _loops(letters):
        faults.append("loop")
    if any(_echoes(letters, _letters(asked)) for asked in (request.prompt, request.system_prompt) if asked):
        faults.append("echo")
    return tuple(faults)


def with_value(candidate: Candidate, request: Request, facts: Facts) -> Candidate:
    """Parse a candidate's text into its `value`, if the request has a schema and the text fits it.

    Fields that the file can fill get the file's facts.
    """
    if not request.schema:
        return candidate
    value, _ = request.schema.read(candidate.text)
    return replace(candidate, value=request.schema.filled(value, facts))


def events_of(candidate: Candidate, request: Request, meta: Mapping[str, Any]) -> tuple[Event, ...] | None:
    """The events in a candidate, on the file's clock; None if there are none, or if any is impossible.

    Args:
        candidate: a candidate with its value.
        request: its request, which has times.
        meta: metadata of the answer. It has the clip's start and end, which the request may not know.
    """
    start, end = _bounds(request, meta)
    seconds = None if end is None else end - start
    text, schema = candidate.text, request.schema
    found = in_value(candidate.value, schema, seconds) if schema else in_text(text, seconds)
    events = None if found is None else checked(found, seconds, request.times)
    return None if events is None else moved(events, start)


def _bounds(request: Request, meta: Mapping[str, Any]) -> tuple[float, float | None]:
    """Start and end of the clip in its file, in seconds: from the decoder if it found them, else from the request."""
    start, end = meta.get("clip_start"), meta.get("clip_end")
    return (request.clip.start_seconds, request.clip.end_seconds) if start is None else (start, end)


def checked_faults(candidate: Candidate, request: Request, meta: Mapping[str, Any]) -> list[Fault]:
    """The checks of the request that a candidate with words fails, and "false_claim" if a verified claim failed.

    In JSON each text is checked by itself, and lengths are not checked.

    Args:
        candidate: a candidate with its value.
        request: its request, which has the checks.
        meta: metadata of the answer; see `events_of`.
    """
    start, end = _bounds(request, meta)
    texts = [candidate.text] if candidate.value is None else list(texts_in(candidate.value))
    found = [fault for text in texts for fault in request.checks.find(text, None if end is None else end - start)]
    faults: list[Fault] = [fault for fault in dict.fromkeys(found) if fault != "length" or candidate.value is None]
    return [*faults, "false_claim"] if request.verify and candidate.failed_claims else faults


def texts_in(value: Any) -> Iterator[str]:
    """All texts in a JSON value, in order, without the names of fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from texts_in(item)


_TOLD: Final[Mapping[str, str]] = {
    "cut_off": "It was cut off, since it was too long.",
    "loop": "It repeated itself.",
    "echo": "It repeated the question.",
    "not_json": "It was no JSON.",
    "schema": "It did not fit the schema.",
    "times": "Its times were not in order, or past the end of the video.",
}


def told_of(request: Request, answer: Answer) -> str:
    """Text to append to the prompt of a second try: the faults of the first answer that the model can avoid."""
    told: dict[str, str] = {}
    failed: dict[str, None] = {}
    for candidate, faults in zip(answer.candidates, answer.meta["faults"], strict=True):
        for fault in faults.split():
            known = fault in CHECK_FAULTS
            told[fault] = request.checks.told(fault, candidate.text) if known else _TOLD.get(fault, "")
            if fault == "false_claim":
                failed |= dict.fromkeys(candidate.failed_claims)
    if failed:
        told["false_claim"] = f"It said what is not true of the video: {' '.join(failed)}"
    sentences = " ".join(filter(None, told.values()))
    return f"\n\nAn earlier answer was not as it should be. {sentences}" if sentences else ""


def has_words(text: str) -> bool:
    """Whether there is anything but white space and punctuation."""
    return any(unicodedata.category(character)[0] not in "PZC" for character in text)


def _letters(text: str) -> str:
    return "".join(text.casefold().split())


def _count(letters: str) -> int:
    return len(letters) + 2 * len(_DENSE.findall(letters))


def _loops(letters: str) -> bool:
    parts = len(letters) - _PART + 1
    # Dense scripts need fewer characters for a loop: three repetitions of a phrase of four.
    least = _PART // 2 if _DENSE.search(letters) else _REPEATED_PARTS
    if parts - len({letters[at : at + _PART] for at in range(parts)}) < least:
        return False
    total = _count(letters)
    for found in _LOOP.finditer(letters):
        run = _count(found[0])
        if run >= _RUN_LETTERS or (run >= _SHARE * total and _count(found[1]) >= _PHRASE_LETTERS):
            return True
    return False


def _echoes(letters: str, asked: str) -> bool:
    """Whether a text contains the whole prompt, or is the beginning of it."""
    if min(_count(letters), _count(asked)) < _ECHO_LETTERS:
        return False
    return asked in letters or (asked.startswith(letters) and 2 * len(letters) >= len(asked))
