"""What a retry makes again although its outcome is known, and with which settings."""

from dataclasses import dataclass
from typing import NamedTuple

from reelscribe.config import Settings
from reelscribe.dataset.ledger_file import Run
from reelscribe.errors import FailureKind
from reelscribe.values import Request


class Mark(NamedTuple):
    """A request to make again, whether it has a caption or a failure."""

    row: int
    """Place of the row in the data set, from 0."""
    video: str | None = None
    """Its path or URL, or the number of its row, which a tar file gives it; None for all of the row's."""
    task: str | None = None
    """None for all tasks."""

    def means(self, request: Request) -> bool:
        """Whether a request matches. A video given by its bytes has no name, so any mark of its row matches."""
        source, place = request.clip.source, request.id.row
        if place != self.row or self.task not in (None, request.id.task):
            return False
        names = (None, source, request.clip.name, f"{place:09d}")
        return isinstance(source, bytes) or self.video in names


@dataclass(frozen=True, kw_only=True)
class Remake:
    """What a retry makes again, and with which settings."""

    kinds: frozenset[FailureKind] = frozenset()
    """Failures of earlier runs, by kind."""
    marked: frozenset[Mark] = frozenset()
    """Marked requests, whether they have a caption or a failure."""
    tasks: frozenset[str] | None = None
    """Only requests of these tasks; None for all."""
    settings: Settings | None = None
    """Settings to make it with; None for those of the run."""
    differs: str = ""
    """JSON of the settings that differ from the run's; empty if none does."""
    model_differs: str = ""
    """JSON of the differing settings that concern every request: model, engine, frames. If there are any, only what is
    made again goes to the engine: anything else that is not known could not be made as the run would make it."""
    run: Run | None = None
    """The last run, if this one has another model: its model is part of the keys."""

    def is_of(self, task: str) -> bool:
        """Whether requests of the task may be made again."""
        return self.tasks is None or task in self.tasks


NOTHING_TO_REMAKE = Remake()
