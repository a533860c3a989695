"""Integrations with other frameworks."""

from pathlib import Path
from typing import Final

DATA_JUICER_PLUGIN: Final = Path(__file__).parent / "reelscribe_dj"
"""The folder to name under `custom_operator_paths` in a Data-Juicer recipe. It is a package so that both of its
executors can load it: the default one imports it, and Ray's also sends it to its workers."""
