"""Data sets out: JSON Lines, complete or not there at all."""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from reelscribe.errors import DatasetError
from reelscribe.pipeline import RowResult


class JsonlWriter(AbstractContextManager["JsonlWriter"]):
    """Writes `OUTPUT` and, where rows failed, `OUTPUT.failures.jsonl` beside it.

    Rows go to `OUTPUT.partial` as they come. At the end both files get their names in one step each, so that a file of
    that name is always whole. A run that breaks off leaves what it had in the partial files.

    Raises:
        DatasetError: the files cannot be written.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.failures = output.with_name(f"{output.stem}.failures.jsonl")
        self._failed = 0

    @property
    def partial(self) -> Path:
        """Where rows are until the run is through."""
        return self.output.with_name(f"{self.output.name}.partial")

    def __enter__(self) -> "JsonlWriter":
        try:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            self._rows = self.partial.open("w", encoding="utf-8")
            self._failures = self.failures.with_name(f"{self.failures.name}.partial").open("w", encoding="utf-8")
        except OSError as exc:
            raise DatasetError(f"cannot write to {self.output}: {exc.strerror}.") from exc
        return self

    def write(self, result: RowResult) -> None:
        """Write the rows and the failures of one input row."""
        for row in result.rows:
            _write_line(self._rows, row)
        for failure in result.failures:
            self._failed += 1
            _write_line(
                self._failures,
                {"row": result.index, "video": failure.video, "kind": failure.kind, "message": failure.message},
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        failures = Path(self._failures.name)
        self._rows.close()
        self._failures.close()
        if error is not None:
            return
        self.partial.replace(self.output)
        if self._failed:
            failures.replace(self.failures)
        else:
            failures.unlink()
            self.failures.unlink(missing_ok=True)


def _write_line(file: TextIO, row: Mapping[str, Any]) -> None:
    # Half a surrogate pair, which JSON may hold, has no UTF-8: such a row is written in escapes.
    line = json.dumps(row, ensure_ascii=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        line = json.dumps(row)
    try:
        file.write(line + "\n")
        file.flush()
    except OSError as exc:
        raise DatasetError(f"cannot write to {file.name}: {exc.strerror}.") from exc
