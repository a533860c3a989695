r"""Lists of wordings that captions should not have, by language: openings, refusals, mentions of the medium.

A list is a TOML file with any of the keys `openings`, `refusals` and `mentions`, each a list of regular expressions:

    mentions = ['(the|this) {medium}']

    [parts]
    medium = "video|clip"

Case does not matter. A space matches any white space, and an apostrophe matches a straight or a curly one. `{medium}`
stands for the part of that name. A match must begin and end at the edge of a word; a hyphen within a word is no edge.
With `spaced = false`, for languages written without spaces, it may begin and end anywhere.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal, get_args

from reelscribe.errors import SettingsError, did_you_mean

WordingKind = Literal["opening", "refusal", "mention"]
"""opening: words at the beginning that say no more than that it is a video ("The video shows").
refusal: a sentence that begins by not answering ("I'm sorry, but I cannot"). One in quotation marks is none.
mention: words for the video itself, anywhere ("this clip", "enters the frame").
"""

_EDGES: Final[Mapping[WordingKind, tuple[str, str]]] = {
    "opening": (r"\A\s*", r"[\s,:\uff0c\uff1a\u3001]*"),
    "refusal": ("", ""),
    "mention": ("", ""),
}
"""Regular expressions that are put before and after the expressions of a kind."""
_APOSTROPHE: Final = re.compile("['\u2019]")
_SENTENCE: Final = re.compile(r"[.!?\n\u3002\uff01\uff1f]\s*")
"""The end of a sentence, after which the next one begins."""
_KEYS: Final = {f"{kind}s": kind for kind in get_args(WordingKind)}


@dataclass(frozen=True)
class Wordings:
    """The lists of some languages. A text is searched for the wordings of all of them, whatever its language."""

    patterns: Mapping[WordingKind, tuple[re.Pattern[str], ...]]

    def find(self, kind: WordingKind, text: str) -> re.Match[str] | None:
        """The first wording of a kind in a text; None if it has none. An opening includes the space after it."""
        if kind == "refusal":
            return self._refusal(text)
        found = [match for pattern in self.patterns[kind] if (match := pattern.search(text))]
        return min(found, key=lambda match: (match.start(), -match.end()), default=None)

    def _refusal(self, text: str) -> re.Match[str] | None:
        starts = [len(text) - len(text.lstrip()), *(found.end() for found in _SENTENCE.finditer(text))]
        tried = (pattern.match(text, start) for start in starts for pattern in self.patterns["refusal"])
        return next(filter(None, tried), None)

    def without_opening(self, text: str) -> str:
        """A text without its opening, with its first letter in upper case; the whole text if nothing else is left."""
        found = self.find("opening", text)
        rest = text[found.end() :] if found else ""
        return rest[:1].upper() + rest[1:] if rest else text

    def joined(self, text: str, name: str) -> "Wordings":
        """These lists and another one.

        Args:
            text: the TOML of the other list.
            name: the name of the other list in errors.

        Raises:
            SettingsError: it is not a valid list.
        """
        added = _compiled(text, name)
        return Wordings({kind: (*self.patterns[kind], *added.get(kind, ())) for kind in self.patterns})


@cache
def ready_wordings() -> Wordings:
    """The lists that come with the package."""
    wordings = Wordings(dict.fromkeys(get_args(WordingKind), ()))
    for file in sorted(resources.files(__name__).iterdir(), key=lambda file: file.name):
        if file.name.endswith(".toml"):
            wordings = wordings.joined(file.read_text("utf-8"), file.name)
    return wordings


def read_list(file: Path) -> str:
    """Read the text of a list's file.

    Raises:
        SettingsError: the file cannot be read.
    """
    try:
        return file.read_text("utf-8")
    except OSError as exc:
        raise SettingsError(f"cannot read the wordings in {file}: {exc.strerror}.") from exc
    except UnicodeDecodeError as exc:
        raise SettingsError(f"cannot read the wordings in {file}: it is not UTF-8.") from exc


def _compiled(text: str, name: str) -> dict[WordingKind, tuple[re.Pattern[str], ...]]:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise SettingsError(f"{name} is not valid TOML: {exc}.") from exc
    parts, spaced = _parts(table.pop("parts", {}), name), table.pop("spaced", True)
    if not isinstance(spaced, bool):
        raise SettingsError(f"{name}: spaced must be true or false; got {spaced!r}.")
    for key in table:
        if key not in _KEYS:
            raise SettingsError(f"{name} has the unknown key {key!r}; {did_you_mean(key, [*_KEYS, 'parts', 'spaced'])}")
    return {
        _KEYS[key]: (_pattern(_KEYS[key], listed, parts, spaced, f"{name}: {key}"),) for key, listed in table.items()
    }


def _parts(table: Any, name: str) -> dict[str, str]:
    if not isinstance(table, dict) or not all(isinstance(part, str) for part in table.values()):
        raise SettingsError(f"{name}: parts must be a table of texts.")
    parts: dict[str, str] = {}
    for key, part in table.items():
        parts[key] = _with_parts(part, parts)  # a part may contain the parts before it
    return parts


def _with_parts(expression: str, parts: Mapping[str, str]) -> str:
    for key, part in parts.items():
        expression = expression.replace(f"{{{key}}}", f"(?:{part})")
    return expression


def _pattern(kind: WordingKind, listed: Any, parts: Mapping[str, str], spaced: bool, where: str) -> re.Pattern[str]:
    if not isinstance(listed, list) or not listed or not all(isinstance(item, str) and item for item in listed):
        raise SettingsError(f"{where} must be a list of regular expressions; got {listed!r}.")
    expressions = [_APOSTROPHE.sub("['\u2019]", _with_parts(item, parts)).replace(" ", r"\s+") for item in listed]
    for item, expression in zip(listed, expressions, strict=True):
        try:
            empty = re.match(expression, "")
        except re.error as exc:
            raise SettingsError(f"{where}: {item!r} is no regular expression: {exc}.") from exc
        if empty:
            raise SettingsError(f"{where}: {item!r} fits a text without a word.")
    before, behind = _EDGES[kind]
    left, right = (r"(?<!\w)(?<!\w-)", r"(?!-?\w)") if spaced else ("", "")
    return re.compile(f"{before}{left}(?:{'|'.join(expressions)}){right}{behind}", re.IGNORECASE)
