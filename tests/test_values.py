"""The values that travel."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from flow import named, request, said

from reelscribe.errors import SettingsError
from reelscribe.values import Caption, Clip


def test_relative_path_starts_from_the_root_of_its_data_set() -> None:
    assert Clip(source="clips/a.mp4", root=Path("/data")).path == Path("/data/clips/a.mp4")
    assert Clip(source="/videos/a.mp4", root=Path("/data")).path == Path("/videos/a.mp4")
    assert Clip(source="a.mp4").path == Path("a.mp4")


def test_clip_is_called_by_its_path_as_given_or_by_its_size() -> None:
    assert Clip(source="clips/a.mp4", root=Path("/data")).name == "clips/a.mp4"
    assert Clip(source=bytes(12345)).name == "<12,345 bytes>"
    assert Clip(source=b"", called="a") == Clip(source=b"", called="b")  # it need be decoded once only


def test_times_in_the_name_of_a_stretch_are_short() -> None:
    assert Clip(source="a.mp4", start_seconds=1.5, end_seconds=100.0).name == "a.mp4#t=1.5,100"
    assert Clip(source="a.mp4", end_seconds=1e300).name == "a.mp4#t=0,1e+300"


def test_clip_of_bytes_has_no_path() -> None:
    with pytest.raises(TypeError, match="given by its bytes has no path"):
        _ = Clip(source=b"...").path


def test_request_for_no_candidates_is_refused() -> None:
    with pytest.raises(SettingsError, match="num_captions must be a whole number of at least 1; got 0"):
        request(num_captions=0)


def test_texts_of_a_caption_are_those_kept() -> None:
    caption = Caption(id=named("0"), kept=(2, 0), reason="", candidates=said("a", "b", "c"), meta={})
    assert caption.texts == ("c", "a")


def test_values_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        request().prompt = "another"  # type: ignore[misc]
