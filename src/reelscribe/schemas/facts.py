"""Fields of a structured caption that are filled with facts of the video file instead of asking the model."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from reelscribe.errors import SettingsError, did_you_mean
from reelscribe.schemas.nodes import Node, from_file, plain, types_of

_TYPES: Final[Mapping[str, tuple[str, ...]]] = {
    "duration": ("number", "integer", "string"),
    "fps": ("number", "integer"),
    "width": ("integer", "number"),
    "height": ("integer", "number"),
    "resolution": ("object", "string"),
    "aspect_ratio": ("string", "number"),
}
"""Values of "x-from", and the JSON types that such a field may have."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts from a video file; None for what the file does not say."""

    duration_seconds: float | None = None
    """Length of the clip. If the clip is damaged and only a part was decoded, the length of that part."""
    fps: float | None = None
    """Average number of frames shown per second."""
    width: int | None = None
    """Width in pixels, as the video is displayed: after rotation, with square pixels. So is the height."""
    height: int | None = None


def check_fact(node: Node, of: str) -> None:
    """Raise SettingsError if a field with "x-from" cannot be filled. `of` names the schema in the message."""
    source, types = node["x-from"], types_of(node)
    if source not in _TYPES:
        raise SettingsError(f'{of} has "x-from": {source!r}; {did_you_mean(str(source), list(_TYPES))}')
    if len(types) != 1 or types[0] not in _TYPES[source]:
        raise SettingsError(
            f'{of}: a field with "x-from": {source!r} must have the type {" or ".join(_TYPES[source])}.'
        )
    if types == ["object"] and set(map(_side, node.get("properties", {}))) != {"width", "height"}:
        raise SettingsError(f'{of}: an object with "x-from": "resolution" must have H and W, or height and width.')
    if source == "aspect_ratio" and not all(map(_ratio, node.get("enum", []))):
        raise SettingsError(f'{of}: each value of an "aspect_ratio" must be two numbers, such as "16:9".')


def filled(root: Node, node: Any, value: Any, facts: Facts) -> Any:
    """Add the fields from the file to a value, in the order of its schema.

    Args:
        root: the whole schema.
        node: the part of it that the value fits.
        value: the value without these fields.
        facts: facts to fill them with.
    """
    node, _ = plain(root, node)
    if isinstance(node, dict) and isinstance(value, list):
        return [filled(root, node.get("items"), item, facts) for item in value]
    if not isinstance(node, dict) or not isinstance(value, dict):
        return value
    made = {}
    for name, item in node.get("properties", {}).items():
        if from_file(item):
            made[name] = _fact(item, facts)
        elif name in value:
            made[name] = filled(root, item, value[name], facts)
    return made | {name: item for name, item in value.items() if name not in made}


def _fact(node: Node, facts: Facts) -> Any:
    """The value of a field, in its type; None if the file does not say it."""
    [kind], source = types_of(node), node["x-from"]
    if source in ("resolution", "aspect_ratio"):
        if not facts.width or not facts.height:
            return None
        of_size = _resolution if source == "resolution" else _aspect_ratio
        return of_size(node, kind, {"width": facts.width, "height": facts.height})
    value = facts.duration_seconds if source == "duration" else getattr(facts, source)
    if value is None:
        return None
    if kind == "string":
        return f"{round(value, 1):g}s"
    return round(value) if kind == "integer" else round(float(value), 3)


def _resolution(node: Node, kind: str, size: Mapping[str, int]) -> Any:
    if kind == "string":
        return f"{size['width']}x{size['height']}"
    return {name: size[_side(name)] for name in node["properties"]}


def _side(name: str) -> str:
    """Normalize the name of a side: W and H become "width" and "height", and capitals small letters."""
    return {"w": "width", "h": "height"}.get(name.lower(), name.lower())


def _aspect_ratio(node: Node, kind: str, size: Mapping[str, int]) -> Any:
    """Width by height: a number, the nearest ratio of an enum (by the logarithm), or the reduced fraction."""
    width, height = size["width"], size["height"]
    if kind == "number":
        return round(width / height, 4)
    if "enum" in node:
        return min(node["enum"], key=lambda item: abs(math.log(_ratio(item) * height / width)))
    common = math.gcd(width, height)
    return f"{width // common}:{height // common}"


def _ratio(text: Any) -> float:
    """Parse a ratio such as "16:9" or "16,9"; 0 if it is none."""
    found = re.fullmatch(r"(\d+)\D(\d+)", str(text))
    return int(found[1]) / int(found[2]) if found and int(found[2]) else 0.0
