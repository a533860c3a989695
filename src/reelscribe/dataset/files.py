"""Opening files of data sets: local or by URL, compressed or not."""

import gzip
import io
import os
import stat
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from reelscribe.config import Settings
from reelscribe.errors import DatasetError, MissingExtraError, ReelscribeError
from reelscribe.video.fetch import scheme_of

_BUFFER = 1 << 20
_SUFFIXES = (
    "264 265 3g2 3gp 3gpp amv asf av1 avi avs2 avs3 divx dv dvr-ms evc f4v flv gif gxf h261 h263 h264 h265 hevc ivf"
    " m1v m2p m2t m2ts m2v m4v mj2 mjpeg mjpg mk3d mkv mov mp4 mp4v mpe mpeg mpg mpv mts mxf nsv nut obu ogm ogv qt rm"
    " rmvb tod tp trp ts vc1 vob vvc webm wmv wtv xvid y4m"
)
VIDEO_SUFFIXES: Final = frozenset(f".{name}" for name in _SUFFIXES.split())
"""Suffixes by which videos are recognized in folders. A file that the user names itself may have any name."""


def is_url(location: str) -> bool:
    """Whether a location is a URL, not a path."""
    return scheme_of(location) is not None


def without_suffix(path: Path) -> str:
    """A path's text without its suffix. The result may not be a path: `..mp4` becomes `.`."""
    return str(path).removesuffix(path.suffix)


def root_of(location: str, settings: Settings) -> Path | None:
    """Folder from which a data set's relative paths start: `root` if it is set, else its own folder; None for URLs."""
    if settings.root:
        return Path(settings.root)
    return None if is_url(location) else Path(location).parent


def write_whole(file: Path, text: str) -> None:
    """Write a file atomically, replacing an existing one. Halves of surrogate pairs are written as escapes.

    Raises:
        OSError: the file cannot be written; the partial file is removed.
    """
    # The temporary name is a hash, since the file's own name may already have the maximum length.
    partial = file.with_name(f".{zlib.crc32(os.fsencode(file.name)):08x}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as opened:
            opened.write(text.encode("utf-8", "backslashreplace"))
            opened.flush()
            os.fsync(opened.fileno())
        partial.replace(file)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Flush a file, or all files in a folder, to disk, and the folders' entries as well."""
    files = [item for item in path.rglob("*") if item.is_file()] if path.is_dir() else [path]
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    for folder in {file.parent for file in files}:
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, if the system supports it."""
    with suppress(OSError):  # some network disks and Windows do not support it
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


@contextmanager
def needs_extra(what: str) -> Iterator[None]:
    """Translate a failed import of pyarrow or fsspec into MissingExtraError; `what` is the subject of its message."""
    try:
        yield
    except ModuleNotFoundError as exc:
        package = (exc.name or "").partition(".")[0]
        if package not in ("pyarrow", "fsspec"):
            raise
        raise MissingExtraError(f"{what} needs {package}: pip install 'reelscribe[data]'") from exc


def check_regular(location: str) -> None:
    """Raise DatasetError if a path is not a regular file: reading a pipe or device could block forever."""
    if is_url(location):
        return
    try:
        mode = Path(location).stat().st_mode
    except FileNotFoundError as exc:
        raise missing(location) from exc
    except OSError as exc:
        raise DatasetError(f"cannot read {location}: {exc.strerror}.") from exc
    if not stat.S_ISREG(mode):
        raise DatasetError(f"cannot read {location}: it is not a regular file; give a data set, a video or a folder.")


def missing(location: str) -> DatasetError:
    """The error for an input that does not exist."""
    braces = " Braces are left to the shell: write them without quotes, or write *." if "{" in location else ""
    return DatasetError(
        f"there is no {location}; give a data set (.jsonl, .parquet, .tar), a video or a folder of them.{braces}"
    )


@contextmanager
def open_binary(location: str) -> Iterator[BinaryIO]:
    """Open a file for reading bytes; `.gz` and `.zst` are decompressed.

    Raises:
        DatasetError: the file cannot be opened, or reading fails within the context.
        MissingExtraError: a URL or `.zst` needs a package that is not installed.
    """
    check_regular(location)
    with ExitStack() as stack, readable(location):
        yield _decompressed(open_raw(location, stack), location, stack)


def open_raw(location: str, stack: ExitStack) -> BinaryIO:
    """Open a local file or URL without decompression. The stack closes it."""
    if not is_url(location):
        return stack.enter_context(Path(location).open("rb"))
    with needs_extra(f"reading {location}"):
        import fsspec

        return cast(BinaryIO, stack.enter_context(fsspec.open(location, "rb")))


def _decompressed(file: BinaryIO, location: str, stack: ExitStack) -> BinaryIO:
    if location.lower().endswith((".gz", ".tgz")):
        return cast(BinaryIO, stack.enter_context(gzip.open(file, "rb")))
    if location.lower().endswith(".zst"):
        with needs_extra(f"reading {location}"):
            import pyarrow as pa
        # Of the libraries at hand only pyarrow reads all frames of a file, and detects a truncated one.
        stream: Any = stack.enter_context(pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd"))
        return cast(BinaryIO, io.BufferedReader(stream, _BUFFER))
    return file


def create(file: Path, name: str, stack: ExitStack) -> BinaryIO:
    """Create a file, which the stack closes. It is compressed if its final name says so.

    Compression headers contain nothing that changes from run to run, such as the time.
    """
    plain = stack.enter_context(file.open("wb"))
    if name.lower().endswith((".gz", ".tgz")):
        return cast(BinaryIO, stack.enter_context(gzip.GzipFile("", "wb", fileobj=plain, mtime=0)))
    if name.lower().endswith(".zst"):
        with needs_extra(f"writing {name}"):
            import pyarrow as pa
        sink = stack.enter_context(pa.PythonFile(plain, "w"))
        return cast(BinaryIO, stack.enter_context(pa.CompressedOutputStream(sink, "zstd")))
    return plain


@contextmanager
def readable(location: str) -> Iterator[None]:
    """Translate errors of reading a file into DatasetError."""
    try:
        yield
    except FileNotFoundError as exc:
        raise missing(location) from exc
    except (OSError, EOFError, zlib.error) as exc:
        raise DatasetError(f"cannot read {location}: {getattr(exc, 'strerror', None) or exc}.") from exc
    except Exception as exc:
        # Each client of an object store has its own exceptions; some of them say what to install.
        if isinstance(exc, ReelscribeError) or not is_url(location):
            raise
        raise DatasetError(f"cannot read {location}: {type(exc).__name__}: {exc}.") from exc


def count_until(items: Iterable[Any], deadline: float) -> int | None:
    """Count the items; None if counting is not done by `deadline`, in seconds of the monotonic clock."""
    count = 0
    for count, _ in enumerate(items, 1):
        if count % 1024 == 0 and time.monotonic() > deadline:
            return None
    return count
