"""Captioned data to a page in a file."""

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
FRAMES: Final = 12
_EXTRA: Final = frozenset({"jinja2", "markupsafe", "PIL", "starlette", "uvicorn"})

OnClip = Callable[[int], None]
"""Called for each clip that was looked at, with how many there are."""


@dataclass(frozen=True, kw_only=True)
class ReportSummary:
    """What a report shows."""

    file: Path
    shown: int
    """Videos that it shows."""
    videos: int
    """All that there are."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """A page, but for its frames."""

    sheet: "Sheet"
    videos_shown: list[tuple[Entry, ...]]
    """What is shown, by video."""
    videos: int
    """All that there are."""
    data: CaptionedData
    """What it is about."""
    answers: dict[str, Entry]
    """What is shown, by what the page calls it."""
    several: bool
    """Whether there are several tasks."""
    unfinished: bool
    """Whether a run writes more of them."""


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
        output: the data set, as `reelscribe caption` was given it.
        file: to write; by default beside it, as `captions.report.html`.
        clips: most videos to show; of more, some are chosen of each flag and kind of failure.
        frames: most frames to show of each.
        seed: of that choice.
        root: folder that relative paths of videos start from; by default where the run had them from.
        on_clip: called for each clip whose frames are there.

    Raises:
        DatasetError: there is no such data set, it holds no captions, or the file cannot be written.
        SettingsError: `clips` or `frames` is below 1, or the file is not named as HTML.
        MissingExtraError: the extra `report`, or what the format needs, is not installed.
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
    """Make a page, with videos that are to be had at a link; see `write_report`.

    With `editing` it is one on which captions are corrected: it holds what the model said, and asks a server for what
    people made of that.
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
    """Go through a data set to count, and take out what is to be shown, by video. A large one is gone through twice.

    Raises:
        SettingsError: `clips` or `frames` is below 1.
        DatasetError: it cannot be read.
    """
    for name, value in (("clips", clips), ("frames", frames)):
        if value < 1:
            raise SettingsError(f"{name} must be a whole number of at least 1; got {value!r}.")
    held: list[Entry | NoVideo] = []
    most = clips * len(data.tasks)

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
    """Those at ascending places."""
    at = 0
    for place in wanted:
        item = next(itertools.islice(items, place - at, None), None)
        if item is None:  # it was written anew in between
            return
        at = place + 1
        yield item


@contextmanager
def needs_report() -> Iterator[None]:
    """Say which extra to install where its packages are not there."""
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
        DatasetError: it cannot be written.
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
