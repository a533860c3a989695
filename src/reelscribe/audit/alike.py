"""Finds equal and nearly equal captions of different clips, and near copies of clips, among millions."""

import hashlib
import math
from array import array
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from reelscribe.report.words import NEAR_BITS
from reelscribe.selection import simhash

_TABLES: Final = 16
"""Number of passes over the fingerprints, each of which groups them by other bits."""
_IN_A_BUCKET: Final = 16
"""Average number of fingerprints in a bucket, that is, with equal bits in a table, if bits were random."""
_NEIGHBOURS: Final = 64
"""Maximum number of following fingerprints in a bucket that each one is compared with. It bounds the time."""
_OF_EITHER: Final = 4
"""Near copies differ in at most one in this many of the bits that are set in either."""
_Mask = NDArray[np.bool_]
"""Shape (captions,) or (clips,): true for those that were found."""


class Alike:
    """Finds equal and nearly equal captions. Holds only hashes: 24 bytes a caption."""

    def __init__(self) -> None:
        self._texts, self._prints, self._clips = array("Q"), array("Q"), array("Q")

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, text: str, clip: str) -> None:
        """Add a caption, with the name of its clip. Case and white space do not count."""
        text = " ".join(text.lower().split())
        self._texts.append(_hash(text))
        self._prints.append(simhash(text))
        self._clips.append(_hash(clip))

    def same(self) -> _Mask:
        """Mark captions with the same text as a caption of another clip."""
        return _of_several(_numbers(self._texts), _numbers(self._clips))

    def near(self) -> _Mask:
        """Mark captions that differ from one of another clip in at most `NEAR_BITS` of the 64 bits of their SimHash.

        Only fingerprints that agree in some randomly chosen bits are compared, with other bits in each of 16 tables.
        Pairs that differ in up to 4 bits are hardly ever missed. Of pairs that differ in 8, some are missed in a very
        large data set.
        """
        clips = _numbers(self._clips)
        prints, of = np.unique(_numbers(self._prints), return_inverse=True)
        low, high = _bounds(of, clips, len(prints))
        has_words = prints != 0
        near = (low != high) & has_words
        for one, other in _pairs(prints):
            differ = np.minimum(low[one], low[other]) != np.maximum(high[one], high[other])
            near[one[differ]] = near[other[differ]] = True
        near &= has_words
        found: _Mask = near[of]
        return found


class Copies:
    """Finds near copies of clips by `reelscribe.video.showing.fingerprint`. Holds 24 bytes a clip."""

    def __init__(self) -> None:
        self._halves, self._clips = (array("Q"), array("Q")), array("Q")

    def add(self, fingerprint: str, clip: str) -> None:
        """Add a clip's fingerprint (128 bits as hex digits, or empty) and name. An empty one matches nothing."""
        for half, digits in zip(self._halves, (fingerprint[:16], fingerprint[16:]), strict=True):
            half.append(int(digits or "0", 16))
        self._clips.append(_hash(clip))

    def near(self) -> _Mask:
        """Mark clips that are near copies of another clip.

        In each half at most `NEAR_BITS` of the 64 bits may differ, and at most a quarter of the bits that are set in
        either. The second condition is for clips with plain backgrounds, whose fingerprints have few bits set.
        """
        first, second = map(_numbers, self._halves)
        clips = _numbers(self._clips)
        near = np.zeros(len(clips), np.bool_)
        for one, other in _pairs(first):
            found = (clips[one] != clips[other]) & (first[one] | second[one] > 0)
            for half in (first, second):
                differ, either = _bits(half[one] ^ half[other]), _bits(half[one] | half[other])
                found &= (differ <= NEAR_BITS) & (_OF_EITHER * differ.astype(int) <= either)
            near[one[found]] = near[other[found]] = True
        return near


def _hash(text: str) -> int:
    """A 64-bit hash of a text."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _numbers(values: "array[int]") -> NDArray[np.uint64]:
    return np.frombuffer(values, np.uint64) if values else np.zeros(0, np.uint64)


def _of_several(names: NDArray[np.uint64], clips: NDArray[np.uint64]) -> _Mask:
    """Mark entries whose name is shared by several clips."""
    kinds, of = np.unique(names, return_inverse=True)
    low, high = _bounds(of, clips, len(kinds))
    found: _Mask = (low != high)[of]
    return found


def _bounds(
    of: NDArray[np.intp], clips: NDArray[np.uint64], kinds: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The smallest and the largest clip hash of each kind. They differ if the kind has several clips."""
    low, high = np.full(kinds, np.iinfo(np.uint64).max, np.uint64), np.zeros(kinds, np.uint64)
    np.minimum.at(low, of, clips)
    np.maximum.at(high, of, clips)
    return low, high


def _pairs(prints: NDArray[np.uint64]) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield indexes of pairs of near fingerprints. Some pairs are missed; see `Alike.near`."""
    draw = np.random.default_rng(0)
    # As many bits as it takes for about _IN_A_BUCKET random fingerprints to share them.
    bits = min(max(math.ceil(math.log2(max(len(prints), 1) / _IN_A_BUCKET + 1)), 0), 32)
    for _ in range(_TABLES if bits else 1):
        mask = np.uint64(sum(1 << int(bit) for bit in draw.choice(64, bits, replace=False)))
        keys = prints & mask
        # Sorted by these bits, fingerprints that share them lie side by side. Compare each with its next neighbours.
        order = np.argsort(keys, kind="stable")
        for step in range(1, min(_NEIGHBOURS, len(prints) - 1) + 1):
            one, other = order[:-step], order[step:]
            together = keys[one] == keys[other]
            if not together.any():
                break
            one, other = one[together], other[together]
            near = _bits(prints[one] ^ prints[other]) <= NEAR_BITS
            if near.any():
                yield one[near], other[near]


def _bits(values: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Number of set bits in each value."""
    if hasattr(np, "bitwise_count"):  # since NumPy 2
        counted: NDArray[np.uint8] = np.bitwise_count(values)
    else:
        counted = np.unpackbits(values.view(np.uint8).reshape(-1, 8), axis=1).sum(1, dtype=np.uint8)
    return counted
