"""Finds the file of a video, given its name in a row."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from reelscribe.errors import ClipError, without_passwords
from reelscribe.values import Clip
from reelscribe.video.fetch import FetchLimits, local, scheme_of


@dataclass(frozen=True, kw_only=True)
class FoundVideo:
    """A video, and where it was found."""

    name: str
    """Name as in the row. For a video whose bytes are in the row: the name that the row gives it, or its size."""
    clip: Clip | None = None
    """The clip, ready to open; None if it cannot be reached."""
    url: str | None = None
    """Web address, without passwords; None if it is not at an http or https URL."""
    remote: Clip | None = None
    """The clip to download; None if it is not at a URL."""
    problem: str = ""
    """Why it cannot be reached; empty if it can."""

    @property
    def path(self) -> Path | None:
        """Path of the file; None if there is no file."""
        return None if self.clip is None or isinstance(self.clip.source, bytes) else self.clip.path

    @property
    def film(self) -> str:
        """An identifier of the whole file, the same for all its stretches."""
        if self.clip is not None and isinstance(self.clip.source, bytes):
            return hashlib.sha256(self.clip.source).hexdigest()
        return (self.url or self.name).partition("#t=")[0] if self.path is None else str(self.path)


_LONGEST_NAME: Final = 300
"""Maximum letters of the name of a video that cannot be reached; the name may be bytes, written as text."""


class VideoFinder:
    """Finds the files of videos.

    Args:
        folders: folders that relative paths may start from.
        looks: whether to look for files; if not, only their names are known.
    """

    def __init__(self, folders: Iterable[Path], *, looks: bool = True) -> None:
        self._looks = looks
        self.folders = list(dict.fromkeys(Path(os.path.realpath(folder)) for folder in folders))

    def find(self, clip: Clip | None) -> FoundVideo:
        """Find the video of a row's clip, in any of the folders. Nothing is downloaded."""
        if clip is None:
            return FoundVideo(name="", problem="The row names no video.")
        if isinstance(clip.source, bytes):
            return FoundVideo(name=clip.name, clip=clip)
        scheme = scheme_of(clip.source)
        if scheme not in (None, "file"):
            url = without_passwords(clip.source, "") + clip.fragment if scheme in ("http", "https") else None
            problem = "The video is at a URL, from which nothing is downloaded."
            return FoundVideo(name=clip.name, url=url, remote=clip, problem=problem)
        return self._find_file(clip, clip.source)

    def _find_file(self, clip: Clip, video: str) -> FoundVideo:
        name = video + clip.fragment
        if not self._looks:
            return FoundVideo(name=name, problem="Nobody looked for the video.")
        try:
            paths = {os.path.realpath(local(replace(clip, root=root), FetchLimits()).path) for root in self.folders}
            there = sorted(path for path in paths if Path(path).is_file())
        except (ClipError, OSError, ValueError) as exc:  # e.g. another machine, a NUL in the name, bytes
            return FoundVideo(name=name[:_LONGEST_NAME], problem=f"The video cannot be reached: {exc}")
        if len(there) > 1:
            return FoundVideo(name=name, problem="Several inputs have a video of this name; tell which with --root.")
        if not there:
            return FoundVideo(name=name, problem="The video is not there.")
        return FoundVideo(name=name, clip=replace(clip, source=there[0], root=None, called=video))
