"""Walks over a JSON Schema: schemas within it, references, and the versions of it that a model is asked for."""

import copy
import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote

from reelscribe.errors import SettingsError

Node = dict[str, Any]
"""A JSON Schema, or a part of one."""

COMPOSING: Final = {"allOf", "if", "not", "dependentSchemas", "unevaluatedProperties"}
"""Keywords that apply several schemas to one value."""
CHOOSING: Final = {"anyOf", "oneOf", "$ref"}
"""Keywords that apply several schemas to one value if there are other keywords beside them."""
ROOT: Final = ("#",)
"""References that have been followed when a walk begins at the whole schema: the one to the schema itself."""
_SCHEMA_MAPS: Final = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
"""Keywords that hold schemas by name."""
_DATA: Final = {"enum", "const", "default", "examples"}
"""Keywords that hold values, which may look like schemas."""
_EXACT: Final = 2**53 - 1
"""Largest whole number up to which a double, and so every reader of JSON, holds all whole numbers exactly."""
_DECIMALS: Final = 1e-6
"""Enforced numbers are multiples of this, so that they end: models may repeat digits forever."""


def compact(value: Any) -> str:
    """Write JSON without white space.

    Raises:
        TypeError: the value cannot be written as JSON.
        ValueError: it holds a number that is not finite, or contains itself.
    """
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def nodes(node: Any) -> Iterator[Node]:
    """Yield all schemas within a schema, beginning with itself."""
    if not isinstance(node, dict):
        return
    yield node
    for keyword, value in node.items():
        if keyword in _DATA or keyword.startswith("x-"):
            continue
        by_name = keyword in _SCHEMA_MAPS and isinstance(value, dict)
        for item in value.values() if by_name else value if isinstance(value, list) else [value]:
            yield from nodes(item)


def resolve(root: Node, ref: str, of: str = "the schema") -> Any:
    """The part of a schema that a reference points to.

    Raises:
        SettingsError: it points to nothing within the schema. Other documents are never fetched.
    """
    found: Any = root
    path = unquote(ref.removeprefix("#"))
    try:
        if not ref.startswith("#") or (path and not path.startswith("/")):
            raise LookupError
        for step in path.split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            found = found[int(key)] if isinstance(found, list) else found[key]
    except (LookupError, TypeError, ValueError) as exc:
        raise SettingsError(
            f'{of} refers to {ref!r}, which is not in it; references have the form "#/$defs/NAME".'
        ) from exc
    return found


def plain(root: Node, node: Any, seen: tuple[str, ...] = ()) -> tuple[Any, tuple[str, ...]]:
    """Simplify a schema: follow its references, and replace a choice between one schema and null by that schema.

    Args:
        root: the whole schema.
        node: a schema in it.
        seen: references that were followed to get there. Following one again would be a cycle, so it is replaced by
            True, the schema that all values fit.

    Returns:
        The simplified schema, and the references that led to it.
    """
    while isinstance(node, dict) and not {"x-from", "type", "properties"} & node.keys():
        if "$ref" in node:
            if node["$ref"] in seen:
                return True, seen
            seen += (node["$ref"],)
            node = resolve(root, node["$ref"])
            continue
        choices = [item for item in node.get("anyOf") or node.get("oneOf") or () if item != {"type": "null"}]
        if len(choices) != 1:
            break
        node = choices[0]
    return node, seen


def types_of(node: Node) -> list[str]:
    """The types that a schema names, except null."""
    named = node.get("type", [])
    return [name for name in ([named] if isinstance(named, str) else named) if name != "null"]


def from_file(node: Any) -> bool:
    """Whether a field is filled from the file."""
    return isinstance(node, dict) and "x-from" in node


def fields_from_file(root: Node, node: Any, seen: tuple[str, ...] = ROOT) -> Iterator[Node]:
    """Yield the fields from the file that can be filled: properties of objects, and of objects in lists."""
    node, seen = plain(root, node, seen)
    if not isinstance(node, dict):
        return
    for item in node.get("properties", {}).values():
        if from_file(item):
            yield item
        else:
            yield from fields_from_file(root, item, seen)
    yield from fields_from_file(root, node.get("items"), seen)


@lru_cache(maxsize=64)
def closed(text: str) -> Node:
    """The schema with objects that allow no properties except those that they list. Callers must not change it.

    If several schemas apply to one object, each lists only some of its properties. So if any keyword in the schema
    does that, no object is closed.
    """
    root: Node = json.loads(text)
    within = list(nodes(root))
    if not any(COMPOSING & node.keys() or ("properties" in node and CHOOSING & node.keys()) for node in within):
        for node in within:
            if "properties" in node and "patternProperties" not in node:
                node.setdefault("additionalProperties", False)
    return root


@lru_cache(maxsize=64)
def asked_text(text: str) -> str:
    """The closed schema without the fields from the file, as JSON: what the model is asked for."""
    root = copy.deepcopy(closed(text))
    for node in nodes(root):
        fields = node.get("properties", {})
        left_out = {name for name, item in fields.items() if from_file(item)}
        if left_out:
            node["properties"] = {name: item for name, item in fields.items() if name not in left_out}
            if "required" in node:
                node["required"] = [name for name in node["required"] if name not in left_out]
    return compact(root)


@lru_cache(maxsize=64)
def bounded_text(text: str) -> str:
    """The asked schema with numbers limited to ±`_EXACT`, as JSON: what an answer must fit."""
    root: Node = json.loads(asked_text(text))
    for node in _numbers(root):
        node["minimum"] = max(node.get("minimum", -_EXACT), -_EXACT)
        node["maximum"] = min(node.get("maximum", _EXACT), _EXACT)
    return compact(root)


@lru_cache(maxsize=64)
def enforced_text(text: str) -> str:
    """The bounded schema with at most six decimals, as JSON: what engines enforce while decoding."""
    root: Node = json.loads(bounded_text(text))
    for node in _numbers(root):
        if "number" in types_of(node):
            node.setdefault("multipleOf", _DECIMALS)
    return compact(root)


def _numbers(root: Node) -> Iterator[Node]:
    """Yield the schemas of numbers that are not listed one by one."""
    for node in nodes(root):
        if {"integer", "number"} & set(types_of(node)) and not {"enum", "const"} & node.keys():
            yield node


def outline(root: Node, node: Any, indent: str = "", seen: tuple[str, ...] = ROOT) -> Iterator[str]:
    """Yield a line for each field: its name, description, choices, and whether it is a list."""
    node, seen = plain(root, node, seen)
    if not isinstance(node, dict):
        return
    for name, item in node.get("properties", {}).items():
        found, beyond = plain(root, item, seen)
        field: Node = found if isinstance(found, dict) else {}
        about = [item.get("description") if isinstance(item, dict) else None, field.get("description")]
        told = [next(filter(None, about), "")]
        told += [f"one of {', '.join(map(str, field['enum']))}"] if "enum" in field else []
        told += ["a list"] if "array" in types_of(field) else []
        text = "; ".join(filter(None, told))
        yield f"{indent}- {name}" + (f": {text}" if text else "")
        yield from outline(root, field.get("items", field), indent + "  ", beyond)
