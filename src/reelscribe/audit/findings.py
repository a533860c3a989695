"""The findings of an audit by name, and limits on their number (`--fail-on`)."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, get_args

from reelscribe.errors import SettingsError, did_you_mean
from reelscribe.faults import Fault

FINDINGS: Final[Mapping[str, str]] = {
    "duplicate": "has the same text as the caption of another clip",
    "near_duplicate": "has nearly the same text as that of another clip",
    "near_copy": "is of a clip that shows nearly the same as another clip",
    "refusal": "does not answer",
    "mention": "speaks of the video itself, as of the frames",
    "past_end": "names a time past the end of its clip",
    "other_script": "is in another script than most captions of its task",
    "too_long": "has more tokens than --max-tokens",
}
"""Findings of the audit itself: name and meaning, with the caption as the subject."""
_FAULTS: Final = (name for part in get_args(Fault) for name in get_args(part))
MARKED: Final[tuple[str, ...]] = tuple(dict.fromkeys((*FINDINGS, *_FAULTS)))
"""All names that a caption can be marked with: findings, and faults that its run flagged."""
SHARES: Final[Mapping[str, str]] = {
    "failed": "has no caption",
    "common_opening": "begins as the commonest opening",
    "common_phrase": "has the commonest phrase",
}
"""Names that limits accept besides findings, with their meanings. They are known only of a task as a whole."""

_SCRIPTS: Final = {"CJK": "Han", "HIRAGANA": "Japanese", "KATAKANA": "Japanese"}
"""Script by the first word of a letter's Unicode name. Other scripts are called by that word."""
_CONDITION: Final = re.compile(r"\s*(\w+)\s*(?:(>=?)\s*(\d+(?:\.\d+)?)\s*(%?)\s*)?")
"""NAME, or NAME > NUMBER, or NAME >= NUMBER; the number may end in %."""


def script_of(text: str) -> str:
    """The script of most letters of a text, such as "Latin"; "" if it has no letters.

    Han with kana counts as "Japanese". Languages with the same script are not distinguished.
    """
    if text.isascii():
        return "Latin" if any(map(str.isalpha, text)) else ""
    scripts = Counter(filter(None, map(_script, text)))
    if scripts["Japanese"] and scripts["Han"]:
        scripts["Japanese"] += scripts.pop("Han")
    return max(scripts, key=lambda name: scripts[name], default="")


@lru_cache(maxsize=1 << 14)
def _script(letter: str) -> str:
    if not letter.isalpha():
        return ""
    word = unicodedata.name(letter, "").partition(" ")[0]
    return _SCRIPTS.get(word, word.capitalize())


def checked_names(what: str, names: Iterable[str], more: Iterable[str] = ()) -> None:
    """Raise SettingsError if a name is neither a finding nor in `more`. `what` begins the message."""
    known = [*MARKED, *more]
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known, otherwise=f"known are {', '.join(known)}.")
            raise SettingsError(f"{what}: there is no finding {name!r}; {hint}")


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A limit of --fail-on: the name of a finding, and the number or share that is too much."""

    written: str
    name: str
    number: float = 0
    is_share: bool = False
    """Whether the number is a percentage of captions."""
    inclusive: bool = False
    """Whether the number itself is already too much (>=)."""

    @classmethod
    def parse(cls, written: str) -> "Limit":
        """Parse a limit such as `refusal`, `duplicate>10` or `duplicate>1%`.

        Raises:
            SettingsError: it is not written like this, or there is no such finding.
        """
        found = _CONDITION.fullmatch(written)
        if not found:
            raise SettingsError(
                f"--fail-on takes the name of a finding, alone or with a number or a share that is too much, as "
                f"refusal, 'duplicate>10' or 'duplicate>1%'; got {written!r}."
            )
        name, compared, number, percent = found.groups()
        checked_names(f"--fail-on {written!r}", [name], SHARES)
        return cls(
            written=written.strip(),
            name=name,
            number=float(number or 0),
            is_share=bool(percent),
            inclusive=compared == ">=",
        )

    def is_passed(self, count: int, of: int) -> bool:
        """Whether `count` of `of` captions is too much (of answers, for "failed")."""
        much = 100 * count / max(of, 1) if self.is_share else count
        return much >= self.number if self.inclusive else much > self.number
