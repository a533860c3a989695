"""Small pictures of frames, and how much they are alike: as they are, in their patterns, moved over each other."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

_WIDTH, _HEIGHT, _POOL = 48, 27, 3
"""Of the small pictures, and of the blocks of them that are averaged for coarse ones."""
_MOVES: Final = (20, 6)
"""How far a camera may move from a frame to the next, in pixels of the small pictures, across and down."""
Picture = NDArray[np.uint8]
"""Of shape (3, 27, 48): luma and two colours."""
Block = NDArray[np.uint8]
"""Pictures, of shape (frames, 3, 27, 48)."""
Floats = NDArray[np.float32]


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
    """Pictures in which small motion leaves no trace: shape (frames, 3, 9, 16)."""
    shape = (len(block), 3, _HEIGHT // _POOL, _POOL, _WIDTH // _POOL, _POOL)
    coarse: Floats = block.reshape(shape).mean((3, 5), dtype=np.float32)
    return coarse


def vectors_of(block: Block | Floats) -> Floats:
    """Pictures for `Distances`: shape (frames, values)."""
    return block.reshape(len(block), -1).astype(np.float32) - 128  # small numbers, so that their squares are exact


def patterns_of(pictures: Floats) -> Floats:
    """The luma of pictures, for `Distances`, with a mean of 0 and a deviation of 1: what light does not change."""
    luma: Floats = pictures[:, 0].reshape(len(pictures), -1)
    luma = luma - luma.mean(1, keepdims=True)
    luma /= luma.std(1, keepdims=True) + 1
    return luma


class Distances:
    """Mean squared differences of pictures that are near each other."""

    def __init__(self, vectors: Floats, span: int) -> None:
        """Of vectors of shape (frames, values), that are at most `span` frames apart."""
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
        """Of pairs of frames. Before the first frame that one stands in, and behind the last."""
        first, second = first.clip(0, self.count - 1), second.clip(0, self.count - 1)
        found: Floats = self._table[np.minimum(first, second), np.abs(second - first)]
        return found


def edges_agree(first: Picture, second: Picture) -> float:
    """The correlation of how steep two pictures are at each place."""
    pair = np.stack([first, second]).astype(np.float32)
    across, down = np.abs(np.diff(pair, axis=3)), np.abs(np.diff(pair, axis=2))
    steep = (across[:, :, 1:] + down[..., 1:]).sum(1).reshape(2, -1)
    steep -= steep.mean(1, keepdims=True)
    return float(steep[0] @ steep[1] / (np.linalg.norm(steep[0]) * np.linalg.norm(steep[1]) + 1))


def unmoved(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """What is left of the difference of two pictures, from 0 to 1, if one is moved over the other as fits best."""
    shape = (2 * _HEIGHT, 2 * _WIDTH)
    here, there, whole = (
        np.fft.rfft2(values, shape) for values in (first - 128.0, second - 128.0, np.ones((_HEIGHT, _WIDTH)))
    )
    here_squared, there_squared = (np.fft.rfft2((picture - 128.0) ** 2, shape) for picture in (first, second))
    products = here_squared * whole.conj() + whole * there_squared.conj() - 2 * here * there.conj()
    overlap = np.fft.irfft2(whole * whole.conj(), shape)
    left = np.fft.irfft2(products, shape) / overlap.clip(1)
    across, down = (np.arange(-most, most + 1) for most in _MOVES)
    return float(np.sqrt(max(left[np.ix_(down, across)].min(), 0) / max(left[0, 0], 1e-3)))


class Steps:
    """From each picture of a block to the next."""

    def __init__(self, block: Block) -> None:
        self._luma = block[:, 0]
        self._known: dict[int, tuple[float, float]] = {}

    def unmoved(self, at: int, around: int) -> float:
        """What is left of the steps around a frame, from 0 to 1, if each picture is moved over the next."""
        numbers = range(max(at - around, 1), min(at + around + 1, len(self._luma)))
        steps = np.array([self._step(number) for number in numbers])
        return float(steps[:, 1].sum() / max(steps[:, 0].sum(), 1e-3))

    def _step(self, number: int) -> tuple[float, float]:
        """How large one is, as it is and moved."""
        if number not in self._known:
            before, after = self._luma[number - 1], self._luma[number]
            size = float(np.sqrt(np.square(after - before.astype(np.float32)).mean()))
            self._known[number] = size, size * unmoved(before, after)
        return self._known[number]
