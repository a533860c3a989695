"""Reads, merges and counts the votes that pages export."""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

from reelscribe.compare.statistics import Agreement, Interval, agreement, votes_needed, wilson
from reelscribe.config import Settings
from reelscribe.dataset.read import read_rows
from reelscribe.dataset.sources import find_sources
from reelscribe.errors import DatasetError

Verdict = Literal["better", "tie", "bad"]
"""better: one text is the best. tie: no text is better. bad: all are bad."""
_VERDICTS: Final = get_args(Verdict)


@dataclass(frozen=True, kw_only=True)
class Vote:
    """A vote of one voter on a clip."""

    clip: str
    """Identifier of the clip; see `Matched.ids`."""
    voter: str
    """Random identifier of the voter, made in the browser."""
    verdict: Verdict
    picked: str | None = None
    """Name of the better side; None unless the verdict is "better"."""
    blind: bool
    """Whether the voter did not know which side was which."""

    @property
    def outcome(self) -> str | tuple[str]:
        """The verdict or, if a side was picked, a tuple with its name: a side may itself be called "tie"."""
        return self.verdict if self.picked is None else (self.picked,)


def read_votes(files: Iterable[Path], names: Sequence[str]) -> list[Vote]:
    """Read the votes on some sides.

    Args:
        files: files that pages exported.
        names: names of the sides.

    Raises:
        DatasetError: a file does not exist, holds anything else or votes on other sides; a voter has two votes on a
            clip; or there are no votes.
    """
    votes: list[Vote] = []
    seen: set[tuple[str, str]] = set()
    for file in files:
        for item in read_rows(find_sources([file]), Settings(), output=file):
            vote = None if item.problem else _vote(item.row)
            if vote is None:
                raise DatasetError(
                    f"{file} holds no votes in line {item.index + 1}; give a file that a page of compare exported."
                )
            sides = sorted(item.row["sides"])
            if sides != sorted(names):
                raise DatasetError(
                    f"{file} has votes on {' and '.join(sides)}, and not on {' and '.join(sorted(names))}."
                )
            if (vote.voter, vote.clip) in seen:
                raise DatasetError(
                    f"{file} has votes of a voter that were given already; of each voter give the last file alone."
                )
            seen.add((vote.voter, vote.clip))
            votes.append(vote)
    if not votes:
        raise DatasetError("there are no votes in the files that were given.")
    return votes


def _vote(row: Mapping[str, Any]) -> Vote | None:
    """The vote in a row of a file; None if it is none."""
    sides, verdict, picked = row.get("sides"), row.get("vote"), row.get("picked")
    if not isinstance(sides, list) or not all(isinstance(name, str) for name in sides) or verdict not in _VERDICTS:
        return None
    if not all(isinstance(row.get(name), str) for name in ("clip", "voter")) or not isinstance(row.get("blind"), bool):
        return None
    if (picked in sides) != (verdict == "better"):
        return None
    return Vote(clip=row["clip"], voter=row["voter"], verdict=cast(Verdict, verdict), picked=picked, blind=row["blind"])


@dataclass(frozen=True, kw_only=True)
class SideVotes:
    """Votes on a side."""

    name: str
    picked: int
    """Number of clips on which this side won."""
    share: float | None
    """Share of the clips with a winner; None if there is none."""
    interval: Interval | None
    """95% interval of the share."""


@dataclass(frozen=True, kw_only=True)
class PairVotes:
    """Votes between two sides, on the clips that one of them won."""

    sides: tuple[str, str]
    picked: tuple[int, int]
    """Number of clips that each side won."""
    needed: int | None
    """See `votes_needed`. Also None if neither side won a clip."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """The result of all votes. A clip counts once, with the verdict of most of its voters; a split is a tie."""

    clips: int
    votes: int
    voters: int
    not_blind: int
    """Number of votes whose voter knew which side was which."""
    sides: list[SideVotes]
    pairs: list[PairVotes]
    ties: int
    bad: int
    agreement: Agreement | None
    """None if no clip has two votes."""

    @property
    def decided(self) -> int:
        """Number of clips with a winner."""
        return self.clips - self.ties - self.bad

    def told(self) -> dict[str, Any]:
        """The result as JSON values."""
        told = asdict(self) | {"decided": self.decided}
        for side, found in zip(told["sides"], self.sides, strict=True):
            side["interval"] = found.interval and found.interval._asdict()
        return told | {"agreement": self.agreement and self.agreement._asdict()}


def tally(votes: Sequence[Vote], names: Sequence[str]) -> Tally:
    """Count votes (at least one) on the sides with these names."""
    by_clip: dict[str, list[Vote]] = {}
    for vote in votes:
        by_clip.setdefault(vote.clip, []).append(vote)
    outcomes = [[vote.outcome for vote in each] for each in by_clip.values()]
    counts = Counter(_most(each) for each in outcomes)
    picked = {name: counts[name,] for name in names}
    decided = sum(picked.values())
    return Tally(
        clips=len(by_clip),
        votes=len(votes),
        voters=len({vote.voter for vote in votes}),
        not_blind=sum(not vote.blind for vote in votes),
        sides=[
            SideVotes(
                name=name,
                picked=count,
                share=count / decided if decided else None,
                interval=wilson(count, decided) if decided else None,
            )
            for name, count in picked.items()
        ],
        pairs=[
            PairVotes(
                sides=pair,
                picked=(picked[pair[0]], picked[pair[1]]),
                needed=votes_needed(*(picked[name] for name in pair)),
            )
            for pair in itertools.combinations(names, 2)
        ],
        ties=counts["tie"],
        bad=counts["bad"],
        agreement=agreement(outcomes),
    )


def _most(outcomes: Sequence[str | tuple[str]]) -> str | tuple[str]:
    """The verdict of most voters on a clip; a tie if they are split."""
    (first, count), *others = Counter(outcomes).most_common(2)
    return "tie" if others and others[0][1] == count else first
