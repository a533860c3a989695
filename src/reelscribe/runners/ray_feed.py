"""The feed of a run on Ray: chunks of works until they are answered, and how often each was tried.

It outlives the actors that make answers (`ray_stage.py`), so it keeps count: a work at which actors end each time is
given up, and an actor that ends again and again ends the run.
"""

import threading
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

from reelscribe.values import RequestId

_WHOLE_TRIES: Final = 2
"""Of a chunk as one, before its works are tried one at a time."""
_ALONE_TRIES: Final = 2
"""Of such a work, where others went through since the first of them. One time may be chance: a node that goes."""
_MOST_ALONE_TRIES: Final = 3
"""Of such a work, where there are no others."""
_MOST_DEATHS: Final = 10
"""Of an actor, with nothing answered between: then it is no clip's doing."""
_NO_WORD: Final = "it left no word; see Ray's logs"


@dataclass(frozen=True, kw_only=True)
class Alone:
    """How the works of a chunk are to be tried one at a time."""

    tries: dict[RequestId, int]
    """Those that there were, by work."""
    done: dict[RequestId, bytes]
    """Answers that are known, pickled, likewise."""


@dataclass(kw_only=True)
class _Actor:
    """What is known of an actor; its name survives its deaths."""

    starts: int = 0
    deaths: int = 0
    """Since it last answered anything."""
    captions: int = 0
    words: str = _NO_WORD
    """The last that it left."""


@dataclass(kw_only=True)
class _Tries:
    """Those of a chunk."""

    whole: int = 0
    alone: dict[RequestId, int] = field(default_factory=dict)
    first: dict[RequestId, int] = field(default_factory=dict)
    """How much the actor had answered when a work was first tried alone."""
    done: dict[RequestId, bytes] = field(default_factory=dict)
    under_way: set[str] = field(default_factory=set)
    """Actors that have it."""


class Feed:
    """Chunks by number, until they are answered. An actor beside the run, whose methods are called from threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._chunks: dict[int, bytes] = {}
        self._places: list[int] = []
        """Numbers of chunks, in the order in which they are read."""
        self._closed = self._dropped = self._stopping = False
        self._tries: defaultdict[int, _Tries] = defaultdict(_Tries)
        self._actors: defaultdict[str, _Actor] = defaultdict(_Actor)

    def put(self, number: int, chunk: bytes) -> None:
        """Take the next chunk."""
        with self._changed:
            self._chunks[number] = chunk
            self._places.append(number)
            self._changed.notify_all()

    def offer_again(self) -> int:
        """Let what is not answered be read once more. Returns: the place where it begins."""
        with self._changed:
            first = len(self._places)
            self._places += sorted(self._chunks)
            self._changed.notify_all()
            return first

    def answered(self, number: int) -> None:
        """Forget a chunk."""
        with self._changed:
            self._chunks.pop(number, None)
            self._tries.pop(number, None)

    def stop(self) -> list[int]:
        """Let actors begin nothing more. Returns: the chunks that none of them has begun, which are forgotten."""
        with self._changed:
            self._stopping = True
            waiting = [number for number in self._chunks if not self._tries[number].under_way]
            for number in waiting:
                self.answered(number)
            return waiting

    def is_stopping(self) -> bool:
        """Whether actors are to begin nothing more."""
        return self._stopping

    def close(self, *, drop: bool = False) -> None:
        """No more will come; with `drop`, not even what is here."""
        with self._changed:
            self._closed, self._dropped = True, drop
            self._changed.notify_all()

    def get(self, place: int) -> tuple[int, bytes] | None:
        """Number and content of a chunk, once it is there: empty if it is answered, None after the last one."""
        with self._changed:
            self._changed.wait_for(lambda: place < len(self._places) or self._closed)
            if self._dropped or place >= len(self._places):
                return None
            number = self._places[place]
            return number, self._chunks.get(number, b"")

    # What actors tell; each call begins with their names.

    def started(self, name: str) -> str | None:
        """Take note that an actor starts. Returns: why the run should rather end, if so."""
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
        """Keep the last words of an engine."""
        with self._changed:
            self._actors[name].words = why

    def begun(self, name: str, number: int) -> Alone | bool:
        """Take note of another try of a chunk. Returns: how; False where it is answered, or this actor has it."""
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
        """Take note of another try of a single work. Returns: why it is to be given up, if so."""
        with self._changed:
            tries, actor = self._tries[number], self._actors[name]
            tries.alone[asked] = tries.alone.get(asked, 0) + 1
            others = actor.captions > tries.first.setdefault(asked, actor.captions)
            if tries.alone[asked] <= (_ALONE_TRIES if others else _MOST_ALONE_TRIES):
                return None
            return f"the engine died {tries.alone[asked] - 1} times with this clip alone; its last word: {actor.words}"

    def finished(self, name: str, number: int) -> None:
        """Take note that an actor is done with a chunk."""
        with self._changed:
            if number in self._chunks:
                self._tries[number].under_way.discard(name)

    def went_through(self, name: str, number: int, captions: int, done: dict[RequestId, bytes]) -> None:
        """Take note of what did not end an actor: how much it answered, and the answers of single works."""
        with self._changed:
            actor = self._actors[name]
            actor.captions += captions
            if captions:  # else the engine may have had no part
                actor.deaths = 0
            if number in self._chunks:
                self._tries[number].done.update(done)
