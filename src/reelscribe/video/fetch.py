"""Makes a clip openable: downloads it from its URL, or checks that its path is inside the root folder."""

import atexit
import os
import re
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import url2pathname
from weakref import WeakSet

from reelscribe.config import FetchSettings
from reelscribe.errors import ClipError
from reelscribe.values import Clip
from reelscribe.video.addresses import check_address

if TYPE_CHECKING:
    from reelscribe.video.web import Web

_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)(::.*)?://", re.DOTALL)
"""Matches a URL, also fsspec's chains such as `zip://a.mp4::s3://bucket/clips.zip` or `simplecache::s3://...`."""
_WEB: Final = frozenset({"http", "https"})
_WEB_URL: Final = re.compile(r"https?://(?!(?:[^/?#@]*@)?[^/?#\[]*::)", re.IGNORECASE)
"""Matches a web URL that is not a chain. `::` may be in its path, query or IPv6 address, but not in its host name."""
_STORES: Final = frozenset({"s3", "s3a", "gs", "gcs", "hf", "az", "abfs", "abfss", "adl", "oss", "r2"})
"""Schemes of object stores. The store's address comes from this machine's configuration, so the URL names no host."""
_CHUNK = 1 << 20
_KEPT_FILMS: Final = 2
"""Number of unused downloaded films that are kept for further stretches: rows of two films may alternate."""


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    """Limits on local paths and downloads."""

    root: Path | None = None
    """Folder in which local files must lie; None for no restriction."""
    max_bytes: int = 1 << 30
    """Maximum size of a download, in bytes."""
    seconds: float = 300.0
    """Time limit of a download."""
    max_downloads: int = 16
    """Maximum number of downloads at once."""
    allow_private: bool = False
    """Whether URLs may lead to addresses that are not public, and use schemes that reach hosts or files of any kind."""

    @classmethod
    def of(cls, settings: FetchSettings) -> "FetchLimits":
        """The limits in the settings."""
        return cls(
            root=Path(settings.root) if settings.root else None,
            max_bytes=settings.max_video_bytes,
            seconds=settings.download_seconds,
            max_downloads=settings.max_downloads,
            allow_private=settings.allow_private_urls,
        )


def scheme_of(source: str) -> str | None:
    """The scheme of a URL in lower case; None for a path."""
    found = _URL.match(source)
    return found[1].lower() if found else None


def is_remote(clip: Clip) -> bool:
    """Whether a clip must be downloaded before it can be opened."""
    return not isinstance(clip.source, bytes) and scheme_of(clip.source) not in (None, "file")


@dataclass(kw_only=True, eq=False)
class _Download:
    """A download, shared by all threads that need its file."""

    begun: threading.Lock = field(default_factory=threading.Lock)
    """Held by the thread that downloads the file; others wait for it."""
    users: int = 0
    """Number of contexts that use the file."""
    is_film: bool = False
    """Whether any of them needed a stretch of it."""
    path: str | None = None
    error: ClipError | None = None
    file: ExitStack = field(default_factory=ExitStack)
    """Removes the file when it is closed."""


class Fetcher:
    """Fetches the clips of a run, from any thread. `close` cancels downloads under way, and removes all files."""

    def __init__(self, limits: FetchLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._web: Web | None = None
        self._files: set[str] = set()
        self._downloads: OrderedDict[str, _Download] = OrderedDict()
        """Downloads by URL, most recently requested last."""
        self._closed = False
        _open.add(self)

    @contextmanager
    def fetched(self, clip: Clip) -> Iterator[Clip]:
        """A context that gives a clip that can be opened: its source is bytes, or the path of a local file.

        A downloaded file is removed when the last context that uses it ends. If a stretch of it was needed, it is kept
        for the film's next stretch, until files of other films replace it.

        Raises:
            ClipError: kind "missing", "refused", "download", or "row" for an empty path.
        """
        if not is_remote(clip):
            yield local(clip, self._limits)
            return
        url = str(clip.source)
        with self._lock:
            download = self._downloads.setdefault(url, _Download())
            self._downloads.move_to_end(url)
            download.users += 1
            download.is_film |= not clip.is_whole
        try:
            with download.begun:
                if not download.path and not download.error:
                    try:
                        download.path = download.file.enter_context(self._downloaded(clip))
                    except ClipError as exc:
                        download.error = exc
            if download.error:
                raise ClipError(download.error.kind, str(download.error))
            yield replace(clip, source=download.path or "", root=None, called=url)
        finally:
            with self._lock:
                download.users -= 1
                gone = self._no_longer_wanted()
            for each in gone:
                each.file.close()

    def _no_longer_wanted(self) -> list[_Download]:
        unused = [(url, each) for url, each in self._downloads.items() if not each.users]
        films = [url for url, each in unused if each.is_film][-_KEPT_FILMS:]
        return [self._downloads.pop(url) for url, _ in unused if url not in films]

    @contextmanager
    def _downloaded(self, clip: Clip) -> Iterator[str]:
        with ExitStack() as stack:
            try:
                path, file = stack.enter_context(self._temporary_file())
                self._copy(str(clip.source), file)
                file.flush()
            except ClipError:
                raise
            except OSError as exc:
                why = exc.strerror or exc
                raise ClipError("download", f"{clip.name} cannot be kept in the temporary folder: {why}.") from exc
            except Exception as exc:
                raise ClipError("download", f"{clip.name} cannot be downloaded: {type(exc).__name__}: {exc}") from exc
            yield path

    def close(self) -> None:
        """Cancel downloads under way, and remove all files. It does not wait for the downloading threads."""
        with self._lock:
            self._closed = True
            web, files = self._web, list(self._files)
            kept = [download for download in self._downloads.values() if not download.users]
        if web:
            web.close()
        for download in kept:
            download.file.close()
        for path in files:
            Path(path).unlink(missing_ok=True)

    @contextmanager
    def _temporary_file(self) -> Iterator[tuple[str, BinaryIO]]:
        with self._lock:
            if self._closed:
                raise ClipError("download", "the download was given up.")
            handle, path = tempfile.mkstemp(prefix="reelscribe-")
            self._files.add(path)
        file = os.fdopen(handle, "wb")
        try:
            yield path, file
        finally:
            with suppress(OSError):  # closing flushes the rest, and an error of that does not matter any more
                file.close()
            Path(path).unlink(missing_ok=True)
            self._files.discard(path)

    def _copy(self, url: str, file: BinaryIO) -> None:
        if _is_web(url):
            self._open_web().download(url, file)
        else:
            _copy_remote(url, file, self._limits)

    def _open_web(self) -> "Web":
        from reelscribe.video.web import Web  # loads HTTP only if a clip needs it

        limits = self._limits
        with self._lock:
            if self._web is None:
                self._web = Web(
                    max_bytes=limits.max_bytes,
                    seconds=limits.seconds,
                    allow_private=limits.allow_private,
                    max_kept=limits.max_downloads,
                )
            if self._closed:
                self._web.close()
            return self._web


_open: WeakSet[Fetcher] = WeakSet()


@atexit.register
def _close_all() -> None:
    """Remove all files at exit, also if the thread that would close a fetcher is blocked."""
    for fetcher in list(_open):
        fetcher.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open.clear)  # the files belong to the parent process


@contextmanager
def fetched(clip: Clip, limits: FetchLimits) -> Iterator[Clip]:
    """A context that gives one clip that can be opened; see `Fetcher`.

    Raises:
        ClipError: kind "missing", "refused", "download", or "row" for an empty path.
    """
    with closing(Fetcher(limits)) as fetcher, fetcher.fetched(clip) as there:
        yield there


def checked(clip: Clip, limits: FetchLimits) -> Clip:
    """Check a clip that another program opens, such as a server: its path must be in the root folder, or its URL must
    lead to a public address.

    Not covered: the host name may resolve to another address where the URL is opened, and the server may redirect.

    Raises:
        ClipError: kind "refused".
    """
    if isinstance(clip.source, bytes) or not _is_web(clip.source):
        return local(clip, limits)
    if not limits.allow_private:
        check_address(clip.source)
    return clip


def local(clip: Clip, limits: FetchLimits) -> Clip:
    """A local clip with its `file://` URL converted to a path, after a check that it is inside the root folder.

    Raises:
        ClipError: kind "refused", or "row" for an empty path.
    """
    if isinstance(clip.source, bytes):
        return clip
    if not clip.source:
        raise ClipError("row", "the list of videos holds something else here than a path or the bytes of a video.")
    if scheme_of(clip.source) == "file":
        clip = replace(clip, source=_path_of(clip.source), called=clip.source)
    if limits.root is not None and not _is_inside(clip.path, limits.root):
        raise ClipError("refused", f"{clip.name} leads out of the root folder {limits.root}.")
    return clip


def _path_of(url: str) -> str:
    """The path in a `file://` URL, whose bytes need not be UTF-8."""
    try:
        parts = urlsplit(url)
        if parts.netloc in ("", "localhost"):
            if os.name == "nt":
                return url2pathname(parts.path)
            return os.fsdecode(unquote_to_bytes(parts.path.encode("utf-8", "surrogateescape")))
    except ValueError as exc:  # an unmatched bracket, or half a surrogate pair
        raise ClipError("refused", f"{url} is no URL of a file; give file:///path.") from exc
    raise ClipError("refused", f"{url} is on another machine, {parts.netloc}; give file:///path.")


def _is_web(source: str) -> bool:
    return _WEB_URL.match(source) is not None


def _is_inside(path: Path, root: Path) -> bool:
    """Whether a path is inside a folder after all links are followed."""
    try:
        # os.path.realpath, since Path.resolve raises for a loop of links before Python 3.13
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))
    except ValueError:  # a NUL or half a surrogate pair: no file can have this path
        return False


def _copy_remote(url: str, target: BinaryIO, limits: FetchLimits) -> None:
    """Copy a file that fsspec opens. The time limit is checked between reads, so a read that hangs is not cut off.

    Raises:
        ClipError: kind "missing", "refused" or "download".
    """
    scheme = scheme_of(url)
    if not limits.allow_private and (scheme not in _STORES or "::" in url):
        known = ", ".join(sorted(_STORES | _WEB | {"file"}))
        raise ClipError("refused", f"{url}: videos are taken from {known}; other schemes need allow_private_urls.")
    deadline = time.monotonic() + limits.seconds
    try:
        import fsspec

        from reelscribe.video.web import too_large

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
    except Exception as exc:  # each client of an object store has its own exceptions
        raise ClipError("download", f"{url} cannot be downloaded: {type(exc).__name__}: {exc}") from exc
