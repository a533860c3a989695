"""What a field of the settings is: its help text, what it may hold, and which earlier results it touches."""

from collections.abc import Mapping
from dataclasses import MISSING, Field, field, fields
from types import NoneType
from typing import Any, Final, Literal, get_args, get_origin

from reelscribe.errors import SettingsError

Effect = Literal["rows", "captions", "failures", "nothing"]
"""What a setting affects, and so which results of earlier runs still hold when it changes.

rows: what is asked about each row's videos. Requests that stay the same keep their captions.
captions: what the same request generates. All captions are made again.
failures: whether a video can be captioned, or captioned well. Captions hold. Failures are tried again, and so are
    captions that fall short of the new setting (see `Ledger`).
nothing: speed, which candidates are kept, how output is written, when the run stops. Everything holds.
"""

_KINDS: Final[dict[type, tuple[tuple[type, ...], str]]] = {
    str: ((str,), "a string"),
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((float, int), "a number"),
    Mapping: ((Mapping,), "a table of names and values"),
}
"""For each type of setting: the Python types that are accepted, and their name in errors."""


def setting(
    default: Any,
    text: str,
    *,
    affects: Effect,
    common: bool = False,
    at_least: float | None = None,
    option: tuple[str, str] | None = None,
) -> Any:
    """Declare a field of the settings.

    Args:
        default: default value; `dict` for an empty table.
        text: help text.
        affects: which results of earlier runs it affects; see `Effect`.
        common: whether the short help shows it.
        at_least: minimum of a number.
        option: for a table, the command line's option and the form of an entry.
    """
    metadata = {"help": text, "affects": affects, "common": common, "at_least": at_least, "option": option}
    if default is dict:
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


def kind_of(item: Field[Any]) -> tuple[type, bool]:
    """The type of a setting (str, bool, int, float or Mapping), and whether it may be None."""
    kinds = get_args(item.type) if NoneType in get_args(item.type) else (item.type,)
    return str if choices_of(item) else get_origin(kinds[0]) or kinds[0], NoneType in kinds


def choices_of(item: Field[Any]) -> tuple[str, ...]:
    """The names that a setting may hold, if its type is a Literal."""
    kinds = [kind for kind in (item.type, *get_args(item.type)) if get_origin(kind) is Literal]
    return get_args(kinds[0]) if kinds else ()


def check(item: Field[Any], value: Any) -> None:
    """Raise SettingsError if a setting cannot hold this value."""
    choices, at_least = choices_of(item), item.metadata["at_least"]
    kind, optional = kind_of(item)
    if value is None and optional:
        return
    if choices:
        if value not in choices:
            raise SettingsError(f"{item.name} must be one of {', '.join(choices)}; got {value!r}.")
        return
    types, words = _KINDS[kind]
    fits = isinstance(value, types) and not (isinstance(value, bool) and kind is not bool)
    if not fits or (at_least is not None and value < at_least):
        limit = "" if at_least is None else f" of at least {at_least}"
        raise SettingsError(f"{item.name} must be {words}{limit}; got {value!r}.")


def described(settings: type) -> str:
    """The fields of settings as a section of their docstring: help text, type and default of each."""
    lines = ["Args:"]
    for item in fields(settings):
        kind = " | ".join(map(repr, choices_of(item))) or kind_of(item)[0].__name__
        default = {} if item.default is MISSING else item.default
        lines.append(f"    {item.name}: {item.metadata['help']} [{kind}; default: {default!r}]")
    return "\n".join(lines)
