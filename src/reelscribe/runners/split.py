"""Videos to clips, without a model: a data set with a row for each clip."""

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
    """What was made."""

    rows: int
    """Written, those without a clip among them."""
    failures: int
    """Videos that could not be split; their rows are written as they were."""
    failures_file: Path
    """Where they are listed, if there are any."""


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
        settings: `split` and what belongs to it, which columns hold videos, the format.
        on_row: called with each row once it is written.

    Raises:
        DatasetError: an input cannot be read or holds no video, or the output is there already or cannot be written.
        SettingsError: the settings do not say how to split, or do not go together.
        MissingExtraError: a format needs what is not installed.
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
