"""Splits videos into clips without a model: writes a data set with one row for each clip."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reelscribe.config import Settings
from reelscribe.dataset.columns import check_columns
from reelscribe.dataset.read import read_rows
from reelscribe.dataset.sources import find_sources
from reelscribe.dataset.splitting import check_split, split_rows
from reelscribe.dataset.write import DatasetWriter
from reelscribe.errors import DatasetError, SettingsError
from reelscribe.values import RowResult


@dataclass(frozen=True, kw_only=True)
class SplitSummary:
    """The result of `split`."""

    rows: int
    """Number of rows written, including rows without a clip."""
    failures: int
    """Number of videos that could not be split; their rows are written unchanged."""
    failures_file: Path
    """Path of the list of failures. The file exists only if there are failures."""


def split(
    inputs: str | Path | Sequence[str | Path],
    output: str | Path,
    settings: Settings,
    *,
    on_row: Callable[[RowResult], None] = lambda result: None,
) -> SplitSummary:
    """Write a data set of clips, as a run with the same settings would caption them.

    Args:
        inputs: data sets, videos, and folders of them; see `find_sources`.
        output: what to write; see `DatasetWriter`.
        settings: how to split, which columns hold videos, and the output's format.
        on_row: called with each row after it is written.

    Raises:
        DatasetError: an input cannot be read or holds no video, or the output exists already or cannot be written.
        SettingsError: the settings do not say how to split, or contradict each other.
        MissingExtraError: a format needs a package that is not installed.
    """
    inputs, output = [inputs] if isinstance(inputs, str | Path) else inputs, Path(output)
    sources = find_sources(inputs)
    if check_split(sources, settings) is None:
        raise SettingsError("how to split is not said: give every, or scenes.")
    writer = DatasetWriter(output, settings, sources)
    for path in writer.existing_files():
        raise DatasetError(
            f"cannot write to {output}: {path} is there already. Choose another output, or move it away."
        )
    check_columns(sources, settings)
    count = failures = 0
    folder = None if settings.root else output.parent
    with writer:
        for item in split_rows(read_rows(sources, settings, output=output), settings, folder=folder):
            outcomes = (item.problem,) if item.problem else ()
            result = RowResult(index=item.index, rows=(item.row,), outcomes=outcomes, origin=item)
            writer.write(result)
            on_row(result)
            count, failures = count + 1, failures + len(outcomes)
    return SplitSummary(rows=count, failures=failures, failures_file=writer.failures)
