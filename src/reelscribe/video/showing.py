"""Detects black, frozen and blurred frames, and computes a fingerprint of frames."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

_DARK: Final = 24
"""Maximum value of black, 0 to 255: 16 is black in video, and noise lies around it."""
_STILL: Final = 16
"""Maximum change of a value between frames that counts as noise or compression."""
_SHARE: Final = 1e-4
"""Share of values that may exceed these limits."""
_BLUR: Final = 0.6
"""A clip with more than this `blur` counts as blurred. docs/checking.md has the measurements."""
_PLAIN: Final = 0.2
"""Mean change between neighbouring pixels below which a picture is plain: nothing in it could be sharp."""
_LINES: Final = 4
"""One row, and one column, out of this many is read."""
_WINDOW: Final = 9
"""Width of the averaging filter in `blur`, in pixels, as in the paper."""
_LEAST_SIDE: Final = 32
"""Minimum side of a frame for its blur to be measured, in pixels."""
_PARTS, _ROWS, _COLUMNS = 2, 8, 8
_FRAMES: Final = 4
"""Number of frames of each half that are averaged."""
_MARGIN: Final = 2.0
"""Minimum difference of neighbouring parts for a bit to be set, so that noise in plain areas sets none."""

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
    """Whether almost nothing in any frame is brighter than black."""
    return _are_few((int(np.count_nonzero(frame > _DARK)) for frame in pixels), pixels.size)


def is_frozen(pixels: Pixels) -> bool:
    """Whether almost nothing changes between frames. False for a single frame."""
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
    """Share of a picture's detail that further blurring would leave: 0 for a sharp picture, 1 for a blurred one.

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
    """`blur` along the first axis."""
    grey = values.astype(np.float32)
    detail = np.abs(np.diff(grey, axis=0))
    if detail.mean() < _PLAIN:
        return None
    sums = np.cumsum(np.pad(grey, ((_WINDOW // 2 + 1, _WINDOW // 2), (0, 0)), mode="edge"), axis=0)
    blurred = (sums[_WINDOW:] - sums[:-_WINDOW]) / _WINDOW
    lost = np.maximum(detail - np.abs(np.diff(blurred, axis=0)), 0)
    return 1 - float(lost.sum()) / float(detail.sum())


def fingerprint(pixels: Pixels) -> str:
    """A fingerprint of 128 bits, as 32 hexadecimal digits. Near copies of a clip differ in few bits.

    A difference hash for each half of the frames: the mean picture is divided into 8 rows of 9 cells, and a bit
    says whether a cell is brighter than the one to its right. Size, quality and frame rate hardly matter. All zeros
    if the frames are plain.
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
