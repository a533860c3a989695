"""What a run makes again though it is known, and what it asks for that."""

from dataclasses import dataclass
from typing import NamedTuple

from reelscribe.config import Settings
from reelscribe.dataset.ledger_file import Run
from reelscribe.errors import FailureKind
from reelscribe.values import Request


class Mark(NamedTuple):
    """What is to be made again, whatever came of it."""

    row: int
    """Place of the row in the data set, from 0."""
    video: str | None = None
    """Its path or URL, or the number of its row, which a tar file gives it; None for all of the row's."""
    task: str | None = None
    """None for all tasks."""

    def means(self, request: Request) -> bool:
        """Whether it is of what a request asks. What a video is called that is given by its bytes, nobody knows."""
        source, place = request.clip.source, request.id.row
        if place != self.row or self.task not in (None, request.id.task):
            return False
        names = (None, source, request.clip.name, f"{place:09d}")
        return isinstance(source, bytes) or self.video in names


@dataclass(frozen=True, kw_only=True)
class Again:
    """What is made again, and how."""

    kinds: frozenset[FailureKind] = frozenset()
    """Failures of these kinds, of earlier runs."""
    marked: frozenset[Mark] = frozenset()
    """What has one of these marks, whatever came of it."""
    tasks: frozenset[str] | None = None
    """Of these tasks alone; None for all."""
    settings: Settings | None = None
    """With which it is made; None for those of the run."""
    differs: str = ""
    """What of these is not as in the run, as JSON; empty for nothing."""
    model_differs: str = ""
    """The part of that which every answer of this run has: model, engine, frames. If there is any, all else stays as it
    is known, and nothing that is not known can be made as the run would."""
    run: Run | None = None
    """The run whose model captions are known by, if this one has another."""

    def is_of(self, task: str) -> bool:
        """Whether the task is one of those that are made again."""
        return self.tasks is None or task in self.tasks


NOTHING_AGAIN = Again()
