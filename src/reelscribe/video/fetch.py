"""A clip as a data set names it to one that can be opened: URLs are downloaded, paths held to the root folder."""

import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

from reelscribe.config import Settings
from reelscribe.errors import ClipError
from reelscribe.schema import Clip
from reelscribe.video.web import check_address, download, too_large

_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)(::.*)?://", re.DOTALL)
"""Also fsspec's chains, as `zip://a.mp4::s3://bucket/clips.zip` or `simplecache::s3://...`."""
_WEB: Final = frozenset({"http", "https"})
_STORES: Final = frozenset({"s3", "s3a", "gs", "gcs", "hf", "az", "abfs", "abfss", "adl", "oss", "r2"})
"""Schemes of object stores: the store's address is set where the program runs, so that a URL names no host."""
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    """What may be fetched."""

    root: Path | None = None
    """Folder that no local path may leave; None where there is no such."""
    max_bytes: int = 1 << 30
    """Largest download."""
    seconds: float = 300.0
    """Longest download."""
    allow_private: bool = False
    """Whether URLs may lead to addresses that are not public, and use schemes that reach hosts or files of any kind."""

    @classmethod
    def of(cls, settings: Settings) -> "FetchLimits":
        """The limits that the settings set."""
        return cls(
            root=Path(settings.root) if settings.root else None,
            max_bytes=settings.max_video_bytes,
            seconds=settings.download_seconds,
            allow_private=settings.allow_private_urls,
        )


def scheme_of(source: str) -> str | None:
    """The scheme of a URL, in small letters; None for a path."""
    found = _URL.match(source)
    return found[1].lower() if found else None


@contextmanager
def fetched(clip: Clip, limits: FetchLimits) -> Iterator[Clip]:
    """A clip that can be opened: by bytes, or by the path of a file. A download lasts as long as the context.

    Raises:
        ClipError: kind "missing", "refused" or "download".
    """
    scheme = None if isinstance(clip.source, bytes) else scheme_of(clip.source)
    if isinstance(clip.source, bytes) or scheme is None or scheme == "file":
        yield local(clip, limits)
    else:
        with tempfile.NamedTemporaryFile(prefix="reelscribe-") as file:
            if scheme in _WEB and "::" not in clip.source:
                download(
                    clip.source,
                    file,  # type: ignore[arg-type]
                    max_bytes=limits.max_bytes,
                    seconds=limits.seconds,
                    allow_private=limits.allow_private,
                )
            else:
                _copy_remote(clip.source, scheme, file, limits)  # type: ignore[arg-type]
            file.flush()
            yield Clip(source=file.name, called=clip.source)


def checked(clip: Clip, limits: FetchLimits) -> Clip:
    """A clip that someone else is to open, such as a server: held to the root folder, or its address looked at.

    What the address means where it is opened, and where that leads on to, is not covered.

    Raises:
        ClipError: kind "refused".
    """
    if isinstance(clip.source, bytes) or scheme_of(clip.source) not in _WEB:
        return local(clip, limits)
    if not limits.allow_private:
        check_address(clip.source)
    return clip


def local(clip: Clip, limits: FetchLimits) -> Clip:
    """A clip on this machine, its `file://` URL turned into a path, held to the root folder.

    Raises:
        ClipError: kind "refused", or "row" for an empty path.
    """
    if isinstance(clip.source, bytes):
        return clip
    if not clip.source:
        raise ClipError("row", "the list of videos holds something else here than a path or the bytes of a video.")
    if scheme_of(clip.source) == "file":
        parts = urlsplit(clip.source)
        if parts.netloc not in ("", "localhost"):
            raise ClipError("refused", f"{clip.source} is on another machine, {parts.netloc}; give file:///path.")
        clip = replace(clip, source=url2pathname(parts.path), called=clip.source)
    if limits.root is not None and not _is_inside(clip.path, limits.root):
        raise ClipError("refused", f"{clip.name} leads out of the root folder {limits.root}.")
    return clip


def _is_inside(path: Path, root: Path) -> bool:
    """Whether a path leads into a folder once all links are followed."""
    try:
        # os.path, since that of pathlib raises at a loop of links before Python 3.13
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))
    except ValueError:  # a NUL, or half a surrogate pair: no such path can be there
        return False


def _copy_remote(url: str, scheme: str, target: BinaryIO, limits: FetchLimits) -> None:
    """Copy what fsspec opens. Its time is looked at between reads: a store that hangs in one is not cut off."""
    if not limits.allow_private and (scheme not in _STORES or "::" in url):
        known = ", ".join(sorted(_STORES | _WEB | {"file"}))
        raise ClipError("refused", f"{url}: videos are taken from {known}; other schemes need allow_private_urls.")
    deadline = time.monotonic() + limits.seconds
    try:
        import fsspec

        with fsspec.open(url, "rb") as file:
            received = 0
            while chunk := file.read(_CHUNK):
                received += len(chunk)
                if received > limits.max_bytes:
                    raise too_large(url, None, limits.max_bytes)
                if time.monotonic() > deadline:
                    message = f"{url}: the download took longer than {limits.seconds:g} s (download_seconds)."
                    raise ClipError("download", message)
                target.write(chunk)
    except ClipError:
        raise
    except FileNotFoundError as exc:
        raise ClipError("missing", f"{url}: there is no such file.") from exc
    except ImportError as exc:
        message = f"{url} needs a package that is not installed: {exc} (pip install 'reelscribe[data]' brings fsspec.)"
        raise ClipError("download", message) from exc
    except Exception as exc:  # each of the stores' clients has errors of its own
        raise ClipError("download", f"{url} cannot be downloaded: {type(exc).__name__}: {exc}") from exc
