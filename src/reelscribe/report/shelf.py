"""Makes the frames of clips on a page of `view` when the browser asks for them."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from reelscribe.report.entries import Entry
from reelscribe.report.overview import shown_of
from reelscribe.report.thumbnails import Filmstrip, Picture, filmstrip_at, pictures_of
from reelscribe.video.prefetch import Decode

_KEPT: Final = 500
"""Number of clips whose pictures stay in memory, about 50 kB each. Those of other clips are decoded again."""


class Shelf:
    """A cache of the pictures of clips. May be used from several threads.

    Args:
        most_frames: maximum number of frames of a clip.
        executor: threads that make the pictures.
        decode_clip: decodes a clip.
    """

    def __init__(self, most_frames: int, executor: ThreadPoolExecutor, decode_clip: Decode) -> None:
        self._most_frames, self._executor, self._decode = most_frames, executor, decode_clip
        self._entries: dict[str, Entry] = {}
        self._kept: OrderedDict[str, Future[list[Picture]]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, videos: Sequence[tuple[Entry, ...]]) -> list[Filmstrip]:
        """Add clips, given the entries of each. Returns filmstrips whose addresses lead to `pictures`."""
        strips = []
        for entry in map(shown_of, videos):
            place = f"{entry.row}-{entry.slot}"
            self._entries[place] = entry
            strips.append(filmstrip_at(entry, self._most_frames, f"frames/{place}"))
        return strips

    def pictures(self, place: str) -> Future[list[Picture]] | None:
        """The pictures of a clip, in a future that raises ClipError if decoding fails; None for an unknown clip."""
        if (entry := self._entries.get(place)) is None:
            return None
        with self._lock:
            if place not in self._kept:
                self._kept[place] = self._executor.submit(pictures_of, entry, self._most_frames, self._decode)
            self._kept.move_to_end(place)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return self._kept[place]
