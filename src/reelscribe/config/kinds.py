"""What a field of the settings is: its help text, what it may hold, and which earlier results it touches."""

from collections.abc import Mapping
from dataclasses import Field, field
from types import NoneType
from typing import Any, Final, Literal, get_args, get_origin

from reelscribe.errors import SettingsError

Effect = Literal["rows", "captions", "failures", "nothing"]
"""What a setting has a part in, and so what of an earlier run holds when it changes.

rows: what is asked about each row's videos. A request that stays the same keeps its caption.
captions: what comes out for one and the same request. No caption made before holds.
failures: whether a video, or a good caption of it, can be had at all. Captions hold; what failed is tried again, and so
    are captions that fall short of what is set now (see `Ledger`).
nothing: neither; how fast, which candidates are kept, how it is written, when the run stops.
"""

_KINDS: Final[dict[type, tuple[tuple[type, ...], str]]] = {
    str: ((str,), "a string"),
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((float, int), "a number"),
    Mapping: ((Mapping,), "a table of names and values"),
}
"""Type of a setting to what is taken for it, in types and in words."""


def setting(
    default: Any,
    text: str,
    *choices: str,
    affects: Effect,
    at_least: float | None = None,
    option: tuple[str, str] | None = None,
) -> Any:
    """A field.

    Args:
        default: of it; `dict` for an empty table.
        text: of the command line's help.
        *choices: what it may hold, where that is one of some names.
        affects: what of earlier results it touches.
        at_least: the least number.
        option: what the command line has for a table, and how an entry is written there.
    """
    metadata = {"help": text, "choices": choices, "affects": affects, "at_least": at_least, "option": option}
    if default is dict:
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


def kind_of(item: Field[Any]) -> tuple[type, bool]:
    """The type of a setting (str, bool, int, float or Mapping), and whether it may be None."""
    kinds = get_args(item.type) if NoneType in get_args(item.type) else (item.type,)
    return get_origin(kinds[0]) or kinds[0], NoneType in kinds


def check(item: Field[Any], value: Any) -> None:
    """Raise SettingsError where a setting cannot hold this value."""
    choices, at_least = item.metadata["choices"], item.metadata["at_least"]
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
