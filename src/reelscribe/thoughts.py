"""Separating what a model thinks from its answer. Pure functions.

Engines return a candidate's text with its thought, between `<think>` and `</think>`. If the prompt ends with the
opening mark, they add it to the text. Here the thought and the answer are separated, for all engines.
"""

from dataclasses import replace
from typing import Final

from reelscribe.values import Candidate

OPENING: Final = "<think>"
CLOSING: Final = "</think>"


def set_apart(candidate: Candidate) -> Candidate:
    """Move the thought of a candidate from its text to its `thought`.

    Everything before the last `</think>` is thought, even without `<think>`: a server whose template opens the thought
    does not send the opening mark. If the text that remains begins with `<think>`, the thought has no end, and the
    candidate has no caption. A `<think>` within a text counts as part of the caption.
    """
    before, closing, after = candidate.text.rpartition(CLOSING)
    unclosed = after.lstrip().startswith(OPENING)
    if unclosed:
        before, after = candidate.text, ""
    elif not closing:
        return candidate
    return replace(
        candidate,
        text=after.strip(),
        thought=before.strip().removeprefix(OPENING).strip(),
        unclosed=unclosed,
    )
