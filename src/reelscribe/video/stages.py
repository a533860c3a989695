"""Fetches and then decodes clips on their way to the engine, in daemon threads."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from reelscribe.errors import ClipError
from reelscribe.values import NO_FRAMES, Clip, Frames, Work
from reelscribe.video.fetch import is_remote
from reelscribe.video.turns import next_turn

Fetch = Callable[[Clip], AbstractContextManager[Clip]]

_CLIPS_AHEAD: Final = 2
"""Maximum number of clips under way for each decoder, not counting downloads."""
_STRETCHES: Final = 8
"""Number of stretches of films that count as one clip in `_CLIPS_AHEAD`: a decoder takes several adjacent stretches in
one pass, while other decoders work further on in the film."""
_SHARERS: Final = 8
"""Maximum number of works under way for each clip that `_CLIPS_AHEAD` allows."""
_PATIENCE_SECONDS: Final = 1.0
"""How long a clip may take to decode before others pass it."""
_LOOK_SECONDS: Final = 0.1
"""How often a wait for a clip checks whether it is slow, and whether it is still wanted."""
_END_SECONDS: Final = 1.0
"""How long to wait for threads at the end. One in the system's resolver, or in FFmpeg, may take minutes."""


class _Stage(IntEnum):
    REMOTE = 0
    """Waits to be downloaded."""
    DOWNLOADING = 1
    HERE = 2
    """Waits to be decoded."""
    DECODING = 3
    DONE = 4


@dataclass(kw_only=True, eq=False)
class _Passage:
    """A clip under way, and the works that show it."""

    clip: Clip
    stage: _Stage
    works: deque[Work] = field(default_factory=deque)
    file: ExitStack = field(default_factory=ExitStack)
    """Owns the downloaded file."""
    fetched: Clip | None = None
    begun: float = 0.0
    """When its decoding began, by the monotonic clock."""
    result: Frames | BaseException | None = None

    @property
    def is_remote(self) -> bool:
        """Whether its file is downloaded."""
        return is_remote(self.clip)

    @property
    def is_error(self) -> bool:
        """Whether the result is an error that is not a failure of the clip itself."""
        return isinstance(self.result, BaseException) and not isinstance(self.result, ClipError)


class Stages:
    """Clips under way, oldest first. One lock guards all state.

    Args:
        workers: clips that are decoded at once.
        max_downloads: clips that are downloaded at once.
        max_bytes: decoded frames that may wait; one clip is always let through.
        clip_bytes: what a clip counts as until it is decoded.
    """

    def __init__(self, *, workers: int, max_downloads: int, max_bytes: int, clip_bytes: int) -> None:
        self._workers, self._max_downloads = workers, max_downloads
        self._max_bytes, self._clip_bytes = max_bytes, clip_bytes
        self._passages: list[_Passage] = []
        self._last: _Passage | None = None
        """The passage that was returned last; the next work about its clip shares its frames."""
        self._changed = threading.Condition()
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._latest: dict[int, Clip] = {}
        """The clip that each decoding thread took last."""

    def start(self, fetch: Fetch, decode: Callable[[Clip], Frames]) -> None:
        """Set how clips are fetched and decoded. Threads start when there is work for them."""
        self._fetch, self._decode = fetch, decode

    def has_room(self) -> bool:
        """Whether another work may be pulled."""
        with self._changed:
            return self._has_room()

    def add(self, work: Work) -> None:
        """Add a work. If another work about the same clip is under way, they share the clip."""
        with self._changed:
            passage = self._passage_for(work)
            if passage not in self._passages:
                self._passages.append(passage)
            passage.works.append(work)
            self._changed.notify_all()

    def _passage_for(self, work: Work) -> _Passage:
        """The clip's passage that is under way, or a new one. A text stage needs no frames and is ready at once."""
        if not work.shows:
            return _Passage(clip=work.clip, stage=_Stage.DONE, result=NO_FRAMES)
        there = [*self._passages, *([self._last] if self._last else [])]
        under_way = (each for each in there if each.clip == work.clip and each.result is not NO_FRAMES)
        return next(under_way, None) or self._begin(work.clip)

    def next_ready(self, *, or_room: bool, cancelled: Callable[[], bool]) -> tuple[Work, Frames | ClipError] | None:
        """Wait for a work whose clip is done. Works come in order, except that they pass slow clips.

        Args:
            or_room: whether to return as soon as another work may be pulled.
            cancelled: once it returns True, the wait ends.

        Returns:
            A work with its frames or its clip's error. None if no work is under way, if with `or_room` there is room
            before one is done, or if the wait was cancelled.

        Raises:
            BaseException: an error that is not a failure of a clip itself, raised when its clip is the oldest.
        """
        with self._changed:
            while (passage := self._first_done()) is None:
                if not self._passages or (or_room and self._has_room()) or cancelled():
                    return None
                self._changed.wait(_LOOK_SECONDS)
            work = passage.works.popleft()
            if not passage.works:
                self._passages.remove(passage)
            if passage.result is not NO_FRAMES:
                self._last = passage
            self._changed.notify_all()
        if isinstance(passage.result, Frames | ClipError):
            return work, passage.result
        assert passage.result is not None
        raise passage.result

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """A context after whose end no further clip is begun."""
        try:
            yield
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()

    def close(self) -> None:
        """Wait for the threads, at most `_END_SECONDS`."""
        until = time.monotonic() + _END_SECONDS
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0))

    def _has_room(self) -> bool:
        ahead = [passage for passage in self._passages if passage.stage >= _Stage.HERE]
        remote = {
            passage.clip.whole for passage in self._passages if passage.stage < _Stage.DECODING and passage.is_remote
        }
        most = _CLIPS_AHEAD * self._workers
        count = sum(1 if passage.clip.is_whole else 1 / _STRETCHES for passage in ahead)
        works = sum(len(passage.works) for passage in self._passages)
        if len(remote) >= self._max_downloads or count >= most or works >= _SHARERS * most + len(remote):
            return False
        return self._fits_beside(ahead)

    def _fits_beside(self, passages: list[_Passage]) -> bool:
        """Whether the bound of bytes allows another clip to be decoded beside these."""
        return not passages or sum(map(self._bytes, passages)) + self._clip_bytes <= self._max_bytes

    def _bytes(self, passage: _Passage) -> int:
        if passage.stage is not _Stage.DONE:
            return self._clip_bytes
        return passage.result.nbytes if isinstance(passage.result, Frames) else 0

    def _first_done(self) -> _Passage | None:
        """The oldest clip that is done, unless an earlier one should be waited for."""
        for passage in self._passages:
            if passage.stage is _Stage.DONE and (not passage.is_error or passage is self._passages[0]):
                return passage
            if not self._may_be_passed(passage):
                break
        return None

    def _may_be_passed(self, passage: _Passage) -> bool:
        """Whether a clip is slow enough to be passed by others. If none is, their order is the same in every run."""
        slow = passage.stage is _Stage.DECODING and time.monotonic() - passage.begun > _PATIENCE_SECONDS
        return slow or passage.stage is _Stage.DONE or passage.is_remote

    def _begin(self, clip: Clip) -> _Passage:
        if is_remote(clip):
            self._add_thread("download", self._download_some, self._max_downloads)
            return _Passage(clip=clip, stage=_Stage.REMOTE)
        self._add_thread("decode", self._decode_some, self._workers)
        return _Passage(clip=clip, stage=_Stage.HERE)

    def _add_thread(self, name: str, run: Callable[[], None], most: int) -> None:
        if sum(thread.name == name for thread in self._threads) < most:
            # A daemon: the program can end while it waits for what cannot be given up, such as the system's resolver.
            thread = threading.Thread(target=run, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _take(self, stage: _Stage) -> _Passage | None:
        """Wait for a clip at this stage, and move it to the next stage. Returns None when the stages are stopping."""
        with self._changed:
            while not self._closed:
                passage = self._next_download() if stage is _Stage.REMOTE else self._next_to_decode()
                if passage:
                    passage.stage, passage.begun = _Stage(stage + 1), time.monotonic()
                    return passage
                self._changed.wait()
        return None

    def _next_download(self) -> _Passage | None:
        """The oldest clip whose file is not being downloaded already."""
        coming = {passage.clip.whole for passage in self._passages if passage.stage is _Stage.DOWNLOADING}
        waiting = (passage for passage in self._passages if passage.stage is _Stage.REMOTE)
        return next((passage for passage in waiting if passage.clip.whole not in coming), None)

    def _next_to_decode(self) -> _Passage | None:
        waiting = [passage for passage in self._passages if passage.stage is _Stage.HERE]
        if not waiting or not self._fits_beside([each for each in self._passages if each.stage > _Stage.HERE]):
            return None
        thread = threading.get_ident()
        others = (clip for other, clip in self._latest.items() if other != thread)
        chosen = waiting[next_turn([each.clip for each in waiting], self._latest.get(thread), others)]
        self._latest[thread] = chosen.clip
        return chosen

    def _download_some(self) -> None:
        while (passage := self._take(_Stage.REMOTE)) is not None:
            try:
                passage.fetched = passage.file.enter_context(self._fetch(passage.clip))
            except BaseException as exc:
                self._finish(passage, exc)
            else:
                with self._changed:
                    passage.stage = _Stage.HERE
                    self._add_thread("decode", self._decode_some, self._workers)
                    self._changed.notify_all()

    def _decode_some(self) -> None:
        while (passage := self._take(_Stage.HERE)) is not None:
            try:
                with passage.file:
                    self._finish(
                        passage, self._decode(passage.fetched or passage.file.enter_context(self._fetch(passage.clip)))
                    )
            except BaseException as exc:
                self._finish(passage, exc)

    def _finish(self, passage: _Passage, result: Frames | BaseException) -> None:
        with self._changed:
            passage.result, passage.stage = result, _Stage.DONE
            self._changed.notify_all()
