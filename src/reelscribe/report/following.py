"""Looks at a run that goes on: what it wrote since, some rows and some clips at a time."""

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from reelscribe.dataset.formats.jsonl import record
from reelscribe.dataset.read import input_row
from reelscribe.errors import DatasetError
from reelscribe.report.edited import Numbering
from reelscribe.report.entries import CaptionedData, Entry, by_video
from reelscribe.runners.status import read_status
from reelscribe.values import InputRow

Show = Callable[[list[tuple[Entry, ...]]], list[str]]
"""Makes the HTML of clips, given the entries of each, and lets them be corrected."""

_MOST_ROWS: Final = 200
"""That are read for one question."""
_MOST_CLIPS: Final = 4
"""Whose frames are decoded for one question; of more that came since the last one, the others are only counted."""


class Follower:
    """Answers a page that asks what came. May be used from several threads.

    Args:
        data: of a run that is not finished, with entries as the model leaves them.
        rows: that the page has already.
        most: clips to show beyond these.
        show: makes them HTML.

    Raises:
        DatasetError: what the run wrote cannot be read.
    """

    def __init__(self, data: CaptionedData, *, rows: int, most: int, show: Show) -> None:
        self._data, self._most, self._show = data, most, show
        self._lock = threading.Lock()
        self._number = Numbering()
        self._rows = 0
        self._begun_anew = False
        self._clips: list[str] = []
        try:
            # It stays open: when the run is finished, the file gets another name.
            self._file = Path(data.sources[0].location).open("rb")  # noqa: SIM115
        except OSError as exc:
            raise DatasetError(f"cannot read {data.sources[0].location}: {exc.strerror}.") from exc
        while self._rows < rows and self._read(min(rows - self._rows, _MOST_ROWS)):
            pass

    def news(self, seen: int) -> dict[str, Any]:
        """What came since.

        Args:
            seen: number of clips that the page got in this way.

        Returns:
            `clips`, HTML of some; `run`, how far it is; `begun_anew`, whether it began from its first row again, so
            that a new page has to be made.
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

    def _read(self, most: int) -> Sequence[tuple[Entry, ...]]:
        """The entries of each video of some rows; nothing if no whole one is there."""
        if os.fstat(self._file.fileno()).st_size < self._file.tell():
            self._begun_anew = True
            return []
        entries: list[Entry] = []
        for _ in range(most):
            place = self._file.tell()
            line = self._file.readline()
            if not line.endswith(b"\n"):
                self._file.seek(place)  # the rest of it is on its way
                break
            entries += map(self._number, self._data.entries_of(self._row(line)))
            self._rows += 1
        return list(by_video(entries))

    def _row(self, line: bytes) -> InputRow:
        settings = self._data.settings
        found = record(line, called=f"row {self._rows}", cut=False, limit=settings.max_line_bytes, root=None)
        return input_row(found, self._rows)
