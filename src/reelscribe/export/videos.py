"""The videos of an export: names them, and places them in the folder."""

import errno
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

from reelscribe.dataset.files import VIDEO_SUFFIXES
from reelscribe.errors import ClipError, DatasetError
from reelscribe.export.choices import Placing
from reelscribe.export.folder import ExportFolder
from reelscribe.export.samples import Sample
from reelscribe.report.videos import FoundVideo
from reelscribe.values import Clip
from reelscribe.video.cutting import cut
from reelscribe.video.fetch import Fetcher

MAKES_FILES: Final[frozenset[Placing]] = frozenset({"copy", "cut"})
"""Placings that write files, so that they also work for videos that are not local files."""
_MOST_BYTES: Final = 180
"""Maximum bytes of a name in UTF-8. File systems allow 255; this leaves room for a number and a suffix."""
_NOT_IN_NAMES: Final = re.compile(r"[\x00-\x1f\x7f/\\:*?\"<>|.\s]+")
"""Characters that some file system, a list of lines, or the key of a tar sample cannot hold."""


class Names:
    """Gives each sample a unique name: that of its video, with a number if the name is taken.

    Names that differ only in case count as equal, since many file systems do not distinguish them. Names are kept in a
    temporary SQLite database, as they might not fit in memory.
    """

    def __init__(self) -> None:
        self._taken = sqlite3.connect("")  # a temporary database, which goes to disk once it is large
        self._taken.execute("CREATE TABLE names (name TEXT PRIMARY KEY, copies INTEGER) WITHOUT ROWID")
        self.repeated = 0
        """Number of names that had to be changed."""

    def close(self) -> None:
        """Delete the database of names."""
        self._taken.close()

    def name(self, sample: Sample) -> str:
        """The name of the next sample, without a suffix."""
        wanted = name = _stem(sample)
        number = self._copies(wanted)
        while not self._take(name):
            number += 1
            name = f"{wanted}-{number}"
        if number > 1:
            self._taken.execute("UPDATE names SET copies = ? WHERE name = ?", (number, wanted.casefold()))
            self.repeated += 1
        return name

    def _copies(self, name: str) -> int:
        found = self._taken.execute("SELECT copies FROM names WHERE name = ?", (name.casefold(),)).fetchone()
        return found[0] if found else 1

    def _take(self, name: str) -> bool:
        return self._taken.execute("INSERT OR IGNORE INTO names VALUES (?, 1)", (name.casefold(),)).rowcount > 0


def _stem(sample: Sample) -> str:
    """Preferred name of a sample: its video's, with the start of a stretch appended."""
    entry = sample.entry
    clip = entry.video.clip or entry.video.remote
    called = (clip.called or "" if isinstance(clip.source, bytes) else str(clip.called or clip.source)) if clip else ""
    stem, suffix = os.path.splitext(PurePosixPath(called.partition("?")[0]).name)  # noqa: PTH122 - of a URL, too
    stem = stem if suffix.lower() in VIDEO_SUFFIXES else stem + suffix
    if clip is not None and not clip.is_whole:
        stem += f"-{round(clip.start_seconds * 1000):09d}"
    stem = _NOT_IN_NAMES.sub("_", stem.encode("utf-8", "replace").decode()).strip("_-")
    return stem.encode()[:_MOST_BYTES].decode("utf-8", "ignore") or f"row-{entry.row}"


def clip_of(sample: Sample) -> Clip:
    """The clip of a sample, to open or to download.

    Raises:
        ClipError: kind "missing", if it cannot be had.
    """
    clip = sample.entry.video.clip or sample.entry.video.remote
    if clip is None:
        raise ClipError("missing", sample.entry.video.problem)
    return clip


def suffix_of(sample: Sample, placing: Placing) -> str:
    """Suffix of a sample's file; `.mp4` if neither its name nor its URL has one."""
    clip = sample.entry.video.clip or sample.entry.video.remote
    if clip is None or isinstance(clip.source, bytes) or (placing == "cut" and not clip.is_whole):
        return ".mp4"
    named = os.path.splitext(str(clip.called or clip.source).partition("?")[0])[1].lower()  # noqa: PTH122 - as above
    return named if named in VIDEO_SUFFIXES else ".mp4"


def trouble(video: FoundVideo, placing: Placing, *, stretches: bool) -> str | None:
    """Why a video cannot be placed in this way, with the option that helps; None if it can, or does not exist at all.

    Args:
        video: the video, as it was found.
        placing: how it should get into the folder.
        stretches: whether the target can refer to a part of a file.
    """
    clip = video.clip or video.remote
    if clip is None:
        return None
    if not clip.is_whole and placing != "cut" and not stretches:
        return "are stretches of videos: --videos cut makes a file of each"
    if placing not in MAKES_FILES:
        if video.remote is not None:
            return "are at URLs: --videos copy downloads them"
        if isinstance(clip.source, bytes):
            return "are in the data set itself: --videos copy makes files of them"
    return None


class Placer:
    """Puts videos into the folder of an export."""

    def __init__(self, folder: ExportFolder, placing: Placing, fetcher: Fetcher) -> None:
        self._folder = folder
        self._placing = placing
        self._fetcher = fetcher

    def place(self, sample: Sample, name: str) -> Path:
        """Put the video of a sample into the folder, unless it is there already. Returns its path.

        Raises:
            ClipError: the video cannot be had or cut.
            DatasetError: the file cannot be written.
        """
        clip = clip_of(sample)
        if self._placing == "in-place":
            return clip.path
        return self._folder.put(name, lambda partial: self.write(clip, partial))

    def write(self, clip: Clip, file: Path) -> None:
        """Write a clip to `file`, or make a link there.

        Raises:
            ClipError: the clip cannot be had or cut.
            DatasetError: the file system allows no hard link to it.
            OSError: the file cannot be written.
        """
        if self._placing in MAKES_FILES:
            with self.content(clip, file) as path:
                if path != file:
                    shutil.copyfile(path, file)
            return
        source = os.path.abspath(clip.path)  # noqa: PTH100 - must not resolve links
        try:
            (os.symlink if self._placing == "symlink" else os.link)(source, file)
        except OSError as exc:
            if exc.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
                raise
            message = f"no hard link to {source} can be made in {self._folder.path} ({exc.strerror}); "
            raise DatasetError(message + "--videos symlink or copy does not need one.") from exc

    @contextmanager
    def content(self, clip: Clip, file: Path) -> Iterator[Path]:
        """Provide a file that holds a clip: its own file if it can be used as it is, else `file`, which is written.

        Raises:
            ClipError: the clip cannot be had or cut.
            OSError: the file cannot be written.
        """
        with self._fetcher.fetched(clip) as there:
            if not there.is_whole and self._placing == "cut":
                cut(there, file)
            elif isinstance(there.source, bytes):
                file.write_bytes(there.source)
            else:
                if not there.path.is_file():
                    raise ClipError("missing", f"{clip.name}: there is no such file.")
                yield there.path
                return
            yield file
