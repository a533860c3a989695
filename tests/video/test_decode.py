"""Clips of every kind to frames: the right ones, by each way through a file, within the budget."""

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from av.container import InputContainer
from clips import read_numbers, write_clip
from decoding import BUDGET, EVERY_FRAME, KINDS, decoded, index_of

from reelscribe.errors import ClipError
from reelscribe.values import Clip
from reelscribe.video import decode as decode_module
from reelscribe.video import runs
from reelscribe.video.decode import decode
from reelscribe.video.opening import open_clip


@pytest.fixture
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every clip for a long one, of which the decoder gets only what is needed."""
    monkeypatch.setattr(decode_module, "_WHOLE_PACKETS", 0)


@pytest.fixture(params=["whole, kept", "whole, read", "kept", "read on", "seek"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make the decoder take one of its ways, and no other."""
    way = str(request.param)

    def closed(*_: Any) -> Any:
        raise ClipError("decode", "this way is closed")

    monkeypatch.setattr(decode_module, "_WHOLE_PACKETS", 750 if "whole" in way else 0)
    monkeypatch.setattr(decode_module, "runs_to" if "whole" in way else "whole_run", closed)
    if "kept" not in way:
        monkeypatch.setattr(decode_module, "_KEPT_BYTES", 0)
    if way == "seek":
        monkeypatch.setattr(runs, "_SEEK_BYTES", 0)
    else:
        monkeypatch.setattr(decode_module, "_SEEKABLE", frozenset())
    return way


# The right frames


@pytest.mark.parametrize("whole_packets", [0, 750])
@pytest.mark.parametrize("name", KINDS)
def test_frames_times_and_size_are_right_in_every_container_and_codec(
    name: str, whole_packets: int, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_module, "_WHOLE_PACKETS", whole_packets)
    file = write_clip(tmp_path / name, **KINDS[name])
    with caplog.at_level(logging.DEBUG):
        frames = decoded(file)
    assert read_numbers(frames.pixels) == [0, 5, 11, 17, 23, 29]
    assert frames.timestamps == pytest.approx([0, 0.2, 0.44, 0.68, 0.92, 1.16], abs=0.0011)
    assert frames.duration_seconds == pytest.approx(1.2, abs=0.0011)
    assert frames.pixels.shape == (6, 128, 160, 3)
    assert frames.pixels.dtype == np.uint8
    assert frames.video_tokens == 3 * 4 * 5
    assert not caplog.records, "the quick way failed"


@pytest.mark.parametrize("name", ["h264.mp4", "h264.ts", "h264.avi", "bare.h264", "hevc.mp4", "vp9.webm", "mpeg2.mpg"])
def test_a_clip_can_be_had_whole(name: str, tmp_path: Path) -> None:
    frames = decoded(write_clip(tmp_path / name, **KINDS[name]), EVERY_FRAME)
    assert read_numbers(frames.pixels) == list(range(30))
    assert frames.timestamps == pytest.approx([number / 25 for number in range(30)], abs=0.0011)


@pytest.mark.parametrize(
    ("name", "settings"),
    {
        "sparse_keyframes.mp4": {},
        "many_keyframes.mp4": {"keyframe_every": 10},
        "open_groups.mp4": {"options": {"x264-params": "open-gop=1:keyint=10:min-keyint=10"}},
        "open_groups.ts": {"options": {"x264-params": "open-gop=1:keyint=10:min-keyint=10"}},
        "pyramid.mkv": {"options": {"x264-params": "b-pyramid=strict:bframes=7"}, "b_frames": 7},
        "hevc_open.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:open-gop=1:keyint=10"}},
        "hevc_layers.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:temporal-layers=3"}},
        "vp9.webm": {"codec": "libvpx-vp9", "keyframe_every": 10},
        "av1.mkv": {"codec": "libsvtav1", "keyframe_every": 10},
        "mpeg4.mov": {"codec": "mpeg4", "keyframe_every": 10},
        "mpeg2.mpg": {"codec": "mpeg2video", "keyframe_every": 10},
        "mpeg4.avi": {"codec": "mpeg4", "keyframe_every": 10, "b_frames": 0},
    }.items(),
)
@pytest.mark.parametrize("fps", [0.8, 1.1, 3])
def test_all_ways_through_a_file_give_the_same_frames(
    name: str, settings: dict[str, Any], fps: float, folder: Path, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = folder / name
    if not file.exists():
        write_clip(file, range(128), **settings)
    with caplog.at_level(logging.DEBUG):
        frames = decoded(file, replace(BUDGET, fps=fps))
    assert not caplog.records, "this way failed, and another was taken"
    expected = [round(second * 25) for second in frames.timestamps]
    assert read_numbers(frames.pixels) == expected
    assert expected[0] == 0
    assert expected[-1] == 127


def test_frames_between_the_needed_ones_are_passed_over(folder: Path) -> None:
    file = write_clip(folder / "dense.mp4", range(120), keyframe_every=10, options={"x264-params": "scenecut=0"})
    index = index_of(file)
    made = runs.runs_to(index, [index.pts[number] for number in (0, 42, 88, 119)])
    assert [run.packets.start for run in made] == [0, 40, 80, 110]
    assert sum(len(run.packets) for run in made) < 30


def seeks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where the decoder seeks to, from now on; files are read again however small they are."""
    monkeypatch.setattr(decode_module, "_KEPT_BYTES", 0)
    made: list[int] = []
    seek = runs._packets_from

    def counted(clip: Any, container: Any, stream: Any, pts: int) -> Any:
        made.append(pts)
        return seek(clip, container, stream, pts)

    monkeypatch.setattr(runs, "_packets_from", counted)
    return made


@pytest.mark.usefixtures("long")
def test_long_stretches_that_are_not_needed_are_sought_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_clip(folder / "long.mp4", range(120), keyframe_every=10, options={"x264-params": "scenecut=0"})
    made, index = seeks(monkeypatch), index_of(file)
    monkeypatch.setattr(runs, "_SEEK_BYTES", file.stat().st_size // 5)
    assert read_numbers(decoded(file, replace(BUDGET, min_frames=4, fps=0.5)).pixels) == [0, 39, 79, 119]
    assert made == [index.pts[number] for number in (30, 70, 110)]
    monkeypatch.setattr(runs, "_SEEK_BYTES", file.stat().st_size // 2)
    assert read_numbers(decoded(file, replace(BUDGET, min_frames=4, fps=0.5)).pixels) == [0, 39, 79, 119]
    assert len(made) == 3


@pytest.mark.usefixtures("long")
@pytest.mark.parametrize("miss", [-1, 20, 59])
def test_a_seek_that_misses_costs_time_but_no_frame(
    miss: int, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_clip(folder / "missed.mkv", range(60), keyframe_every=10, options={"x264-params": "scenecut=0"})
    seeks(monkeypatch)
    monkeypatch.setattr(runs, "_SEEK_BYTES", 0)
    index = index_of(file)
    seek = InputContainer.seek

    class Astray:
        """A container whose seeks land somewhere else."""

        def __init__(self, container: InputContainer) -> None:
            self._container = container

        def __enter__(self) -> "Astray":
            return self

        def __exit__(self, *_: object) -> None:
            self._container.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._container, name)

        def seek(self, _: int, **options: Any) -> None:
            seek(self._container, index.pts[miss], **options)

    monkeypatch.setattr(decode_module, "open_clip", lambda clip: Astray(open_clip(clip)))
    with caplog.at_level(logging.DEBUG):
        frames = decoded(file, replace(BUDGET, fps=1))
    assert read_numbers(frames.pixels) == [0, 19, 39, 59]
    assert "a seek missed its keyframe" in caplog.text


def test_frames_are_counted_where_a_container_has_no_times_of_its_own(folder: Path) -> None:
    assert not index_of(write_clip(folder / "h264.avi", b_frames=0)).timed  # a late one may yet refer to a later one
    assert not index_of(write_clip(folder / "b_frames.avi", codec="mpeg4")).timed
    assert index_of(write_clip(folder / "in_order.avi", codec="mpeg4", b_frames=0)).timed
    assert index_of(write_clip(folder / "times.mkv", codec="mpeg4")).timed


def test_threads_change_nothing(plain: Path) -> None:
    one, many = (decode(Clip(source=str(plain)), BUDGET, threads=threads) for threads in (1, 4))
    assert np.array_equal(one.pixels, many.pixels)


# Within the budget


@pytest.mark.parametrize("tokens", [4, 40, 100, 2000])
@pytest.mark.parametrize("fps", [1, 10])
def test_a_clip_costs_what_it_says_and_no_more_than_it_may(tokens: int, fps: float, plain: Path) -> None:
    budget = replace(BUDGET, max_video_tokens=tokens, fps=fps)
    frames = decoded(plain, budget)
    count, height, width, _ = frames.pixels.shape
    assert frames.video_tokens == (count + 1) // 2 * (height // 32) * (width // 32) <= tokens
    assert frames.pixels.nbytes <= budget.max_bytes
    assert len(frames.timestamps) == count


def test_a_small_clip_is_not_blown_up(tmp_path: Path) -> None:
    frames = decoded(write_clip(tmp_path / "small.mp4", size=(64, 64)), replace(BUDGET, max_video_tokens=8192))
    assert frames.pixels.shape[1:3] == (64, 64)


# Where a clip comes from


def test_bytes_are_as_good_as_a_path(plain: Path) -> None:
    by_path, by_bytes = decoded(plain), decode(Clip(source=plain.read_bytes()), BUDGET)
    assert np.array_equal(by_path.pixels, by_bytes.pixels)
    assert by_path.timestamps == by_bytes.timestamps


def test_relative_paths_start_from_the_root_or_else_from_the_working_folder(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert decode(Clip(source=plain.name, root=plain.parent), BUDGET).video_tokens == 60
    assert decode(Clip(source=str(plain), root=Path("/elsewhere")), BUDGET).video_tokens == 60
    monkeypatch.chdir(plain.parent)
    assert decode(Clip(source=plain.name), BUDGET).video_tokens == 60


@pytest.mark.parametrize("name", ["10:30:00.mp4", "http:clip.mp4", "100% %d.mp4", "ünï 影片.mp4", "-i.mp4", "a|b.mp4"])
def test_a_path_is_a_path_whatever_it_looks_like(
    name: str, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(plain.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert decode(Clip(source=name), BUDGET).video_tokens == 60


def test_a_path_that_is_no_unicode_can_be_opened(plain: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    (tmp_path / name).write_bytes(plain.read_bytes())
    assert decode(Clip(source=name, root=tmp_path), BUDGET).video_tokens == 60
