"""What pages are made of: the files of their rooms, and templates that may use those of each other."""

import base64
import hashlib
from importlib.resources import files

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from reelscribe.report.timeline import clock


def text_of(room: str, name: str) -> str:
    """A file that lies in a room of the package, as "report"."""
    return files(f"reelscribe.{room}").joinpath(name).read_text("utf-8")


def script_hash(script: str) -> str:
    """By which a page's content security policy knows a script: base64 of its SHA-256."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def scripts(*files: tuple[str, str]) -> dict[str, list[str]]:
    """Scripts by room and name, in their order, as a page's template takes them."""
    texts = [text_of(room, name) for room, name in files]
    return {"scripts": [Markup(text) for text in texts], "script_hashes": list(map(script_hash, texts))}


def environment(*rooms: str) -> Environment:
    """Templates of rooms; of two with one name that of the first room."""
    made = Environment(
        loader=ChoiceLoader([PackageLoader("reelscribe", room) for room in rooms]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["clock"] = clock
    made.filters["plain"] = lambda name: name.replace("_", " ")
    return made
