"""A run in this process: read, caption, write."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reelscribe.config import Settings
from reelscribe.dataset.files import VIDEO_SUFFIXES, is_url
from reelscribe.dataset.read import count_rows, read_rows
from reelscribe.dataset.sidecars import SidecarWriter
from reelscribe.dataset.sources import find_sources
from reelscribe.dataset.write import DatasetWriter
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
    inputs: Sequence[str | Path],
    output: Path,
    settings: Settings,
    *,
    engine: Engine | None = None,
    on_start: Callable[[int | None, Engine], None] = lambda total, engine: None,
    on_row: Callable[[RowResult], None] = lambda result: None,
) -> RunSummary:
    """Caption data sets.

    Args:
        inputs: data sets, videos, and folders of them; see `find_sources`.
        output: what to write; see `DatasetWriter`.
        settings: what to do.
        engine: loaded as the settings say, by default.
        on_start: called once with the number of rows and the engine, before the first row; with None in place of a
            number that takes long to find out.
        on_row: called with each result once it is written.

    Raises:
        DatasetError: an input cannot be read, or the output not written.
        MissingExtraError: a format or the engine needs what is not installed.
        ModelError: the engine cannot be loaded.
        EngineError: the engine broke; what was done stays in `OUTPUT.partial`.
    """
    if output.suffix.lower() in VIDEO_SUFFIXES:
        raise DatasetError(f"cannot write to {output}: it is named as a video; name a data set, as captions.jsonl.")
    sources = find_sources(inputs)
    writer = DatasetWriter(output, settings, sources)
    for source in sources:
        if not is_url(source.location) and writer.owns(Path(source.location)):
            raise DatasetError(f"cannot write to {source.location}: it is an input, too; choose another output.")
    total, sidecars = count_rows(sources), SidecarWriter(settings)
    rows = captions = without_video = cut_off = 0
    kinds: Counter[FailureKind] = Counter()
    with writer:
        engine = engine or load_engine(settings)
        on_start(total, engine)
        for result in caption_rows(read_rows(sources, settings, output=output), settings, engine):
            sidecars.write(result)
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
