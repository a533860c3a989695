"""What a run counts while its rows pass by."""

from collections import Counter
from typing import Any, Final

from reelscribe.config import FailureLimit
from reelscribe.errors import FailureKind, FailuresError
from reelscribe.values import Caption, Failure, RowResult

MOST_EXAMPLES: Final = 3
"""Of each kind of failure."""


class Tally:
    """Counts the results of a run.

    Args:
        limit: how many failures of this run are too many.
    """

    def __init__(self, limit: FailureLimit | None = None) -> None:
        self.rows = self.captions = self.without_video = 0
        self.flags: Counter[str] = Counter()
        """Captions by what is flagged in their `caption_meta`."""
        self.made = 0
        """Videos that were not known from an earlier run."""
        self.failures: Counter[FailureKind] = Counter()
        self.examples: dict[FailureKind, list[str]] = {}
        """What is told of the first failures of each kind."""
        self._limit = limit
        self._new: Counter[FailureKind] = Counter()
        self._last: dict[FailureKind, str] = {}

    def add(self, result: RowResult) -> None:
        """Count a row."""
        self.rows += 1
        self.without_video += not result.outcomes
        for outcome in result.outcomes:
            new = outcome.id not in result.known
            self.made += new
            if isinstance(outcome, Caption):
                self.captions += 1
                self.flags.update(outcome.meta["flags"])
            else:
                self._add_failure(outcome, result.index, new)

    def _add_failure(self, failure: Failure, row: int, new: bool) -> None:
        self.failures[failure.kind] += 1
        examples = self.examples.setdefault(failure.kind, [])
        if len(examples) < MOST_EXAMPLES:
            examples.append(f"row {row}: {failure.message}")
        if new:
            self._new[failure.kind] += 1
            self._last[failure.kind] = failure.message

    def check(self) -> None:
        """Raise FailuresError where too many failed in this run."""
        count = self._new.total()
        if self._limit is None or not self._limit.exceeded_by(count, self.made):
            return
        kind, most = self._new.most_common(1)[0]
        raise FailuresError(
            f"stopped: {count} of {self.made} videos failed, more than max_failures allows ({self._limit}). The "
            f"commonest reason is {kind} ({most}), as: {self._last[kind]} What was made is kept: the same command goes "
            "on, `reelscribe retry` tries what failed again."
        )

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
        }
