"""Looks at a run that goes on: what it made since, some rows and some clips at a time."""

import threading
from collections.abc import Callable
from typing import Any, Final

from reelscribe.dataset.ledger_file import Run
from reelscribe.report.entries import CaptionedData, Entry, by_video
from reelscribe.report.left import last_run
from reelscribe.runners.status import read_status

Show = Callable[[list[tuple[Entry, ...]]], list[str]]
"""Makes the HTML of clips, given the entries of each, and lets them be corrected."""

_MOST_ROWS: Final = 200
"""That are looked up for one question."""
_MOST_CLIPS: Final = 4
"""Whose frames are decoded for one question; of more that came since the last one, the others are only counted."""


class Follower:
    """Answers a page that asks what came. May be used from several threads.

    Args:
        data: of a run that is not finished, with entries as the model leaves them; it was gone through to the end. What
            comes behind that is new.
        most: clips to show beyond these.
        show: makes them HTML.

    Raises:
        DatasetError: its ledger or its inputs cannot be read.
    """

    def __init__(self, data: CaptionedData, *, most: int, show: Show) -> None:
        self._data, self._most, self._show = data, most, show
        self._lock = threading.Lock()
        assert data.reached
        self._known, self._number = data.reached
        self._begun_anew = False
        self._clips: list[str] = []

    def news(self, seen: int) -> dict[str, Any]:
        """What came since.

        Args:
            seen: number of clips that the page got in this way.

        Returns:
            `clips`, HTML of some; `run`, how far it is; `begun_anew`, whether another run with other settings
            took its place, so that a new page has to be made.
        """
        with self._lock:
            if seen >= len(self._clips) and not self._begun_anew:
                videos = [entries for entries in self._read(_MOST_ROWS) if entries]
                room = min(_MOST_CLIPS, self._most - len(self._clips))
                self._clips += self._show(videos[: max(room, 0)])
            clips = self._clips[seen : seen + _MOST_CLIPS]
            return {"clips": clips, "run": self._run(), "begun_anew": self._begun_anew}

    def _run(self) -> dict[str, Any]:
        told = read_status(self._data.output)
        names = ("state", "rows", "total", "captions", "failures", "flags", "made_per_second")
        return {name: getattr(told, name) for name in names}

    def _read(self, most: int) -> list[tuple[Entry, ...]]:
        """The entries of each video of some rows; nothing if no whole one is there."""
        before, now = self._data.run, last_run(self._data.output)
        self._begun_anew = not (before and now and _does(before) == _does(now))
        if self._begun_anew:
            return []
        found = self._data.entries_of_next(self._known, most)
        return list(by_video(self._number(entry) if isinstance(entry, Entry) else entry for entry in found))


def _does(run: Run) -> tuple[Any, ...]:
    """What of a run makes its rows the ones that they are."""
    return run.work, run.inputs, run.settings
