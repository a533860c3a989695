"""The models that come with the package."""

from pathlib import Path
from typing import Final

BUILT_IN: Final = ("shapes",)


def model_path(name: str) -> Path | str:
    """The folder of a built-in model. Any other name is returned unchanged."""
    return Path(__file__).parent / name if name in BUILT_IN else name
