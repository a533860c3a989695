"""CIDEr-D of Vedantam, Zitnick and Parikh (2015), "CIDEr: Consensus-based Image Description Evaluation".

For a caption c and a clip's references s_1..s_m, with g_n(c) the vector of weights of its n-grams:

    CIDEr-D(c) = mean over n of 1..4 and over i of
                 10 · exp(-(l(c) - l(s_i))² / 2 sigma²) · min(g_n(c), g_n(s_i)) · g_n(s_i) / (|g_n(c)| |g_n(s_i)|)

The weight of an n-gram is its count in the text times log(clips / clips with a reference that has it). l is the number
of words, sigma is 6. Words are not stemmed. The scores are those of the authors' code.

It is implemented here because no package fits: `pycocoevalcap` brings 100 MB of Java for other metrics, and
`aac-metrics` needs torch.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

_LONGEST: Final = 4
"""Longest n-grams, in words."""
_SIGMA: Final = 6.0
"""Width of the penalty for a difference in length, in words."""
_SCALE: Final = 10.0
"""Factor of the formula, and so the maximum score."""

Words = Sequence[str]
"""A text as words."""
Gram = tuple[str, ...]
"""The words of an n-gram."""


class _Weighed(NamedTuple):
    """A text as weighted n-grams."""

    length: int
    """Number of words."""
    vectors: list[dict[Gram, float]]
    """Weight of each n-gram, for each n from 1."""
    norms: list[float]
    """Euclidean norm of each vector."""


class CiderD:
    """Scores captions by references.

    Args:
        references: at least one reference for each clip of the data set, as words. N-grams weigh less the more clips
            have them. So scores of different data sets cannot be compared, and in a data set of one clip all scores
            are 0.
    """

    def __init__(self, references: Sequence[Sequence[Words]]) -> None:
        self._having: Counter[Gram] = Counter()
        for texts in references:
            self._having.update({gram for text in texts for grams in _grams(text) for gram in grams})
        self._log_clips = math.log(max(len(references), 1))

    def score(self, caption: Words, references: Iterable[Words]) -> float:
        """The score of a caption against its clip's references, from 0 to 10."""
        said = self._weighed(caption)
        scores = [_likeness(said, self._weighed(reference)) for reference in references]
        return _SCALE * sum(scores) / len(scores)

    def _weighed(self, words: Words) -> _Weighed:
        """Weigh the n-grams of a text."""
        # An n-gram that no reference has weighs as much as one of a single clip.
        vectors = [
            {gram: count * (self._log_clips - math.log(max(self._having[gram], 1))) for gram, count in grams.items()}
            for grams in _grams(words)
        ]
        return _Weighed(len(words), vectors, [math.hypot(*vector.values()) for vector in vectors])


def _grams(words: Words) -> list[Counter[Gram]]:
    """Counts of the n-grams of a text, for each n from 1 to 4."""
    return [
        Counter(tuple(words[at : at + length]) for at in range(len(words) - length + 1))
        for length in range(1, _LONGEST + 1)
    ]


def _likeness(said: _Weighed, wanted: _Weighed) -> float:
    """The similarity of a caption to one reference, from 0 to 1."""
    total = 0.0
    for ours, theirs, norm in zip(said.vectors, wanted.vectors, _products(said.norms, wanted.norms), strict=True):
        if norm:
            total += _clipped(ours, theirs) / norm
    return total / _LONGEST * math.exp(-((said.length - wanted.length) ** 2) / (2 * _SIGMA**2))


def _products(first: Iterable[float], second: Iterable[float]) -> list[float]:
    return [one * other for one, other in zip(first, second, strict=True)]


def _clipped(ours: Mapping[Gram, float], theirs: Mapping[Gram, float]) -> float:
    """min(ours, theirs) · theirs, so that repeating an n-gram does not raise the score."""
    return sum(min(weight, theirs[gram]) * theirs[gram] for gram, weight in ours.items() if gram in theirs)
