"""Small pictures of frames, and measures of their similarity: unchanged, normalized, and moved over each other."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

_WIDTH, _HEIGHT, _POOL = 48, 27, 3
"""Size of the small pictures, and of the blocks that are averaged for coarse ones, in pixels."""
_MOVES: Final = (20, 6)
"""Maximum camera motion from a frame to the next, across and down, in pixels of the small pictures."""
_LEAST_CONTRAST: Final = 0.25
"""Minimum variance in the overlap of two moved pictures, as a share of that in the whole picture."""
_ZOOMS: Final = (1.12, 1.25, 1.4)
"""Factors by which a picture is enlarged to find zooms. They cover zooms that last two seconds."""
Picture = NDArray[np.uint8]
"""A small picture, shape (3, 27, 48): luma and two colour planes."""
Block = NDArray[np.uint8]
"""Several small pictures, shape (frames, 3, 27, 48)."""
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


def small_pictures(frames: Iterable[VideoFrame]) -> Iterator[Picture]:
    """Each frame as a small picture, uint8, shape (3, 27, 48)."""
    scaler = VideoReformatter()
    for frame in frames:
        scaled = scaler.reformat(
            frame, width=_WIDTH, height=_HEIGHT, format="yuv444p", interpolation=Interpolation.AREA, threads=1
        )
        planes: tuple[Any, ...] = scaled.planes
        yield np.stack([np.frombuffer(plane, np.uint8).reshape(_HEIGHT, -1)[:, :_WIDTH] for plane in planes])


def coarse_of(block: Block) -> Floats:
    """Average blocks of pixels, so that small motion leaves no trace: shape (frames, 3, 9, 16)."""
    shape = (len(block), 3, _HEIGHT // _POOL, _POOL, _WIDTH // _POOL, _POOL)
    coarse: Floats = block.reshape(shape).mean((3, 5), dtype=np.float32)
    return coarse


def vectors_of(block: Block | Floats) -> Floats:
    """Pictures for `Distances`: shape (frames, values)."""
    return block.reshape(len(block), -1).astype(np.float32) - 128  # small numbers, so that their squares are exact


def patterns_of(pictures: Floats) -> Floats:
    """The luma of pictures, for `Distances`, normalized to mean 0 and deviation 1, so that light does not matter."""
    luma: Floats = pictures[:, 0].reshape(len(pictures), -1)
    luma = luma - luma.mean(1, keepdims=True)
    luma /= luma.std(1, keepdims=True) + 1
    return luma


class Distances:
    """Mean squared differences of pictures that are at most `span` frames apart."""

    def __init__(self, vectors: Floats, span: int) -> None:
        """Compute them for vectors of shape (frames, values)."""
        self.count, size = vectors.shape
        self._table: Floats = np.empty((self.count, span + 1), np.float32)
        squares = np.einsum("ij,ij->i", vectors, vectors)
        for first in range(0, self.count, span):
            rows, columns = slice(first, first + span), slice(first, first + 2 * span)
            products = vectors[rows] @ vectors[columns].T
            whole = squares[rows, None] + squares[None, columns] - 2 * products
            numbers = np.arange(len(whole))[:, None]
            lags = np.minimum(numbers + np.arange(span + 1), whole.shape[1] - 1)
            self._table[rows] = whole[numbers, lags].clip(0) / size

    def __call__(self, first: NDArray[np.intp], second: NDArray[np.intp]) -> Floats:
        """The differences of pairs of frames. Numbers outside the block count as its first or last frame."""
        first, second = first.clip(0, self.count - 1), second.clip(0, self.count - 1)
        found: Floats = self._table[np.minimum(first, second), np.abs(second - first)]
        return found


def edges_agree(first: Picture, second: Picture) -> float:
    """Correlation of the gradients of two pictures."""
    pair = np.stack([first, second]).astype(np.float32)
    across, down = np.abs(np.diff(pair, axis=3)), np.abs(np.diff(pair, axis=2))
    steep = (across[:, :, 1:] + down[..., 1:]).sum(1).reshape(2, -1)
    steep -= steep.mean(1, keepdims=True)
    return float(steep[0] @ steep[1] / (np.linalg.norm(steep[0]) * np.linalg.norm(steep[1]) + 1))


def unmoved(first: NDArray[np.uint8], second: NDArray[np.uint8], *, zoomed: bool = False) -> float:
    """Share of the difference of two pictures, 0 to 1, that is left after one is moved over the other to fit best.

    Args:
        first: luma, shape (27, 48).
        second: luma, same shape.
        zoomed: whether to try enlarging one of them as well, as a zooming camera does.
    """
    one, other = (picture.astype(np.float64) - 128 for picture in (first, second))
    left = _left_of(one, other)
    if zoomed:
        for by in _ZOOMS:
            left = min(left, _left_of(_enlarged(one, by), other), _left_of(one, _enlarged(other, by)))
    return float(np.sqrt(max(left, 0) / max(np.square(one - other).mean(), 1e-3)))


def _left_of(one: Doubles, other: Doubles) -> float:
    """The minimum over all moves of the mean squared difference of two pictures.

    Moves with little contrast in the overlap do not count: a plain ground fits any other.
    """
    product = np.fft.rfft2(one, _TWICE) * np.fft.rfft2(other, _TWICE).conj()
    left = -2 * np.fft.irfft2(product, _TWICE)[_MOVED] / _SHARED
    for picture, moves in ((one, _MOVED), (other, tuple(-move for move in _MOVED))):
        squares = _mean_of_shared(np.square(picture), *moves)
        contrast = squares - _mean_of_shared(picture, *moves) ** 2
        left += squares
        left[contrast < _LEAST_CONTRAST * contrast[_UNMOVED]] = np.inf
    return float(left.min())


def _enlarged(picture: Doubles, by: float) -> Doubles:
    """The middle of a picture, enlarged to the whole size by interpolation."""
    for axis, size in enumerate(picture.shape):
        at = (np.arange(size) + 0.5 - size / 2) / by + size / 2 - 0.5
        below = at.astype(int)
        share = (at - below).reshape(-1, 1) if axis == 0 else at - below
        picture = picture.take(below, axis) * (1 - share) + picture.take(below + 1, axis) * share
    return picture


def _mean_of_shared(values: Doubles, down: NDArray[np.intp], across: NDArray[np.intp]) -> Any:
    """The mean over the overlap of a picture with another, for each move: shape (13, 41)."""
    sums = np.zeros((_HEIGHT + 1, _WIDTH + 1))
    sums[1:, 1:] = values.cumsum(0).cumsum(1)
    top, left = down.clip(0), across.clip(0)
    bottom, right = _HEIGHT + down.clip(max=0), _WIDTH + across.clip(max=0)
    return (sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]) / _SHARED


_TWICE: Final = (2 * _HEIGHT, 2 * _WIDTH)
_MOVED: Final = np.ix_(*(np.arange(-most, most + 1) for most in reversed(_MOVES)))
_UNMOVED: Final = (_MOVES[1], _MOVES[0])
_SHARED: Final = (_HEIGHT - np.abs(_MOVED[0])) * (_WIDTH - np.abs(_MOVED[1]))
"""Number of pixels that two pictures share after each move, shape (13, 41)."""


class Steps:
    """The steps from each picture of a block to the next."""

    def __init__(self, block: Block) -> None:
        self._luma = block[:, 0]
        self._known: dict[int, tuple[float, float]] = {}

    def unmoved(self, at: int, around: int) -> float:
        """Share of the steps around a frame, 0 to 1, that is left after each picture is moved over the next."""
        numbers = range(max(at - around, 1), min(at + around + 1, len(self._luma)))
        steps = np.array([self._step(number) for number in numbers])
        return float(steps[:, 1].sum() / max(steps[:, 0].sum(), 1e-3))

    def _step(self, number: int) -> tuple[float, float]:
        """The size of a step: of the pictures as they are, and moved."""
        if number not in self._known:
            before, after = self._luma[number - 1], self._luma[number]
            size = float(np.sqrt(np.square(after - before.astype(np.float32)).mean()))
            self._known[number] = size, size * unmoved(before, after)
        return self._known[number]
