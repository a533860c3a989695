"""Finding the times of a clip that a text names."""

import re
from collections.abc import Iterator
from typing import Final

_TIME: Final = re.compile(
    r"(?:[\[(]\s*|\b(?:at|after|from|to|until|till|by|around|between|and)\s+(?:about\s+|around\s+)?(?:the\s+)?)"
    r"(?:(?:(?P<hours>\d{1,2}):)?(?P<minutes>\d{1,3}):(?P<rest>[0-5]\d(?:\.\d+)?)"
    r"|(?P<seconds>\d+(?:\.\d+)?)[ -]?(?:s|secs?|seconds?))\b"
    r"(?!:|\s*[ap]\.?m\b)|\u7b2c\s*(?P<number>\d+)\s*\u79d2",
    re.IGNORECASE,
)
"""A time of the clip, as opposed to one on a clock that is seen in it: in brackets, or after a word such as "at"."""
_LATE_SECONDS: Final = 1.0
"""How far past the end a time may be, since models round."""


def is_past_end(text: str, seconds: float) -> bool:
    """Whether a text names a time of the clip that is more than a second past its end.

    Args:
        text: the text.
        seconds: the length of the clip.
    """
    return any(time > seconds + _LATE_SECONDS for time in _times_in(text))


def _times_in(text: str) -> Iterator[float]:
    for found in _TIME.finditer(text):
        if found["minutes"]:
            yield 3600 * int(found["hours"] or 0) + 60 * int(found["minutes"]) + float(found["rest"])
        else:
            yield float(found["seconds"] or found["number"])
