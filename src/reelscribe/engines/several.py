"""Several engines as one: a text stage or a judge may have a model of its own, and a model may have replicas.

Each engine has a lane: a thread in which it pulls works when it has room for them, and answers them.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from queue import SimpleQueue

from reelscribe.engines.base import Engine
from reelscribe.engines.feed import Feed, answers_to, feeding
from reelscribe.values import Failure, Generation, Work

_END_SECONDS = 1.0
"""How long closing a lane waits for its thread. The engine may be in the middle of a step."""


class SeveralEngines:
    """Gives each work to the engine of its task.

    Args:
        main: the engine for all tasks without one of their own. Videos are decoded for it.
        others: the engines of the other tasks, by name of the task.
    """

    def __init__(self, main: Engine, others: Mapping[str, Engine]) -> None:
        self._main, self._others = main, dict(others)
        infos = {task: engine.info for task, engine in others.items()}
        self.info = replace(main.info, gpus=main.info.gpus + sum(info.gpus for info in infos.values()), others=infos)

    def generate(self, works: Iterator[Work]) -> Iterator[Generation | Failure]:
        """Answer as the engines do."""

        def choose(work: Work, lanes: "Sequence[Lane]") -> "Lane":
            main, *others = lanes
            return dict(zip(self._others, others, strict=True)).get(work.requests[0].id.task, main)

        yield from in_lanes(works, [self._main, *self._others.values()], choose)

    def close(self) -> None:
        """Close all engines that can be closed."""
        close_all([self._main, *self._others.values()])


def close_all(engines: Iterable[Engine]) -> None:
    """Close the engines that have a `close` method."""
    for engine in engines:
        end = getattr(engine, "close", None)
        if end:
            end()


def in_lanes(
    works: Iterator[Work], engines: Sequence[Engine], choose: "Callable[[Work, Sequence[Lane]], Lane]"
) -> Iterator[Generation | Failure]:
    """Answer works with several engines at once.

    Args:
        works: the works to answer.
        engines: the engines, each of which gets a thread of its own.
        choose: chooses the lane for a work. The lanes are in the order of the engines.

    Raises:
        BaseException: what one of the engines raised.
    """
    news: SimpleQueue[_News] = SimpleQueue()
    pull: Future[Work | None] | None = None
    ended = False
    with feeding(works) as feed:
        lanes = [Lane(engine, news, feed.drop) for engine in engines]
        try:
            while any(lane.runs for lane in lanes):
                if pull is None and not ended and any(lane.lacks > 0 for lane in lanes):
                    pull = feed.pull()
                    pull.add_done_callback(news.put)
                new = news.get()
                if isinstance(new, Future):
                    work, pull = new.result(), None
                    ended = work is None
                    for lane in lanes if work is None else [choose(work, lanes)]:
                        lane.give(work)
                    del work, new  # they hold the pixels, whose memory must not wait for the next event
                elif isinstance(new, Lane):
                    new.look()
                else:
                    yield new
        finally:
            for lane in lanes:
                lane.close()


class Lane:
    """The thread of one engine, with the queue of its works.

    Args:
        engine: the engine.
        news: the queue for its answers. The lane puts itself there if the engine wants a work or has ended.
        drop: whether the engine should discard works that it has not begun; see `Feed`.
    """

    def __init__(self, engine: Engine, news: "SimpleQueue[_News]", drop: Callable[[], bool]) -> None:
        self._engine, self._news, self._drop = engine, news, drop
        self._works: SimpleQueue[Work | None] = SimpleQueue()
        self._owed = 0
        self._wanted = self._given = 0
        self._closed = self._ended = False
        self._error: BaseException | None = None
        self.runs = True
        """Whether more answers may come."""
        self._thread = threading.Thread(target=self._run, name="reelscribe-lane", daemon=True)
        self._thread.start()

    @property
    def lacks(self) -> int:
        """The number of works that the engine has asked for and not got."""
        return self._wanted - self._given

    def give(self, work: Work | None) -> None:
        """Give the engine a work, or None at the end."""
        self._given += 1
        self._works.put(work)

    def look(self) -> None:
        """Update `runs`.

        Raises:
            BaseException: what the engine raised.
        """
        self.runs = not self._ended
        if self._error:
            raise self._error

    def close(self) -> None:
        """Give up the works that are not answered, and wait for the thread for at most `_END_SECONDS`."""
        self._closed = True
        self._works.put(None)
        self._thread.join(_END_SECONDS)

    def _pulled(self) -> Iterator[Work]:
        while not self._closed:
            self._wanted += 1
            self._news.put(self)
            work = self._works.get()
            if work is None:
                return
            self._owed += len(work.requests)
            yield work

    def _run(self) -> None:
        try:
            with (
                Feed(
                    self._pulled(),
                    owes=lambda: self._owed > 0,
                    cancel=lambda: self._works.put(None),
                    drop=self._drop,
                ) as feed,
                closing(answers_to(self._engine, feed)) as answers,
            ):
                for answer in answers:
                    self._owed -= 1
                    self._news.put(answer)
                    if self._closed:
                        break
        except BaseException as exc:  # raised again where the answers are waited for
            self._error = exc
        self._ended = True
        self._news.put(self)


_News = Generation | Failure | Future[Work | None] | Lane
