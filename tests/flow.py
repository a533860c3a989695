"""What tests of the flow share: one plain clip, rows, and an engine that answers as a test tells it to."""

import functools
import itertools
import json
import queue
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reelscribe.demo import write_clip
from reelscribe.engines.base import ModelInfo
from reelscribe.engines.feed import feeding
from reelscribe.models.shapes.scenes import random_scene
from reelscribe.runners import on_demand
from reelscribe.runners.progress import Progress
from reelscribe.values import (
    Candidate,
    Clip,
    Failure,
    Frames,
    Generation,
    InputRow,
    Request,
    RequestId,
    Row,
    Work,
)
from reelscribe.video.sampling import VisionLimits

VIDEO, EOC = "<__dj__video>", "<|__dj__eoc|>"
Answer = tuple[Candidate, ...] | Failure | None


@functools.cache
def clip_bytes() -> bytes:
    """A whole video file: 64x48, 8 frames in one second."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clip.mp4"
        write_clip(file, random_scene(np.random.default_rng(1)), width=64, height=48, fps=8, seconds=1)
        return file.read_bytes()


def put_clip(file: Path) -> Path:
    """Write the plain clip to a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(clip_bytes())
    return file


def put_rows(file: Path, rows: Iterable[Row]) -> Path:
    """Write rows as JSON Lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return file


def read_rows_of(file: Path | str) -> list[Row]:
    """Read rows from JSON Lines."""
    return [json.loads(line) for line in Path(file).read_text("utf-8").splitlines()]


def as_input(rows: Iterable[Row], root: Path | None = None) -> list[InputRow]:
    """Rows as a reader gives them."""
    return [InputRow(index=number, row=row, root=root) for number, row in enumerate(rows)]


def named(name: str) -> RequestId:
    """A name for a request that is of no row."""
    return RequestId(row=0, task=name)


def request(key: str = "0", **changes: Any) -> Request:
    """A request of this name, with a good clip."""
    told: dict[str, Any] = {"id": named(key), "clip": Clip(source=clip_bytes()), "prompt": "What happens?"}
    return Request(**told | changes)


def prepared(**changes: Any) -> Work:
    """A request with four black frames of 64x32."""
    frames = Frames(
        pixels=np.zeros((4, 32, 64, 3), np.uint8),
        timestamps=(0.0, 0.5, 1.0, 1.5),
        duration_seconds=2.0,
        video_tokens=4,
    )
    return Work(requests=(request(**changes),), frames=frames)


def said(*texts: str) -> tuple[Candidate, ...]:
    """Candidates with these texts; a text that ends in "..." was cut off."""
    return tuple(
        Candidate(text=text, stop_reason="length" if text.endswith("...") else "stop", num_tokens=len(text.split()))
        for text in texts
    )


class SlowRequests(Iterator[Request]):
    """Requests that come when a test says so; beside a fast engine a source as slow as can be."""

    def __init__(self, *requests: Request) -> None:
        self._requests = list(requests)
        self._given = threading.Semaphore(0)
        self.waited_for = threading.Event()
        """Set once none is there that is asked for."""

    def __next__(self) -> Request:
        if not self._requests:
            raise StopIteration
        if not self._given.acquire(blocking=False):
            self.waited_for.set()
            assert self._given.acquire(timeout=20), "nobody gave the next request"
        return self._requests.pop(0)

    def give(self, count: int = 1) -> None:
        """Let this many more come."""
        self._given.release(count)


def fail_at(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: Exception, *, calls: Container[int] = (1,)
) -> list[int]:
    """Let a function raise an error in some of its calls, counted from 1. Returns: the calls that failed, so far."""
    function, failed = getattr(owner, name), list[int]()
    numbers = itertools.count(1)

    def failing(*args: Any, **kwargs: Any) -> Any:
        if (number := next(numbers)) in calls:
            failed.append(number)
            raise error
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, failing)
    return failed


class ScriptedEngine:
    """Takes requests in batches, and answers each batch from its end.

    Args:
        answer: makes the candidates of a request, or a failure; None leaves the request without an answer.
        batch_size: requests that it takes at once.
    """

    def __init__(self, answer: Callable[[Work], Answer], *, batch_size: int = 1) -> None:
        self.info = ModelInfo(engine="scripted", model="a script", revision="1", limits=VisionLimits())
        self._answer = answer
        self._batch_size = batch_size

    def generate(self, requests: Iterator[Work]) -> Iterator[Generation | Failure]:
        while batch := list(itertools.islice(requests, self._batch_size)):
            for item in reversed([one for work in batch for one in work.singly()]):
                made = self._answer(item)
                if isinstance(made, Failure):
                    yield made
                elif made is not None:
                    yield Generation(id=item.requests[0].id, candidates=made, prompt_tokens=10)


class KeepingEngine(ScriptedEngine):
    """Keeps requests under way, as an engine that batches does: it answers the oldest only when it has enough of them.

    Args:
        answer: as for `ScriptedEngine`.
        most: requests that it has at once.
    """

    def __init__(self, answer: Callable[[Work], Answer], *, most: int = 1000) -> None:
        super().__init__(answer)
        self._most = most
        self.streams = 0
        """That were begun."""

    def generate(self, requests: Iterator[Work]) -> Iterator[Generation | Failure]:
        self.streams += 1
        kept: deque[Work] = deque()
        for item in requests:
            kept.append(item)
            if len(kept) >= self._most:
                yield from super().generate(iter([kept.popleft()]))
        yield from super().generate(iter(kept))


class AskingEngine(ScriptedEngine):
    """Asks the feed for a request, and answers those that it has while none has come: as our own engines do."""

    def __init__(self, answer: Callable[[Work], Answer]) -> None:
        super().__init__(answer)
        self.streams = 0
        """That were begun."""

    def generate(self, requests: Iterator[Work]) -> Iterator[Generation | Failure]:
        self.streams += 1
        kept: deque[Work] = deque()
        with feeding(requests) as feed:
            pull = feed.pull()
            while True:
                wait([pull], 0 if kept else None)
                if not pull.done():
                    yield from super().generate(iter([kept.popleft()]))
                elif item := pull.result():
                    kept.append(item)
                    pull = feed.pull()
                else:
                    break
            yield from super().generate(iter(kept))


class ThreadedEngine(ScriptedEngine):
    """Pulls in a thread of its own, as far as a queue has room, and answers in batches, each from its end."""

    def generate(self, requests: Iterator[Work]) -> Iterator[Generation | Failure]:
        waiting: queue.Queue[Work | None] = queue.Queue(3)

        def pull() -> None:
            for item in itertools.chain(requests, [None]):
                waiting.put(item)

        thread = threading.Thread(target=pull)
        thread.start()
        pulled = iter(waiting.get, None)
        yield from super().generate(pulled)
        thread.join()


def wait_for_progress(monkeypatch: pytest.MonkeyPatch, owner: Any, printer: str, word: str) -> None:
    """Let the command have an engine that answers its second row once a word was printed after the first, and so on.

    Args:
        monkeypatch: of the test.
        owner: has the function that prints.
        printer: its name there.
        word: in what tells of progress.
    """
    told = threading.Semaphore(0)
    real = getattr(owner, printer)

    def show(text: str, **options: Any) -> None:
        real(text, **options)
        if word in text:
            told.release()

    def answer(item: Work) -> tuple[Candidate, ...]:
        if item.requests[0].id.row != 0:
            assert told.acquire(timeout=60)
        return said("one two three")

    monkeypatch.setattr(owner, printer, show)
    monkeypatch.setattr(Progress, "LINE_SECONDS", 0.02)
    monkeypatch.setattr(on_demand, "load_engine", lambda _: ScriptedEngine(answer))
