"""The error tree."""

import pickle
import re
from typing import get_args

import pytest

from reelscribe import errors
from reelscribe.errors import (
    FAILURE_KINDS,
    RETRIED_KINDS,
    ClipError,
    FailureKind,
    MissingExtraError,
    ReelscribeError,
    SettingsError,
    StoppedError,
)


def test_tree_at_the_top_of_the_module_names_every_error() -> None:
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or ""))
    assert drawn == {error.__name__ for error in ReelscribeError.__subclasses__()}
    assert len(drawn) == 9


def test_every_error_has_a_docstring() -> None:
    assert all(error.__doc__ for error in [ReelscribeError, *ReelscribeError.__subclasses__()])


def test_wrong_settings_are_value_errors_and_missing_extras_import_errors() -> None:
    with pytest.raises(ValueError, match="too few"):
        raise SettingsError("too few")
    with pytest.raises(ImportError, match="not installed"):
        raise MissingExtraError("not installed")


def test_clip_error_carries_its_kind() -> None:
    error = ClipError("too_short", "a.mp4 has 1 frame")
    assert (error.kind, str(error)) == ("too_short", "a.mp4 has 1 frame")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.kind, str(copy)) == (ClipError, error.kind, str(error))


def test_failure_kinds_are_a_closed_set() -> None:
    assert get_args(FailureKind) == FAILURE_KINDS
    assert set(FAILURE_KINDS) == {
        "row", "missing", "refused", "download", "unreadable", "no_video", "too_short", "too_large", "decode",
        "crashed", "timeout", "prompt", "after", "engine",
    }  # fmt: skip
    assert set(FAILURE_KINDS) > RETRIED_KINDS


def test_stopped_error_carries_its_signal() -> None:
    error = StoppedError("stopped", 15)
    assert (error.signal, str(error)) == (15, "stopped")
