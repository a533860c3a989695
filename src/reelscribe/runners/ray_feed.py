"""The feed of a run on Ray: holds chunks of works until they are answered, and counts how often each was tried.

The feed outlives the actors that make answers (`ray_stage.py`), so the counts are kept here. A work that ends its actor
at each try becomes a failure, and an actor that ends again and again ends the run.
"""

import threading
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

from reelscribe.values import RequestId

_WHOLE_TRIES: Final = 2
"""Tries of a whole chunk before its works are tried one at a time."""
_ALONE_TRIES: Final = 2
"""Tries of a work alone if the actor has answered other works since the first of them. One failure may be chance, such
as a lost node."""
_MOST_ALONE_TRIES: Final = 3
"""Tries of a work alone if the actor has answered nothing else meanwhile."""
_MOST_DEATHS: Final = 10
"""Deaths of an actor without an answer in between that end the run: then no single clip is the cause."""
_NO_WORD: Final = "it left no word; see Ray's logs"


@dataclass(frozen=True, kw_only=True)
class Alone:
    """State of a chunk whose works are tried one at a time. A work's key is the id of its first request."""

    tries: dict[RequestId, int]
    """Number of tries so far, by work."""
    done: dict[RequestId, bytes]
    """Pickled answers so far, by work."""


@dataclass(kw_only=True)
class _Actor:
    """Counts of an actor. Its name, Ray's actor id, stays the same when Ray restarts it."""

    starts: int = 0
    deaths: int = 0
    """Number of deaths since its last answer."""
    captions: int = 0
    """Number of requests that it has answered."""
    words: str = _NO_WORD
    """The last error that it reported before it ended."""


@dataclass(kw_only=True)
class _Tries:
    """Tries of a chunk. A work's key is the id of its first request."""

    whole: int = 0
    """Number of tries; all of the chunk at once up to `_WHOLE_TRIES`, one work at a time from then on."""
    alone: dict[RequestId, int] = field(default_factory=dict)
    """Number of tries of each work alone."""
    first: dict[RequestId, int] = field(default_factory=dict)
    """The actor's `captions` when each work was first tried alone."""
    done: dict[RequestId, bytes] = field(default_factory=dict)
    """Pickled answers of works that were tried alone."""
    under_way: set[str] = field(default_factory=set)
    """Names of the actors that are working on the chunk."""


class Feed:
    """Holds chunks by number until they are answered. A Ray actor on the run's node; it calls methods in threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._chunks: dict[int, bytes] = {}
        self._places: list[int] = []
        """Numbers of chunks in reading order. A chunk that is offered again has several places."""
        self._closed = self._dropped = self._stopping = False
        self._tries: defaultdict[int, _Tries] = defaultdict(_Tries)
        self._actors: defaultdict[str, _Actor] = defaultdict(_Actor)

    def put(self, number: int, chunk: bytes) -> None:
        """Add the next chunk: pickled works."""
        with self._changed:
            self._chunks[number] = chunk
            self._places.append(number)
            self._changed.notify_all()

    def offer_again(self) -> int:
        """Append all unanswered chunks to the reading order again. Returns the place of the first one."""
        with self._changed:
            first = len(self._places)
            self._places += sorted(self._chunks)
            self._changed.notify_all()
            return first

    def answered(self, number: int) -> None:
        """Drop a chunk that is answered."""
        with self._changed:
            self._chunks.pop(number, None)
            self._tries.pop(number, None)

    def stop(self) -> list[int]:
        """Tell actors to begin nothing more, and drop the chunks that none has begun. Returns these chunks' numbers."""
        with self._changed:
            self._stopping = True
            waiting = [number for number in self._chunks if not self._tries[number].under_way]
            for number in waiting:
                self.answered(number)
            return waiting

    def is_stopping(self) -> bool:
        """Whether actors must begin nothing more."""
        return self._stopping

    def close(self, *, drop: bool = False) -> None:
        """End the feed after the chunks that it has; with `drop`, end it at once."""
        with self._changed:
            self._closed, self._dropped = True, drop
            self._changed.notify_all()

    def get(self, place: int) -> tuple[int, bytes] | None:
        """Wait for the chunk at a place. Returns its number and its pickled works, which are empty if it is answered;
        None after the last chunk.
        """
        with self._changed:
            self._changed.wait_for(lambda: place < len(self._places) or self._closed)
            if self._dropped or place >= len(self._places):
                return None
            number = self._places[place]
            return number, self._chunks.get(number, b"")

    # Reports of actors. Their first argument is the actor's name.

    def started(self, name: str) -> str | None:
        """Note that an actor starts. Returns None, or the reason why the run must end."""
        with self._changed:
            actor = self._actors[name]
            actor.deaths += actor.starts > 0
            actor.starts += 1
            for tries in self._tries.values():
                tries.under_way.discard(name)
            if actor.deaths < _MOST_DEATHS:
                return None
            return f"an engine on the Ray cluster died {_MOST_DEATHS} times in a row; its last word: {actor.words}"

    def broke(self, name: str, why: str) -> None:
        """Store the error with which an actor's engine ended."""
        with self._changed:
            self._actors[name].words = why

    def begun(self, name: str, number: int) -> Alone | bool:
        """Note another try of a chunk.

        Returns:
            True to try it as a whole, an `Alone` to try its works one at a time, or False if it is answered or this
            actor is working on it already.
        """
        with self._changed:
            if number not in self._chunks:
                return False
            tries = self._tries[number]
            if name in tries.under_way:
                return False
            tries.under_way.add(name)
            tries.whole += 1
            return tries.whole <= _WHOLE_TRIES or Alone(tries=tries.alone.copy(), done=tries.done.copy())

    def begun_alone(self, name: str, number: int, asked: RequestId) -> str | None:
        """Note another try of a single work. Returns None, or the reason why it becomes a failure."""
        with self._changed:
            tries, actor = self._tries[number], self._actors[name]
            tries.alone[asked] = tries.alone.get(asked, 0) + 1
            others = actor.captions > tries.first.setdefault(asked, actor.captions)
            if tries.alone[asked] <= (_ALONE_TRIES if others else _MOST_ALONE_TRIES):
                return None
            return f"the engine died {tries.alone[asked] - 1} times with this clip alone; its last word: {actor.words}"

    def finished(self, name: str, number: int) -> None:
        """Note that an actor is done with a chunk."""
        with self._changed:
            if number in self._chunks:
                self._tries[number].under_way.discard(name)

    def went_through(self, name: str, number: int, captions: int, done: dict[RequestId, bytes]) -> None:
        """Note works that an actor survived: the number of answered requests, and pickled answers of single works."""
        with self._changed:
            actor = self._actors[name]
            actor.captions += captions
            if captions:  # if all are failures, the engine may not have been involved
                actor.deaths = 0
            if number in self._chunks:
                self._tries[number].done.update(done)
