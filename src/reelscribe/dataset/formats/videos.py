"""Videos themselves: one file, or all in a folder. Text and columns may lie beside each in `.txt` and `.json` files."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from reelscribe.config import Settings
from reelscribe.dataset.files import VIDEO_SUFFIXES, count_until, is_url
from reelscribe.dataset.formats import Record
from reelscribe.dataset.sidecars import IsOwn, read_sidecars
from reelscribe.errors import DatasetError

logger = logging.getLogger(__name__)


def check(_: str) -> None:
    """Nothing to do: whoever found the videos saw them."""


def count(location: str, deadline: float) -> int | None:
    """Number of videos, and of folders that cannot be searched."""
    return count_until(_find(location), deadline)


def read(
    location: str, settings: Settings, base: Path, is_own: IsOwn = lambda file, content: False
) -> Iterator[Record]:
    """A row for each video, named as seen from the root folder or else from `base`, in the order of the names.

    Files beside a video are its columns, unless runs on the same output wrote them (`is_own`).
    """
    if is_url(location):
        yield Record(row={"video": location})
        return
    root = Path(settings.root) if settings.root else base
    start = root.resolve()
    for path, problem in _find(location):
        # The video's own name stays, but both folders are resolved: ".." steps out of where a link leads to.
        named = Path(os.path.relpath(path.parent.resolve() / path.name, start)).as_posix()
        if problem is not None:
            yield Record(row={"video": named}, problem=problem, kind="unreadable")
            continue
        video = {settings.video_key or "video": named}
        columns, wrong = read_sidecars(path, settings, is_own)
        yield Record(row=video | columns | video, root=root, problem=wrong)


def has_videos(folder: Path) -> bool:
    """Whether anything in a folder is a video."""
    return any(problem is None for _, problem in _find(str(folder)))


def _find(location: str) -> Iterator[tuple[Path, str | None]]:
    path = Path(location)
    if not path.is_dir():
        yield path, None
        return
    for file, problem in walk(path):
        if problem is not None or file.suffix.lower() in VIDEO_SUFFIXES:
            yield file, problem


def walk(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """All files below a folder, in the order of their names; links are followed.

    A folder that cannot be searched, or that leads back to one that it is in, comes itself, with what is wrong with it.
    A folder that is met again by another way is not searched again.

    Raises:
        DatasetError: `folder` itself cannot be searched.
    """
    searched: set[tuple[int, int]] = set()
    levels: list[tuple[tuple[int, int], Iterator[Path]]] = []

    def descend(into: Path) -> str | None:
        try:
            stat = into.stat()
            entries = sorted(into.iterdir())
        except OSError as exc:
            return f"the folder {into} cannot be searched: {exc.strerror}."
        identity = (stat.st_dev, stat.st_ino)
        if any(identity == above for above, _ in levels):
            return f"the link {into} leads back to a folder that it is in; it is not followed."
        if identity in searched:
            logger.warning("%s is a folder that was searched already, by another name; it is left out.", into)
            return None
        searched.add(identity)
        levels.append((identity, iter(entries)))
        return None

    problem = descend(folder)
    if problem:
        raise DatasetError(problem)
    while levels:
        path = next(levels[-1][1], None)
        if path is None:
            levels.pop()
        elif not path.is_dir():
            yield path, None
        elif problem := descend(path):
            yield path, problem
