"""Follows a run that is still under way, and adds its new clips to the page in small batches."""

import threading
from collections.abc import Callable
from typing import Any, Final

from reelscribe.dataset.ledger_file import Run
from reelscribe.report.entries import CaptionedData, Entry, by_video
from reelscribe.report.left import last_run
from reelscribe.runners.status import read_status

Show = Callable[[list[tuple[Entry, ...]]], list[str]]
"""(entries of each clip) -> HTML of each clip. Also makes the clips editable."""

_MOST_ROWS: Final = 200
"""Maximum rows to read from the ledger for one request of the page."""
_MOST_CLIPS: Final = 4
"""Maximum clips that one request adds to the page. If more were made since the last one, the rest is only counted."""


class Follower:
    """Answers a page that asks for new clips. May be used from several threads.

    Args:
        data: the data of an unfinished run, with entries as the model left them, after a pass through all its rows.
            Rows after these are new.
        most: maximum number of clips to add to the page.
        show: renders clips.

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
        """The clips that were made since, and the state of the run.

        Args:
            seen: number of clips that the page got from here so far.

        Returns:
            `clips`: the HTML of some new clips. `run`: the progress of the run. `begun_anew`: whether a run with other
            settings or inputs replaced it, so that the page has to be made again.
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
        """The entries of each video in the next rows; empty if there is no complete row, or another run began."""
        before, now = self._data.run, last_run(self._data.output)
        self._begun_anew = not (before and now and _does(before) == _does(now))
        if self._begun_anew:
            return []
        found = self._data.entries_of_next(self._known, most)
        return list(by_video(self._number(entry) if isinstance(entry, Entry) else entry for entry in found))


def _does(run: Run) -> tuple[Any, ...]:
    """The parts of a run that its rows depend on."""
    return run.work, run.inputs, run.settings
