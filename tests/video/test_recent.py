"""What is read of a film once for all its stretches."""

from pathlib import Path
from typing import Any

import pytest
from clips import cut, read_numbers, write_clip
from decoding import EVERY_FRAME

from reelscribe.errors import ClipError
from reelscribe.values import Clip
from reelscribe.video import decode as decode_module
from reelscribe.video import parts, recent
from reelscribe.video.decode import decode
from reelscribe.video.recent import Recent


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose packets were read, each time that they were."""
    names: list[str] = []
    for module in (decode_module, parts):
        read = module.read_index

        def counted(container: Any, stream: Any, clip: Clip, *args: Any, read: Any = read, **options: Any) -> Any:
            names.append(clip.path.name)
            return read(container, stream, clip, *args, **options)

        monkeypatch.setattr(module, "read_index", counted)
    return names


def _numbers(file: Path, start: float, end: float | None) -> list[int]:
    return read_numbers(decode(Clip(source=str(file), start_seconds=start, end_seconds=end), EVERY_FRAME).pixels)


def test_the_packets_of_a_film_are_read_once_for_all_its_stretches(tmp_path: Path, reads: list[str]) -> None:
    file = write_clip(tmp_path / "a.mp4", range(100))
    for start in range(4):
        assert _numbers(file, start, start + 1) == list(range(25 * start, 25 * start + 25))
    assert reads == ["a.mp4"]


def test_a_film_that_is_another_one_now_is_read_again(tmp_path: Path, reads: list[str]) -> None:
    file = write_clip(tmp_path / "a.mp4", range(100))
    _numbers(file, 0, 1)
    write_clip(tmp_path / "b.mp4", range(200, 150, -1)).replace(file)
    assert _numbers(file, 1, 2) == list(range(175, 150, -1))
    assert reads == ["a.mp4", "a.mp4"]


def test_films_that_take_turns_are_read_once_each(tmp_path: Path, reads: list[str]) -> None:
    files = [write_clip(tmp_path / f"{name}.mp4", range(50)) for name in "abc"]
    for start in range(2):
        for file in files:
            assert _numbers(file, start, start + 1) == list(range(25 * start, 25 * start + 25))
    assert reads == ["a.mp4", "b.mp4", "c.mp4"]


def test_beyond_a_bound_of_memory_only_the_last_films_are_remembered(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [write_clip(tmp_path / f"{name}.mp4", range(50)) for name in "abc"]
    monkeypatch.setattr(recent, "_MOST_BYTES", 10_000)
    monkeypatch.setattr(decode_module, "_indices", Recent(lambda index: index.num_packets))
    for file in (files[0], files[1], files[0], files[2], files[1], files[0]):
        _numbers(file, 0, 1)
    assert reads == ["a.mp4", "b.mp4", "c.mp4", "b.mp4", "a.mp4"]


def test_damage_of_a_film_is_found_once(tmp_path: Path, reads: list[str]) -> None:
    options: dict[str, Any] = {"container_options": {"movflags": "faststart"}, "keyframe_every": 25}
    file = cut(write_clip(tmp_path / "whole.mp4", range(200), **options), tmp_path / "cut.mp4", keep=0.6)
    for start in range(3):
        assert _numbers(file, start, start + 1) == list(range(25 * start, 25 * start + 25))
    with pytest.raises(
        ClipError, match=r"cut\.mp4 is cut short: .* Of \S+cut\.mp4#t=6,7 fewer than 2 frames can be decoded"
    ):
        _numbers(file, 6, 7)
    assert reads == ["cut.mp4", "cut.mp4"], "once to see that it is damaged, once to see what is there"


def test_a_whole_film_is_read_each_time(tmp_path: Path, reads: list[str]) -> None:
    file = write_clip(tmp_path / "a.mp4", range(50))
    for _ in range(2):
        _numbers(file, 0, None)
    assert reads == ["a.mp4", "a.mp4"]
