"""The package inside other frameworks."""

from pathlib import Path
from typing import Final

DATA_JUICER_PLUGIN: Final = Path(__file__).parent / "reelscribe_dj"
"""The folder to name under `custom_operator_paths` in a recipe of Data-Juicer. It is a package, which both of its
executors load: the default one imports it, Ray's also sends it to its workers."""
