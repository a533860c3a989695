"""Which known outcomes a retry makes again, and with which settings."""

from dataclasses import dataclass
from typing import NamedTuple

from reelscribe.config import Settings
from reelscribe.dataset.ledger_file import Run
from reelscribe.errors import FailureKind
from reelscribe.values import Request


class Mark(NamedTuple):
    """A request to make again, whether it has a caption or a failure."""

    row: int
    """Index of the row in the data set, from 0."""
    video: str | None = None
    """The video's path or URL, or its row's number, which is its name in a tar file; None for all videos of the row."""
    task: str | None = None
    """Name of the task; None for all tasks."""

    def means(self, request: Request) -> bool:
        """Whether a request matches. A video given as bytes has no name, so any mark of its row matches."""
        source, place = request.clip.source, request.id.row
        if place != self.row or self.task not in (None, request.id.task):
            return False
        names = (None, source, request.clip.name, f"{place:09d}")
        return isinstance(source, bytes) or self.video in names


@dataclass(frozen=True, kw_only=True)
class Remake:
    """Which known outcomes a retry makes again, and with which settings."""

    kinds: frozenset[FailureKind] = frozenset()
    """Kinds of failures of earlier runs to make again."""
    marked: frozenset[Mark] = frozenset()
    """Marked requests, whether they have a caption or a failure."""
    tasks: frozenset[str] | None = None
    """Only requests of these tasks; None for all."""
    settings: Settings | None = None
    """Settings for everything that is made again; None for those of the run."""
    differs: str = ""
    """The settings that differ from the run's, as JSON; empty if there are none."""
    model_differs: str = ""
    """The differing settings that concern every request, such as model, engine and frames, as JSON; empty if there are
    none. If there are any, only outcomes to make again go to the engine: with them, other unknown outcomes could not be
    made as the run would make them."""
    run: Run | None = None
    """The last run if the retry has another model, else None. The keys of its outcomes contain its model."""

    def is_of(self, task: str) -> bool:
        """Whether requests of the task may be made again."""
        return self.tasks is None or task in self.tasks


NOTHING_TO_REMAKE = Remake()
