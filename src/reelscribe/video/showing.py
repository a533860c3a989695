"""What frames show by themselves: nothing, nothing that moves, nothing sharp. And a fingerprint of them."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

_DARK: Final = 24
"""Largest value of black: 16 is black in video, and noise lies around it."""
_STILL: Final = 16
"""Largest change of a value from a frame to the next that noise and compression make."""
_SHARE: Final = 1e-4
"""Of values, that may be above these."""
_BLUR: Final = 0.6
"""Blur, as `blur` has it, above which a clip is blurred. See docs/checking.md for what was measured."""
_PLAIN: Final = 0.2
"""Mean change from a pixel to the next below which a picture has nothing that could be sharp."""
_LINES: Final = 4
"""One row, and one column, out of this many is read."""
_WINDOW: Final = 9
"""Pixels of the filter that `blur` compares with, as in the paper."""
_LEAST_SIDE: Final = 32
"""Of frames whose blur is looked at."""
_PARTS, _ROWS, _COLUMNS = 2, 8, 8
_FRAMES: Final = 4
"""Of each part, whose mean is taken."""
_MARGIN: Final = 2.0
"""By which a part of a picture must be brighter than the next one. Noise moves nothing in plain areas."""

Pixels = NDArray[np.uint8]
"""Shape (frames, height, width, 3)."""


def shown(pixels: Pixels) -> dict[str, bool]:
    """Whether frames are black, frozen (a black clip is black only) or blurred."""
    black = is_black(pixels)
    return {
        "black": black,
        "frozen": not black and is_frozen(pixels),
        "blurred": not black and is_blurred(pixels),
    }


def is_black(pixels: Pixels) -> bool:
    """Whether next to nothing in any frame is brighter than black."""
    return _are_few((int(np.count_nonzero(frame > _DARK)) for frame in pixels), pixels.size)


def is_frozen(pixels: Pixels) -> bool:
    """Whether next to nothing changes from a frame to the next. A single frame does not tell."""
    changes = (
        int(np.count_nonzero(np.maximum(before, after) - np.minimum(before, after) > _STILL))
        for before, after in pairwise(pixels)
    )
    return len(pixels) > 1 and _are_few(changes, pixels[1:].size)


def _are_few(counts: Iterable[int], size: int) -> bool:
    """Whether counts are a tiny share of this many values. Stops counting once they are not."""
    total = 0
    for count in counts:
        total += count
        if total > _SHARE * size:
            return False
    return True


def is_blurred(pixels: Pixels) -> bool:
    """Whether even the sharpest of the first, the middle and the last frame is blurred."""
    if min(pixels.shape[1:3]) < _LEAST_SIDE:
        return False
    found = [blur(pixels[place]) for place in sorted({0, len(pixels) // 2, len(pixels) - 1})]
    known = [each for each in found if each is not None]
    return bool(known) and min(known) > _BLUR


def blur(frame: Pixels) -> float | None:
    """How much of a picture's detail a blur would leave: 0 for a sharp one, 1 for one that is blurred already.

    Crété-Roffet et al. (2007), "The Blur Effect: Perception and Estimation with a New No-Reference Perceptual Blur
    Metric". Contrast and plain areas do not count, as they do in the variance of a Laplacian.

    Args:
        frame: shape (height, width, 3).

    Returns:
        None for a picture that is plain.
    """
    columns, rows = frame[:, ::_LINES, 1], frame[::_LINES, :, 1].T
    found = [each for each in (_blur_along(columns), _blur_along(rows)) if each is not None]
    return max(found) if found else None


def _blur_along(values: NDArray[np.uint8]) -> float | None:
    """The same along the first axis."""
    grey = values.astype(np.float32)
    detail = np.abs(np.diff(grey, axis=0))
    if detail.mean() < _PLAIN:
        return None
    sums = np.cumsum(np.pad(grey, ((_WINDOW // 2 + 1, _WINDOW // 2), (0, 0)), mode="edge"), axis=0)
    blurred = (sums[_WINDOW:] - sums[:-_WINDOW]) / _WINDOW
    lost = np.maximum(detail - np.abs(np.diff(blurred, axis=0)), 0)
    return 1 - float(lost.sum()) / float(detail.sum())


def fingerprint(pixels: Pixels) -> str:
    """A fingerprint of 128 bits, as 32 hexadecimal digits, of which near copies of a clip differ in few.

    Of each half of the frames, which part of the mean picture, of 8 rows of 9, is brighter than the one to its right:
    a difference hash. Size, quality and rate of frames hardly count. All zeros if the frames are plain.
    """
    bits = [_bits_of(part) for part in np.array_split(pixels, min(_PARTS, len(pixels)))]
    bits += bits[-1:] * (_PARTS - len(bits))
    return np.packbits(np.concatenate(bits)).tobytes().hex()


def _bits_of(pixels: Pixels) -> NDArray[np.bool_]:
    height, width = pixels.shape[1:3]
    rows = np.linspace(0, height, _ROWS + 1).astype(int)
    columns = np.linspace(0, width, _COLUMNS + 2).astype(int)
    chosen = pixels[np.linspace(0, len(pixels) - 1, min(len(pixels), _FRAMES)).round().astype(int), ..., 1]
    mean = chosen.mean(0, dtype=np.float32)
    sums = np.add.reduceat(np.add.reduceat(mean, rows[:-1], axis=0), columns[:-1], axis=1)
    cells = sums / np.outer(np.maximum(np.diff(rows), 1), np.maximum(np.diff(columns), 1))
    found: NDArray[np.bool_] = (cells[:, :-1] - cells[:, 1:] > _MARGIN).ravel()
    return found
