"""Statistics of votes: win rates with intervals, the number of further votes needed, and agreement of voters."""

import itertools
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Final, NamedTuple

_Z: Final = 1.959964
"""95% of a normal distribution lies within this many standard deviations. `compare.js` has the same constant."""


class Interval(NamedTuple):
    """95% interval of a share."""

    low: float
    high: float


def wilson(picked: int, votes: int) -> Interval:
    """The 95% interval of a share.

    After Wilson (1927), "Probable inference, the law of succession, and statistical inference".

    Args:
        picked: number of votes for one side.
        votes: number of all votes; at least 1.
    """
    share, square = picked / votes, _Z * _Z / votes
    middle = (share + square / 2) / (1 + square)
    half = _Z * math.sqrt(share * (1 - share) / votes + square / votes / 4) / (1 + square)
    return Interval(max(middle - half, 0.0), min(middle + half, 1.0))


def votes_needed(first: int, second: int) -> int | None:
    """Number of further votes that would show a difference between two sides at 95%, if their shares stay the same.

    A difference is shown once the Wilson interval of a side's share excludes one half. If d is the distance of the
    share from one half, that takes more than z² / 4d² votes.

    Returns:
        0 if a difference is shown already; None if both have the same number of votes, so that no number is enough.
    """
    if first == second:
        return None
    votes = first + second
    distance = abs(first / votes - 0.5)
    return max(math.floor(_Z * _Z / (4 * distance * distance)) + 1 - votes, 0)


class Agreement(NamedTuple):
    """Agreement of voters."""

    clips: int
    """Number of clips with two or more votes."""
    same: float
    """Share of pairs of votes on a clip that are the same."""
    alpha: float | None
    """Krippendorff's alpha: 1 for full agreement, 0 for agreement by chance. None if all votes are the same."""


def agreement(clips: Iterable[Sequence[Hashable]]) -> Agreement | None:
    """Agreement of voters, after Krippendorff (2011), "Computing Krippendorff's alpha-reliability", for nominal data.

    Args:
        clips: the votes on each clip, one by each voter who voted on it.

    Returns:
        None if no clip has two votes.
    """
    shared = [votes for votes in clips if len(votes) > 1]
    if not shared:
        return None
    pairs = [pair for votes in shared for pair in itertools.combinations(votes, 2)]
    values = Counter(vote for votes in shared for vote in votes)
    total = values.total()
    # n votes make n * (n - 1) ordered pairs. Dividing by n - 1 lets a clip count as much as it has votes.
    observed = sum(
        sum(one != other for one, other in itertools.permutations(votes, 2)) / (len(votes) - 1) for votes in shared
    )
    expected = (total * total - sum(count * count for count in values.values())) / (total - 1)
    return Agreement(
        clips=len(shared),
        same=sum(one == other for one, other in pairs) / len(pairs),
        alpha=1 - observed / expected if expected else None,
    )
