"""What a text claims, cut by rule: its sentences, lines, and parts between semicolons. Pure.

A rule can be checked by reading it, costs nothing, and adds nothing that the text does not say. It leaves a sentence
with several facts as one claim. Who wants those apart lets a model list them, as a task of its own, and verifies that
list: its lines are cut here, too.
"""

import re
from collections.abc import Iterable
from typing import Final

_BULLET: Final = re.compile(r"\s*(?:[-*\u2022\u2013\u2014]|\(?\d{1,3}[.)])\s+")
"""What stands before an item of a list."""
_CLOSERS: Final = "[\"'\u2019\u201d)\\]\u300d\u300f\uff09*]*"
"""Quotation marks and brackets that may stand behind the end of a sentence, and Markdown's stars."""
_END: Final = re.compile(
    rf"[.!?\u2026\u0964]+{_CLOSERS}(?=\s+(\S))"  # a full stop within 2.5 or a.m has no blank behind it
    rf"|[\u3002\uff01\uff1f]+{_CLOSERS}(?=\s*(\S))"  # Chinese and Japanese have none
    r"|[;\uff1b](?=\s*(\S))"
)
_ABBREVIATION: Final = re.compile(r"\b(?:(?-i:[A-Z])|(?:mr|mrs|ms|dr|prof|st|vs|no|approx|ca|etc|e\.g|i\.e))\.$", re.I)
"""What ends with a full stop and ends no sentence: initials, titles, and words before a number."""
_LONGEST_ABBREVIATION: Final = 8
"""Letters, with one before it."""
_MARKS: Final = " \t;\uff1b"


def claims_in(text: str) -> tuple[str, ...]:
    """The claims of a text, each once, in their order; none if it has no word.

    A line that ends with a colon announces others and claims nothing, unless it is all there is.
    """
    lines = [_BULLET.sub("", line, count=1).strip() for line in text.splitlines()]
    found = _with_words(claim for line in lines if not line.endswith((":", "\uff1a")) for claim in _sentences(line))
    return found or _with_words(lines)


def _sentences(line: str) -> Iterable[str]:
    begin = 0
    for found in _END.finditer(line):
        after = next(filter(None, found.groups()))
        word = line[max(begin, found.end() - _LONGEST_ABBREVIATION) : found.end()]
        if found[0] not in _MARKS and (after.islower() or _ABBREVIATION.search(word)):
            continue
        yield line[begin : found.end()].strip(_MARKS)
        begin = found.end()
    yield line[begin:].strip(_MARKS)


def _with_words(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in texts if any(letter.isalnum() for letter in text)))
