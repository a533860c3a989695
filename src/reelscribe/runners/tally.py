"""Counts the results of a run."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from reelscribe.config import FailureLimit
from reelscribe.errors import FailureKind, FailuresError
from reelscribe.values import Caption, Failure, Outcome, RowResult

MOST_EXAMPLES: Final = 3
"""Maximum examples of each kind of failure."""


@dataclass(kw_only=True)
class TaskCounts:
    """Captions and failures of a task."""

    captions: int = 0
    failures: Counter[FailureKind] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        """Count an outcome of the task."""
        if isinstance(outcome, Failure):
            self.failures[outcome.kind] += 1
        else:
            self.captions += 1

    def told(self) -> dict[str, Any]:
        """Both, ready for JSON."""
        return {"captions": self.captions, "failures": dict(self.failures)}


class Tally:
    """Counts the results of a run.

    Args:
        limit: how many videos that failed in this run are too many.
        tasks: of the run; where there are several, what came of each is counted, too.
    """

    def __init__(self, limit: FailureLimit | None = None, tasks: Sequence[str] = ()) -> None:
        self.rows = self.captions = self.without_video = 0
        self.flags: Counter[str] = Counter()
        """Number of captions by flag."""
        self.videos = 0
        """Videos that were asked about, captioned or not."""
        self.made = 0
        """Videos, or rows that failed as such, of which something was not known from an earlier run."""
        self.known = 0
        """Captions and failures that were known."""
        self.failures: Counter[FailureKind] = Counter()
        self.examples: dict[FailureKind, list[str]] = {}
        """The first failures of each kind, in words."""
        self.tasks = {name: TaskCounts() for name in tasks} if len(tasks) > 1 else {}
        """Counts of each task. Rows that failed as a whole are in none."""
        self._limit = limit
        self._failed = 0
        self._new: Counter[FailureKind] = Counter()
        self._last: dict[FailureKind, str] = {}

    def add(self, result: RowResult) -> None:
        """Count a row."""
        new = [outcome for outcome in result.outcomes if outcome.id not in result.known]
        self.rows += 1
        self.without_video += not result.outcomes
        self.videos += len(_slots(result.outcomes) - {None})
        self.made += len(_slots(new))
        self.known += len(result.outcomes) - len(new)
        for outcome in result.outcomes:
            if isinstance(outcome, Caption):
                self.captions += 1
                self.flags.update(outcome.meta["flags"])
            else:
                self.failures[outcome.kind] += 1
            if outcome.id.slot is not None and outcome.id.task in self.tasks:
                self.tasks[outcome.id.task].add(outcome)
        if result.failures:
            self._add_examples(result.index, result.failures)
            self._add_new([outcome for outcome in new if isinstance(outcome, Failure)])

    def _add_examples(self, row: int, failures: Iterable[Failure]) -> None:
        alike: dict[tuple[Any, ...], list[Failure]] = {}
        for failure in failures:
            alike.setdefault((failure.id.slot, failure.kind, failure.message), []).append(failure)
        for first, *more in alike.values():
            examples = self.examples.setdefault(first.kind, [])
            if len(examples) < MOST_EXAMPLES:
                is_of_all = first.id.slot is None or 1 + len(more) >= len(self.tasks)
                names = "" if is_of_all else f", {' and '.join(each.id.task for each in (first, *more))}"
                examples.append(f"row {row}{names}: {first.message}")

    def _add_new(self, failures: Sequence[Failure]) -> None:
        self._failed += len(_slots(failures))
        self._new.update(kind for kind, _ in dict.fromkeys((failure.kind, failure.id.slot) for failure in failures))
        self._last |= {failure.kind: failure.message for failure in failures}

    def check(self) -> None:
        """Raise FailuresError if too many videos failed in this run."""
        if self._limit is None or not self._limit.exceeded_by(self._failed, self.made):
            return
        kind, most = self._new.most_common(1)[0]
        raise FailuresError(
            f"stopped: {self._failed} of {self.made} videos failed, more than max_failures allows ({self._limit}). The "
            f"commonest reason is {kind} ({most}), as: {self._last[kind]} What was made is kept: the same command goes "
            "on, `reelscribe retry` tries what failed again."
        )

    def by_task(self) -> dict[str, Any]:
        """Counts by task, ready for JSON; empty for a single task. May be read at any time."""
        if not self.tasks:
            return {}
        return {"videos": self.videos, "tasks": {name: counts.told() for name, counts in self.tasks.items()}}

    def told(self) -> dict[str, Any]:
        """All counts, ready for JSON."""
        return {
            "rows": self.rows,
            "made": self.made,
            "captions": self.captions,
            "without_video": self.without_video,
            "flags": dict(self.flags),
            "failures": dict(self.failures),
            "examples": {kind: list(examples) for kind, examples in self.examples.items()},
            **self.by_task(),
        }


def _slots(outcomes: Iterable[Outcome]) -> set[int | None]:
    """Which videos of a row they are about; None for the row as a whole."""
    return {outcome.id.slot for outcome in outcomes}
