"""Writes data sets. Each file appears under its name only when it is complete, and is always written from row 0."""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import TracebackType

from reelscribe.config import Settings
from reelscribe.dataset.files import sync, sync_folder
from reelscribe.dataset.formats import FORMATS, RowWriter, first_suffixes, format_of, load_writer
from reelscribe.dataset.formats.jsonl import to_json
from reelscribe.dataset.names import SHARD, failures_of
from reelscribe.dataset.sources import Source, arrow_schema
from reelscribe.errors import DatasetError
from reelscribe.values import Row, RowResult

_DEFAULT_SHARD_ROWS = 10_000


class DatasetWriter(AbstractContextManager["DatasetWriter"]):
    """Writes `OUTPUT` and, if rows failed, the list of failures beside it; see `failures_of`.

    Rows go to `OUTPUT.partial` as they come. Each file is renamed to its final name when it is complete: a shard when
    it is full, the last shard and the list of failures at the end. Shards that are left of an earlier, longer run are
    removed at the end. A run that breaks off leaves its rows in the partial files. The content of the files depends
    only on the rows and their outcomes.

    Before a file is renamed, it is flushed to disk and `before_named` is called. A run flushes the ledger there: every
    outcome in a complete output is in the ledger. After the renaming, `when_named` is called with the file.

    Args:
        output: file to write, with `{shard}` in its name for several files; or a folder of shards, if `shard_rows` is
            set and the name has no suffix; or the folder of a Hugging Face data set. Folders are created.
        settings: format, shards, columns.
        sources: sources of the rows. If all of them have Arrow types, these are kept.

    Raises:
        DatasetError: the format is not clear, or the files cannot be written.
        MissingExtraError: the format needs a package that is not installed.
    """

    def __init__(self, output: Path, settings: Settings, sources: Sequence[Source] = ()) -> None:
        self.output = output
        self._settings = settings
        self._format = _choose_format(output, settings)
        self._pattern = _shard_pattern(output, self._format, settings)
        self._limit = None if SHARD not in self._pattern.name else settings.shard_rows or _DEFAULT_SHARD_ROWS
        if self._format == "hf":
            _check_replaceable(output)
        elif self._limit is None:
            _check_no_folder(output)
        self.failures = failures_of(output)
        self._make = load_writer(self._format)
        self._schema = arrow_schema(sources) if self._format in ("parquet", "hf") else None
        if self._schema is not None and settings.split:
            from reelscribe.dataset.formats.arrow import with_clips

            self._schema = with_clips(self._schema, settings)
        self.before_named: Callable[[], None] = lambda: None
        self.when_named: Callable[[Path], None] = lambda file: None
        self._writer: RowWriter | None = None
        self._rows = self._failed = 0
        self._begin_shard(0)

    def _begin_shard(self, number: int) -> None:
        self._shard = number
        self.file = self._pattern.with_name(self._pattern.name.replace(SHARD, f"{number:05d}"))
        """Final path of the file that is being written."""

    @property
    def is_sharded(self) -> bool:
        """Whether the output is several files."""
        return self._limit is not None

    @property
    def is_folder(self) -> bool:
        """Whether the output is one folder of files that belong together: a Hugging Face data set."""
        return self._format == "hf"

    @property
    def partial(self) -> Path:
        """Path to which rows are written until the file is complete."""
        return _partial(self.file)

    def owns(self, path: Path) -> bool:
        """Whether a path is one that this writer writes, or may replace."""
        path = path.resolve()
        folder = self._pattern.parent.resolve()
        if self._format == "hf" and path.is_relative_to(self.output.resolve()):
            return True
        ours = path.parent == folder and _number_of(path.name, self._pattern.name) is not None
        return ours or path in (self.output.resolve(), self.failures.resolve())

    def existing_files(self) -> Iterator[Path]:
        """Files that exist and that this writer would replace or remove."""
        folder, name = self._pattern.parent, self._pattern.name
        if self._limit is not None and folder.is_dir():
            yield from sorted(path for path in folder.iterdir() if _number_of(path.name, name) is not None)
        elif self.output.is_file() or (self.output.is_dir() and any(self.output.iterdir())):
            yield self.output
        if self.failures.exists():
            yield self.failures

    def __enter__(self) -> "DatasetWriter":
        with _writing(self.output):
            self._pattern.parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._open()
        with _writing(self.failures):
            self._failures = _partial(self.failures).open("wb")
        return self

    def _open(self) -> RowWriter:
        if self.partial.is_dir():
            _remove(self.partial)
        self._rows = 0
        writer: RowWriter = self._make(self.partial, self.file.name, self._settings, self._schema)
        return writer

    def write(self, result: RowResult) -> None:
        """Write the rows and the failures of one input row."""
        with _writing(self.file):
            if self._writer is not None and self._limit is not None and self._rows >= self._limit:
                self._close_file()
                self._begin_shard(self._shard + 1)
            if self._writer is None:
                self._writer = self._open()
            self._writer.write(result)
        self._rows += len(result.rows)
        if result.failures:
            self._list_failures(result)

    def _list_failures(self, result: RowResult) -> None:
        with _writing(self.failures):
            for told in failures_in(result):
                self._failures.write(to_json(told).encode() + b"\n")
                self._failures.flush()
        self._failed += len(result.failures)

    def _close_file(self) -> None:
        """Finish the file, and rename it to its final name."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()
            sync(self.partial)
            self.before_named()
            if not self.file.is_dir():
                self.partial.replace(self.file)
                sync_folder(self.file.parent)
                self.when_named(self.file)
                return
            # No system call replaces a folder that is not empty: rename the old one first.
            older = self.file.with_name(f"{self.file.name}.{os.getpid()}.older")
            self.file.replace(older)
            self.partial.replace(self.file)
            sync_folder(self.file.parent)
            _remove(older)
            self.when_named(self.file)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            with _writing(self.output):
                self._finish()
        else:
            self._break_off()

    def _finish(self) -> None:
        self._failures.close()
        self.before_named()
        if self._failed:
            sync(_partial(self.failures))
            _partial(self.failures).replace(self.failures)
            self.when_named(self.failures)
        else:
            _partial(self.failures).unlink()
            self.failures.unlink(missing_ok=True)
        self._close_file()
        if self._limit is not None:
            for path in self._pattern.parent.iterdir():
                number = _number_of(path.name, self._pattern.name)
                if number is not None and number > self._shard:
                    path.unlink()

    def _break_off(self) -> None:
        """Close the partial files and leave them. Errors are ignored, since another error is already being raised."""
        if self._writer is not None:
            with suppress(Exception):
                self._writer.close()
            if not self._rows:
                with suppress(OSError):
                    _remove(self.partial)
        with suppress(OSError):
            self._failures.close()
        if not self._failed:
            with suppress(OSError):
                _partial(self.failures).unlink()


def failures_in(result: RowResult) -> Iterator[Row]:
    """The entries of a row's failures in the list of failures."""
    for failure in result.failures:
        yield {
            "row": result.index,
            "video": failure.video,
            "task": None if failure.id.slot is None else failure.id.task,
            "kind": failure.kind,
            "message": failure.message,
        }


def _check_replaceable(folder: Path) -> None:
    """Raise DatasetError if the path exists and is neither an empty folder nor a Hugging Face data set."""
    if (
        folder.exists()
        and not (folder / "state.json").is_file()
        and not (folder.is_dir() and not any(folder.iterdir()))
    ):
        raise DatasetError(f"cannot write to {folder}: something else is there already; name a new folder.")


def _check_no_folder(output: Path) -> None:
    if output.is_dir():
        raise DatasetError(f"cannot write to {output}: it is a folder; name a file, as captions.jsonl.")


def _choose_format(output: Path, settings: Settings) -> str:
    named, told = format_of(output.name), settings.output_format
    names = first_suffixes(writable=True)
    if named is not None and not FORMATS[named].writable:
        suffix = output.suffix.lower()
        raise DatasetError(f"cannot write to {output}: {suffix} files are read, not written; end it in {names}.")
    if told == "auto" and named is None:
        _check_no_folder(output)
        raise DatasetError(
            f"cannot write to {output}: its name says no format; end it in {names}, or set output_format."
        )
    if told not in ("auto", named) and named is not None:
        raise DatasetError(f"cannot write to {output}: its name says {named}, but output_format is {told}.")
    return named or told


def _shard_pattern(output: Path, name: str, settings: Settings) -> Path:
    """Path of the file to write, with `{shard}` in its name if there are several files."""
    if SHARD in str(output.parent):
        raise DatasetError(f"cannot write to {output}: {SHARD} must be in the name of the file, not in a folder's.")
    other = re.search(r"\{[^{}]*\}", output.name.replace(SHARD, ""))
    if other:
        raise DatasetError(
            f"cannot write to {output}: {other[0]} stands for nothing; {SHARD} is where the number of each file goes."
        )
    if name == "hf" or SHARD in output.name or format_of(output.name):
        if settings.shard_rows and name != "hf" and SHARD not in output.name:
            raise DatasetError(f"cannot write shards to {output}: put {SHARD} into its name, or name a folder.")
        return output
    return output / f"{SHARD}{FORMATS[name].suffixes[0]}" if settings.shard_rows else output


def _number_of(name: str, pattern: str) -> int | None:
    """Number of a shard, from its file name; 0 for the only file of an output without shards; None for other files."""
    found = re.fullmatch(re.escape(pattern).replace(re.escape(SHARD), r"(\d{5,})"), name)
    return found and int(found[1] if found.groups() else 0)


def _partial(file: Path) -> Path:
    return file.with_name(f"{file.name}.partial")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise DatasetError(f"cannot write to {file}: {exc.strerror or exc}.") from exc
