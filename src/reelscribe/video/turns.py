"""Chooses the clip that a decoder takes next: adjacent clips of a film go to one decoder, to be decoded in one pass."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from reelscribe.values import Clip

_Place = tuple[str, Path | None, float]
"""A stretch's file, its root, and its start in seconds."""


def next_turn(waiting: Sequence[Clip], last: Clip | None, others: Iterable[Clip]) -> int:
    """Choose the next clip for a free decoder.

    The decoder continues in its film, up to the place of another decoder. If no clip is left there, it takes the oldest
    clip that no decoder is moving towards. If there is none either, it starts in the middle of the longest run of clips
    that another decoder is moving towards.

    Args:
        waiting: clips to choose from, oldest first; at least one.
        last: the clip that this decoder took last.
        others: the clips that the other decoders took last.

    Returns:
        The index of the clip in `waiting`.
    """
    here = _place(last) if last else None
    places = sorted({place for place in (here, *map(_place, others)) if place}, key=_order)
    ways: dict[_Place | None, list[int]] = defaultdict(list)
    for number, clip in enumerate(waiting):
        ways[_place_before(clip, places)].append(number)
    if here in ways and here:
        return min(ways[here], key=lambda number: waiting[number].start_seconds)
    if None in ways:
        return ways[None][0]
    longest: list[int] = max(ways.values(), key=len)
    return sorted(longest, key=lambda number: waiting[number].start_seconds)[len(longest) // 2]


def _place(clip: Clip) -> _Place | None:
    """Place of a stretch; None for a whole file, and for bytes, for which no file stays open."""
    if clip.is_whole or isinstance(clip.source, bytes):
        return None
    return clip.source, clip.root, clip.start_seconds


def _order(place: _Place) -> tuple[str, str, float]:
    source, root, seconds = place
    return source, str(root or ""), seconds


def _place_before(clip: Clip, places: Sequence[_Place]) -> _Place | None:
    """Place of the decoder that is moving towards a clip: the nearest one before it in its film; None if none is."""
    place = _place(clip)
    if place is None:
        return None
    number = bisect_right(places, _order(place), key=_order)
    before = places[number - 1] if number else None
    return before if before and before[:2] == place[:2] else None
