"""The record of a run: a JSON file beside the output, written when the run ends, also if it fails."""

import json
import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from reelscribe.config import Settings
from reelscribe.dataset.files import write_whole
from reelscribe.errors import without_passwords
from reelscribe.video.prefetch import usable_cpus

logger = logging.getLogger(__name__)

_PACKAGES: Final = (
    "reelscribe",
    "av",
    "numpy",
    "torch",
    "transformers",
    "vllm",
    "httpx2",
    "pyarrow",
    "datasets",
    "ray",
)


class Record:
    """Writes the record when its context ends. If it cannot be written, a warning is logged and the run goes on.

    Args:
        file: path of the record.
        settings: settings of the run.
        inputs: the run's inputs as the user typed them.
    """

    def __init__(self, file: Path, settings: Settings, inputs: Sequence[str | Path]) -> None:
        self._file, self._settings, self._inputs = file, settings, inputs
        self._started = time.time()
        self.told: Callable[[], dict[str, Any]] | None = None
        """Called at the end for the run's own values. If a run fails before this is set, no record is written."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.told is None:
            return
        record = {
            "ending": "finished" if error is None else str(error) or type(error).__name__,
            "started": _iso(self._started),
            "ended": _iso(time.time()),
            **self.told(),
            "inputs": [without_passwords(str(item)) for item in self._inputs],
            "settings": self._settings.without_token(),
            "versions": versions(),
            "hardware": hardware(),
        }
        try:
            write_whole(self._file, json.dumps(record, indent=1, default=str) + "\n")
        except OSError as exc:
            logger.warning("%s cannot be written: %s.", self._file, exc.strerror)


def versions() -> dict[str, str]:
    """Versions of Python and of the relevant packages that are loaded."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        if package in sys.modules:
            try:
                found[package] = version(package)
            except PackageNotFoundError:  # vLLM for a CPU is distributed under another name
                found[package] = str(getattr(sys.modules[package], "__version__", "unknown"))
    return found


def hardware() -> dict[str, Any]:
    """The machine's hardware, without its host name: CPU model, usable cores, bytes of memory, GPU names."""
    torch = sys.modules.get("torch")  # only engines load it, and without it no GPU was used by this process
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())] if torch else []
    return {"cpu": _cpu(), "cores": usable_cpus(), "memory_bytes": _memory_bytes(), "gpus": gpus}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.processor())


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
