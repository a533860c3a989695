"""Cutting a text into claims by rule: into sentences, lines, and parts between semicolons. Pure functions.

A rule can be checked by reading it, costs nothing, and adds nothing that the text does not say. A sentence with several
facts stays one claim. To separate these, let a model list them in a task of its own, and verify that list: its lines
become claims here.
"""

import re
from collections.abc import Iterable
from typing import Final

_BULLET: Final = re.compile(r"\s*(?:[-*\u2022\u2013\u2014]|\(?\d{1,3}[.)])\s+")
"""The bullet or the number before an item of a list."""
_CLOSERS: Final = "[\"'\u2019\u201d)\\]\u300d\u300f\uff09*]*"
"""Quotation marks, brackets and Markdown's stars that may follow the end of a sentence."""
_END: Final = re.compile(
    rf"[.!?\u2026\u0964]+{_CLOSERS}(?=\s+(\S))"  # a full stop inside 2.5 or a.m is followed by no space
    rf"|[\u3002\uff01\uff1f]+{_CLOSERS}(?=\s*(\S))"  # Chinese and Japanese sentences are followed by no space
    r"|[;\uff1b](?=\s*(\S))"
)
"""The end of a claim. The group is the character with which the next one begins."""
_ABBREVIATION: Final = re.compile(r"\b(?:(?-i:[A-Z])|(?:mr|mrs|ms|dr|prof|st|vs|no|approx|ca|etc|e\.g|i\.e))\.$", re.I)
"""Words whose full stop does not end a sentence: initials, titles, and words before a number."""
_LONGEST_ABBREVIATION: Final = 8
"""The length of the longest abbreviation and one character before it."""
_MARKS: Final = " \t;\uff1b"


def claims_in(text: str) -> tuple[str, ...]:
    """The claims of a text in order, without repetitions; none if the text has no word.

    A line that ends with a colon only announces others. It counts as a claim only if there is nothing else.
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
