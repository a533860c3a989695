"""Text on its way to a terminal: names that data sets hold must not move its cursor, set its title or turn its text."""

import logging
import re
from types import TracebackType
from typing import Final

_UNSAFE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, but for tabs and line breaks
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # these turn the direction of what follows
    "\u2028\u2029"  # line breaks by other names
    "\ud800-\udfff]"  # halves of pairs, which stand for bytes of names that are no UTF-8, and cannot be encoded
)


def printable(text: str, *, one_line: bool = True) -> str:
    """Text in which control characters are escaped as Python does it; line breaks as well, if it is to be one line."""
    safe = _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)
    return safe.replace("\n", "\\n") if one_line else safe


class PlainFormatter(logging.Formatter):
    """Formats records of `logging` so that a terminal shows what is in them, and does nothing else."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - as logging calls it
        """The line; messages of other libraries may have several."""
        return printable(super().formatMessage(record), one_line=record.name.startswith("reelscribe"))

    def formatException(  # noqa: N802 - as logging calls it
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        """The traceback."""
        return printable(super().formatException(ei), one_line=False)


def some(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def shortened(text: str, most: int) -> str:
    """A text, cut to at most this many characters."""
    return text if len(text) <= most else text[:most] + "..."
