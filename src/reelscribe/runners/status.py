"""Status of the runs on an output, read from the ledger: rows done, failed and left."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reelscribe.dataset.files import is_url
from reelscribe.dataset.ledger_file import Run, aside, copy_ledger, read_runs
from reelscribe.dataset.lock import holder
from reelscribe.dataset.names import beside, beside_in_0_1, failures_of
from reelscribe.dataset.places import place_of
from reelscribe.errors import DatasetError, without_passwords


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """Status of a run. A run and the earlier runs that it continues count as one."""

    output: str
    state: str
    """One of "running", "finished", "broken off"."""
    detail: str
    """Who runs it, or why it ended; empty if it finished."""
    rows: int
    """Number of rows done."""
    total: int | None
    """Number of rows in the input; None if it is not known."""
    captions: int
    """Number of captions, of all tasks."""
    videos: int | None
    """Number of videos that were asked about; None unless there are several tasks."""
    tasks: dict[str, dict[str, Any]]
    """`captions` and `failures` of each task, if there are several; else empty."""
    without_video: int
    flags: dict[str, int]
    """Number of captions by flag in their `caption_meta`."""
    failures: dict[str, int]
    """Number of failures by kind."""
    examples: dict[str, list[str]]
    """Messages of some failures of each kind."""
    made_per_second: float | None
    """Videos per second that the last run captioned or that failed; None if it took no time."""
    started: float
    """When the last run began, in seconds since 1970."""
    updated: float | None
    """When the last run last stored its progress, in seconds since 1970."""
    engine: str
    model: str
    inputs: tuple[str, ...]
    settings: dict[str, Any]

    @property
    def left(self) -> int | None:
        """Number of rows that are not done; None if the total is not known."""
        return None if self.total is None else max(self.total - self.rows, 0)


def read_status(output: Path) -> RunStatus:
    """Read the status of an output from its ledger, also while a run is going on.

    Raises:
        DatasetError: there is none, or its ledger cannot be read.
    """
    runs = runs_on(output)
    last = runs[0]
    running = holder(lock_of(output), output)
    # A run that continues an earlier one counts known rows again from 0. Until it has caught up, the earlier run's
    # counts are the true ones: take the run with most rows.
    same = [run for run in runs if (run.work, run.inputs) == (last.work, last.inputs) and run.progress]
    best = max(same, key=lambda run: (run.progress["rows"], run.number), default=last)
    told: dict[str, Any] = {
        "rows": 0,
        "captions": 0,
        "videos": None,
        "tasks": {},
        "without_video": 0,
        "flags": {},
        "failures": {},
        "examples": {},
    } | best.progress
    finished = last.ending == "finished"
    seconds = (last.updated or last.started) - last.started
    return RunStatus(
        output=without_passwords(last.output),
        state="running" if running else "finished" if finished else "broken off",
        detail=running or ("" if finished else last.ending or "it was killed"),
        rows=told["rows"],
        total=told["rows"] if finished else last.total,
        captions=told["captions"],
        videos=told["videos"],
        tasks=told["tasks"],
        without_video=told["without_video"],
        flags=told["flags"],
        failures=told["failures"],
        examples=told["examples"],
        made_per_second=last.progress.get("made", 0) / seconds if seconds > 0 else None,
        started=last.started,
        updated=last.updated,
        engine=last.engine,
        model=last.model,
        inputs=tuple(map(without_passwords, last.inputs)),
        settings=last.settings,
    )


def runs_on(output: Path) -> list[Run]:
    """The runs on an output, the last one first.

    Raises:
        DatasetError: there is none, or its ledger cannot be read.
    """
    file = find_ledger(output)
    runs = read_runs(file)
    ours = [run for run in runs if _is_on(run, output)]
    if not ours:
        others = ", ".join(sorted({run.output for run in runs})) or "nothing yet"
        raise DatasetError(f"no run has begun to write {output}; {file.name} is the ledger of {others}.")
    return ours


def _is_on(run: Run, output: Path) -> bool:
    written = place_of(run.output) if is_url(run.output) else Path(run.folder, run.output)
    # os.path resolves ".." as users mean it
    return os.path.abspath(written) == os.path.abspath(output)  # noqa: PTH100


def outputs_of_runs(output: Path) -> set[str]:
    """File names of all outputs of the runs in the ledger beside an output, or in the ledger that was set aside."""
    names: set[str] = set()
    for file in (ledger := ledger_of(output), aside(ledger)):
        if file.is_file():
            try:
                names |= {Path(run.output).name for run in read_runs(file)}
            except DatasetError:  # a run that opens the ledger will raise this
                names.add(output.name)
    return names


def ledger_of(output: Path) -> Path:
    """Path of the ledger of an output. Outputs that differ only in format share one ledger, and its captions."""
    return beside(output, "ledger.sqlite")


def find_ledger(output: Path) -> Path:
    """Path of an output's ledger. If there is none, the one of release 0.1.0, which may have another name.

    Raises:
        DatasetError: there is a ledger of release 0.1.0 that cannot be read.
    """
    file, older = ledger_of(output), beside_in_0_1(output, "ledger.sqlite")
    if file == older or file.is_file() or not older.is_file():
        return file
    return older if any(_is_on(run, output) for run in read_runs(older)) else file


def find_failures(output: Path) -> Path:
    """Path of the list of failures of the last run on an output, also of release 0.1.0."""
    file, older = failures_of(output), beside_in_0_1(output, "failures.jsonl")
    return older if runs_on(output)[0].is_of_0_1 and older.is_file() and not file.is_file() else file


def take_over(output: Path) -> None:
    """Rename the files of a run of release 0.1.0 to their present names. The caller must hold the lock.

    If other outputs may use the files as well, these stay: the ledger is copied, and the list of failures is left.

    Raises:
        DatasetError: a file cannot be copied or renamed.
    """
    found, file = find_ledger(output), ledger_of(output)
    runs = read_runs(found) if found.is_file() else []
    ours = [run for run in runs if _is_on(run, output)]
    if not ours or not ours[0].is_of_0_1:
        return
    alone = len(ours) == len(runs)
    older, failures = beside_in_0_1(output, "failures.jsonl"), failures_of(output)
    try:
        if found != file:
            copy_ledger(found, file)
            if alone:
                found.unlink()
        if alone and older != failures and older.is_file() and not failures.exists():
            older.rename(failures)
    except OSError as exc:
        raise DatasetError(f"cannot take over what an earlier run left of {output}: {exc.strerror}.") from exc


def lock_of(output: Path) -> Path:
    """Path of the lock file that a run on an output holds."""
    return beside(output, "ledger.lock")


def record_of(output: Path) -> Path:
    """Path of the record of the last run on an output; see `Record`."""
    return beside(output, "run.json")
