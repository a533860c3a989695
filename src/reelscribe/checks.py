"""Checks of captions that a user can turn on: language, length, wording, times in the text.

Only `refusals` is on by default: a refusal is not a caption, whatever the task, and the lists rarely match other texts
(see `reelscribe.wording`). Openings, mentions of the medium and lengths are a matter of taste, or of the prompt.

Checks do not change what is generated. Their results are computed from the text each time, so that no caption is
generated again if the checks change.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, get_args

from reelscribe.errors import SettingsError, did_you_mean
from reelscribe.wording import WordingKind, Wordings, ready_wordings
from reelscribe.wording.times import is_past_end
from reelscribe.words import is_in_language, known_languages, token_counter, words_of

CheckFault = Literal["refusal", "opening", "mention", "language", "length", "past_end"]
"""refusal, opening, mention: the text has such a wording; see `WordingKind`.
language: it is in another language than the one that is asked for.
length: it has fewer or more words, or tokens, than are asked for.
past_end: it names a time that is past the clip's end.
"""
CHECK_FAULTS: Final[frozenset[CheckFault]] = frozenset(get_args(CheckFault))

_YES: Final[Mapping[Any, bool]] = {True: True, False: False, "true": True, "false": False, "yes": True, "no": False}


@dataclass(frozen=True, kw_only=True)
class Checks:
    """The checks of a caption."""

    refusals: bool = True
    openings: bool = False
    mentions: bool = False
    past_end: bool = False
    language: str | None = None
    """The code of ISO 639 of the language that captions must have."""
    words: str | None = None
    """The fewest and the most words, such as 20-60. -60 and 20- have only one of the two limits."""
    tokens: str | None = None
    """The fewest and the most tokens of `tokenizer`, in the same form."""
    tokenizer: str | None = None
    """The folder with the tokenizer of the model that will be trained with the captions."""
    lists: str | None = None
    """Wordings in addition to those that come with the package: a .toml file, or the text of one."""

    @classmethod
    def of(cls, table: Mapping[str, Any], base: "Checks | None" = None) -> "Checks":
        """Make checks from a table of settings.

        Args:
            table: the values by name of the check.
            base: the checks for names that the table does not have; None for the defaults.

        Raises:
            SettingsError: a key is unknown, or a value is wrong.
        """
        known = [item.name for item in fields(cls)]
        for key in table:
            if key not in known:
                raise SettingsError(f"checks has the unknown key {key!r}; {did_you_mean(key, known)}")
        made = replace(base or cls(), **{key: _value(key, value) for key, value in table.items()})
        if (made.tokens is None) != (made.tokenizer is None):
            raise SettingsError("checks: tokens and tokenizer go together: how many, and of which tokenizer.")
        for name in ("words", "tokens"):
            _bounds(name, getattr(made, name))
        if made.lists is not None:
            _joined(made.lists)
        return made

    def check_installed(self) -> None:
        """Check before a run that all checks can be made.

        Raises:
            SettingsError: the tokenizer cannot be read, or the language is unknown.
            MissingExtraError: a package that a check needs is not installed.
        """
        if self.tokenizer is not None:
            token_counter(Path(self.tokenizer))
        if self.language is not None and self.language not in known_languages():
            raise SettingsError(f"checks: language must be a code of ISO 639, as en or zh; got {self.language!r}.")

    def wordings(self) -> Wordings:
        """The lists of wordings to search for.

        Raises:
            SettingsError: the user's list is not valid.
        """
        return ready_wordings() if self.lists is None else _joined(self.lists)

    def find(self, text: str, seconds: float | None) -> Iterator[CheckFault]:
        """The faults of a text, in a fixed order.

        Args:
            text: a caption that has words.
            seconds: the length of the clip; None if it is not known.
        """
        wanted: dict[WordingKind, bool] = {
            "refusal": self.refusals,
            "opening": self.openings,
            "mention": self.mentions,
        }
        yield from (kind for kind, is_on in wanted.items() if is_on and self.wordings().find(kind, text))
        if self.language is not None and not is_in_language(text, self.language):
            yield "language"
        if any(self._lengths_told(text)):
            yield "length"
        if self.past_end and seconds is not None and is_past_end(text, seconds):
            yield "past_end"

    def _tokens(self, text: str) -> int:
        return token_counter(Path(self.tokenizer or ""))(text)

    def _lengths_told(self, text: str) -> Iterator[str]:
        if self.words and not _within(self.words, count := len(words_of(text))):
            yield f"It has {count} words; it must have {_in_words(self.words)}."
        if self.tokens and not _within(self.tokens, count := self._tokens(text)):
            yield f"It has {count} tokens of a tokenizer; it must have {_in_words(self.tokens)}."

    def told(self, fault: CheckFault, text: str) -> str:
        """A sentence that tells the model what was wrong with its text, for another try."""
        if fault in ("opening", "mention"):
            found = self.wordings().find("opening" if fault == "opening" else "mention", text)
            return f'It has the words "{found[0].strip()}": say what is seen, not that it is a video.' if found else ""
        return {
            "refusal": "It did not describe what is seen; describe it.",
            "language": f"It was not in the language {self.language}; answer in that language.",
            "length": " ".join(self._lengths_told(text)),
            "past_end": "It names times that are past the end of the video.",
        }[fault]


def _value(key: str, value: Any) -> Any:
    if isinstance(getattr(Checks, key), bool):
        if not isinstance(value, bool | str) or value not in _YES:
            raise SettingsError(f"checks: {key} must be true or false; got {value!r}.")
        return _YES[value]
    if value is not None and not isinstance(value, str):
        raise SettingsError(f"checks: {key} must be text; got {value!r}.")
    return value


def _bounds(name: str, given: str | None) -> tuple[int, int | None]:
    """Parse limits such as 20-60, -60 or 20-. Returns the lower limit and the upper one; None for no upper limit.

    Raises:
        SettingsError: the text is not of this form. `name` is the setting, for the error.
    """
    if given is None:
        return 0, None
    fewest, dash, most = given.partition("-")
    ends = [end.strip() for end in (fewest, most)]
    if not dash or not any(ends) or not all(end.isdecimal() for end in ends if end):
        raise SettingsError(f"checks: {name} must be the fewest and the most, as 20-60, -60 or 20-; got {given!r}.")
    low, high = int(ends[0] or 0), int(ends[1]) if ends[1] else None
    if high is not None and low > high:
        raise SettingsError(f"checks: {name} must have the fewest first; got {given!r}.")
    return low, high


def _within(given: str | None, count: int) -> bool:
    low, high = _bounds("", given)
    return low <= count and (high is None or count <= high)


def _in_words(given: str | None) -> str:
    low, high = _bounds("", given)
    if high is None:
        return f"at least {low}"
    return f"{low} to {high}" if low else f"at most {high}"


@lru_cache(maxsize=8)
def _joined(lists: str) -> Wordings:
    return ready_wordings().joined(lists, "checks: lists")
