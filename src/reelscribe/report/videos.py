"""From a video as a row names it to the file that can be looked at."""

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
    """A video, and where it can be had."""

    name: str
    """As the row has it; of one that is in the row itself, the row's name or the video's size."""
    clip: Clip | None = None
    """To open; None where it cannot be reached."""
    url: str | None = None
    """Where it is on the web."""
    remote: Clip | None = None
    """To download; None for what is not at a URL."""
    problem: str = ""
    """Why it cannot be reached."""

    @property
    def path(self) -> Path | None:
        """The file, where it is one."""
        return None if self.clip is None or isinstance(self.clip.source, bytes) else self.clip.path

    @property
    def film(self) -> str:
        """What the file is known by, whatever stretch of it this is."""
        if self.clip is not None and isinstance(self.clip.source, bytes):
            return hashlib.sha256(self.clip.source).hexdigest()
        return (self.url or self.name).partition("#t=")[0] if self.path is None else str(self.path)


_LONGEST_NAME: Final = 300
"""Letters."""


class VideoFinder:
    """Finds files.

    Args:
        folders: that relative paths may start from.
        looks: whether to look for files; else all that is told of one is its name.
    """

    def __init__(self, folders: Iterable[Path], *, looks: bool = True) -> None:
        self._looks = looks
        self.folders = list(dict.fromkeys(Path(os.path.realpath(folder)) for folder in folders))

    def find(self, clip: Clip | None) -> FoundVideo:
        """Find the video of a clip of a row, whatever folder its path starts from. Nothing is downloaded."""
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
        except (ClipError, OSError, ValueError) as exc:  # on another machine; a NUL in the name; bytes, written as text
            return FoundVideo(name=name[:_LONGEST_NAME], problem=f"The video cannot be reached: {exc}")
        if len(there) > 1:
            return FoundVideo(name=name, problem="Several inputs have a video of this name; tell which with --root.")
        if not there:
            return FoundVideo(name=name, problem="The video is not there.")
        return FoundVideo(name=name, clip=replace(clip, source=there[0], root=None, called=video))
