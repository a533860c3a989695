"""One vocabulary for sampling, whatever the engine: `SamplingParams`.

Users name parameters as Transformers or as vLLM does; here they become one set of values, which each engine translates
into its own. A name that is unknown, or two names that disagree, is an error.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from reelscribe.errors import SettingsError, did_you_mean

DEFAULT_MAX_TOKENS: Final = 512
"""Used if neither the user nor the checkpoint sets a limit."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How candidates are drawn. None means: as the checkpoint's own generation settings say."""

    max_tokens: int | None = None
    """Maximum length of a candidate, in tokens."""
    temperature: float | None = None
    """0 is greedy: the likeliest token each time."""
    top_p: float | None = None
    top_k: int | None = None
    """0 switches it off."""
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop: tuple[str, ...] = ()
    """A candidate ends before any of these strings."""
    stop_token_ids: tuple[int, ...] = ()
    """A candidate ends at any of these tokens, besides the checkpoint's own end tokens."""
    do_sample: bool | None = None
    """As in Transformers. True: sample at the checkpoint's temperature, even if the checkpoint's default is greedy.
    False: temperature 0. If a temperature is given, it decides, and this becomes None: Data-Juicer's own parameters
    combine True with temperature 0."""
    seed: int | None = None
    """Overrides the run's seed."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None:
                object.__setattr__(self, item.name, _read(item.name, value))
        if self.do_sample is None:
            return
        if self.temperature and not self.do_sample:
            raise SettingsError(f"do_sample=False contradicts temperature={self.temperature:g}; leave one of them out.")
        if not self.do_sample:
            object.__setattr__(self, "temperature", 0.0)
        if self.temperature is not None:
            object.__setattr__(self, "do_sample", None)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "SamplingParams":
        """Read parameters as users write them.

        Args:
            values: names as vLLM or Transformers spell them, to numbers, or to strings that hold numbers. `top_k` of -1
                is off; None leaves a parameter to the checkpoint.

        Raises:
            SettingsError: an unknown name, a value of the wrong type or out of range, or two names for one thing that
                disagree.
        """
        given: dict[str, Any] = {}
        for name, value in values.items():
            known = _ALIASES.get(name, name)
            if known not in _RULES:
                raise SettingsError(_unknown(name))
            if value is None:
                continue
            read = _read(known, value, called=name)
            if given.setdefault(known, read) != read:
                raise SettingsError(
                    f"sampling parameter {known} is given twice: {given[known]!r} and {read!r}; leave one of them out."
                )
        return cls(**given)

    def told(self) -> dict[str, Any]:
        """The parameters that were given, ready for JSON."""
        values = ((name, getattr(self, name)) for name in PARAMETER_NAMES)
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values
            if value not in (None, ())
        }


PARAMETER_NAMES: Final = tuple(item.name for item in fields(SamplingParams))


def _read(name: str, value: Any, *, called: str | None = None) -> Any:
    """The value of a parameter; raise SettingsError where it cannot be that, under the name that the user called it."""
    reader, allowed = _RULES[name]
    try:
        return reader(value)
    except (TypeError, ValueError, OverflowError) as exc:
        raise SettingsError(f"sampling parameter {called or name} must be {allowed}; got {value!r}.") from exc


# Readers take a value or text that holds one, and raise TypeError or ValueError where it does not fit. What is allowed
# stands in words in the table below.


def _whole(least: float) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()) or int(value) < least:
            raise ValueError
        return int(value)

    return read


def _number(fits: Callable[[float], bool]) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        number = float(value)
        if isinstance(value, bool) or not math.isfinite(number) or not fits(number):
            raise ValueError
        return number

    return read


def _top_k(value: Any) -> int:
    return max(_whole(-1)(value), 0)


def _truth(value: Any) -> bool:
    word = str(value).lower()
    if word not in ("true", "yes", "1", "false", "no", "0"):
        raise ValueError
    return word in ("true", "yes", "1")


def _strings(value: Any) -> tuple[str, ...]:
    strings = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(item, str) and item for item in strings):
        raise ValueError
    return strings


def _token_ids(value: Any) -> tuple[int, ...]:
    if isinstance(value, str):
        value = value.replace(",", " ").split()
    return tuple(map(_whole(0), [value] if isinstance(value, int) else value))


_RULES: Final[dict[str, tuple[Callable[[Any], Any], str]]] = {
    "max_tokens": (_whole(1), "a whole number of at least 1"),
    "temperature": (_number(lambda number: number >= 0), "a number of at least 0"),
    "top_p": (_number(lambda number: 0 < number <= 1), "a number above 0 and at most 1"),
    "top_k": (_top_k, "a whole number of at least 1, or 0 or -1 for off"),
    "min_p": (_number(lambda number: 0 <= number <= 1), "a number from 0 to 1"),
    "repetition_penalty": (_number(lambda number: number > 0), "a number above 0"),
    "stop": (_strings, "a string or a list of strings, none of them empty"),
    "stop_token_ids": (_token_ids, "a whole number of at least 0 or a list of such"),
    "do_sample": (_truth, "true or false"),
    "seed": (_whole(-math.inf), "a whole number"),
}
_ALIASES: Final = {"max_new_tokens": "max_tokens", "stop_strings": "stop", "eos_token_id": "stop_token_ids"}


def _unknown(name: str) -> str:
    return f"unknown sampling parameter {name!r}; {did_you_mean(name, [*_RULES, *_ALIASES], most=1)}"
