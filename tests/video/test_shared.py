"""Memory that a decoder and its owner share: frames stay for as long as somebody looks at them, and no longer."""

import gc
import os
from pathlib import Path

import numpy as np
import pytest
from clips import read_numbers, write_clip
from decoders import decoded, open_files, pool, waiting
from numpy.typing import NDArray

from reelscribe.video import isolate
from reelscribe.video.shared import DrawnFrames, SeenFrames, _first_gap, nameless_file, read, write


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    return [write_clip(tmp_path / f"{first}.mp4", range(first, first + 30)) for first in range(0, 120, 30)]


@pytest.mark.usefixtures("no_idle_decoders")
class TestFramesOfADecoder:
    pytestmark = pytest.mark.skipif(not isolate.AVAILABLE, reason="decoders are processes on POSIX systems only")

    def test_they_stay_while_a_part_of_them_is_looked_at(self, clips: list[Path]) -> None:
        decoders = pool()
        parts = [decoded(file, decoders).pixels[1:] for file in clips]  # all else of them is gone
        gc.collect()
        assert len(isolate._idle) == 1
        assert [read_numbers(part)[0] for part in parts] == [5, 35, 65, 95]

    @pytest.mark.transformers
    def test_they_stay_while_a_tensor_shows_them(self, clips: list[Path]) -> None:
        import torch

        decoders = pool()
        first = torch.from_numpy(decoded(clips[0], decoders).pixels)
        decoded(clips[1], decoders)
        assert read_numbers(first.numpy())[0] == 0

    def test_their_place_is_used_again_when_nobody_looks(self, clips: list[Path]) -> None:
        decoders = pool()
        kept = decoded(clips[0], decoders)
        sizes = []
        for file in clips * 2:
            assert read_numbers(decoded(file, decoders).pixels)[0] == int(file.stem)
            sizes.append(os.fstat(waiting().frames.file.fileno()).st_size)
        assert len(set(sizes)) == 1
        assert read_numbers(kept.pixels)[0] == 0

    def test_they_outlive_the_decoder(self, clips: list[Path]) -> None:
        frames = decoded(clips[1])
        isolate.end_idle()
        gc.collect()
        assert read_numbers(frames.pixels)[0] == 30

    @pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="memory is given back on Linux")
    def test_decoders_that_wait_hold_no_memory_but_what_is_looked_at(self, clips: list[Path]) -> None:
        decoders = pool()
        frames = [decoded(file, decoders) for file in clips]
        file = waiting().frames.file.fileno()
        held = os.fstat(file).st_blocks
        del frames[0], frames[-1]
        decoders.close()
        assert os.fstat(file).st_blocks <= held // 2
        assert [read_numbers(each.pixels)[0] for each in frames] == [30, 60]
        del frames
        decoders.close()
        assert os.fstat(file).st_blocks == 0
        assert read_numbers(decoded(clips[0]).pixels)[0] == 0


def test_both_sides_see_the_same() -> None:
    seen = SeenFrames()
    drawn = DrawnFrames(seen.file.fileno())
    spans = []
    arrays = []
    for number in range(3):
        picture, span = drawn.allocate((2, 50, 50, 3), seen.taken())
        assert span
        picture[:] = number
        spans.append(span)
        arrays.append(seen.array(picture.shape, span))
    assert spans == [(0, 15000), (16384, 31384), (32768, 47768)]
    assert [set(array.ravel()) for array in arrays] == [{0}, {1}, {2}]
    del arrays[1]
    assert seen.taken() == {spans[0], spans[2]}
    assert drawn.allocate((1, 50, 50, 3), seen.taken())[1] == (16384, 23884)
    arrays[0][:] = 7
    assert np.all(drawn.allocate((2, 50, 50, 3), set())[0] == 7)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at files and memory as Linux shows them")
def test_many_frames_take_few_descriptors_and_their_memory_goes_with_them() -> None:
    seen = SeenFrames()
    drawn = DrawnFrames(seen.file.fileno())

    def one() -> NDArray[np.uint8]:
        picture, span = drawn.allocate((4, 64, 64, 3), seen.taken())
        assert span
        picture[:] = 1
        return seen.array(picture.shape, span)

    before = open_files()
    held = [one() for _ in range(500)]
    assert open_files() - before < 40
    most = os.fstat(seen.file.fileno()).st_blocks
    del held[5:]
    last = one()  # what is to spare stays
    assert os.fstat(seen.file.fileno()).st_blocks < most // 20
    assert all(np.all(array == 1) for array in (*held, last))


def test_a_place_is_the_first_that_is_wide_enough() -> None:
    assert _first_gap(10, set()) == 0
    assert _first_gap(4096, {(4096, 8192)}) == 0
    assert _first_gap(4097, {(4096, 8192)}) == 8192
    assert _first_gap(10, {(0, 1), (8192, 8193)}) == 4096
    assert _first_gap(5000, {(0, 1), (8192, 8193)}) == 12288


def test_clips_go_in_whole() -> None:
    with nameless_file() as file:
        content = os.urandom(3 << 20)
        write(file.fileno(), content)
        write(file.fileno(), b"short")
        assert read(file.fileno(), 5) == b"short"
        assert read(file.fileno(), len(content)) == b"short" + content[5:]
