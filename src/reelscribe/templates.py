"""Prompt templates with names in braces: a row's columns, answers of other tasks, and facts of the clip.

Only bare names are replaced, so JSON in a prompt stays unchanged. Inserted text is not searched for names again.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

_PLACE: Final = re.compile(r"\{\{|\{([^\W\d]\w*)\}")


def is_utf8(text: str) -> bool:
    """Whether a text can be encoded: it holds no half of a surrogate pair."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


@dataclass(frozen=True)
class Name:
    """A placeholder in a template."""

    name: str

    def __str__(self) -> str:
        return f"{{{self.name}}}"


Part = str | Name


def parts_of(template: str) -> tuple[Part, ...]:
    """Parse a template into texts and names. `{{` stands for a brace."""
    parts: list[Part] = []
    end = 0
    for found in _PLACE.finditer(template):
        parts.append(template[end : found.start()] + ("" if found[1] else "{"))
        if found[1]:
            parts.append(Name(found[1]))
        end = found.end()
    parts.append(template[end:])
    return joined(parts)


def names_in(parts: Iterable[Part]) -> tuple[str, ...]:
    """The names, each once, in order."""
    return tuple(dict.fromkeys(part.name for part in parts if isinstance(part, Name)))


def filled(parts: Iterable[Part], find: Callable[[str], str | None]) -> tuple[Part, ...]:
    """The parts with names replaced by the results of `find`. A name for which it returns None stays."""
    found = (find(part.name) if isinstance(part, Name) else part for part in parts)
    return joined([part if text is None else text for part, text in zip(parts, found, strict=True)])


def joined(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts without empty texts, and with adjacent texts joined."""
    made: list[Part] = []
    for part in parts:
        if isinstance(part, str) and made and isinstance(made[-1], str):
            made[-1] += part
        elif part != "":
            made.append(part)
    return tuple(made)
