"""Videos as inputs: one file, or all in a folder. `.txt` and `.json` files beside a video give its text and columns."""

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
"""Matches the headers of video streams in the first page of an Ogg file. Most Ogg files have only sound."""
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
"""Suffixes of the files that runs write beside their outputs."""
_BACKUP: Final = re.compile(r"\.bak[0-9]*\Z")
"""End of the name of a sidecar's backup, which a run made when it replaced the sidecar."""
_MOST_KINDS: Final = 6
"""Maximum number of kinds of files that a message names; of the rest it has only the count."""
_COUNTING_SECONDS: Final = 5
"""Maximum seconds for counting the files that are left out."""


def check(_: str) -> None:
    """Do nothing: `find_sources` has already found the videos."""


def count(location: str, deadline: float) -> int | None:
    """Number of rows: videos, and folders that cannot be searched."""
    return count_until(_find(location), deadline)


def read(
    location: str, settings: Settings, base: Path | None, is_own: IsOwn = lambda file, content: False
) -> Iterator[Record]:
    """A row for each video, in the order of the names.

    A row names its video relative to `root`, or else to `base`; if neither is set, by its absolute path. A video whose
    name is not UTF-8 is named by its `file:` URL: half surrogates would make the whole output unreadable for other
    programs. Files beside a video are its columns, unless runs on the same output wrote them (`is_own`).
    """
    if is_url(location):
        yield Record(row={settings.video_key or "video": location})
        return
    root = Path(settings.root) if settings.root else base
    start = root and root.resolve()
    for path, problem in _find(location):
        # The video's own name stays, but both folders are resolved: ".." after a link would start at the link's target.
        named = _name_of(path.parent.resolve() / path.name, start)
        if problem is not None:
            yield Record(row={"video": named}, problem=problem, kind="unreadable")
            continue
        video = {settings.video_key or "video": named}
        clip = named_clip(str(path))  # a video that the user names itself may have a stretch (`#t=...`)
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
    """Whether a folder has a video, at any depth."""
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
        return True  # it becomes a row with a failure that gives the reason


def left_out(folder: Path) -> str:
    """Text with the number and kinds of files in a folder that are not videos; empty if there are none.

    Hidden files, sidecars of videos, and files that earlier runs wrote are not counted.
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
    """Whether a file is a sidecar of one of these videos, or a backup of one. `videos` has paths with and without
    suffixes.
    """
    file = file.with_name(_BACKUP.sub("", file.name) or file.name)
    names = {without_suffix(file), without_suffix(file.with_name(without_stretch(file.name)))}
    return file.suffix.lower() in (".txt", ".json") and not names.isdisjoint(videos)


def walk(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """All files below a folder, in the order of their names, each with None. Links are followed.

    A folder that cannot be searched, or a link that leads back to a folder above it, is yielded itself, with a message.
    A folder that was searched already by another path is not searched again.

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
