"""Every error that the package raises.

    ReelscribeError
    ├── SettingsError       a setting or argument is wrong (also a ValueError)
    ├── DatasetError        the data set as a whole cannot be read or written
    ├── MissingExtraError   an optional dependency is not installed (also an ImportError)
    ├── ModelError          the model cannot be loaded
    ├── EngineError         the engine itself broke: the run stops
    ├── FailuresError       more clips failed than may: the run stops
    ├── BudgetError         the run has cost as much as it may
    ├── StoppedError        the run was told to stop
    └── ClipError           one clip cannot be captioned: costs its row, never the run

Errors of other libraries are translated once, where they come in.
"""

import difflib
import re
from collections.abc import Sequence
from typing import Final, Literal, get_args

FailureKind = Literal[
    "row",
    "missing",
    "refused",
    "download",
    "unreadable",
    "no_video",
    "too_short",
    "too_large",
    "decode",
    "crashed",
    "timeout",
    "prompt",
    "after",
    "engine",
]
"""Why a row has no caption.

row: there is no row to be read here, or its video column holds no video.
missing: the file is not there.
refused: the path leaves the root folder, or the URL leads to where none may lead.
download: the URL gave no whole file within the limits.
unreadable: the file cannot be opened as a video.
no_video: the file has no video stream (audio only, say).
too_short: the file has fewer than two frames.
too_large: the pictures, or the memory that decoding takes, are beyond the limits.
decode: some of the frames cannot be decoded, or the file ends before the length it states.
crashed: the decoder crashed on the clip.
timeout: the clip took longer to decode than it may.
prompt: the row's text and its videos do not fit together, its own prompt is no text, or it lacks what a prompt names.
after: a task that has to be answered before has no answer.
engine: the engine could not caption this clip.
"""

FAILURE_KINDS: tuple[FailureKind, ...] = get_args(FailureKind)

RETRIED_KINDS: frozenset[FailureKind] = frozenset({"download", "crashed", "timeout", "engine"})
"""Kinds whose cause may be gone in the next run, as with a network that was down. A later run tries them again."""


class ReelscribeError(Exception):
    """Base of all errors of this package; its text says what to do, and holds no password of a URL."""

    def __init__(self, message: str = "") -> None:
        super().__init__(without_passwords(message))


class SettingsError(ReelscribeError, ValueError):
    """A setting or argument is wrong."""


class DatasetError(ReelscribeError):
    """The data set as a whole cannot be read or written."""


class MissingExtraError(ReelscribeError, ImportError):
    """An optional dependency is not installed."""


class ModelError(ReelscribeError):
    """The model cannot be loaded."""


class EngineError(ReelscribeError):
    """The engine itself broke, so that no further clip can be captioned."""


class FailuresError(ReelscribeError):
    """More clips failed than may."""


class BudgetError(ReelscribeError):
    """The run stopped, in good order, since it has cost as much as it may."""


class StoppedError(ReelscribeError):
    """A signal told the run to stop, and it did, in good order."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class ClipError(ReelscribeError):
    """One clip cannot be captioned."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind

    def __reduce__(self) -> tuple[type["ClipError"], tuple[FailureKind, str]]:
        return ClipError, (self.kind, str(self))


_LOGIN: Final = re.compile(
    r"(?<=://)(?:[^/?#\s]*@"  # user:password@
    r"|(?![^/?#\s@]*\])[^/?#\s@:]*:(?!\d*(?:[/?#\s]|$))(?:(?!://)[^\s?#])*@)"  # a password that holds a slash
)


def without_passwords(text: str, mark: str = "***@") -> str:
    """A text whose URLs have lost their `user:password@`, for a mark: what may be printed and kept."""
    return _LOGIN.sub(mark, text) if "@" in text else text


def did_you_mean(name: str, known: Sequence[str], *, otherwise: str | None = None, most: int = 3) -> str:
    """The end of a message about an unknown name: those that it may stand for, or else what there is."""
    near = difflib.get_close_matches(name, known, n=most, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else otherwise or f"known are {', '.join(known)}."
