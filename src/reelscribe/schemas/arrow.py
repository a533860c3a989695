"""Arrow types of structured captions.

A `Form` is a description of a type that needs no pyarrow: the name of a scalar Arrow type, "json" for values without an
Arrow type, a list with one form for lists, or a dict of forms for structs.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from reelscribe.schemas.nodes import CHOOSING, COMPOSING, ROOT, Node, closed, compact, plain, types_of

if TYPE_CHECKING:
    import pyarrow as pa

Form = str | list["Form"] | dict[str, "Form"]

_SCALARS: Final = {"string": "string", "integer": "int64", "number": "float64", "boolean": "bool"}
"""Arrow types of JSON Schema's types."""


@lru_cache(maxsize=64)
def form_of(text: str) -> Form:
    """The form of the values of a schema, given as JSON."""
    root = closed(text)
    return _form(root, root, ROOT)


def _form(root: Node, node: Any, seen: tuple[str, ...]) -> Form:
    node, seen = plain(root, node, seen)
    if not isinstance(node, dict) or (COMPOSING | CHOOSING) & node.keys():
        return "json"
    match types_of(node):
        case ["object"] if node.get("properties") and node.get("additionalProperties") is False:
            return {name: _form(root, item, seen) for name, item in node["properties"].items()}
        case ["array"] if "items" in node and "prefixItems" not in node:
            return [_form(root, node["items"], seen)]
        case [kind] if kind in _SCALARS:
            return _SCALARS[kind]
        case [] if "enum" in node and all(isinstance(value, str) for value in node["enum"]):
            return "string"
    return "json"


def arrow_type(form: Form) -> "pa.DataType":
    """The Arrow type of a form."""
    import pyarrow as pa

    if isinstance(form, dict):
        return pa.struct([pa.field(name, arrow_type(item)) for name, item in form.items()])
    if isinstance(form, list):
        return pa.list_(arrow_type(form[0]))
    return {"int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}.get(form, pa.string())


def arrow_value(form: Form, value: Any) -> Any:
    """Convert a JSON value to its form; missing fields become None."""
    if value is None:
        return None
    if isinstance(form, dict):
        return {name: arrow_value(item, value.get(name)) for name, item in form.items()}
    if isinstance(form, list):
        return [arrow_value(form[0], item) for item in value]
    if form == "json":
        return compact(value)
    return int(value) if form == "int64" else value  # 1.0 is a whole number in JSON Schema
