"""Writes the page of a comparison, and counts the votes that such pages export."""

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
    """What `write_comparison` wrote."""

    file: Path
    shown: int
    """Number of clips on the page."""
    clips: int
    """Number of clips with a text on all sides."""
    left_out: list[str]
    """Messages about all other clips."""


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
        blind: whether texts are shuffled, and sides have no names until the voter ends the voting.
        clips: maximum number of clips to show; of more, a random sample is shown.
        frames: maximum number of frames to show of each clip.
        seed: seed of the sample and of the shuffling.
        root: folder that relative paths of videos start from; by default that of each run.
        on_clip: called for each clip whose frames were decoded.

    Raises:
        DatasetError: a side does not exist or cannot be read; the sides have no clip in common; or the file cannot be
            written.
        SettingsError: there are fewer than two sides, a number is below 1, or the file is not named as HTML.
        MissingExtraError: the extra `report`, or a package that a format needs, is not installed.
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
    """The result of votes, and the figures that need no votes."""

    tally: Tally
    stale: int
    """Number of votes that do not count, since the clip is gone or its texts are not those that were voted on."""
    gathered: Gathered
    """The data of the clips with votes. Its figures are those of all clips in common."""


def count_votes(named: Sequence[str], files: Sequence[Path], *, root: Path | None = None) -> Counted:
    """Count the votes on some sides.

    Args:
        named: the sides of the page, by the same names, in any order.
        files: votes of one or several voters, as pages exported them.
        root: see `write_comparison`.

    Raises:
        DatasetError: as `write_comparison` does; or the files hold no votes on these sides and texts.
        SettingsError: there are fewer than two sides.
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
