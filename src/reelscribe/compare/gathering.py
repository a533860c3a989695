"""Gathers clips with the texts of all sides, and the figures of each side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from reelscribe.compare.figures import Overlap, SideFigures, TextFigures, cost_of, overlaps
from reelscribe.compare.matching import Key, match, walk
from reelscribe.compare.sides import Side
from reelscribe.report.entries import Entry


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A clip with the text of each side."""

    id: str
    """See `Matched`."""
    entries: tuple[Entry, ...]
    """The entry of each side."""
    texts: tuple[str, ...]
    """The text of each side."""
    figures: tuple[TextFigures, ...]


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """The data of a comparison."""

    names: list[str]
    """Names of the sides."""
    clips: list[Compared]
    """The chosen clips."""
    of: int
    """Number of clips with a text on all sides."""
    others: int
    """Number of clips without."""
    left_out: list[str]
    """Messages about clips that were left out."""
    figures: list[SideFigures]
    """Figures of each side, over all clips in common."""
    overlaps: list[Overlap]
    """Overlaps of the sides' texts, over the chosen clips."""


def gather(sides: Sequence[Side], choose: Callable[[Mapping[Key, str]], Sequence[Key]]) -> Gathered:
    """Read all sides twice: to match their clips, and to count them and collect the chosen ones.

    Args:
        sides: at least two.
        choose: chooses keys of clips, given the identifiers of all clips in common.

    Raises:
        DatasetError: there is no clip in common, or an output cannot be read.
    """
    matched = match(sides)
    wanted = choose(matched.ids)
    figures = [SideFigures(cost=cost_of(side)) for side in sides]
    found: dict[Key, list[tuple[Entry, str, TextFigures]]] = {key: [] for key in wanted}
    for side, counted in zip(sides, figures, strict=True):
        for key, entry in walk(side):
            text = side.text_of(entry)
            if key not in matched.ids or text is None:
                continue
            of_text = TextFigures.of(side, entry, text)
            counted.add(of_text, entry.meta)
            if key in found:
                found[key].append((entry, text, of_text))
    clips = [_compared(matched.ids[key], found[key]) for key in wanted if len(found[key]) == len(sides)]
    return Gathered(
        names=[side.name for side in sides],
        clips=clips,
        of=len(matched.ids),
        others=matched.others,
        left_out=matched.left_out,
        figures=figures,
        overlaps=overlaps([clip.texts for clip in clips]) if clips else [],
    )


def _compared(identifier: str, found: Sequence[tuple[Entry, str, TextFigures]]) -> Compared:
    entries, texts, figures = zip(*found, strict=True)
    return Compared(id=identifier, entries=entries, texts=texts, figures=figures)
