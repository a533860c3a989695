"""Writes the settings as typed keywords, for editors and mypy, from `Settings` itself. A test holds them to it."""

from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from reelscribe.config import Settings, groups

FILE = Path(__file__).parent.parent / "src" / "reelscribe" / "config" / "keywords.py"


def render() -> str:
    """The module."""
    names = {value: name for name, value in vars(groups).items() if get_origin(value) is Literal}

    def written(kind: Any) -> str:
        if kind in names:
            return names[kind]
        if isinstance(kind, type):
            return "None" if kind is type(None) else kind.__name__
        if type(None) in get_args(kind):
            return " | ".join(map(written, get_args(kind)))
        return f"{get_origin(kind).__name__}[{', '.join(map(written, get_args(kind)))}]"

    return "\n".join(
        [
            '"""The settings that `VideoCaptioner` takes beside the model, as editors and mypy read them.',
            "",
            "Written by `python tools/render_keywords.py`.",
            '"""',
            "",
            "from collections.abc import Mapping",
            "from typing import Any, TypedDict",
            "",
            f"from reelscribe.config.groups import {', '.join(sorted({*names.values()} - {'Keep'}))}",
            "from reelscribe.tasks import Keep",
            "",
            "",
            "class Keywords(TypedDict, total=False):",
            '    """Fields of `Settings`, all but `model`."""',
            "",
            *(f"    {item.name}: {written(item.type)}" for item in fields(Settings) if item.name != "model"),
            "",
        ]
    )


if __name__ == "__main__":
    FILE.write_text(render(), "utf-8")
