"""Counts the results of a run."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from reelscribe.config import FailureLimit
from reelscribe.errors import FailureKind, FailuresError
from reelscribe.values import Caption, Failure, Outcome, RowResult

MOST_EXAMPLES: Final = 3
"""Maximum number of examples that are kept for each kind of failure."""


@dataclass(kw_only=True)
class TaskCounts:
    """Numbers of captions and failures of one task."""

    captions: int = 0
    failures: Counter[FailureKind] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        """Count an outcome of the task."""
        if isinstance(outcome, Failure):
            self.failures[outcome.kind] += 1
        else:
            self.captions += 1

    def told(self) -> dict[str, Any]:
        """Both counts, ready for JSON."""
        return {"captions": self.captions, "failures": dict(self.failures)}


class Tally:
    """Counts the results of a run.

    Args:
        limit: maximum number or share of videos that may fail in this run; None for no limit.
        tasks: names of the run's tasks. If there are several, each one's results are counted separately as well.
    """

    def __init__(self, limit: FailureLimit | None = None, tasks: Sequence[str] = ()) -> None:
        self.rows = self.captions = self.without_video = 0
        self.flags: Counter[str] = Counter()
        """Number of captions by flag."""
        self.videos = 0
        """Number of videos that were asked about, captioned or not."""
        self.made = 0
        """Number of videos with at least one new outcome, not known from an earlier run; failed rows count as one."""
        self.known = 0
        """Number of captions and failures that were known from an earlier run."""
        self.failures: Counter[FailureKind] = Counter()
        self.examples: dict[FailureKind, list[str]] = {}
        """Messages of the first failures of each kind."""
        self.tasks = {name: TaskCounts() for name in tasks} if len(tasks) > 1 else {}
        """Counts of each task, if there are several. A row that failed as a whole counts for no task."""
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
    """Numbers of the videos in a row that the outcomes are about; None stands for the row as a whole."""
    return {outcome.id.slot for outcome in outcomes}
