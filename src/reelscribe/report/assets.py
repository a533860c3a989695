"""The files that pages are made of: text files of a subpackage, scripts with their hashes, and templates."""

import base64
import hashlib
from importlib.resources import files

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from reelscribe.report.timeline import clock


def text_of(room: str, name: str) -> str:
    """The text of a file in a subpackage, such as "report"."""
    return files(f"reelscribe.{room}").joinpath(name).read_text("utf-8")


def script_hash(script: str) -> str:
    """The hash of a script for a page's content security policy: base64 of its SHA-256."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def scripts(*files: tuple[str, str]) -> dict[str, list[str]]:
    """The template variables `scripts` and `script_hashes` for scripts given by subpackage and file name, in order."""
    texts = [text_of(room, name) for room, name in files]
    return {"scripts": [Markup(text) for text in texts], "script_hashes": list(map(script_hash, texts))}


def environment(*rooms: str) -> Environment:
    """The templates of these subpackages. If two templates share a name, the first subpackage's is used."""
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
