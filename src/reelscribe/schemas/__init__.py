"""JSON Schemas of structured captions: what the model is asked for, and how its answers are read and completed.

A schema is a JSON Schema whose top level is an object. It departs from the standard in three ways:

- An object with `properties` has no other properties, unless `additionalProperties` allows them.
- Numbers stay within ±(2**53 - 1), so that no reader rounds them: a double holds each whole number in this range.
- The model is not asked for a field with `"x-from"`. It is filled with facts of the video file; see `Facts`.

The order of properties is the order in which a model writes them, so it is part of the schema.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from reelscribe.errors import SettingsError, did_you_mean
from reelscribe.schemas.arrow import arrow_type, arrow_value, form_of
from reelscribe.schemas.facts import Facts, check_fact, filled
from reelscribe.schemas.nodes import (
    Node,
    asked_text,
    bounded_text,
    closed,
    compact,
    enforced_text,
    fields_from_file,
    nodes,
    outline,
    resolve,
)

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["READY", "Facts", "ReadySchema", "Schema", "SchemaFault"]

SchemaFault = Literal["not_json", "schema"]
"""not_json: the answer is no JSON. schema: it is JSON, but does not fit the schema."""

ReadySchema = Literal["cosmos", "lingbot", "shot"]
"""Schemas that come with the package: those of Cosmos 3 and LingBot-Video, and SkyCaptioner's for a single shot."""

READY: Final[tuple[ReadySchema, ...]] = get_args(ReadySchema)
"""Names of the ready schemas."""

_OWN_INTRO: Final = "Describe the video. Say only what is seen."
"""First part of the default prompt of a user's own schema."""


@dataclass(frozen=True, kw_only=True)
class Schema:
    """The schema of a structured caption. Equal to another if both have the same text.

    Raises:
        SettingsError: the text is no JSON Schema or not one of an object, or has an "x-from" that cannot be filled.
    """

    text: str
    """The schema as compact JSON, with its properties in the given order."""
    name: str = field(default="caption", compare=False)
    """Name of the schema in messages and in requests to servers."""
    intro: str = field(default=_OWN_INTRO, compare=False)
    """First part of its default prompt."""

    def __post_init__(self) -> None:
        _check(self.text, f"the schema {self.name!r}")

    @classmethod
    def of(cls, given: str | Mapping[str, Any], *, folder: Path, name: str = "caption") -> "Schema":
        """Load a schema that a user names or writes.

        Args:
            given: the name of a ready schema, the path of a .json file, or the schema itself as a dict or
                as JSON.
            folder: folder that a relative path starts from.
            name: name of a schema that is given itself.

        Raises:
            SettingsError: there is no such schema, or it cannot be used.
        """
        if isinstance(given, Mapping):
            return cls(text=_text_of(given), name=name)
        if isinstance(given, str) and given.lstrip().startswith("{"):
            return cls(text=given, name=name)
        if given in READY:
            folder_of_ready = resources.files(__name__) / "ready"
            schema, intro = (
                folder_of_ready.joinpath(given + suffix).read_text("utf-8") for suffix in (".json", ".txt")
            )
            return cls(text=compact(json.loads(schema)), name=given, intro=intro.strip())
        if not isinstance(given, str) or not given.lower().endswith(".json"):
            hint = did_you_mean(str(given), READY, otherwise=f"ready ones are {', '.join(READY)}.")
            raise SettingsError(f"there is no schema {given!r}; {hint} One of your own is a .json file, by its path.")
        return cls(text=_text_of(_read_file(folder / given)), name=Path(given).stem)

    @property
    def asked(self) -> Node:
        """The schema that the model is asked for: without the fields that are filled from the file."""
        asked: Node = json.loads(asked_text(self.text))
        return asked

    @property
    def enforced(self) -> Node:
        """The schema that engines enforce while decoding: `asked` with bounded numbers of at most six decimals."""
        enforced: Node = json.loads(enforced_text(self.text))
        return enforced

    @property
    def default_prompt(self) -> str:
        """A prompt that lists the fields of the schema with their descriptions."""
        lines = "\n".join(outline(self.asked, self.asked))
        return f"{self.intro}\n\nAnswer with one JSON object that has these fields:\n{lines}"

    def read(self, text: str) -> tuple[Any, SchemaFault | None]:
        """Read an answer.

        Returns:
            The value, which fits `asked` with bounded numbers, and None; or None, and the fault of the answer.
        """
        try:
            value = json.loads(text)
            compact(value).encode()  # fails for NaN, numbers beyond a double, half surrogate pairs
        except (ValueError, RecursionError):
            return None, "not_json"
        try:
            fits = _validator(self.text).is_valid(value)
        except RecursionError:
            fits = False
        return (value, None) if fits else (None, "schema")

    def filled(self, value: Any, facts: Facts) -> Any:
        """Add the fields from the file to a value, in the schema's order. Facts that the file lacks are None."""
        root = closed(self.text)
        return filled(root, root, value, facts)

    def arrow_type(self) -> "pa.DataType":
        """The Arrow type of a column of `arrow_value`s. Parts without an Arrow type become strings of JSON."""
        return arrow_type(form_of(self.text))

    def arrow_value(self, value: Any) -> Any:
        """Convert a filled value for a column of `arrow_type`. Optional fields that it lacks become None."""
        return arrow_value(form_of(self.text), value)


def _text_of(schema: Any) -> str:
    try:
        return compact(schema)
    except (TypeError, ValueError) as exc:
        raise SettingsError(f"a schema is made of what JSON can hold: {exc}.") from exc


def _read_file(path: Path) -> Any:
    """Read a JSON file. Raises SettingsError if that fails."""
    try:
        return json.loads(path.read_text("utf-8"), parse_constant=_refuse)
    except OSError as exc:
        raise SettingsError(f"the schema {path} cannot be read: {exc.strerror or exc}. Check the path.") from exc
    except (ValueError, RecursionError) as exc:
        raise SettingsError(f"the schema {path} is no JSON: {exc}.") from exc


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _check(text: str, of: str) -> None:
    """Raise SettingsError if a schema cannot be used."""
    try:
        root = json.loads(text, parse_constant=_refuse)
    except ValueError as exc:
        raise SettingsError(f"{of} is no JSON: {exc}.") from exc
    if not isinstance(root, dict) or root.get("type") != "object":
        raise SettingsError(f'{of} must be that of an object: its top level needs "type": "object".')
    _check_standard(root, of)
    for node in nodes(root):
        for keyword in ("$ref", "$dynamicRef"):
            if keyword in node:
                resolve(root, node[keyword], of)
    fillable = {id(node) for node in fields_from_file(root, root)}
    for node in nodes(root):
        if "x-from" in node:
            check_fact(node, of)
            if id(node) not in fillable:
                raise SettingsError(
                    f'{of} has "x-from": {node["x-from"]!r} where it cannot be filled; it can stand in properties of '
                    "objects, and of objects in lists."
                )
    if root.get("properties") and not json.loads(asked_text(text))["properties"]:
        raise SettingsError(f'{of} asks nothing of the model: each of its fields has "x-from".')


def _check_standard(root: Node, of: str) -> None:
    """Raise SettingsError if a schema does not follow the JSON Schema standard that it names."""
    jsonschema = _jsonschema()
    standard = jsonschema.validators.validator_for(root, default=jsonschema.Draft202012Validator)
    try:
        standard.check_schema(root, format_checker=standard.FORMAT_CHECKER)  # checks regular expressions, too
    except jsonschema.SchemaError as exc:
        place = "/".join(map(str, exc.absolute_path)) or "its top level"
        raise SettingsError(f"{of} is no JSON Schema: {exc.message} (at {place}).") from exc


@lru_cache(maxsize=64)
def _validator(text: str) -> Any:
    """The validator of answers to a schema, cached."""
    jsonschema = _jsonschema()
    root = json.loads(bounded_text(text))
    return jsonschema.validators.validator_for(root, default=jsonschema.Draft202012Validator)(root)


def _jsonschema() -> Any:
    import jsonschema  # imported here, as only schemas need it

    return jsonschema
