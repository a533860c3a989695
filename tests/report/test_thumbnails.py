"""Frames once more: the very ones, small, and within bounds."""

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clips import read_number, write_clip
from numpy.typing import NDArray
from PIL import Image

from reelscribe.config import Settings
from reelscribe.report.entries import CaptionedData, Entry
from reelscribe.report.thumbnails import Filmstrip, Thumbnail, filmstrips
from reelscribe.report.videos import FoundVideo
from reelscribe.values import Clip

HERE = Settings(decoders=0)


def _entry(file: Path, seconds: list[float]) -> Entry:
    video = FoundVideo(name=file.name, clip=Clip(source=str(file)))
    return Entry(
        row=0, slot=0, task="caption", video=video, original="", captions=("x",), meta={"frame_timestamps": seconds}
    )


def _strip(entry: Entry, most_frames: int = 12, max_bytes: int = 1 << 20) -> Filmstrip:
    (strip,) = filmstrips([entry], most_frames=most_frames, max_bytes=max_bytes, settings=HERE)
    return strip


def _pixels(frame: Thumbnail) -> NDArray[np.uint8]:
    data = base64.b64decode(frame.data.removeprefix("data:image/jpeg;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)))


def test_frames_are_those_at_the_recorded_times(tmp_path: Path) -> None:
    file = write_clip(tmp_path / "a.mp4", range(30), size=(640, 360))
    strip = _strip(_entry(file, [0.0, 0.12, 0.52, 1.16]))
    assert [read_number(_pixels(frame)) for frame in strip.frames] == [0, 3, 13, 29]
    assert [frame.seconds for frame in strip.frames] == pytest.approx([0.0, 0.12, 0.52, 1.16])
    assert {(frame.width, frame.height) for frame in strip.frames} == {(199, 112)}
    assert strip.of == 4


def test_of_many_frames_some_are_shown_evenly_spread(tmp_path: Path) -> None:
    file = write_clip(tmp_path / "a.mp4", range(30))
    strip = _strip(_entry(file, [round(number / 25, 3) for number in range(29)]), most_frames=5)
    assert [read_number(_pixels(frame)) for frame in strip.frames] == [0, 7, 14, 21, 28]
    assert strip.of == 29


def test_a_video_that_is_another_one_is_not_shown(tmp_path: Path) -> None:
    file = write_clip(tmp_path / "a.mp4", range(30))
    strip = _strip(_entry(file, [0.0, 7.5]))
    assert strip.frames == ()
    assert strip.problem.endswith("no frame is shown at 7.5 s: the file is not the one that it was.")


def test_a_video_that_broke_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("nothing")
    assert "cannot be opened as a video" in _strip(_entry(tmp_path / "a.mp4", [0.0])).problem


def test_frames_that_are_not_known_are_not_made_up(tmp_path: Path) -> None:
    entry = _entry(write_clip(tmp_path / "a.mp4", range(30)), [])
    assert _strip(entry) == Filmstrip(problem="Which frames the model saw is not known.")
    assert _strip(replace(entry, failure="decode")) == Filmstrip()
    away = replace(entry, video=FoundVideo(name="a.mp4", problem="The video is not there."))
    assert _strip(away).problem == "The video is not there."


@pytest.mark.parametrize(
    ("most", "frames", "width"), [(30_000, 10, 199), (12_000, 10, 100), (6_000, 5, 100), (200, 0, 0)]
)
def test_pictures_keep_within_their_bytes(tmp_path: Path, most: int, frames: int, width: int) -> None:
    file = write_clip(tmp_path / "a.mp4", range(30), size=(640, 360))
    seconds = [round(number / 25, 3) for number in range(0, 30, 3)]
    strip = _strip(_entry(file, seconds), max_bytes=most)
    assert len(strip.frames) == frames
    assert all(_pixels(frame).shape[1] == width for frame in strip.frames)
    assert sum(len(frame.data) for frame in strip.frames) <= most
    assert ("no room" in strip.problem) == (not frames)


def test_strips_come_in_the_order_of_entries_from_processes_too(data: Path) -> None:
    entries = [entry for entry in CaptionedData(data).entries() if isinstance(entry, Entry)]
    entries = [entries[place] for place in (3, 0, 7, 5, 1, 2, 4, 6)] * 2
    alone = list(filmstrips(entries, most_frames=3, settings=HERE))
    assert list(filmstrips(entries, most_frames=3, settings=Settings(decoders=2))) == alone
    assert [strip.of for strip in alone[:3]] == [8, 4, 0]
