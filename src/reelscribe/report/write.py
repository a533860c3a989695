"""Makes the page of a report, and writes it to a file."""

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from reelscribe.dataset.names import beside
from reelscribe.errors import DatasetError, MissingExtraError, SettingsError
from reelscribe.report.course import Course
from reelscribe.report.entries import CaptionedData, Entry, NoVideo, by_video
from reelscribe.report.overview import Overview, choose, shown_of

if TYPE_CHECKING:
    from reelscribe.report.page import Sheet

T = TypeVar("T")

CLIPS: Final = 1000
"""Default maximum number of videos on a page."""
FRAMES: Final = 12
"""Default maximum number of frames shown of each video."""
_EXTRA: Final = frozenset({"jinja2", "markupsafe", "PIL", "starlette", "uvicorn"})
"""Packages of the extra `report`."""

OnClip = Callable[[int], None]
"""Called for each clip whose frames were decoded, with the total number of clips."""


@dataclass(frozen=True, kw_only=True)
class ReportSummary:
    """What `write_report` wrote."""

    file: Path
    shown: int
    """Number of videos on the page."""
    videos: int
    """Number of videos in the data set."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """A page without frames, and the data that it was made from."""

    sheet: "Sheet"
    videos_shown: list[tuple[Entry, ...]]
    """Entries of each video on the page."""
    videos: int
    """Number of videos in the data set."""
    data: CaptionedData
    """The data set."""
    answers: dict[str, Entry]
    """Entries on the page, by their identifiers."""
    several: bool
    """Whether there are several tasks."""
    unfinished: bool
    """Whether the run was not finished, so that more clips may come."""


def write_report(
    output: Path,
    file: Path | None = None,
    *,
    clips: int = CLIPS,
    frames: int = FRAMES,
    seed: int = 0,
    root: Path | None = None,
    on_clip: OnClip = lambda total: None,
) -> ReportSummary:
    """Write a page about the captions of a data set.

    Args:
        output: the output of `reelscribe caption`, as its command names it.
        file: the file to write; by default `captions.report.html` beside `captions.jsonl`.
        clips: maximum number of videos to show. Of more, a sample is shown that has some of each flag and failure.
        frames: maximum number of frames to show of each video.
        seed: seed of the sample.
        root: folder that relative paths of videos start from; by default that of the run.
        on_clip: called for each clip whose frames were decoded.

    Raises:
        DatasetError: there is no such data set, it holds no captions, or the file cannot be written.
        SettingsError: `clips` or `frames` is below 1, or the file is not named as HTML.
        MissingExtraError: the extra `report`, or a package that the format needs, is not installed.
    """
    file = beside(output, "report.html") if file is None else file
    if file.suffix.lower() not in (".html", ".htm"):
        raise SettingsError(f"a report is HTML, so its name must end in .html; got {str(file)!r}.")
    with needs_report():
        from reelscribe.report.page import beside_page
        from reelscribe.report.thumbnails import filmstrips, room_for_pictures
    made = make_page(output, beside_page(file), clips=clips, frames=frames, seed=seed, root=root)
    room = room_for_pictures(made.sheet.page(), len(made.videos_shown))
    strips = []
    shown = list(map(shown_of, made.videos_shown))
    for strip in filmstrips(shown, most_frames=frames, max_bytes=room, settings=made.data.settings):
        strips.append(strip)
        on_clip(len(shown))
    write_page(file, made.sheet.page(strips))
    return ReportSummary(file=file, shown=len(made.videos_shown), videos=made.videos)


def make_page(
    output: Path,
    link: Callable[[Entry], str | None],
    *,
    clips: int,
    frames: int,
    seed: int,
    root: Path | None,
    editing: bool = False,
) -> Made:
    """Make a page without frames; `link` gives the address of each video, and `write_report` has the other arguments.

    With `editing`, captions can be corrected on the page: it holds what the model said, and asks its server for edits.
    """
    with needs_report():
        from reelscribe.report.page import Sheet, identifiers
    data = CaptionedData(output, root=root, unfinished="running", corrected=not editing)
    unfinished = data.is_partial
    overview, chosen = choose_entries(data, clips=clips, frames=frames, seed=seed)
    sheet = Sheet(
        overview,
        chosen,
        course=Course.of(output),
        title=output.name,
        link=link,
        editing=editing,
        unfinished=unfinished,
    )
    entries = [entry for answers in chosen for entry in answers]
    several = len(overview.tasks) > 1
    answers = dict(zip(identifiers(entries, several=several), entries, strict=True))
    return Made(
        sheet=sheet,
        videos_shown=chosen,
        videos=len(overview.strata),
        data=data,
        answers=answers,
        several=several,
        unfinished=unfinished,
    )


def choose_entries(
    data: CaptionedData, *, clips: int, frames: int, seed: int
) -> tuple[Overview, list[tuple[Entry, ...]]]:
    """Count all entries, and choose the videos to show. A large data set is read twice.

    Returns:
        The statistics, and the entries of each chosen video.

    Raises:
        SettingsError: `clips` or `frames` is below 1.
        DatasetError: the data set cannot be read.
    """
    for name, value in (("clips", clips), ("frames", frames)):
        if value < 1:
            raise SettingsError(f"{name} must be a whole number of at least 1; got {value!r}.")
    held: list[Entry | NoVideo] = []
    most = clips * len(data.tasks)

    # Entries of a small data set are held in memory, so that it is read only once.
    def holding() -> Iterator[Entry | NoVideo]:
        for entry in data.entries():
            held.extend([entry] if len(held) <= most else [])
            yield entry

    overview = Overview.of(holding())
    wanted = iter(choose(overview.strata, clips, seed))
    entries = iter(held) if len(held) <= most else data.entries()
    videos = (answers for answers in by_video(entries) if answers)
    return overview, list(_pick(videos, wanted))


def _pick(items: Iterator[T], wanted: Iterator[int]) -> Iterator[T]:
    """Yield the items at the wanted positions, which ascend."""
    at = 0
    for place in wanted:
        item = next(itertools.islice(items, place - at, None), None)
        if item is None:  # the output was written again since the first pass
            return
        at = place + 1
        yield item


@contextmanager
def needs_report() -> Iterator[None]:
    """Raise MissingExtraError in place of ModuleNotFoundError if a package of the extra `report` is missing."""
    try:
        yield
    except ModuleNotFoundError as exc:
        package = (exc.name or "").partition(".")[0]
        if package not in _EXTRA:
            raise
        raise MissingExtraError(f"a report needs {package}: pip install 'reelscribe[report]'") from exc


def write_page(file: Path, page: bytes) -> None:
    """Write a page whole or not at all.

    Raises:
        DatasetError: the file cannot be written.
    """
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(page)
        partial.replace(file)
    except OSError as exc:
        with suppress(OSError):
            partial.unlink()
        raise DatasetError(f"cannot write to {file}: {exc.strerror or exc}.") from exc
