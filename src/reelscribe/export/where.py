"""Conditions on captions, such as `seconds<=61`, and the values that conditions and columns of tables name."""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from reelscribe.dataset.records import whole_row
from reelscribe.errors import ClipError, SettingsError
from reelscribe.report.edited import is_edited, verdict_of
from reelscribe.report.entries import Entry
from reelscribe.values import CAPTION_META, Row
from reelscribe.video.headers import Header, of_clip, read_header
from reelscribe.video.recent import Recent
from reelscribe.words import words_of

_CONDITION: Final = re.compile(r"\s*([^\s<>=!]+)\s*(<=|>=|!=|==?|<|>|(?<=\s)(?:has|lacks)(?=\s))\s*(.*?)\s*", re.DOTALL)
"""NAME, comparison, value. Spaces around `has` and `lacks` are required, as names may contain these words."""
_COMPARED: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "!=": operator.ne,
}


_headers: Recent[Header] = Recent(lambda header: 1)
"""Cache of headers, by file: a film has many clips."""


@dataclass(frozen=True, kw_only=True)
class Named:
    """A caption with its values by name."""

    entry: Entry
    text: str
    """The kept text."""
    count_tokens: Callable[[str], int] | None = None

    def value(self, name: str) -> Any:
        """The value of a name: a computed one, that of a key of `caption_meta`, or a column of the row; else None."""
        if name in VALUES:
            return VALUES[name][1](self)
        return self.entry.meta.get(name) if name in CAPTION_META else self.row.get(name)

    def knows(self, name: str) -> bool:
        """Whether a name has a value here."""
        return name in VALUES or name in CAPTION_META or name in self.row

    @cached_property
    def row(self) -> Row:
        """All columns of its row; empty if captions are in the text of rows."""
        item = self.entry.source
        return {} if item is None else whole_row(item)

    @cached_property
    def header(self) -> Header | None:
        """Header of the clip's file; None if it cannot be read."""
        return header_of(self.entry)

    @property
    def seconds(self) -> float | None:
        """Length of the clip in seconds; None if not known."""
        start, end = (self.entry.meta.get(name) for name in ("clip_start", "clip_end"))
        if isinstance(start, int | float) and isinstance(end, int | float):
            return round(float(end - start), 6)
        return self.header.duration_seconds if self.header else None


def header_of(entry: Entry) -> Header | None:
    """Header of the file of an entry's clip; None if it cannot be read."""
    clip = entry.video.clip
    if clip is None:
        return None
    try:
        return of_clip(_headers.of(clip, lambda: read_header(clip.whole)), clip)
    except ClipError:
        return None


def _of_header(get: Callable[[Header], Any]) -> Callable[[Named], Any]:
    return lambda named: get(named.header) if named.header else None


VALUES: Final[Mapping[str, tuple[str, Callable[[Named], Any]]]] = {
    "words": ("words of the caption", lambda named: len(words_of(named.text))),
    "chars": ("its letters", lambda named: len(named.text)),
    "tokens": (
        "its tokens, with `--tokenizer`",
        lambda named: named.count_tokens(named.text) if named.count_tokens else None,
    ),
    "task": ("the task that it answers", lambda named: named.entry.task),
    "seconds": ("length of the clip", lambda named: named.seconds),
    "frames": ("number of its frames, as the header of the file has it", _of_header(lambda header: header.frames)),
    "width": ("its width in square pixels", _of_header(lambda header: header.width)),
    "height": ("its height", _of_header(lambda header: header.height)),
    "source": ("path, URL or name of the video, as the row has it", lambda named: named.entry.video.name),
    "approved": (
        "whether a person approved it (`true` or `false`)",
        lambda named: verdict_of(named.entry) == "approved",
    ),
    "rejected": ("whether a person rejected it", lambda named: verdict_of(named.entry) == "rejected"),
    "edited": ("whether a person changed its text", lambda named: is_edited(named.entry)),
    "row_number": ("place of its row in the data set, from 0", lambda named: named.entry.row),
}
"""Computed values by name, each with its meaning."""
_ALONE: Final = frozenset({"approved", "rejected", "edited"})
"""Names that are conditions by themselves, without a comparison."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A condition on the value of a name."""

    written: str
    """The condition as the user wrote it."""
    name: str
    compared: str
    """The comparison: =, !=, <, <=, >, >=, has or lacks."""
    other: str
    """What the value is compared with."""

    @classmethod
    def parse(cls, written: str) -> "Condition":
        """Parse a condition.

        Raises:
            SettingsError: it is not written like a condition, or compares sizes with what is no number.
        """
        if written.strip() in _ALONE:
            return cls(written=written, name=written.strip(), compared="=", other="true")
        found = _CONDITION.fullmatch(written)
        if not found:
            raise SettingsError(
                f"--where takes NAME, a comparison (=, !=, <, <=, >, >=, has, lacks) and a value, as 'seconds<=61' or "
                f"'flags lacks truncated', or one of {', '.join(sorted(_ALONE))}; got {written!r}."
            )
        name, compared, other = found.groups()
        compared = "=" if compared == "==" else compared
        if compared[0] in "<>" and _number(other) is None:
            raise SettingsError(f"--where {written!r} compares with {other!r}, which is no number.")
        return cls(written=written, name=name, compared=compared, other=other)

    def holds(self, value: Any) -> bool:
        """Whether the condition holds for a value. For a missing value, only `!=` and `lacks` hold."""
        if self.compared in ("has", "lacks"):
            return (self.other in _parts(value)) == (self.compared == "has")
        if value is None:
            return self.compared == "!="
        mine, other = _number(value), _number(self.other)
        if mine is not None and other is not None:
            return _COMPARED[self.compared](mine, other)
        return self.compared in ("=", "!=") and _COMPARED[self.compared](_plain(value), self.other)


def _number(value: Any) -> float | None:
    """The value as a number; None if it is none. Booleans are no numbers."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parts(value: Any) -> list[str]:
    """The members of a list, or the words of a text."""
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return [] if value is None else _plain(value).split()
