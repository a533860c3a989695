"""What a model thinks before it answers, and where its answer begins. Pure.

Engines give the text of a candidate with the thought in it, between `<think>` and `</think>`, and write the opening
mark themselves if the prompt ends with it. Here the two are set apart, for all engines.
"""

from dataclasses import replace
from typing import Final

from reelscribe.values import Candidate

OPENING: Final = "<think>"
CLOSING: Final = "</think>"


def set_apart(candidate: Candidate) -> Candidate:
    """Take the thought out of a candidate's text.

    All that stands before the last `</think>` is thought, whether or not it was opened: a server whose template opens
    the block does not send the opening. A text, or what is left of it, that begins with `<think>` has no end of its
    thought, and so no caption. The mark within a text is taken for a part of the caption.
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
