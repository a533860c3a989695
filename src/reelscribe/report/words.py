"""Compares the words of captions: openings, phrases, near duplicates, differences."""

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import combinations, groupby
from operator import itemgetter
from typing import Final, Literal

from reelscribe.selection import simhash
from reelscribe.words import WORD

_PIECE: Final = re.compile(f"{WORD.pattern}|\\s+|.", re.DOTALL)
"""A word, a stretch of white space, or any other character."""
_OPENING_WORDS: Final = 3
"""Number of words of an opening."""
_PHRASE_WORDS: Final = 4
"""Number of words of a phrase."""
NEAR_BITS: Final = 8
"""Maximum number of differing bits, of the 64 of a SimHash, between near duplicates. Captions that share about nine in
ten pairs of words differ in this many."""

Difference = tuple[Literal["same", "new", "gone"], str]
"""A piece of text, and whether both texts have it (same), only the second (new), or only the first (gone)."""


def opening(words: Sequence[str]) -> str:
    """The opening of a caption: its first three words."""
    return " ".join(words[:_OPENING_WORDS])


def phrases(words: Sequence[str]) -> Iterator[str]:
    """Yield all phrases of four consecutive words."""
    return (" ".join(words[at : at + _PHRASE_WORDS]) for at in range(len(words) - _PHRASE_WORDS + 1))


def _pairs_that_share_bits(prints: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield pairs of indexes whose fingerprints agree in one of nine parts of their bits. Pairs may come repeatedly."""
    parts = NEAR_BITS + 1
    for part in range(parts):
        low, high = 64 * part // parts, 64 * (part + 1) // parts
        places: dict[int, list[int]] = {}
        for place, bits in enumerate(prints):
            places.setdefault(bits >> low & (1 << high - low) - 1, []).append(place)
        for sharing in places.values():
            yield from combinations(sharing, 2)


def near_duplicates(texts: Sequence[str]) -> list[list[int]]:
    """Group texts that are nearly the same. Returns groups of indexes in `texts`, the largest first.

    Two fingerprints that differ in at most eight bits agree in at least one of nine parts. So only texts that agree in
    a part are compared, which is fast enough for about ten thousand texts.
    """
    prints = [simhash(text) for text in texts]
    group = list(range(len(texts)))  # a forest of groups (union-find): each item leads to its group's root

    def find(item: int) -> int:
        while group[item] != item:
            group[item] = group[group[item]]
            item = group[item]
        return item

    for one, other in _pairs_that_share_bits(prints):
        # Texts of fewer than two words have the fingerprint 0. They are near only to equal ones.
        near = (prints[one] ^ prints[other]).bit_count() <= NEAR_BITS and prints[one]
        if near or texts[one] == texts[other]:
            group[find(other)] = find(one)
    groups: dict[int, list[int]] = {}
    for item in range(len(texts)):
        groups.setdefault(find(item), []).append(item)
    return sorted((members for members in groups.values() if len(members) > 1), key=len, reverse=True)


def differences(first: str, second: str) -> list[Difference]:
    """The differences between two texts, as pieces in the order of the second."""
    ours, theirs = _PIECE.findall(first), _PIECE.findall(second)
    pieces: list[Difference] = []
    for kind, a, b, c, d in _matcher(ours, theirs).get_opcodes():
        if kind == "equal":
            pieces.append(("same", "".join(theirs[c:d])))
            continue
        if a < b:
            pieces.append(("gone", "".join(ours[a:b])))
        if c < d:
            pieces.append(("new", "".join(theirs[c:d])))
    return pieces


def _matcher(ours: Sequence[str], theirs: Sequence[str]) -> SequenceMatcher[str]:
    # A space alone is no match: otherwise differing phrases would be cut up at each space.
    return SequenceMatcher(str.isspace, ours, theirs, autojunk=False)


def own_pieces(texts: Sequence[str]) -> list[list[tuple[bool, str]]]:
    """Split each text into pieces, each with whether it is unique: whether no other text has it at that place."""
    pieces = [_PIECE.findall(text) for text in texts]
    own = [[True] * len(each) for each in pieces]
    for one, other in combinations(range(len(texts)), 2):
        for a, b, size in _matcher(pieces[one], pieces[other]).get_matching_blocks():
            own[one][a : a + size] = own[other][b : b + size] = [False] * size
    return [
        [
            (is_own, "".join(piece for _, piece in group))
            for is_own, group in groupby(zip(flags, each, strict=True), itemgetter(0))
        ]
        for flags, each in zip(own, pieces, strict=True)
    ]
