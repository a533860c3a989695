"""What frames show by themselves, of rendered pictures and of damaged ones."""

import numpy as np
import pytest
from numpy.typing import NDArray

from reelscribe.video.showing import fingerprint, shown

Pixels = NDArray[np.uint8]


def _clip(seed: int = 1, *, noise: int = 0, count: int = 6, size: int = 6) -> Pixels:
    """A picture of many edges that moves by a pixel a frame."""
    draw = np.random.default_rng(seed)
    blocks = draw.integers(30, 220, (18, 24, 3)).repeat(size, axis=0).repeat(size, axis=1)
    frames = np.stack([np.roll(blocks, number, axis=1)[:96, :128] for number in range(count)])
    frames += draw.integers(-noise, noise + 1, frames.shape)
    made: Pixels = np.clip(frames, 0, 255).astype(np.uint8)
    return made


def _blurred(pixels: Pixels, size: int) -> Pixels:
    """A box filter in both directions."""
    kernel = np.ones(size) / size
    made = pixels.astype(float)
    for axis in (1, 2):
        made = np.apply_along_axis(lambda line: np.convolve(line, kernel, "same"), axis, made)
    return made.astype(np.uint8)


def _with_dot(pixels: Pixels) -> Pixels:
    made = pixels.copy()
    made[-1, 40:44, 40:44] = 255
    return made


BLACK = np.full((6, 96, 128, 3), 16, np.uint8)
STILL = np.repeat(_clip(count=1), 6, axis=0)


@pytest.mark.parametrize(
    ("pixels", "flags"),
    [
        (_clip(), []),
        (_clip(noise=3), []),
        (BLACK, ["black"]),
        (_with_dot(BLACK), []),
        (STILL, ["frozen"]),
        (np.maximum(STILL, 7) - np.random.default_rng(2).integers(0, 8, STILL.shape, np.uint8), ["frozen"]),
        (_with_dot(STILL), []),
        (STILL[:1], []),
        (_blurred(_clip(), 9), ["blurred"]),
        (np.concatenate([_blurred(_clip(), 9)[:-1], _clip()[-1:]]), []),
        (np.full_like(BLACK, 128), ["frozen"]),
    ],
)
def test_clips_that_show_nothing_are_told(pixels: Pixels, flags: list[str]) -> None:
    assert [name for name, found in shown(pixels).items() if found] == flags


def _differing(one: Pixels, other: Pixels) -> int:
    return (int(fingerprint(one), 16) ^ int(fingerprint(other), 16)).bit_count()


def test_copies_differ_in_few_bits_and_others_in_many() -> None:
    clip = _clip(size=24)
    for copy in (_clip(noise=10, size=24), clip[:, ::2, ::2], clip // 8 * 8, _blurred(clip, 3)):
        assert _differing(clip, copy) <= 6
    assert _differing(clip, _clip(2, size=24)) > 40
    noise = np.random.default_rng(3).integers(0, 7, BLACK.shape, np.uint8)
    assert int(fingerprint(90 + noise), 16) == 0
