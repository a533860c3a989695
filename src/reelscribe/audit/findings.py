"""What an audit finds in single captions, by name, and conditions on how much of it there may be."""

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
"""What is found by looking at all captions: the name and the meaning of each."""
_FAULTS: Final = (name for part in get_args(Fault) for name in get_args(part))
MARKED: Final[tuple[str, ...]] = tuple(dict.fromkeys((*FINDINGS, *_FAULTS)))
"""All that makes a caption one to look at: findings, and faults that its run flagged."""
SHARES: Final[Mapping[str, str]] = {
    "failed": "has no caption",
    "common_opening": "begins as the commonest opening",
    "common_phrase": "has the commonest phrase",
}
"""What is known of a task as a whole beside these."""

_SCRIPTS: Final = {"CJK": "Han", "HIRAGANA": "Japanese", "KATAKANA": "Japanese"}
"""By the first word of a letter's name; others are called by that word."""
_CONDITION: Final = re.compile(r"\s*(\w+)\s*(?:(>=?)\s*(\d+(?:\.\d+)?)\s*(%?)\s*)?")


def script_of(text: str) -> str:
    """The script that most letters of a text are in, as "Latin"; "" of one without letters.

    Han with kana is "Japanese". Languages that share a script are not told apart.
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
    """Raise SettingsError if a name is that of no finding."""
    known = [*MARKED, *more]
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known, otherwise=f"known are {', '.join(known)}.")
            raise SettingsError(f"{what}: there is no finding {name!r}; {hint}")


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A condition of --fail-on: a name, and how much of it there may be."""

    written: str
    name: str
    number: float = 0
    is_share: bool = False
    """Whether the number is percent."""
    inclusive: bool = False
    """Whether the number itself is too much."""

    @classmethod
    def parse(cls, written: str) -> "Limit":
        """Read a condition.

        Raises:
            SettingsError: it is none.
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
        """Whether it is too much: so many, of so many captions (or answers, of what failed)."""
        much = 100 * count / max(of, 1) if self.is_share else count
        return much >= self.number if self.inclusive else much > self.number
