"""Reads what a run left beside its output: the ledger and the list of failures; and finds unfinished outputs."""

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from reelscribe.config import Settings
from reelscribe.dataset.identity import seed_of_0_1
from reelscribe.dataset.ledger_file import Run
from reelscribe.dataset.lock import holder
from reelscribe.dataset.names import SHARD
from reelscribe.dataset.read import read_rows
from reelscribe.dataset.sources import Source, find_sources
from reelscribe.errors import DatasetError, ReelscribeError
from reelscribe.layouts import without_tokens
from reelscribe.outcomes import choose
from reelscribe.runners.status import find_ledger, lock_of, runs_on
from reelscribe.tasks import Task
from reelscribe.values import Answer, Caption, Request, Row

Unfinished = Literal["ended", "running"]
"""Unfinished runs to accept. ended: runs that broke off. running: also a run that is still under way."""


def last_run(output: Path) -> Run | None:
    """The last run on the output; None if its ledger is gone."""
    return runs_on(output)[0] if find_ledger(output).is_file() else None


def is_unfinished(output: Path, run: Run, unfinished: Unfinished) -> bool:
    """Whether to read the ledger of a run, since its output is not whole and `unfinished` accepts such a run."""
    if holder(lock_of(output), output) is not None:
        return unfinished == "running"
    if SHARD in str(output):
        return unfinished == "running" and run.ending != "finished"  # else whole shards are read
    return not output.exists()


def not_finished(output: Path) -> DatasetError:
    """The error if a whole output is needed, but the run is not finished."""
    going = holder(lock_of(output), output) is not None
    how = "under way: wait until it is finished" if going else "not finished: give its command again"
    return DatasetError(
        f"the run on {output} is {how}. reelscribe status says how far it is; view and report show what it made so far."
    )


def tasks_in(rows: list[Row]) -> tuple[Task, ...]:
    """Find tasks by the columns of rows, for an output without a ledger. Without such columns, the default task."""
    names = {name: None for row in rows for name in row if {f"{name}_meta", f"{name}_failure"} & row.keys()}
    return tuple(Task(name=name) for name in names) or (Task(),)


def settings_of(run: Run | None) -> Settings:
    """The settings of a run; the default ones without a run."""
    return Settings() if run is None else Settings.of_run(run.settings)


def folders_of(output: Path, run: Run | None, root: Path | None) -> list[Path]:
    """Folders that relative paths of videos may start from."""
    if root is not None:
        return [root]
    if run is None:
        return [output.parent]
    if run.settings.get("root"):
        return [Path(run.folder, run.settings["root"])]
    folders = [output.parent]
    for named in run.inputs:
        with contextlib.suppress(ReelscribeError):  # the input is gone since
            folders += [Path(source.location).parent for source in _sources_in(Path(run.folder), named)]
    return folders


def _sources_in(folder: Path, named: str) -> list[Source]:
    return [source for source in find_sources([os.path.join(folder, named)]) if source.format != "videos"]  # noqa: PTH118


def read_failures(file: Path) -> dict[int, list[Row]]:
    """Read a list of failures: the failures of each row, by its number. Empty if there is no such file."""
    found: dict[int, list[Row]] = {}
    if file.is_file():
        for item in read_rows(find_sources([file]), Settings(), output=file):
            if item.problem or not isinstance(item.row.get("row"), int):
                raise DatasetError(f"{file} is no list of failures; give the command of the run again.")
            found.setdefault(item.row["row"], []).append(item.row)
    return found


def _answers(known: Mapping[int, list[Answer]], request: Request, settings: Settings) -> list[Answer]:
    """The known answers to a request. Answers that release 0.1.0 wrote, under other seeds, come last."""
    return [*known.get(request.seed, []), *known.get(seed_of_0_1(request, settings), [])]


def counting(known: Mapping[int, list[Answer]], settings: Settings) -> Callable[[Request], int]:
    """Returns a function that gives the number of kept captions of a request; 0 if not known."""

    def count(request: Request) -> int:
        answers = _answers(known, request, settings)
        return len(choose(request, answers[0]).kept) if answers else 0

    return count


def remembering(
    known: Mapping[int, list[Answer]], settings: Settings
) -> Callable[[Request, list[str]], Caption | None]:
    """Returns a function that finds the ledger's caption for a request by its kept texts; None if there is none."""

    def find(request: Request, texts: list[str]) -> Caption | None:
        wanted = [text.strip() for text in texts]  # as interleaved text can hold them
        answers = _answers(known, request, settings)
        captions = (choose(request, item) for item in answers)
        same = (item for item in captions if [without_tokens(text).strip() for text in item.texts] == wanted)
        # The prompt of a retry may have the first try's fault appended.
        asked = (
            item
            for item in same
            if item.meta.get("retried_with") or str(item.meta.get("prompt")).startswith(request.prompt)
        )
        return next(asked, None)

    return find
