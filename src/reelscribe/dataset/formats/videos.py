"""Videos themselves: one file, or all in a folder. Text and columns may lie beside each in `.txt` and `.json` files."""

import logging
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from reelscribe.config import Settings
from reelscribe.dataset.files import VIDEO_SUFFIXES, count_until, is_url, without_suffix
from reelscribe.dataset.formats import Record
from reelscribe.dataset.sidecars import Beside, IsOwn, without_stretch
from reelscribe.errors import DatasetError
from reelscribe.layouts import named_clip

logger = logging.getLogger(__name__)

_FILM_IN_OGG: Final = re.compile(rb"\x80theora|\x01video\0|BBCD\0|OVP80")
"""Starts of the streams of pictures that an Ogg file may hold, in its first page; most hold sound."""
_BESIDE_OUTPUTS: Final = (
    ".edits.jsonl",
    ".failures.jsonl",
    ".ledger.lock",
    ".ledger.sqlite",
    ".ledger.sqlite-journal",
    ".partial",
    ".report.html",
    ".run.json",
)
"""Ends of the names of what runs write beside their outputs."""
_BACKUP: Final = re.compile(r"\.bak[0-9]*\Z")
"""End of the name of a file beside a video that a run replaced."""
_MOST_KINDS: Final = 6
"""Kinds of files that are named; of the rest only the number is."""
_COUNTING_SECONDS: Final = 5
"""The longest that files which are left out are counted."""


def check(_: str) -> None:
    """Nothing to do: whoever found the videos saw them."""


def count(location: str, deadline: float) -> int | None:
    """Number of videos, and of folders that cannot be searched."""
    return count_until(_find(location), deadline)


def read(
    location: str, settings: Settings, base: Path | None, is_own: IsOwn = lambda file, content: False
) -> Iterator[Record]:
    """A row for each video, named as seen from the root folder or else from `base`, in the order of the names.

    Without either, by its absolute path.

    One whose name is not UTF-8 is named by its URL: half surrogates would make the whole output unreadable to others.
    Files beside a video are its columns, unless runs on the same output wrote them (`is_own`).
    """
    if is_url(location):
        yield Record(row={settings.video_key or "video": location})
        return
    root = Path(settings.root) if settings.root else base
    start = root and root.resolve()
    for path, problem in _find(location):
        # The video's own name stays, but both folders are resolved: ".." steps out of where a link leads to.
        named = _name_of(path.parent.resolve() / path.name, start)
        if problem is not None:
            yield Record(row={"video": named}, problem=problem, kind="unreadable")
            continue
        video = {settings.video_key or "video": named}
        clip = named_clip(str(path))  # one that is named itself may be a stretch
        beside = Beside(video=clip.path, is_own=is_own)
        columns, wrong = beside.columns(clip, settings)
        yield Record(row=video | columns | video, root=root, problem=wrong, source=beside)


def _name_of(path: Path, start: Path | None) -> str:
    name = (path if start is None else Path(os.path.relpath(path, start))).as_posix()
    try:
        name.encode()
    except UnicodeEncodeError:
        return path.as_uri()
    return name


def has_videos(folder: Path) -> bool:
    """Whether anything in a folder is a video."""
    return any(problem is None for _, problem in _find(str(folder)))


def _find(location: str) -> Iterator[tuple[Path, str | None]]:
    path = Path(location)
    if not path.is_dir():
        yield path, None
        return
    for file, problem in walk(path):
        if problem is not None or _is_video(file):
            yield file, problem


def _is_video(file: Path) -> bool:
    suffix = file.suffix.lower()
    if suffix != ".ogg":
        return suffix in VIDEO_SUFFIXES
    try:
        with file.open("rb") as opened:
            return _FILM_IN_OGG.search(opened.read(512)) is not None
    except OSError:
        return True  # so that it comes as a row that says what is wrong with it


def left_out(folder: Path) -> str:
    """How many files of a folder of videos are no videos, and of which kinds; empty if there are none.

    Hidden files, texts and columns beside a video, and what earlier runs wrote are not counted.
    """
    deadline = time.monotonic() + _COUNTING_SECONDS
    others: list[Path] = []
    videos: set[str] = set()
    outputs: set[Path] = set()
    more = ""
    for file, problem in walk(folder):
        if _is_video(file):
            videos |= {str(file), without_suffix(file)}
        elif file.name.endswith(".ledger.sqlite"):
            outputs.add(file.with_name(file.name.removesuffix(".ledger.sqlite")))
        elif problem is None and not file.name.startswith(".") and not file.name.endswith(_BESIDE_OUTPUTS):
            others.append(file)
        if time.monotonic() > deadline:
            more = "at least "
            break
    kinds = Counter(
        file.suffix.lower() or "without a suffix"
        for file in others
        if not _lies_beside(file, videos) and file.with_name(file.name.partition(".")[0]) not in outputs
    )
    if not kinds:
        return ""
    named = [f"{count} {kind}" for kind, count in kinds.most_common(_MOST_KINDS)]
    rest = kinds.total() - sum(count for _, count in kinds.most_common(_MOST_KINDS))
    named += [f"{rest} others"] if rest else []
    files = "file that is no video" if kinds.total() == 1 else "files that are no videos"
    return f"{more}{kinds.total()} {files}: {', '.join(named)}"


def _lies_beside(file: Path, videos: set[str]) -> bool:
    """Whether a file is a text or the columns of one of these videos, which have no suffix; or was until replaced."""
    file = file.with_name(_BACKUP.sub("", file.name) or file.name)
    names = {without_suffix(file), without_suffix(file.with_name(without_stretch(file.name)))}
    return file.suffix.lower() in (".txt", ".json") and not names.isdisjoint(videos)


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
