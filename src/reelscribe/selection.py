"""Which candidates to keep, and why: a table with one function for each mode."""

import hashlib
import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reelscribe.values import JUDGED, Candidate, Request
from reelscribe.words import UNSPACED


class Selection(NamedTuple):
    """Candidates to keep."""

    kept: tuple[int, ...]
    """Indices of the kept candidates."""
    reason: str
    agreement: float | None = None
    """How near the kept candidate is to the others, 0 to 1; None if the mode does not measure it."""


Selector = Callable[[Sequence[Candidate], Request], Selection]
"""Chooses among candidates with words (at least one) of a request."""

_BITS = 64
_LONGEST_NGRAM: Final = 6


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
    # Half a surrogate pair, which JSON may hold, has no UTF-8 unless it is let pass.
    shingles = [f"{first}{joiner}{second}".encode("utf-8", "surrogatepass") for first, second in pairwise(units)]
    if not shingles:
        return 0
    digests = b"".join([hashlib.md5(shingle, usedforsecurity=False).digest()[:8] for shingle in shingles])
    bits = np.unpackbits(np.frombuffer(digests, np.uint8).reshape(-1, _BITS // 8), axis=1)
    more = 2 * bits.sum(0, dtype=np.int64) > len(shingles)
    return int.from_bytes(np.packbits(more).tobytes(), "big")


def chrf(texts: Sequence[str]) -> NDArray[np.float64]:
    """How near texts are to each other: chrF1 of Popović (2015), "chrF: character n-gram F-score".

    Characters without white space, n-grams of 1 to 6 of them; precision and recall are averaged over the lengths that
    both texts have. Characters serve languages that are written without spaces, too. Recall counts as much as
    precision, not twice as in chrF2: among candidates none is the reference, and the longest would win, which says most
    that others say and more (see benchmarks/choosing.py).

    Args:
        texts: any number.

    Returns:
        Shape (texts, texts), symmetrical, 0 to 1.
    """
    letters = ["".join(text.split()) for text in texts]
    precision, recall, orders = (np.zeros((len(texts), len(texts))) for _ in range(3))
    for length in range(1, _LONGEST_NGRAM + 1):
        grams = [[text[at : at + length] for at in range(len(text) - length + 1)] for text in letters]
        numbers = {gram: number for number, gram in enumerate({gram for each in grams for gram in each})}
        counts = np.zeros((len(texts), len(numbers)), np.int64)
        for row, each in zip(counts, grams, strict=True):
            np.add.at(row, [numbers[gram] for gram in each], 1)
        shared = np.stack([np.minimum(row, counts).sum(1) for row in counts])
        sums = counts.sum(1)
        both = (sums[:, None] > 0) & (sums > 0)
        precision += shared / np.maximum(sums[:, None], 1)
        recall += shared / np.maximum(sums, 1)
        orders += both
    precision, recall = precision / np.maximum(orders, 1), recall / np.maximum(orders, 1)
    f_score: NDArray[np.float64] = 2 * precision * recall / np.maximum(precision + recall, 1e-16)
    return f_score


def _random_any(candidates: Sequence[Candidate], request: Request) -> Selection:
    count = len(candidates)
    if count == 1:
        return Selection((0,), "the only candidate")
    return Selection((random.Random(request.seed).randrange(count),), f"drawn from {count} candidates")


def _similar_one_simhash(candidates: Sequence[Candidate], request: Request) -> Selection:
    target = simhash(request.reference)
    distances = [(simhash(candidate.text) ^ target).bit_count() for candidate in candidates]
    best = min(distances)
    reason = f"nearest to the original text: {best} of {_BITS} bits differ"
    if not request.reference:
        reason = "there is no original text to be near to"
    return Selection((distances.index(best),), reason)


def _consensus(candidates: Sequence[Candidate], request: Request) -> Selection:
    """The candidate that agrees most with the others: minimum Bayes risk decoding, with chrF as utility.

    Kumar and Byrne (2004), "Minimum Bayes-Risk Decoding for Statistical Machine Translation". Of two candidates, each
    is as near to the other: one is drawn.
    """
    count = len(candidates)
    if count == 1:
        return Selection((0,), "the only candidate", 1.0)
    scores = chrf([candidate.text for candidate in candidates])
    means = (scores.sum(1) - scores.diagonal()) / (count - 1)
    best = int(means.argmax()) if count > 2 else _random_any(candidates, request).kept[0]
    agreement = float(round(means[best], 4))
    return Selection((best,), f"nearest to the other candidates, of {count}: chrF {agreement:.2f}", agreement)


def _likeliest(candidates: Sequence[Candidate], request: Request) -> Selection:
    scores = [candidate.mean_logprob for candidate in candidates]
    reason = "likeliest of {count}: mean log-probability {best:.3f}"
    return _highest(candidates, request, scores, reason, otherwise="not all have a log-probability")


def _judged(candidates: Sequence[Candidate], request: Request) -> Selection:
    scores = [candidate.scores.get(JUDGED) for candidate in candidates]
    reason = "judged most likely to hold, of {count}: P(yes) {best:.3f}"
    return _highest(candidates, request, scores, reason, otherwise="the model said neither yes nor no of all")


def _scored(candidates: Sequence[Candidate], request: Request) -> Selection:
    name = request.scorer.name if request.scorer else ""
    scores = [candidate.scores.get(name) for candidate in candidates]
    reason = "best score of {count} by {name}: {best:.4g}"
    return _highest(candidates, request, scores, reason, otherwise=f"not all have a score of {name}", name=name)


def _highest(
    candidates: Sequence[Candidate],
    request: Request,
    scores: Sequence[float | None],
    reason: str,
    *,
    otherwise: str,
    name: str = "",
) -> Selection:
    """The candidate with the highest score. If any has no score, one is drawn, with the reason `otherwise`."""
    known = [score for score in scores if score is not None]
    if len(known) < len(scores):
        drawn = _random_any(candidates, request)
        return drawn._replace(reason=f"{drawn.reason}: {otherwise}")
    best = max(known)
    return Selection((known.index(best),), reason.format(count=len(known), best=best, name=name))


def _all(candidates: Sequence[Candidate], _: Request) -> Selection:
    return Selection(tuple(range(len(candidates))), "all candidates are kept")


SELECTORS: Final[dict[str, Selector]] = {
    "random_any": _random_any,
    "similar_one_simhash": _similar_one_simhash,
    "consensus": _consensus,
    "likeliest": _likeliest,
    "judged": _judged,
    "scored": _scored,
    "all": _all,
}
