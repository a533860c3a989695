"""Neighbouring stretches are decoded in one pass, and have the frames that each has by itself."""

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from av.container import InputContainer
from av.video.frame import VideoFrame
from clips import read_numbers, with_packet_overwritten, write_clip
from decoding import BUDGET, COUNT, EVERY_FRAME, KINDS, LONG_KINDS

from reelscribe.errors import ClipError
from reelscribe.values import Clip, Frames
from reelscribe.video import checked, film
from reelscribe.video.decode import decode
from reelscribe.video.opening import open_clip
from reelscribe.video.sampling import FrameBudget

SOME = replace(BUDGET, fps=2)
NEIGHBOURS = ((0.0, 1.0), (1.0, 2.2), (2.2, 4.5), (4.66, 6.0), (6.0, 7.1), (7.1, None))
"""Between two of them a few frames are left out."""


def part(file: Path, start: float, end: float | None, budget: FrameBudget = SOME) -> Frames:
    return decode(Clip(source=str(file), start_seconds=start, end_seconds=end), budget)


def alone(file: Path, start: float, end: float | None, budget: FrameBudget = SOME) -> Frames:
    """A stretch that comes after nothing."""
    film.take_film(Clip(source=str(file)))
    return part(file, start, end, budget)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Films that were begun at a keyframe."""
    begun: list[str] = []

    def begin(clip: Clip) -> InputContainer:
        begun.append(clip.name)
        return open_clip(clip)

    monkeypatch.setattr(film, "open_clip", begin)
    return begun


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Times of the frames that came out of decoders."""
    times: list[int] = []
    plain = checked.decode_run

    def counted(*given: object) -> Iterator[tuple[int, VideoFrame]]:
        for pts, frame in plain(*given):  # type: ignore[arg-type]
            times.append(pts)
            yield pts, frame

    monkeypatch.setattr(film, "decode_run", counted)
    return times


@pytest.mark.parametrize("budget", [SOME, EVERY_FRAME], ids=["some", "every"])
@pytest.mark.parametrize("name", [*KINDS, *LONG_KINDS])
def test_neighbours_have_the_frames_that_each_has_alone(
    name: str, budget: FrameBudget, opened: list[str], tmp_path: Path
) -> None:
    file = write_clip(tmp_path / name, range(COUNT), **(KINDS | LONG_KINDS)[name])
    expected = [alone(file, start, end, budget) for start, end in NEIGHBOURS]
    film.take_film(Clip(source=str(file)))
    opened.clear()
    for (start, end), right in zip(NEIGHBOURS, expected, strict=True):
        frames = part(file, start, end, budget)
        assert read_numbers(frames.pixels) == read_numbers(right.pixels)
        assert (frames.pixels == right.pixels).all()
        assert (frames.timestamps, frames.bounds, frames.facts) == (right.timestamps, right.bounds, right.facts)
    if name == "one_keyframe.mkv":
        assert len(opened) == 1


def test_frames_that_nobody_wants_and_none_refers_to_are_left_out(seen: list[int], tmp_path: Path) -> None:
    file = write_clip(tmp_path / "b.mkv", range(COUNT), keyframe_every=1000)
    for start, end in NEIGHBOURS:
        part(file, start, end)
    some = len(seen)
    assert len(set(seen)) == some, "no frame is decoded twice"
    seen.clear()
    film.take_film(Clip(source=str(file)))
    for start, end in NEIGHBOURS:
        part(file, start, end, EVERY_FRAME)
    assert some < 0.75 * len(seen)
    assert len(seen) == COUNT


def test_a_picture_that_stays_on_screen_is_the_next_stretch_s_first(opened: list[str], tmp_path: Path) -> None:
    file = write_clip(tmp_path / "slides.mp4", range(5), rate=1000, times=[0, 3000, 5000, 7500, 9000])
    assert read_numbers(part(file, 0, 4, EVERY_FRAME).pixels) == [0, 1]
    assert read_numbers(part(file, 4, 8, EVERY_FRAME).pixels) == [1, 2, 3]
    assert read_numbers(part(file, 8, None, EVERY_FRAME).pixels) == [3, 4]
    assert len(opened) == 1


def test_a_stretch_that_begins_earlier_starts_at_its_keyframe(
    opened: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    file = write_clip(tmp_path / "a.mp4", range(COUNT), keyframe_every=50)
    for start in (4.0, 3.0, 7.0, 1.0):
        assert read_numbers(part(file, start, start + 1, EVERY_FRAME).pixels) == list(
            range(round(start * 25), round(start * 25) + 25)
        )
    assert len(opened) == 4
    assert not caplog.messages, "nothing was tried in vain"


def test_a_keyframe_in_between_is_gone_to(seen: list[int], tmp_path: Path) -> None:
    file = write_clip(tmp_path / "a.mp4", range(COUNT), keyframe_every=25)
    part(file, 0, 1, EVERY_FRAME)
    part(file, 6, 7, EVERY_FRAME)
    assert len(seen) < 75


def test_a_film_that_was_changed_is_opened_again(tmp_path: Path) -> None:
    file = write_clip(tmp_path / "a.mp4", range(COUNT))
    assert read_numbers(part(file, 0, 1, EVERY_FRAME).pixels) == list(range(25))
    other = write_clip(tmp_path / "other.mp4", range(50, 50 + COUNT))
    shutil.copyfile(other, file)
    os.utime(file, ns=(1, 1))
    assert read_numbers(part(file, 1, 2, EVERY_FRAME).pixels) == list(range(75, 100))


def test_damage_costs_its_stretch_and_not_the_next(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mp4", range(COUNT), keyframe_every=25, b_frames=0)
    file = with_packet_overwritten(whole, tmp_path / "damaged.mp4", 80)
    numbers: dict[int, list[int]] = {}
    for second in range(8):
        with contextlib.suppress(ClipError):
            numbers[second] = read_numbers(part(file, second, second + 1, EVERY_FRAME).pixels)
    assert numbers == {second: list(range(second * 25, second * 25 + 25)) for second in range(8) if second != 3}


def test_each_thread_has_a_film_of_its_own(opened: list[str], tmp_path: Path) -> None:
    file = write_clip(tmp_path / "a.mp4", range(COUNT))
    other = write_clip(tmp_path / "other.mp4", range(50, 50 + COUNT))
    numbers: dict[str, list[int]] = {}

    def go_through(path: Path) -> None:
        numbers[path.name] = [
            number for at in range(8) for number in read_numbers(part(path, at, at + 1, EVERY_FRAME).pixels)
        ]

    threads = [threading.Thread(target=go_through, args=(path,)) for path in (file, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert numbers == {"a.mp4": list(range(COUNT)), "other.mp4": list(range(50, 50 + COUNT))}
    assert sorted(opened) == sorted(f"{path}#t=0,1" for path in (file, other))
