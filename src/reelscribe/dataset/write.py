"""Data sets out: JSON Lines, complete or not there at all."""

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from reelscribe.errors import DatasetError
from reelscribe.pipeline import RowResult


class JsonlWriter(AbstractContextManager["JsonlWriter"]):
    """Writes `OUTPUT` and, where rows failed, `OUTPUT.failures.jsonl` beside it.

    Rows go to `OUTPUT.partial` as they come. At the end both files get their names in one step each, the output last,
    so that a file of that name is always whole. A run that breaks off leaves what it had in the partial files.

    Args:
        output: the file to write; its folder is made if it is not there.

    Raises:
        DatasetError: the files cannot be written.
    """

    def __init__(self, output: Path) -> None:
        if output.is_dir():
            raise DatasetError(f"cannot write to {output}: it is a folder; name a file, as captions.jsonl.")
        self.output = output
        self.failures = output.with_name(f"{output.stem}.failures.jsonl")
        self.partial = _partial(output)
        """Where rows are until the run is through."""
        self._written = self._failed = 0

    def __enter__(self) -> "JsonlWriter":
        with _writing(self.output):
            self.output.parent.mkdir(parents=True, exist_ok=True)
            self._rows = self.partial.open("wb")
        with _writing(self.failures):
            self._failures = _partial(self.failures).open("wb")
        return self

    def write(self, result: RowResult) -> None:
        """Write the rows and the failures of one input row."""
        with _writing(self.output):
            for row in result.rows:
                _write_line(self._rows, row)
        with _writing(self.failures):
            for failure in result.failures:
                told = {"row": result.index, "video": failure.video, "kind": failure.kind, "message": failure.message}
                _write_line(self._failures, told)
        self._written += len(result.rows)
        self._failed += len(result.failures)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            with _writing(self.output):
                self._finish()
        else:
            self._break_off()

    def _finish(self) -> None:
        self._rows.close()
        self._failures.close()
        if self._failed:
            _partial(self.failures).replace(self.failures)
        else:
            _partial(self.failures).unlink()
            self.failures.unlink(missing_ok=True)
        self.partial.replace(self.output)

    def _break_off(self) -> None:
        """Leave what was written. The error that is on its way says more than one about files would."""
        for opened, file, count in (
            (self._rows, self.partial, self._written),
            (self._failures, _partial(self.failures), self._failed),
        ):
            with suppress(OSError):
                opened.close()
            if not count:
                file.unlink(missing_ok=True)


def _partial(file: Path) -> Path:
    return file.with_name(f"{file.name}.partial")


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise DatasetError(f"cannot write to {file}: {exc.strerror}.") from exc


def _write_line(file: BinaryIO, row: Mapping[str, Any]) -> None:
    try:
        line = json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON may hold, has no UTF-8: such a row is put in escapes
        line = json.dumps(row).encode()
    file.write(line + b"\n")
    file.flush()
