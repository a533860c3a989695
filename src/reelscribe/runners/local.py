"""A run: read rows, caption them, write them. Captions are made in this process, or elsewhere by a `Maker`."""

import contextlib
import gc
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from signal import Signals
from typing import Any, Final

from reelscribe.config import Settings
from reelscribe.dataset.columns import check_columns, no_video
from reelscribe.dataset.files import VIDEO_SUFFIXES, is_url
from reelscribe.dataset.ledger import Ledger
from reelscribe.dataset.ledger_file import Run, aside, set_aside
from reelscribe.dataset.lock import locked
from reelscribe.dataset.places import failures_at, place_of, url_of
from reelscribe.dataset.read import count_rows, read_rows
from reelscribe.dataset.remake import NOTHING_TO_REMAKE, Remake
from reelscribe.dataset.sidecars import SidecarWriter
from reelscribe.dataset.sources import Source, find_sources
from reelscribe.dataset.splitting import check_split, split_rows
from reelscribe.dataset.stores import Uploads
from reelscribe.dataset.write import DatasetWriter
from reelscribe.engines.base import Engine
from reelscribe.errors import DatasetError, FailureKind, StoppedError, without_passwords
from reelscribe.pipeline import Maker, caption_rows
from reelscribe.runners.live import Live
from reelscribe.runners.on_demand import OnDemand
from reelscribe.runners.progress import Progress, shown
from reelscribe.runners.record import Record
from reelscribe.runners.spending import Spending
from reelscribe.runners.start import Start
from reelscribe.runners.status import ledger_of, lock_of, outputs_of_runs, record_of, take_over
from reelscribe.runners.stop import Stop, stop_at_signals, tell_stop
from reelscribe.runners.tally import Tally
from reelscribe.runners.watch import Watch
from reelscribe.terminal import shortened
from reelscribe.values import RowResult

logger = logging.getLogger(__name__)

OnStart = Callable[[Live], None]
OnRow = Callable[[RowResult], None]


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """The result of a run."""

    rows: int
    """Number of rows read."""
    captions: int
    """Number of captions, of all tasks."""
    known: int = 0
    """Number of captions and failures that were taken from the ledger."""
    videos: int = 0
    """Number of videos that were asked about, captioned or not."""
    without_video: int
    """Number of rows without a video."""
    flags: dict[str, int] = field(default_factory=dict)
    """Number of captions by flag in their `caption_meta`."""
    failures: dict[FailureKind, int]
    """Number of failures by kind: videos or rows without a caption; with several tasks, missing answers."""
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """With several tasks: `captions` and `failures` of each."""
    examples: dict[FailureKind, list[str]] = field(default_factory=dict)
    """Messages of some failures of each kind; at most `MOST_EXAMPLES` per kind."""
    failures_file: Path | str
    """Path or URL of the list of all failures. The file exists only if there are failures."""
    speed: dict[str, Any] = field(default_factory=dict, compare=False)
    """Speed of the run, and the stage that limited it; see `Watch.told`."""
    cost: float | None = field(default=None, compare=False)
    """Cost at the configured price; None without a price."""
    asked: int = field(default=0, compare=False)
    """Number of requests that were not in the ledger, and so went to the engine."""


def run(
    inputs: str | Path | Sequence[str | Path],
    output: str | Path,
    settings: Settings,
    *,
    engine: Engine | Maker | None = None,
    progress: Progress | bool | None = None,
    adopt: Sequence[Path] = (),
    on_start: OnStart = lambda live: None,
    on_row: OnRow = lambda result: None,
    handle_signals: bool = False,
    on_stop: Callable[[str], None] = tell_stop,
    remake: Remake = NOTHING_TO_REMAKE,
) -> RunSummary:
    """Caption data sets, or continue an earlier run on this output.

    Args:
        inputs: data sets, videos, and folders of them; see `find_sources`.
        output: what to write; see `DatasetWriter`. Or its URL, as a text; see `Uploads`.
        settings: the run's settings.
        engine: a loaded engine, or a `Maker` that makes captions elsewhere. By default the settings say which engine
            to load.
        progress: whether to show the progress; by default only in a notebook.
        adopt: ledgers of other runs, whose outcomes are copied into this run's ledger.
        on_start: called once, before the first row, with a live view of the run.
        on_row: called with each result after it is written.
        handle_signals: whether to catch Ctrl-C and SIGTERM. At the first signal the run finishes what the engine has
            begun and raises StoppedError; at the second one it stops at once. Only possible in the main thread.
        on_stop: called from the signal handler at the first signal, with a text that says what is still finished;
            prints that text by default.
        remake: which outcomes of earlier runs are made again, and with which settings.

    Raises:
        DatasetError: an input cannot be read or holds nothing to caption, the output or the ledger cannot be written,
            or another run writes to it.
        SettingsError: the settings name a column that the data set does not have, or something that a check needs is
            missing.
        MissingExtraError: a format, a check or the engine needs a package that is not installed.
        ModelError: the engine cannot be loaded.
        EngineError: the engine broke.
        FailuresError: more videos failed than `max_failures` allows.
        BudgetError: the run would have cost more than its budget; rows that were begun are finished.
        StoppedError: a signal stopped the run.

    After any of these errors no file of the output is half written: the rows are in `OUTPUT.partial`, the ledger has
    all outcomes, and the same call continues from there.
    """
    inputs = [inputs] if isinstance(inputs, str | Path) else inputs
    making = remake.settings or settings
    tally = Tally(settings.failure_limit(), [task.name for task in settings.all_tasks])
    with contextlib.ExitStack() as stack:
        telling = stack.enter_context(shown(progress))
        sources = find_sources(inputs)
        writer, uploads = _writing(output, settings, sources)
        named, output = uploads.url if uploads else str(output), writer.output
        total = _checked_count(sources, settings, making)
        stack.enter_context(locked(lock_of(output), named))
        _make_way(output, writer, uploads, settings)
        ledger = stack.enter_context(Ledger(ledger_of(output), remake=remake))
        _check_shard(ledger.last, settings)
        sidecars = _sidecars(sources, output, settings, ledger, adopt)
        writer.before_named = ledger.flush
        record = stack.enter_context(Record(record_of(output), making, inputs))
        stack.enter_context(uploads or contextlib.nullcontext())
        stack.enter_context(writer)
        loading, spending = time.monotonic(), Spending(making)
        worker = engine or _worker(making, total, stack, ledger.last, telling)
        load_seconds = time.monotonic() - loading
        watch = Watch(worker, on_load=lambda info: spending.start(info.gpus), on_loading=telling.loading)
        begun = ledger.begin(settings, watch.model, output=named, inputs=[str(item) for item in inputs], total=total)
        _tell_changes(ledger.last, begun, ledger)
        for other in adopt:
            ledger.adopt(other)
        record.told = lambda: {
            "output": without_passwords(named),
            "model": watch.told_of_model(),
            "counts": tally.told(),
            "load_seconds": round(load_seconds + watch.load_seconds, 3),
            "cost": spending.cost,
            **watch.told(),
            "course": watch.course,
        }
        live = Live(total=total, unit=_unit(sources, settings), watch=watch, tally=tally, spending=spending)
        telling.start(live)
        on_start(live)
        read = read_rows(sources, settings, output=None if uploads else output, is_own=ledger.may_have_written)
        rows = watch.rows(split_rows(read, settings, ledger, shard=settings.part()))
        tell = partial(_tell_stop, telling, live, on_stop)
        stop = stack.enter_context(stop_at_signals(handle_signals, tell, lambda: watch.is_loading))
        start = Start(settings.part(), stop, spending, tally)
        results = caption_rows(
            rows,
            settings,
            worker if isinstance(worker, Maker) else watch,
            memory=ledger,
            retry_settings=remake.settings,
            stop=start.is_cut,
            wanted=start.may,
            drop=stop,
            on_whole=watch.count_row,
        )
        stack.enter_context(sidecars)
        stack.enter_context(_without_what_is_there_in_collections())
        for result in stack.enter_context(contextlib.closing(results)):
            if isinstance(worker, Maker):
                watch.count(result)
            with watch.writing():
                sidecars.write(result)
                writer.write(result)
                tally.add(result)
                ledger.advance(tally.told())
            on_row(result)
            tally.check()
        if start.is_unfinished():
            raise _stopped(stop, watch) if stop() else spending.error(tally.rows)
        _end(ledger, tally, settings)
    return _summary(tally, failures_at(named), watch, spending, ledger.num_asked)


@contextlib.contextmanager
def _without_what_is_there_in_collections() -> Iterator[None]:
    """Exclude the objects that exist now, such as modules and models, from garbage collection.

    Rows create so many objects that the collector scanned all existing ones again and again: a fifth of a row's cost.
    Cyclic garbage among the frozen objects is freed when the context ends.
    """
    if gc.get_freeze_count():  # the calling program has frozen objects itself: leave them frozen
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _writing(output: str | Path, settings: Settings, sources: Sequence[Source]) -> tuple[DatasetWriter, Uploads | None]:
    """The writer of an output, and its uploads if it is at a URL.

    Raises:
        DatasetError: the output cannot be written, or is one of the inputs.
    """
    url, place = url_of(output), place_of(output)
    if place.suffix.lower() in VIDEO_SUFFIXES:
        raise DatasetError(f"cannot write to {output}: it is named as a video; name a data set, as captions.jsonl.")
    try:
        writer = DatasetWriter(place, settings, sources)
    except DatasetError as exc:
        raise DatasetError(str(exc).replace(str(place), str(output))) from exc
    uploads = Uploads(url, writer) if url else None
    for location in [source.location for source in sources]:
        is_written = uploads and uploads.owns(location) if is_url(location) else writer.owns(Path(location))
        if is_written:
            raise DatasetError(f"cannot write to {location}: it is an input, too; choose another output.")
    return writer, uploads


def _tell_stop(progress: Progress, live: Live, on_stop: Callable[[str], None]) -> None:
    progress.stop()
    on_stop(live.finishing())


def _checked_count(sources: Sequence[Source], settings: Settings, making: Settings) -> int | None:
    """Check the columns that the settings name. Returns the number of rows, or None if it is not known beforehand."""
    check_columns(sources, making)
    settings.check_checks()
    splits = check_split(sources, settings) is not None
    return None if settings.shard or splits else count_rows(sources)


def _make_way(output: Path, writer: DatasetWriter, uploads: Uploads | None, settings: Settings) -> None:
    """Take over or set aside the files of earlier runs, and check that no other file is in the way."""
    if uploads:
        uploads.check()
    with contextlib.suppress(*(() if settings.resume else (DatasetError,))):  # a damaged ledger is set aside below
        take_over(output)
    _check_not_of_others(output, writer)
    if not settings.resume:
        set_aside(ledger_of(output))


def _check_not_of_others(output: Path, writer: DatasetWriter) -> None:
    """Raise DatasetError if the output's files exist, and the ledger does not say that a run wrote them."""
    written = outputs_of_runs(output)
    for path in writer.existing_files():
        ours = bool(written) if path == writer.failures else output.name in written
        if not ours:
            others = f"; the ledger beside it is of {', '.join(sorted(written))}" if written else ""
            raise DatasetError(
                f"cannot write to {output}: {path} is there already, and not from a run on this output, which would "
                f"have left a ledger beside it{others}. Choose another output, or move it away."
            )


def _sidecars(
    sources: Sequence[Source], output: Path, settings: Settings, ledger: Ledger, adopt: Sequence[Path]
) -> SidecarWriter:
    """The writer of sidecars, after a check that it would not replace files that no run wrote."""
    others = list(adopt)
    if not settings.resume and (older := aside(ledger_of(output))).is_file():
        others.append(older)
    for other in others:
        try:
            ledger.adopt_sidecars(other)
        except DatasetError as exc:
            logger.warning("Which files beside videos earlier runs wrote is not known: %s", exc)
    sidecars = SidecarWriter(settings, ledger)
    # WebDataset shards hold videos as bytes, which have no sidecars.
    beside_files = [source for source in sources if source.format != "webdataset"]
    if settings.sidecar and not settings.overwrite_sidecars:
        beside = read_rows(beside_files, settings, output=output)
        sidecars.check(split_rows(beside, settings, ledger, shard=settings.part()))
    return sidecars


def _worker(
    settings: Settings, total: int | None, stack: contextlib.ExitStack, last: Run | None, progress: Progress
) -> OnDemand | Maker:
    """The engine, or the `Maker` that makes captions on Ray, as the settings say."""
    if settings.runner == "local":
        return OnDemand(settings, last)
    progress.loading("loading engines on the Ray cluster")
    from reelscribe.runners.ray import Cluster

    cluster: Maker = stack.enter_context(Cluster(settings, total))
    return cluster


def _unit(sources: Sequence[Source], settings: Settings) -> str:
    """What the progress line calls a row."""
    videos = all(source.format == "videos" for source in sources) and settings.split is None
    return "clip" if videos else "row"


def _stopped(stop: Stop, watch: Watch) -> StoppedError:
    number = stop.signal or 0
    message = (
        f"stopped by {Signals(number).name} after {watch.rows_done:,} rows; what was made is kept, and the same "
        "command goes on from there."
    )
    return StoppedError(message, number)


def _check_shard(last: Run | None, settings: Settings) -> None:
    """Raise DatasetError if the last run on this output was another shard: this run would replace its rows."""
    before = last and last.settings.get("shard")
    if last and before and settings.shard and before != settings.shard:
        raise DatasetError(
            f"the last run on {Path(last.output).name} was shard {before}, and this is {settings.shard}; name another "
            "output."
        )


def _tell_changes(last: Run | None, begun: Run, ledger: Ledger) -> None:
    """Warn if settings have changed, so that existing captions are made again."""
    names = begun.differs_from(last) if last else []
    if last is None or not names:
        return
    told = ", ".join(
        f"{_CALLED.get(name, name)} ({_told(last.work.get(name))} → {_told(begun.work[name])})" for name in names
    )
    message = "Since the last run on %s this changed: %s. "
    output = begun.output
    if Path(last.output).name != Path(output).name:  # outputs that differ only in format or shards share a ledger
        output = f"{Path(last.output).name}, which shares its ledger with {Path(output).name},"
    if ledger.knows_work_of(begun):
        logger.warning(message + "An earlier run had it so, too: its captions are taken up.", output, told)
        return
    kept = ledger.count_captions()
    again = "Captions that depend on it are made again"
    if names == ["tasks"]:
        again = "What is asked as before is not made again"
    logger.warning(
        message + "%s; the %d that there are stay in the ledger, for when it changes back.",
        *(output, told, again, kept),
    )


def _end(ledger: Ledger, tally: Tally, settings: Settings) -> None:
    """Check that there was a video, and warn of marks that had no effect, before the output gets its final name."""
    if tally.rows and tally.without_video == tally.rows and not settings.shard:
        raise no_video(tally.rows, settings)
    if ledger.unmatched_marks:
        rows = ", ".join(map(str, sorted({mark.row for mark in ledger.unmatched_marks})))
        logger.warning("Not made again, since they are not what was marked: the videos of rows %s.", rows)
    if ledger.already_remade:
        logger.warning("%d marked captions had been made with just this before: they stay.", ledger.already_remade)
    if ledger.not_remade:
        first = sorted(ledger.not_remade, key=lambda failure: failure.id.row)[:_MOST_TOLD]
        told = "; ".join(f"row {failure.id.row}: {failure.message}" for failure in first)
        logger.warning(
            "%d captions could not be made or judged again, and stay as they are, as: %s", len(ledger.not_remade), told
        )


_MOST_TOLD: Final = 3
"""Maximum number of captions that are named in a warning."""
_CALLED: Final = {"weights": "files of the model", "model_params": "model_params or extra_body"}
_LONGEST_TOLD: Final = 60


def _told(value: Any) -> str:
    return shortened("not set" if value in (None, {}) else str(value), _LONGEST_TOLD)


def _summary(tally: Tally, failures_file: Path | str, watch: Watch, spending: Spending, asked: int) -> RunSummary:
    return RunSummary(
        rows=tally.rows,
        captions=tally.captions,
        known=tally.known,
        videos=tally.videos,
        without_video=tally.without_video,
        flags=dict(tally.flags),
        failures=dict(tally.failures),
        tasks=tally.by_task().get("tasks", {}),
        examples=dict(tally.examples),
        failures_file=failures_file,
        speed=watch.told(),
        cost=spending.cost,
        asked=asked,
    )
