"""Which candidates to keep, and why. One function a mode, in a table."""

import hashlib
import itertools
import random
import re
from collections.abc import Callable, Sequence
from typing import Final

from reelscribe.values import Request

Selector = Callable[[Sequence[str], Request], tuple[tuple[int, ...], str]]
"""(candidate texts, their request) -> (indices to keep, reason)."""

_BITS = 64
UNSPACED: Final = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]")
"""Thai, Lao, Burmese, Khmer, kana and Han: scripts that are written without spaces."""


def simhash(text: str) -> int:
    """A 64-bit fingerprint of which near texts differ in few bits.

    The text is lower-cased and split at single spaces; shingles are pairs of words, hashed by the first 8 bytes of
    their MD5, big-endian; a bit is set where more shingles have it than not; fewer than two words hash to 0. These are
    Data-Juicer's parameters, after Charikar (2002), "Similarity estimation techniques from rounding algorithms". Where
    the text has letters of a script that is written without spaces (Chinese, Japanese, Thai), shingles are pairs of
    characters.
    """
    text = text.lower()
    unspaced = UNSPACED.search(text) is not None
    units = list("".join(text.split())) if unspaced else text.split(" ")
    joiner = "" if unspaced else " "
    counts = [0] * _BITS
    for first, second in itertools.pairwise(units):
        # Half a surrogate pair, which JSON may hold, has no UTF-8 unless it is let pass.
        shingle = f"{first}{joiner}{second}".encode("utf-8", "surrogatepass")
        value = int.from_bytes(hashlib.md5(shingle, usedforsecurity=False).digest()[:8], "big")
        for bit in range(_BITS):
            counts[bit] += 1 if value >> bit & 1 else -1
    return sum(1 << bit for bit, count in enumerate(counts) if count > 0)


def _random_any(texts: Sequence[str], request: Request) -> tuple[tuple[int, ...], str]:
    if len(texts) == 1:
        return (0,), "the only candidate"
    return (random.Random(request.seed).randrange(len(texts)),), f"drawn from {len(texts)} candidates"


def _similar_one_simhash(texts: Sequence[str], request: Request) -> tuple[tuple[int, ...], str]:
    target = simhash(request.reference)
    distances = [(simhash(text) ^ target).bit_count() for text in texts]
    best = min(distances)
    if not request.reference:
        return (distances.index(best),), "there is no original text to be near to"
    return (distances.index(best),), f"nearest to the original text: {best} of {_BITS} bits differ"


def _all(texts: Sequence[str], _: Request) -> tuple[tuple[int, ...], str]:
    return tuple(range(len(texts))), "all candidates are kept"


SELECTORS: Final[dict[str, Selector]] = {
    "random_any": _random_any,
    "similar_one_simhash": _similar_one_simhash,
    "all": _all,
}
