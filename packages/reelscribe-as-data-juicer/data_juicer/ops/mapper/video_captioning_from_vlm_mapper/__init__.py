"""Reelscribe's operator where code looks for Data-Juicer's.

The folders above are no packages of their own, and this is a folder, not a file: where Data-Juicer is installed, too,
none of its files is written over, and this one is found first and says so.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    _found = version("py-data-juicer")
except PackageNotFoundError:
    pass
else:
    raise ImportError(
        f"reelscribe-as-data-juicer stands in for Data-Juicer, but py-data-juicer {_found} is installed, too. "
        "Keep one: pip uninstall reelscribe-as-data-juicer, and to use Reelscribe inside Data-Juicer, "
        "pip install reelscribe-data-juicer."
    )

from reelscribe import VideoCaptioningFromVLMMapper

__all__ = ["VideoCaptioningFromVLMMapper"]
