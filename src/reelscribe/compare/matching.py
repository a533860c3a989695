"""Matches the clips of all sides by video and stretch. The rows they are in do not matter."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from reelscribe.compare.sides import Side
from reelscribe.errors import DatasetError
from reelscribe.report.entries import Entry

Key = tuple[str, int]
"""Video and stretch of a clip, and a number from 0 that tells duplicates apart."""


@dataclass(frozen=True, kw_only=True)
class Matched:
    """The clips that all sides have."""

    ids: dict[Key, str]
    """Identifiers of the clips that have a text on all sides, in the order of the first side. An identifier is a hash
    of the video's names and the texts, so that a vote stays with the texts that it is about."""
    others: int
    """Number of clips that at least one side has, but that do not have a text on all sides."""
    left_out: list[str]
    """Messages about clips that were left out."""


def match(sides: Sequence[Side]) -> Matched:
    """Find the clips that all sides have, in one pass over each.

    Raises:
        DatasetError: the sides have no clip in common.
    """
    sums = [{key: _sum(entry, side.text_of(entry)) for key, entry in walk(side)} for side in sides]
    ids = {key: _id(key, [found[key] for found in sums]) for key in sums[0] if all(found.get(key) for found in sums)}
    names = " and ".join(side.name for side in sides)
    if not ids and any(all(key in found for found in sums) for key in sums[0]):
        raise DatasetError(f"{names}: no clip has a text on all sides.")
    if not ids:
        raise DatasetError(
            f"{names} have no clip in common: clips are matched by video and stretch. If the videos are in other "
            "folders than they were, say where with --root."
        )
    every = len(set().union(*sums))
    return Matched(ids=ids, others=every - len(ids), left_out=list(_left_out(sides, sums, every)))


def _left_out(sides: Sequence[Side], sums: Sequence[dict[Key, str]], every: int) -> Iterator[str]:
    """Yield messages about clips that a side does not have, or has no text for."""
    for side, found in zip(sides, sums, strict=True):
        missing, silent = every - len(found), sum(not text for text in found.values())
        if missing:
            yield f"{_clips(missing)} not in {side.name}"
        if silent:
            yield f"{_clips(silent)} without a text in {side.name}"


def _sum(entry: Entry, text: str | None) -> str:
    """A short hash of a side's text and its video's name; empty if it has no text."""
    return "" if text is None else _hash([entry.video.name, text])


def _id(key: Key, sums: Sequence[str]) -> str:
    return f"c{_hash([key[1], sorted(sums)])}"  # sorted, so that the order in which sides are named does not matter


def _hash(told: Any) -> str:
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _clips(count: int) -> str:
    return f"{count:,} clip{'' if count == 1 else 's'}"


def walk(side: Side) -> Iterator[tuple[Key, Entry]]:
    """The entries of a side, each with its key."""
    seen: Counter[str] = Counter()
    for entry in side.entries():
        clip = _clip(entry)
        yield (clip, seen[clip]), entry
        seen[clip] += 1


def _clip(entry: Entry) -> str:
    """What clips are matched by: the absolute path or URL of the file, and the stretch."""
    video = entry.video
    if video.clip:
        return video.film + video.clip.fragment
    _, sign, stretch = video.name.partition("#t=")
    return video.film + sign + stretch


def sample(keys: Sequence[Key], most: int, seed: int) -> list[Key]:
    """A random sample of at most `most` keys, in order, with equal chances, so that it represents all clips."""
    if len(keys) <= most:
        return list(keys)
    return [keys[place] for place in sorted(random.Random(seed).sample(range(len(keys)), most))]
