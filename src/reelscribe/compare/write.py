"""Sides to a page in a file, and votes on them to what they come to."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reelscribe.compare.gathering import Gathered, gather
from reelscribe.compare.matching import sample
from reelscribe.compare.sides import open_sides
from reelscribe.compare.votes import Tally, read_votes, tally
from reelscribe.dataset.names import beside
from reelscribe.errors import DatasetError, SettingsError
from reelscribe.report.write import CLIPS, FRAMES, OnClip, needs_report, write_page


@dataclass(frozen=True, kw_only=True)
class ComparisonSummary:
    """What a page compares."""

    file: Path
    shown: int
    """Clips that it shows."""
    clips: int
    """All that have a text on all sides."""
    left_out: list[str]
    """What is told of all others."""


def write_comparison(
    named: Sequence[str],
    file: Path | None = None,
    *,
    blind: bool = False,
    clips: int = CLIPS,
    frames: int = FRAMES,
    seed: int = 0,
    root: Path | None = None,
    on_clip: OnClip = lambda total: None,
) -> ComparisonSummary:
    """Write a page on which the captions of the same clips stand side by side, to be voted on.

    Args:
        named: two sides or more; see `open_sides`.
        file: the page; by default the first output's name with `.compare.html`.
        blind: whether texts are shuffled, and have no names until the voter ends the voting.
        clips: most clips to show; of more, some are drawn by chance.
        frames: most frames to show of each.
        seed: of the choice of clips and of their order.
        root: folder that relative paths of videos start from; by default where each run had them from.
        on_clip: called for each clip whose frames are there.

    Raises:
        DatasetError: a side is not there or cannot be read, or sides have no clip in common; or the file cannot be
            written.
        SettingsError: fewer than two sides, or a number is below 1, or the file is not named as HTML.
        MissingExtraError: the extra `report`, or what a format needs, is not installed.
    """
    for name, value in (("clips", clips), ("frames", frames)):
        if value < 1:
            raise SettingsError(f"{name} must be a whole number of at least 1; got {value!r}.")
    if file is not None and file.suffix.lower() not in (".html", ".htm"):
        raise SettingsError(f"a comparison is HTML, so its name must end in .html; got {str(file)!r}.")
    with needs_report():
        from reelscribe.compare.page import render, shown_of
        from reelscribe.report.page import beside_page
        from reelscribe.report.thumbnails import filmstrips
    sides = open_sides(named, root)
    file = file or beside(sides[0].data.output, "compare.html")
    gathered = gather(sides, lambda ids: sample(list(ids), clips, seed))
    strips = []
    for strip in filmstrips(list(map(shown_of, gathered.clips)), most_frames=frames, settings=sides[0].data.settings):
        strips.append(strip)
        on_clip(len(gathered.clips))
    title = " · ".join(gathered.names)
    write_page(file, render(gathered, strips, title=title, blind=blind, seed=seed, link=beside_page(file)))
    return ComparisonSummary(file=file, shown=len(gathered.clips), clips=gathered.of, left_out=gathered.left_out)


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What votes come to, and what can be counted without them."""

    tally: Tally
    stale: int
    """Votes that are not counted: the clip is gone, or its texts are not those that were voted on."""
    gathered: Gathered
    """The clips with votes; its figures are of all."""


def count_votes(named: Sequence[str], files: Sequence[Path], *, root: Path | None = None) -> Counted:
    """Count the votes on some sides.

    Args:
        named: the sides, as the page was given them, in any order.
        files: votes that pages exported, of one or several voters.
        root: as for `write_comparison`.

    Raises:
        DatasetError: as for `write_comparison`; or files hold no votes on these sides and texts.
        SettingsError: fewer than two sides.
    """
    sides = open_sides(named, root)
    votes = read_votes(files, [side.name for side in sides])
    voted = {vote.clip for vote in votes}
    gathered = gather(sides, lambda ids: [key for key, identifier in ids.items() if identifier in voted])
    known = {clip.id for clip in gathered.clips}
    counted = [vote for vote in votes if vote.clip in known]
    if not counted:
        raise DatasetError(
            f"none of the votes is on a text that {' and '.join(gathered.names)} have now; were they captioned again?"
        )
    return Counted(tally=tally(counted, gathered.names), stale=len(votes) - len(counted), gathered=gathered)
