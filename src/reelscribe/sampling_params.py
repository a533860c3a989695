"""One vocabulary for sampling, whatever the engine: `SamplingParams`.

Users name parameters as Transformers or as vLLM does; here they become one set of values, which each engine translates
into its own. A name that is unknown, or two names that disagree, is an error.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from reelscribe.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How candidates are drawn. None means: as the checkpoint's own generation settings say."""

    max_tokens: int | None = None
    """Longest candidate, in tokens."""
    temperature: float | None = None
    """0 takes the likeliest token each time."""
    top_p: float | None = None
    top_k: int | None = None
    """0 switches it off."""
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop: tuple[str, ...] = ()
    """A candidate ends before any of these strings."""
    stop_token_ids: tuple[int, ...] = ()
    """A candidate ends at any of these tokens, besides the checkpoint's own end tokens."""
    seed: int | None = None
    """Overrides the run's seed."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("max_tokens", 1, None),
            ("temperature", 0, None),
            ("top_p", 0, 1),
            ("top_k", 0, None),
            ("min_p", 0, 1),
            ("repetition_penalty", 0, None),
        ):
            value = getattr(self, name)
            if value is not None and (value < low or (high is not None and value > high)):
                allowed = f"at least {low}" if high is None else f"between {low} and {high}"
                raise SettingsError(f"sampling parameter {name} must be {allowed}; got {value!r}.")

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "SamplingParams":
        """Read parameters as users write them.

        Args:
            values: names as vLLM or Transformers spell them, to numbers, or to strings that hold numbers. `do_sample=False`
                is temperature 0; `top_k` of -1 is off; None leaves a parameter to the checkpoint.

        Raises:
            SettingsError: an unknown name, a value of the wrong type or out of range, or two names for one thing that
                disagree.
        """
        given: dict[str, Any] = {}
        do_sample = values.get("do_sample")
        for name, value in values.items():
            if name == "do_sample" or value is None:
                continue
            known = _ALIASES.get(name, name)
            if known not in _READERS:
                raise SettingsError(_unknown(name))
            try:
                read = _READERS[known](value)
            except (TypeError, ValueError) as exc:
                raise SettingsError(f"sampling parameter {name} cannot be {value!r}: {exc}.") from exc
            if known in given and given[known] != read:
                raise SettingsError(f"sampling parameter {known} is given twice: {given[known]!r} and {read!r}.")
            given[known] = read
        if do_sample is not None and not _boolean(do_sample):
            if given.get("temperature", 0) != 0:
                raise SettingsError("do_sample=False contradicts a temperature above 0; leave one of them out.")
            given["temperature"] = 0.0
        return cls(**given)

    def told(self) -> dict[str, Any]:
        """The parameters that were given, ready for JSON."""
        values = ((item.name, getattr(self, item.name)) for item in fields(self))
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in values if value not in (None, ())
        }


def _boolean(value: Any) -> bool:
    if isinstance(value, str):
        if value.lower() in ("true", "1", "yes"):
            return True
        if value.lower() in ("false", "0", "no"):
            return False
        raise SettingsError(f"sampling parameter do_sample must be true or false; got {value!r}.")
    return bool(value)


def _integer(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError("a whole number is needed")
    return int(value)


def _strings(value: Any) -> tuple[str, ...]:
    strings = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(item, str) and item for item in strings):
        raise ValueError("strings are needed, none of them empty")
    return strings


def _token_ids(value: Any) -> tuple[int, ...]:
    if isinstance(value, str):
        value = [part for part in value.replace(",", " ").split() if part]
    return tuple(_integer(item) for item in ([value] if isinstance(value, int) else value))


_READERS = {
    "max_tokens": _integer,
    "temperature": float,
    "top_p": float,
    "top_k": lambda value: max(_integer(value), 0),
    "min_p": float,
    "repetition_penalty": float,
    "stop": _strings,
    "stop_token_ids": _token_ids,
    "seed": _integer,
}
_ALIASES = {"max_new_tokens": "max_tokens", "stop_strings": "stop", "eos_token_id": "stop_token_ids"}


def _unknown(name: str) -> str:
    names = [*_READERS, *_ALIASES, "do_sample"]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]}?" if near else f" Known are: {', '.join(names)}."
    return f"unknown sampling parameter {name!r}.{hint}"
