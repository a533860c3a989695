"""Formats the counted votes as text for a terminal and as JSON."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from reelscribe.compare.votes import PairVotes, SideVotes, Tally
from reelscribe.compare.write import Counted


def as_told(counted: Counted) -> dict[str, Any]:
    """The counted votes and figures as JSON values."""
    gathered = counted.gathered
    return counted.tally.told() | {
        "stale": counted.stale,
        "clips_in_common": gathered.of,
        "left_out": gathered.left_out,
        "figures": dict(zip(gathered.names, (side.told() for side in gathered.figures), strict=True)),
        "overlaps": [
            asdict(pair) | {"sides": [gathered.names[place] for place in pair.sides]} for pair in gathered.overlaps
        ],
    }


def as_lines(counted: Counted) -> Iterator[str]:
    """Yield the lines for a terminal."""
    tally, gathered = counted.tally, counted.gathered
    voters = f"{_some(tally.votes, 'vote')} of {_some(tally.voters, 'voter')}"
    yield f"{voters} on {_some(tally.clips, 'clip')}{_seen(tally)}"
    width = max(map(len, gathered.names))
    for side in tally.sides:
        yield f"{side.name:<{width}}  {_picked(side, tally.decided)}"
    yield f"tie {tally.ties}, {'both' if len(tally.sides) == 2 else 'all'} bad {tally.bad}"
    yield from map(_pair, tally.pairs)
    if tally.agreement:
        clips, same, alpha = tally.agreement
        told = "" if alpha is None else f", Krippendorff's alpha {alpha:.2f}"
        yield f"voters: {same:.1%} of pairs of votes agree, on {_some(clips, 'clip')}{told}"
    if counted.stale:
        yield f"not counted: {_some(counted.stale, 'vote')} on texts that are not there, or not any more"
    yield from (f"left out: {told}" for told in gathered.left_out)
    for name, figures in zip(gathered.names, gathered.figures, strict=True):
        yield f"{name:<{width}}  " + "; ".join(f"{what.lower()}: {text}" for what, text in figures.rows().items())
    for pair in gathered.overlaps:
        one, other = (gathered.names[place] for place in pair.sides)
        yield f"{one} and {other}: chrF {pair.chrf:.2f}, the same text for {pair.same} of {_some(pair.clips, 'clip')}"


def _seen(tally: Tally) -> str:
    if not tally.not_blind:
        return ", blind"
    return ", not blind" if tally.not_blind == tally.votes else f", {tally.not_blind} of them not blind"


def _picked(side: SideVotes, decided: int) -> str:
    if side.share is None or side.interval is None:
        return "picked on no clip"
    low, high = side.interval
    return (
        f"picked on {side.picked} of {_some(decided, 'clip')}: {side.share:.1%}, 95% interval {low:.1%} to {high:.1%}"
    )


def _pair(pair: PairVotes) -> str:
    """A sentence on two sides: which one is picked more often, or how many more clips would show it."""
    (one, other), (first, second) = pair.sides, pair.picked
    told = f"{one} and {other}: {first} to {second}"
    if not first + second:
        return f"{one} and {other}: neither was picked"
    if pair.needed is None:
        return f"{told}; they are level, so no number of votes can be told"
    if not pair.needed:
        return f"{told}; {one if first > second else other} is picked more often, at 95%"
    more = f"{_some(pair.needed, 'more clip')} would tell it, if the picks of the two split as so far"
    return f"{told}; no difference can be told at 95%: {more}"


def _some(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
