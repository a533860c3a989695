"""Stretches as files: the frames that are captioned, all of them, in their order, at their times."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import read_numbers, write_clip
from decoding import COUNT, EVERY_FRAME, KINDS, LONG_KINDS

from reelscribe.errors import ClipError
from reelscribe.values import Clip, Frames
from reelscribe.video.cutting import Way, cut
from reelscribe.video.decode import decode

ONLY_THERE: dict[str, Any] = {"keyframe_every": 25, "options": {"sc_threshold": "0"}}
"""Keyframes where they are wanted, and nowhere else."""
NEAR = 12
"""Of 255: how far a picture that was encoded may be from the one that it was, on average."""


def _cut(film: Path, start: float, end: float | None) -> tuple[Way, Frames, Frames]:
    """How a stretch was cut, its frames as they are captioned, and those of the file."""
    file = film.with_name("cut.mp4")
    clip = Clip(source=str(film), start_seconds=start, end_seconds=end)
    way = cut(clip, file, threads=1)
    return way, decode(clip, EVERY_FRAME), decode(Clip(source=str(file)), EVERY_FRAME)


def _same(before: Frames, after: Frames, *, late: float = 0.002) -> None:
    """The same frames: number, pictures, times."""
    assert after.pixels.shape == before.pixels.shape
    assert np.abs(after.pixels.astype(int) - before.pixels).mean() < NEAR
    assert after.timestamps == pytest.approx(before.timestamps, abs=late)
    assert after.duration_seconds == pytest.approx(before.duration_seconds, abs=late + 0.002)


@pytest.mark.parametrize("name", [*KINDS, *LONG_KINDS])
def test_a_file_has_the_frames_of_its_stretch(name: str, tmp_path: Path) -> None:
    options = KINDS.get(name) or LONG_KINDS.get(name, {})
    film = write_clip(tmp_path / name, range(COUNT), **options)
    for start, end in ((0.0, 1.0), (0.52, 0.6), (3.0, 5.0), (6.4, None)):
        _, before, after = _cut(film, start, end)
        _same(before, after)
        first, stop = round(start * 25), COUNT if end is None else round(end * 25)
        assert read_numbers(after.pixels) == list(range(first, stop))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {"options": {"sc_threshold": "0"}}),
        ("a.mkv", {"options": {"sc_threshold": "0"}}),
        ("hevc.mp4", {"codec": "libx265"}),
        ("vp9.webm", {"codec": "libvpx-vp9"}),
        ("av1.mkv", {"codec": "libsvtav1"}),
    ],
)
def test_from_keyframe_to_keyframe_packets_are_copied(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    film = write_clip(tmp_path / name, range(100), keyframe_every=25, **options)
    _, before, after = _cut(film, 0.0, 4.0)
    assert (after.pixels == before.pixels).all()
    way, before, after = _cut(film, 1.0, 2.0)
    assert way == "copied"
    assert read_numbers(after.pixels) == list(range(25, 50))
    assert (after.pixels == before.pixels).all()
    assert after.timestamps == pytest.approx(before.timestamps, abs=0.002)


def test_packets_are_copied_only_if_no_other_frame_comes_with_them(tmp_path: Path) -> None:
    regular = {"x264-params": "b-adapt=0:scenecut=0"}
    film = write_clip(tmp_path / "a.mp4", range(100), b_frames=3, keyframe_every=25, options=regular)
    ways = {times: _cut(film, *times)[0] for times in ((1.0, 3.0), (1.04, 2.0), (0.0, 0.08))}
    assert ways == {(1.0, 3.0): "copied", (1.04, 2.0): "encoded", (0.0, 0.08): "encoded"}
    film = write_clip(tmp_path / "open.mp4", range(100), **LONG_KINDS["open_groups.mp4"])
    _, before, after = _cut(film, 0.96, 2.88)
    _same(before, after)


def test_pictures_of_a_slide_show_stay_as_long_as_they_do(tmp_path: Path) -> None:
    film = write_clip(tmp_path / "a.mp4", range(4), times=[0, 100, 110, 200], keyframe_every=1)
    for start, end in ((1.0, 7.0), (4.0, 4.8), (4.3, 8.0)):
        _, before, after = _cut(film, start, end)
        _same(before, after)


def test_a_stretch_may_begin_just_before_a_frame(tmp_path: Path) -> None:
    film = write_clip(tmp_path / "a.avi", range(50), codec="mpeg4", b_frames=0)
    way, before, after = _cut(film, 0.998, 1.4)
    assert way == "encoded"
    assert after.timestamps[:2] == pytest.approx([0.0, 0.002], abs=0.0001)
    _same(before, after)


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize(("turn", "mirrored"), [(1, False), (2, False), (3, False), (0, True), (1, True)])
def test_a_picture_lies_as_it_did(turn: int, mirrored: bool, copied: bool, tmp_path: Path) -> None:
    film = write_clip(tmp_path / "a.mp4", range(50), size=(96, 64), turn=turn, mirrored=mirrored, **ONLY_THERE)
    way, before, after = _cut(film, 1.0 if copied else 0.4, 2.0)
    assert way == ("copied" if copied else "encoded")
    _same(before, after)
    assert read_numbers(after.pixels)[0] == (25 if copied else 10)


def test_the_sound_goes_along(tmp_path: Path) -> None:
    film = write_clip(tmp_path / "a.mp4", range(100), audio_seconds=4, **ONLY_THERE)
    for start, end, wanted in ((1.0, 3.0, "copied"), (0.5, 2.1, "encoded")):
        way, before, after = _cut(film, start, end)
        assert way == wanted
        _same(before, after)
        with av.open(str(tmp_path / "cut.mp4")) as container:
            packets = [packet for packet in container.demux(container.streams.audio[0]) if packet.size]
        times = [float((packet.pts or 0) * packet.time_base) for packet in packets]
        assert times[0] == pytest.approx(0.0, abs=0.07)
        assert times[-1] == pytest.approx(end - start, abs=0.14)


@pytest.mark.parametrize(("name", "has_sound"), [("a.ts", True), ("a.flv", True), ("a.avi", False)])
def test_the_sound_of_other_containers(name: str, has_sound: bool, tmp_path: Path) -> None:
    film = write_clip(tmp_path / name, range(100), audio_seconds=4, keyframe_every=25)
    _, before, after = _cut(film, 0.52, 2.0)
    _same(before, after)
    with av.open(str(tmp_path / "cut.mp4")) as container:
        assert bool(container.streams.audio) == has_sound
        assert (sum(1 for _ in container.decode(audio=0)) > 20) if has_sound else True


def test_sides_that_are_odd_become_even(tmp_path: Path) -> None:
    film = write_clip(tmp_path / "a.webm", range(20), codec="libvpx-vp9", size=(161, 121))
    cut(Clip(source=str(film), start_seconds=0.2, end_seconds=0.6), tmp_path / "cut.mp4")
    after = decode(Clip(source=str(tmp_path / "cut.mp4")), EVERY_FRAME)
    assert read_numbers(after.pixels) == list(range(5, 15))
    with av.open(str(tmp_path / "cut.mp4")) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (160, 120)


def _spoiled(film: Path, number: int, *, length: int | None = None) -> Path:
    """A film with zeros in the place of a packet, or of as many bytes from there on."""
    with av.open(str(film)) as container:
        at, size = [(packet.pos, packet.size) for packet in container.demux(video=0)][number]
    assert at is not None
    data = bytearray(film.read_bytes())
    data[at : at + (length or size)] = bytes(length or size)
    film.write_bytes(data)
    return film


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {}),
        ("sound.mp4", {"audio_seconds": 8.0}),
        ("a.mkv", {}),
        ("a.ts", {}),
        ("hevc.mp4", {"codec": "libx265"}),
        ("mpeg4.avi", {"codec": "mpeg4", "b_frames": 0}),
    ],
)
def test_damage_elsewhere_in_a_film_does_not_matter(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    film = _spoiled(write_clip(tmp_path / name, range(COUNT), keyframe_every=20, **options), 107)
    for start, end in ((0.52, 2.6), (5.32, 7.0), (5.32, None)):
        _, before, after = _cut(film, start, end)
        assert before.decoded_share is None
        _same(before, after)
        assert read_numbers(after.pixels)[0] == round(start * 25)


def test_damage_within_a_stretch_does(tmp_path: Path) -> None:
    film = _spoiled(write_clip(tmp_path / "a.mp4", range(COUNT), keyframe_every=20), 107)
    with pytest.raises(ClipError) as caught:
        cut(Clip(source=str(film), start_seconds=4.04, end_seconds=5.0), tmp_path / "cut.mp4")
    assert caught.value.kind == "decode"


@pytest.mark.parametrize("options", [{"codec": "mpeg4", "b_frames": 0}, {}])
def test_nothing_is_cut_if_nobody_knows_when_its_frames_are_shown(options: dict[str, Any], tmp_path: Path) -> None:
    film = _spoiled(write_clip(tmp_path / "a.avi", range(COUNT), keyframe_every=25, **options), 90, length=1500)
    assert _cut(film, 0.52, 2.0)[2].pixels.shape[0] == 37
    with pytest.raises(ClipError, match="packets that its frames need cannot be read; the file is damaged"):
        cut(Clip(source=str(film), start_seconds=6.04, end_seconds=7.0), tmp_path / "cut.mp4")


def test_what_cannot_be_cut(tmp_path: Path) -> None:
    film = write_clip(tmp_path / "a.mp4", range(50))
    for start, end, kind in ((5.0, 6.0, "row"), (1.0, 1.04, "too_short")):
        with pytest.raises(ClipError) as caught:
            cut(Clip(source=str(film), start_seconds=start, end_seconds=end), tmp_path / "cut.mp4")
        assert caught.value.kind == kind
    with pytest.raises(ClipError) as caught:
        cut(Clip(source="gone.mp4", start_seconds=1, root=tmp_path), tmp_path / "cut.mp4")
    assert caught.value.kind == "missing"
