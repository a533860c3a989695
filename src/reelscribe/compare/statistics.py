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
        picked: of the votes.
        votes: at least 1.
    """
    share, square = picked / votes, _Z * _Z / votes
    middle = (share + square / 2) / (1 + square)
    half = _Z * math.sqrt(share * (1 - share) / votes + square / votes / 4) / (1 + square)
    return Interval(max(middle - half, 0.0), min(middle + half, 1.0))


def votes_needed(first: int, second: int) -> int | None:
    """How many more votes for one of two tell them apart at 95%, if votes go on as they have.

    They are told apart once the Wilson interval of their share leaves out one half: with d the distance of the share
    from one half, from z² / 4d² votes on.

    Returns:
        0 if they are told apart; None if that cannot be said, as both have as many votes.
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
    """Krippendorff's: 1 for full agreement, 0 for that of chance. None if all votes are the same."""


def agreement(clips: Iterable[Sequence[Hashable]]) -> Agreement | None:
    """How far voters agree: Krippendorff (2011), "Computing Krippendorff's alpha-reliability", for nominal data.

    Args:
        clips: the votes on each clip, one of each voter who voted.

    Returns:
        None if no clip has two votes.
    """
    shared = [votes for votes in clips if len(votes) > 1]
    if not shared:
        return None
    pairs = [pair for votes in shared for pair in itertools.combinations(votes, 2)]
    values = Counter(vote for votes in shared for vote in votes)
    total = values.total()
    # A clip with many votes has more pairs, and is to count for no more than its votes.
    observed = sum(
        sum(one != other for one, other in itertools.permutations(votes, 2)) / (len(votes) - 1) for votes in shared
    )
    expected = (total * total - sum(count * count for count in values.values())) / (total - 1)
    return Agreement(
        clips=len(shared),
        same=sum(one == other for one, other in pairs) / len(pairs),
        alpha=1 - observed / expected if expected else None,
    )
