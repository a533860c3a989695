"""Prompts with names in braces: for a row's columns, for what other tasks said, and for facts of the clip.

Only bare names count, so that JSON in a prompt stays as it is. What is put in is text: nothing in it is filled again.
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
    """A place in a template."""

    name: str

    def __str__(self) -> str:
        return f"{{{self.name}}}"


Part = str | Name


def parts_of(template: str) -> tuple[Part, ...]:
    """A template as text and names; `{{` is a brace."""
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
    """The same with what `find` says in the place of names; those of which it says None stay."""
    found = (find(part.name) if isinstance(part, Name) else part for part in parts)
    return joined([part if text is None else text for part, text in zip(parts, found, strict=True)])


def joined(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The same without empty texts, and with one where several follow each other."""
    made: list[Part] = []
    for part in parts:
        if isinstance(part, str) and made and isinstance(made[-1], str):
            made[-1] += part
        elif part != "":
            made.append(part)
    return tuple(made)
