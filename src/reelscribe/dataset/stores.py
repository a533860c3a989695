"""Outputs in object stores and at other URLs.

A run first writes such an output on this machine, to a folder in the state folder, which also holds its ledger and the
other files beside it. Each file is uploaded when it is complete, and then removed from this machine. Commands that read
the output download it again.
"""

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from reelscribe.dataset.files import needs_extra, write_whole
from reelscribe.dataset.formats import format_of
from reelscribe.dataset.names import SHARD, beside, failures_of
from reelscribe.dataset.places import how_to_copy, place_of, url_of
from reelscribe.dataset.write import DatasetWriter
from reelscribe.errors import DatasetError, ReelscribeError, without_passwords
from reelscribe.video.fetch import scheme_of

logger = logging.getLogger(__name__)

_ATOMIC: Final = frozenset({"s3", "s3a", "gs", "gcs", "hf", "az", "abfs", "abfss", "oss", "r2"})
"""Schemes of stores with atomic uploads: until an upload is complete, the old file stays."""
_PAUSES: Final = (1.0, 5.0)
"""Seconds to wait before each further try of an upload. The stores' clients also retry by themselves."""
_FINAL: Final = (PermissionError, FileNotFoundError)
"""Errors after which an upload is not tried again."""
_IDENTITY: Final = ("ETag", "etag", "md5Hash", "content_md5")
"""Names under which stores report a hash of a file's content, or its version number."""
_TIMES: Final = ("mtime", "LastModified", "modified", "created")
_UPLOADED: Final = "uploaded"
_FETCHED: Final = "fetched"


class Uploads(AbstractContextManager["Uploads"]):
    """Uploads the files of a writer to a URL. If the context ends without an error, an earlier run's files are removed.

    Files that this machine did not upload are never replaced. A file in the store counts as ours if its identity is the
    one that was noted after the upload. The notes are files beside the ledger.

    Args:
        url: URL of the output, from `url_of`.
        writer: writer of the output, at the local path of that URL.

    Raises:
        DatasetError: there is no such store, or the output is a folder of files, which cannot be replaced in one step.
        MissingExtraError: fsspec is not installed.
    """

    def __init__(self, url: str, writer: DatasetWriter) -> None:
        self.url = url
        self._writer = writer
        self._base, self._place = url.rpartition("/")[0], writer.output.parent
        if writer.is_folder:
            raise DatasetError(
                f"cannot write to {url}: a Hugging Face data set is several files, which no store replaces in one "
                "step; name a .parquet file, which datasets loads, too."
            )
        self._fs, _ = _store(url, "write to")
        self._uploaded: set[str] = set()
        writer.when_named = self.upload

    def url_of(self, file: Path) -> str:
        """URL of a file of the output."""
        return f"{self._base}/{file.relative_to(self._place).as_posix()}"

    def owns(self, url: str) -> bool:
        """Whether the file at a URL is one that this output writes, or may replace."""
        return url.startswith(f"{self._base}/") and self._writer.owns(self._local(url))

    def check(self) -> None:
        """Check that files can be written at the URL, and that no files of others are there.

        Raises:
            DatasetError: nothing can be written there, or a file exists that this machine did not upload.
        """
        with _telling(f"cannot write to {self.url}"):
            self._try_to_write()
        for file in self._writer.existing_files():
            _forget(file)  # a copy that was downloaded for reading
        for url, found in self._existing_urls():
            self._check_ours(url, found)
        ledger = beside(self._writer.output, "ledger.sqlite")
        shown = without_passwords(self.url)
        logger.info("%s is made on this machine and uploaded file by file; its ledger is %s", shown, ledger)

    def _try_to_write(self) -> None:
        folder = self.url_of(self._writer.file).rpartition("/")[0]
        probe = f"{folder}/.reelscribe-{os.getpid()}-{time.time_ns()}"
        if not self._is_atomic:  # an object store has no folders, and its makedirs may create a bucket
            self._fs.makedirs(_path(self._fs, folder), exist_ok=True)
        self._fs.pipe_file(_path(self._fs, probe), b"")
        try:
            self._fs.rm_file(_path(self._fs, probe))
        except Exception as exc:  # each of the stores' clients has errors of its own
            shown = without_passwords(probe)
            logger.warning("%s is empty and cannot be removed (%s): remove it.", shown, _why(exc))

    @property
    def _is_atomic(self) -> bool:
        return scheme_of(self.url) in _ATOMIC

    def _existing_urls(self) -> Iterator[tuple[str, str]]:
        """URLs of existing files that an upload would replace or remove, each with the identity of its content."""
        if self._writer.is_sharded:
            folder = self.url_of(self._writer.file).rpartition("/")[0]
            files = {f"{folder}/{name}": found for name, found in _files_in(self._fs, folder).items()}
        else:
            files = {self.url: _identity(self._fs, self.url)}
        failures = self.url_of(self._writer.failures)
        files[failures] = _identity(self._fs, failures)
        yield from ((url, found) for url, found in files.items() if found is not None and self.owns(url))

    def _check_ours(self, url: str, found: str | None) -> None:
        file = self._local(url)
        known = _noted(file, _UPLOADED)
        # Some stores report other times in listings: query the file itself before it counts as changed.
        if _is_one_of(known, found) or _is_one_of(known, _identity(self._fs, url)):
            return
        if known:
            told = "somebody changed it since this machine uploaded it, perhaps by a run on another machine"
        else:
            told = "it is there already, and no run on this machine uploaded it"
        raise DatasetError(
            f"cannot write to {url}: {told}. {how_to_copy(self._writer.output)} Else choose another output, or move "
            "away what is there."
        )

    def upload(self, file: Path) -> None:
        """Upload a complete file, and remove it from this machine.

        Raises:
            DatasetError: all tries failed, or the file in the store was changed meanwhile. The local file stays.
        """
        url = self.url_of(file)
        try:
            self._check_ours(url, _identity(self._fs, url))
            # If the program is killed right after the upload, the noted size shows that the file in the store is ours.
            _note(file, _UPLOADED, [*_noted(file, _UPLOADED), f"{file.stat().st_size} bytes"])
            self._try_upload(file, url)
        except Exception as exc:  # each of the stores' clients has errors of its own
            what = str(exc) if isinstance(exc, ReelscribeError) else f"cannot upload to {url}: {_why(exc)}."
            raise DatasetError(
                f"{what} The whole file is {file}, and all captions are in the ledger: the same command uploads it."
            ) from exc
        self._uploaded.add(url)
        file.unlink()

    def _try_upload(self, file: Path, url: str) -> None:
        for pause in (*_PAUSES, None):
            try:
                self._put(file, url)
                if (found := _identity(self._fs, url)) is None:
                    raise OSError("the store does not have it after the upload")
                _note(file, _UPLOADED, [found])
                return
            except Exception as exc:
                if pause is None or isinstance(exc, _FINAL):
                    raise
                logger.warning("Cannot upload to %s (%s); trying again.", without_passwords(url), _why(exc))
                time.sleep(pause)

    def _put(self, file: Path, url: str) -> None:
        path = _path(self._fs, url)
        if self._is_atomic:
            self._fs.put_file(str(file), path)
            return
        partial = f"{path}.partial"
        self._fs.put_file(str(file), partial)
        if self._fs.exists(path):  # in some file systems a move does not replace a file
            self._fs.rm_file(path)
        self._fs.mv(partial, path)

    def _local(self, url: str) -> Path:
        return self._place / url.removeprefix(f"{self._base}/")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            return
        for url, found in [item for item in self._existing_urls() if item[0] not in self._uploaded]:
            self._check_ours(url, found)
            with _telling(f"cannot remove {url}, which an earlier run left"):
                self._fs.rm_file(_path(self._fs, url))
            _note_file(self._local(url), _UPLOADED).unlink(missing_ok=True)


def fetched(output: str | Path) -> Path:
    """Local path of an output for reading. An output at a URL is downloaded first, unless the local copy is current.

    If a run on this machine could not upload a file, the local file is used. The list of failures is downloaded too.

    Raises:
        DatasetError: there is no such output, or it cannot be downloaded.
        MissingExtraError: fsspec is not installed.
    """
    url = url_of(output)
    place = place_of(output)
    if url is None:
        return place
    fs, _ = _store(url, "read")
    with _telling(f"cannot read {url}"):
        files = _files_of(fs, url, place)
        if not files and not beside(place, "ledger.sqlite").is_file():
            raise DatasetError(f"there is no {url}, and no run on this machine wrote it.")
        failures = f"{url.rpartition('/')[0]}/{failures_of(place).name}"
        files[failures_of(place)] = failures
        for file in _copies(place):
            if file not in files:
                _forget(file)
        for file, source in files.items():
            _fetch(fs, source, file)
    has_ledger = beside(place, "ledger.sqlite").is_file()
    told = "where its ledger is" if has_ledger else "where a ledger of it would be"
    logger.info("%s is read from a copy in %s, %s", without_passwords(url), place.parent, told)
    return place


def _files_of(fs: Any, url: str, place: Path) -> dict[Path, str]:
    """Local paths of an output's files, with their URLs."""
    folder, _, name = url.rpartition("/")
    if SHARD in name:
        pattern = re.compile(re.escape(name).replace(re.escape(SHARD), r"\d{5,}"))
        return {place.with_name(each): f"{folder}/{each}" for each in _files_in(fs, folder) if pattern.fullmatch(each)}
    if _identity(fs, url) is not None:
        return {place: url}
    return {place / each: f"{url}/{each}" for each in _files_in(fs, url) if format_of(each)}


def _copies(place: Path) -> Iterator[Path]:
    """Copies of an output's files on this machine."""
    for folder in {place, place.parent}:
        for note in sorted(folder.glob(f".*.{_FETCHED}")) if folder.is_dir() else ():
            file = note.with_name(note.name[1:].removesuffix(f".{_FETCHED}"))
            if folder == place or file.name in (place.name, failures_of(place).name) or SHARD in place.name:
                yield file


def _fetch(fs: Any, url: str, file: Path) -> None:
    found, known = _identity(fs, url), _noted(file, _FETCHED)
    if found is None or (file.exists() and (not known or found in known)):
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{os.getpid()}.fetching")
    try:
        fs.get_file(_path(fs, url), str(partial))
        _note(file, _FETCHED, [found])
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _forget(file: Path) -> None:
    """Remove a downloaded copy. A file that is not a copy stays."""
    note = _note_file(file, _FETCHED)
    if note.is_file():
        file.unlink(missing_ok=True)
        note.unlink()


# Notes on the identities of files


def _is_one_of(known: list[str], found: str | None) -> bool:
    """Whether an identity, or its first part, the size, was noted. Also True if `found` is None: there is no file."""
    return found is None or bool({found, found.partition(", ")[0]} & set(known))


def _note_file(file: Path, kind: str) -> Path:
    return file.with_name(f".{file.name}.{kind}")


def _note(file: Path, kind: str, known: list[str]) -> None:
    write_whole(_note_file(file, kind), json.dumps(known))


def _noted(file: Path, kind: str) -> list[str]:
    """Identities that were noted for a file."""
    with suppress(OSError, ValueError):
        known = json.loads(_note_file(file, kind).read_text("utf-8"))
        return known if isinstance(known, list) else []
    return []


# Stores


def _store(url: str, what: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it."""
    with needs_extra(f"{url}"):
        import fsspec
    try:
        file_system, path = fsspec.core.url_to_fs(url)
    except Exception as exc:  # each of the stores' clients has errors of its own
        raise DatasetError(f"cannot {what} {url}: {_why(exc)}.") from exc
    return file_system, path


def _path(fs: Any, url: str) -> str:
    return str(fs._strip_protocol(url))


def _files_in(fs: Any, folder: str) -> dict[str, str | None]:
    """Identities of all files in a folder, by name. This is one listing request, whatever the number of files."""
    fs.invalidate_cache()
    try:
        infos = fs.ls(_path(fs, folder), detail=True)
    except FileNotFoundError:
        return {}
    named = {info["name"].rpartition("/")[2]: _identity_in(info) for info in infos if info["type"] == "file"}
    return dict(sorted(named.items()))


def _identity(fs: Any, url: str) -> str | None:
    """Identity of a file's content, as the store reports it; None if there is no file."""
    fs.invalidate_cache()
    try:
        info = fs.info(_path(fs, url))
    except FileNotFoundError:
        return None
    return _identity_in(info) if info["type"] == "file" else None


def _identity_in(info: Mapping[str, Any]) -> str:
    mark = next((f"{name} {info[name]}" for name in (*_IDENTITY, *_TIMES) if info.get(name)), "")
    return f"{info['size']} bytes, {mark}"


@contextmanager
def _telling(what: str) -> Iterator[None]:
    """Translate the errors of a store into DatasetError; `what` begins its message."""
    try:
        yield
    except ReelscribeError:
        raise
    except Exception as exc:  # each of the stores' clients has errors of its own
        raise DatasetError(f"{what}: {_why(exc)}.") from exc


def _why(exc: Exception) -> str:
    """The message of a store's error in one line, with advice from `_ADVICE` if one applies."""
    told = " ".join(str(exc).split()).rstrip(".") or type(exc).__name__
    for is_so, advice in _ADVICE:
        if is_so(exc):
            return f"{told}; {advice}"
    return told if isinstance(exc, OSError | ImportError | ValueError) else f"{type(exc).__name__}: {told}"


_ADVICE: Final[tuple[tuple[Callable[[Exception], bool], str], ...]] = (
    (
        lambda exc: "redential" in type(exc).__name__,
        "set them as the store's client wants them, as AWS_PROFILE",
    ),
    (lambda exc: isinstance(exc, PermissionError), "the keys that the store's client uses do not allow that"),
    (lambda exc: isinstance(exc, FileNotFoundError), "make the bucket or the folder, or correct the URL"),
    (lambda exc: isinstance(exc, ImportError), "it is fsspec's package for this store"),
)
