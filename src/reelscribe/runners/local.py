"""A run in this process: read, caption, write."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reelscribe.config import Settings
from reelscribe.dataset.read import VIDEO_SUFFIXES, count_rows, read_rows
from reelscribe.dataset.write import JsonlWriter
from reelscribe.engines import load_engine
from reelscribe.engines.base import Engine
from reelscribe.errors import DatasetError, FailureKind
from reelscribe.pipeline import RowResult, caption_rows


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What a run did."""

    rows: int
    """Rows read."""
    captions: int
    """Videos captioned."""
    without_video: int
    """Rows that hold no video."""
    cut_off: int
    """Captions that end at the limit of tokens."""
    failures: dict[FailureKind, int]
    """Videos, or rows, without a caption, by kind."""
    failures_file: Path
    """Where they are listed, if there are any."""


def run(
    inputs: Sequence[Path],
    output: Path,
    settings: Settings,
    *,
    engine: Engine | None = None,
    on_start: Callable[[int, Engine], None] = lambda total, engine: None,
    on_row: Callable[[RowResult], None] = lambda result: None,
) -> RunSummary:
    """Caption data sets into a JSON Lines file.

    Args:
        inputs: `.jsonl` files, videos, folders.
        output: the file to write.
        settings: what to do.
        engine: loaded as the settings say, by default.
        on_start: called once with the number of rows and the engine, before the first row.
        on_row: called with each result once it is written.

    Raises:
        DatasetError: an input cannot be read, or the output not written.
        MissingExtraError, ModelError: the engine cannot be loaded.
        EngineError: the engine broke; what was done stays in `OUTPUT.partial`.
    """
    if output.suffix.lower() in VIDEO_SUFFIXES:
        raise DatasetError(f"cannot write to {output}: it is named as a video; name a data set, as captions.jsonl.")
    writer = JsonlWriter(output)
    for written in (writer.output, writer.failures):
        if any(source.resolve() == written.resolve() for source in inputs):
            raise DatasetError(f"cannot write to {written}: it is an input, too; choose another output.")
    total = count_rows(inputs)
    rows = captions = without_video = cut_off = 0
    kinds: Counter[FailureKind] = Counter()
    with writer:
        engine = engine or load_engine(settings)
        on_start(total, engine)
        for result in caption_rows(read_rows(inputs, output=output), settings, engine):
            writer.write(result)
            rows += 1
            captions += len(result.captions)
            without_video += not result.outcomes
            cut_off += sum("cut_off" in caption.meta["flags"] for caption in result.captions)
            kinds.update(failure.kind for failure in result.failures)
            on_row(result)
    return RunSummary(
        rows=rows,
        captions=captions,
        without_video=without_video,
        cut_off=cut_off,
        failures=dict(kinds),
        failures_file=writer.failures,
    )
