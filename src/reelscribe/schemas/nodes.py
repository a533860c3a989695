"""Walks over a JSON Schema: the schemas within it, where its references lead, and what a model is asked of it."""

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
"""Keywords that put several schemas to one value."""
CHOOSING: Final = {"anyOf", "oneOf", "$ref"}
"""They do so, too, if other keywords stand beside them."""
ROOT: Final = ("#",)
"""The reference that leads to the whole schema, and so has been followed where a walk begins there."""
_SCHEMA_MAPS: Final = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
"""Keywords that hold schemas by name."""
_DATA: Final = {"enum", "const", "default", "examples"}
"""Keywords that hold values, which may look like schemas."""
_EXACT: Final = 2**53 - 1
"""Largest whole number that a double, and so every reader of JSON, holds exactly."""
_DECIMALS: Final = 1e-6
"""Numbers that are enforced are multiples of this."""


def compact(value: Any) -> str:
    """JSON without white space.

    Raises:
        TypeError: there is no JSON of the value.
        ValueError: it holds a number that is not finite, or itself.
    """
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def nodes(node: Any) -> Iterator[Node]:
    """All schemas within a schema, itself the first."""
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
    """What a reference within a schema points to.

    Raises:
        SettingsError: it points to nothing in there. What is elsewhere is never fetched.
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
    """What a schema comes to, once references are followed and a choice between it and null is left out.

    Args:
        root: the whole schema.
        node: a schema in it.
        seen: references that led to it. One that comes again is a cycle, and comes to True, which all values fit.

    Returns:
        That, and the references that led there.
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
    """The types that a schema names, other than null."""
    named = node.get("type", [])
    return [name for name in ([named] if isinstance(named, str) else named) if name != "null"]


def from_file(node: Any) -> bool:
    """Whether a field is filled from the file."""
    return isinstance(node, dict) and "x-from" in node


def fields_from_file(root: Node, node: Any, seen: tuple[str, ...] = ROOT) -> Iterator[Node]:
    """Those fields that can be filled: in properties of objects, and of objects in lists."""
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
    """The schema whose objects have no properties but those that it lists. Not to be changed.

    Where several schemas are put to one object, each lists only some of its properties, so that none is closed.
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
    """The closed schema without fields that are filled from the file, as JSON."""
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
    """The asked schema with numbers within what a double holds exactly, as JSON: what an answer has to fit."""
    root: Node = json.loads(asked_text(text))
    for node in _numbers(root):
        node["minimum"] = max(node.get("minimum", -_EXACT), -_EXACT)
        node["maximum"] = min(node.get("maximum", _EXACT), _EXACT)
    return compact(root)


@lru_cache(maxsize=64)
def enforced_text(text: str) -> str:
    """The bounded schema with few decimals, as JSON: what engines enforce. Models loop in digits that never end."""
    root: Node = json.loads(bounded_text(text))
    for node in _numbers(root):
        if "number" in types_of(node):
            node.setdefault("multipleOf", _DECIMALS)
    return compact(root)


def _numbers(root: Node) -> Iterator[Node]:
    for node in nodes(root):
        if {"integer", "number"} & set(types_of(node)) and not {"enum", "const"} & node.keys():
            yield node


def outline(root: Node, node: Any, indent: str = "", seen: tuple[str, ...] = ROOT) -> Iterator[str]:
    """A line for each field: its name, what it is for, and what it may be."""
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
