"""What a run left beside its output: the ledger, the list of failures, an output that is not whole."""

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
"""Which runs that are not finished: those that broke off, or also one that goes on."""


def last_run(output: Path) -> Run | None:
    """The last run on the output; None where its ledger is gone."""
    return runs_on(output)[0] if find_ledger(output).is_file() else None


def is_unfinished(output: Path, run: Run, unfinished: Unfinished) -> bool:
    """Whether what a run knows is to be looked at in place of its output, which is not whole."""
    if holder(lock_of(output), output) is not None:
        return unfinished == "running"
    if SHARD in str(output):
        return unfinished == "running" and run.ending != "finished"  # else the shards that are whole
    return not output.exists()


def not_finished(output: Path) -> DatasetError:
    """The error of an output that is not whole, where a whole one is needed."""
    going = holder(lock_of(output), output) is not None
    how = "under way: wait until it is finished" if going else "not finished: give its command again"
    return DatasetError(
        f"the run on {output} is {how}. reelscribe status says how far it is; view and report show what it made so far."
    )


def tasks_in(rows: list[Row]) -> tuple[Task, ...]:
    """The tasks whose columns rows have, where no ledger tells them; else the one that a run has by default."""
    names = {name: None for row in rows for name in row if {f"{name}_meta", f"{name}_failure"} & row.keys()}
    return tuple(Task(name=name) for name in names) or (Task(),)


def settings_of(run: Run | None) -> Settings:
    return Settings() if run is None else Settings.of_run(run.settings)


def folders_of(output: Path, run: Run | None, root: Path | None) -> list[Path]:
    """Where relative paths of videos may start from."""
    if root is not None:
        return [root]
    if run is None:
        return [output.parent]
    if run.settings.get("root"):
        return [Path(run.folder, run.settings["root"])]
    folders = [output.parent]
    for named in run.inputs:
        with contextlib.suppress(ReelscribeError):  # it went since then
            folders += [Path(source.location).parent for source in _sources_in(Path(run.folder), named)]
    return folders


def _sources_in(folder: Path, named: str) -> list[Source]:
    return [source for source in find_sources([os.path.join(folder, named)]) if source.format != "videos"]  # noqa: PTH118


def read_failures(file: Path) -> dict[int, list[Row]]:
    """What is told of the failures of each row."""
    found: dict[int, list[Row]] = {}
    if file.is_file():
        for item in read_rows(find_sources([file]), Settings(), output=file):
            if item.problem or not isinstance(item.row.get("row"), int):
                raise DatasetError(f"{file} is no list of failures; give the command of the run again.")
            found.setdefault(item.row["row"], []).append(item.row)
    return found


def _answers(known: Mapping[int, list[Answer]], request: Request, settings: Settings) -> list[Answer]:
    """What is known of a request, the answers that release 0.1.0 had to it last."""
    return [*known.get(request.seed, []), *known.get(seed_of_0_1(request, settings), [])]


def counting(known: Mapping[int, list[Answer]], settings: Settings) -> Callable[[Request], int]:
    """Finds how many captions of a request the last run kept; 0 where that is not known."""

    def count(request: Request) -> int:
        answers = _answers(known, request, settings)
        return len(choose(request, answers[0]).kept) if answers else 0

    return count


def remembering(
    known: Mapping[int, list[Answer]], settings: Settings
) -> Callable[[Request, list[str]], Caption | None]:
    """Finds what the ledger knows of a request whose kept captions are these."""

    def find(request: Request, texts: list[str]) -> Caption | None:
        wanted = [text.strip() for text in texts]  # as interleaved text can hold them
        answers = _answers(known, request, settings)
        captions = (choose(request, item) for item in answers)
        same = (item for item in captions if [without_tokens(text).strip() for text in item.texts] == wanted)
        # A second try may have been told what was wrong with the first, behind its prompt.
        asked = (
            item
            for item in same
            if item.meta.get("retried_with") or str(item.meta.get("prompt")).startswith(request.prompt)
        )
        return next(asked, None)

    return find
