"""Merging the outputs of all shards into one output.

An output is a function of rows and outcomes. So `merge` combines the shards' ledgers and starts a run without shards,
which finds every outcome in the combined ledger. Its output is the one that a run without shards writes, in any format.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from reelscribe.config import SETTINGS_BY_EFFECT, Shard
from reelscribe.dataset.ledger_file import Run
from reelscribe.dataset.places import place_of, place_of_run, url_of
from reelscribe.errors import DatasetError
from reelscribe.pipeline import Maker, Settle
from reelscribe.runners.local import RunSummary, run
from reelscribe.runners.retry import in_folder_of, settings_of
from reelscribe.runners.status import find_ledger, ledger_of, runs_on
from reelscribe.values import Work

_ALIKE: Final = (
    *(*SETTINGS_BY_EFFECT["rows"], *SETTINGS_BY_EFFECT["captions"], *SETTINGS_BY_EFFECT["failures"]),
    *("original", "keep", "columns", "text_key", "max_line_bytes"),
)
"""Settings that must be equal in all shards."""


def merge(output: str | Path, shards: Sequence[str | Path], **options: Any) -> RunSummary:
    """Write what a run without shards would have written, from the outputs of all shards of a run.

    The ledger of the merged output has the outcomes of all shards, so that `retry` and `report` work on it. The inputs
    are read again, from the working directory of the first shard's run, and must be unchanged.

    Args:
        output: path or URL of the merged output.
        shards: outputs of all shards, in any order.
        **options: options of `run`.

    Raises:
        DatasetError: a shard is missing, given twice, unfinished or of other settings, or a row is in none of them.
        ReelscribeError: any error of `run`.
    """
    output = output if url_of(output) else place_of(output).absolute()
    places = [place_of_run(shard) for shard in shards]
    first = _checked([(place, runs_on(place)[0]) for place in places])
    ledgers = [find_ledger(place).absolute() for place in places]
    if ledger_of(place_of(output)) in ledgers:
        raise DatasetError(f"cannot write to {output}: it has the name of one of the shards; choose another output.")
    with in_folder_of(first):
        return run(
            first.inputs,
            output,
            replace(settings_of(first), shard=None, max_failures=None),
            engine=_Nothing(first),
            adopt=ledgers,
            **options,
        )


def _checked(runs: Sequence[tuple[Path, Run]]) -> Run:
    """Check that the runs are all shards of one run. Returns the first one's run.

    Raises:
        DatasetError: they are not.
    """
    found: dict[int, Path] = {}
    first: tuple[Path, Run, Shard] | None = None
    for output, last in runs:
        shard = settings_of(last).part()
        if shard is None:
            raise DatasetError(f"{output} is not the output of a shard: its run had no --shard.")
        if last.ending != "finished":
            told = last.ending or "it was killed, or is going on"
            raise DatasetError(f"shard {shard} in {output} is not finished ({told}); give its command again.")
        first = first or (output, last, shard)
        if shard.of != first[2].of:
            raise DatasetError(
                f"{output} is shard {shard}, but {first[0]} is shard {first[2]}; merge those of one run."
            )
        if shard.number in found:
            raise DatasetError(f"shard {shard} is there twice, in {found[shard.number]} and in {output}; name one.")
        found[shard.number] = output
        _check_alike(first[0], first[1], output, last)
    if first is None:
        raise DatasetError("there is nothing to merge; name the outputs of all shards.")
    missing = [f"{number}/{first[2].of}" for number in range(1, first[2].of + 1) if number not in found]
    if missing:
        raise DatasetError(f"of the shards {', '.join(missing)} there is no output; name those of all shards.")
    return first[1]


def _check_alike(output: Path, run: Run, other_output: Path, other: Run) -> None:
    ours, theirs = _told(run), _told(other)
    for name in ours:
        if ours[name] != theirs[name]:
            raise DatasetError(
                f"the shards in {output} and {other_output} differ in {name} ({ours[name]} and {theirs[name]}); merge "
                "shards of one run."
            )


def _told(run: Run) -> dict[str, Any]:
    """The values that must be equal in all shards of a run."""
    settings = {name: run.settings.get(name) for name in _ALIKE}
    made_by = {"weights": run.work.get("weights"), "commit": run.work.get("commit")}
    return {"inputs": run.inputs, "engine": run.engine, "model": run.model, **settings, **made_by}


class _Nothing(Maker):
    """A `Maker` that makes nothing, for a run whose outcomes are all known."""

    waiting_rows = 4096

    def __init__(self, run: Run) -> None:
        self.info = run.model_info()

    def make(self, works: Iterator[Work], settle: Settle, drop: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Settle works whose captions are known and only lack scores; refuse all others.

        Raises:
            DatasetError: a work has a request that is not in any shard's ledger.
        """
        for work in works:
            known = [request.answered for request in work.requests if request.answered]
            if len(known) == len(work.requests):  # a scorer failed in the shard's run: keep captions without scores
                for answer in known:
                    settle(answer)
                yield
                continue
            raise DatasetError(
                f"row {work.requests[0].id.row} ({work.clip.name}) is in no shard's ledger: its video, the inputs, "
                "the paths or the model's files are not what they were when the shards were made. Give the shards' "
                "commands again, then merge."
            )
        yield from ()
