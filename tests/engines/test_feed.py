"""Feeds: nothing that an engine has to say waits for a slow source; what is ready waits within bounds, in order."""

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from reelscribe.engines import feed as module
from reelscribe.engines.feed import Feed, ReadyItems, feeding


def doubled(item: int) -> str:
    return f"{item}" * 2


@contextmanager
def feed_of(items: Iterator[int], *, max_waiting: int = 100, max_bytes: int = 100) -> Iterator[ReadyItems[int, str]]:
    """What is ready of numbers."""
    ready = ReadyItems
    with feeding(items) as feed, ready(feed, doubled, size=len, max_waiting=max_waiting, max_bytes=max_bytes) as made:
        yield made


class Source:
    """Numbers, and how many were taken; each can be waited for."""

    def __init__(self, count: int) -> None:
        self.taken = 0
        self._count = count
        self._changed = threading.Condition()

    def __iter__(self) -> Iterator[int]:
        for number in range(self._count):
            with self._changed:
                self.taken += 1
                self._changed.notify_all()
            yield number

    def wait_for(self, taken: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.taken >= taken, timeout=10)


class Slow:
    """A source whose items come when the test says so."""

    def __init__(self) -> None:
        self._given = threading.Semaphore(0)
        self.asked = threading.Event()
        self.closed = threading.Event()
        self.count = 0

    def __iter__(self) -> Iterator[int]:
        try:
            while True:
                self.asked.set()
                assert self._given.acquire(timeout=20)
                self.count += 1
                yield self.count
        finally:
            self.closed.set()

    def give(self, count: int = 1) -> None:
        self._given.release(count)


class TestFeed:
    def test_nothing_is_pulled_before_it_is_asked_for(self) -> None:
        source = Source(10)
        with Feed(iter(source)) as feed:
            assert feed.pull().result(10) == 0
            assert feed.pull().result(10) == 1
        assert source.taken == 2

    def test_it_iterates_and_ends_as_its_items_do(self) -> None:
        with Feed(iter(range(3))) as feed:
            assert list(feed) == [0, 1, 2]
            assert next(feed, None) is None
            assert feed.pull().result(10) is None
            assert not feed.paused

    def test_who_asks_does_not_wait_for_a_slow_source(self) -> None:
        source = Slow()
        with Feed(iter(source)) as feed:
            pull = feed.pull()
            assert source.asked.wait(10)
            assert not pull.done()
            source.give()
            assert pull.result(10) == 1

    def test_an_iteration_pauses_only_while_answers_are_owed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.01)
        source, owed = Slow(), threading.Event()
        asked = iter([False, False, True])  # an engine with threads of its own may come to owe some while one waits

        def owes() -> bool:
            if next(asked, True):
                owed.set()
            return owed.is_set()

        with Feed(iter(source), owes=owes) as feed:
            assert list(feed) == []
            assert feed.paused
            assert owed.is_set()
            assert list(feed) == [], "until it is resumed"
            source.give(2)
            feed.resume()
            assert [next(feed), next(feed)] == [1, 2], "nothing is lost"

    def test_an_iteration_pauses_at_once_while_the_source_waits_for_answers(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_PATIENCE_SECONDS", 1000)
        answered = threading.Event()

        def source() -> Iterator[int]:
            yield 1
            with feed.holding():
                assert answered.wait(20)
            yield 2

        with Feed(source(), owes=lambda: not answered.is_set()) as feed:
            assert list(feed) == [1]
            assert feed.paused
            answered.set()
            feed.resume()
            assert list(feed) == [2]

    def test_an_error_of_the_source_ends_the_items_and_is_told(self) -> None:
        def broken() -> Iterator[int]:
            yield 1
            raise OSError("the source broke")

        with Feed(broken()) as feed:
            assert list(feed) == [1]
            assert str(feed.error) == "the source broke"
            assert feed.pull().result(10) is None
        with pytest.raises(OSError, match="the source broke"), feeding(broken()) as fed:
            assert list(fed) == [1]
        with feeding(feed) as same:
            assert same is feed

    def test_closing_does_not_wait_for_a_source_that_cannot_be_cancelled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_END_SECONDS", 0.01)
        source = Slow()
        with Feed(iter(source)) as feed:
            pull = feed.pull()
            assert source.asked.wait(10)
        assert not pull.done()
        assert not source.closed.is_set()
        source.give()
        assert source.closed.wait(10), "its thread closes it as soon as it can"
        assert feed.pull().result(10) is None

    def test_closing_cancels_a_pull_and_closes_the_source(self) -> None:
        source = Slow()
        with Feed(iter(source), cancel=source.give) as feed:
            feed.pull()
            assert source.asked.wait(10)
        assert source.closed.wait(10)
        assert not any(thread.name == "reelscribe-feed" for thread in threading.enumerate())

    def test_items_are_let_go_of_when_they_are_taken(self) -> None:
        class Item:
            pass

        with Feed(Item() for _ in range(2)) as feed:
            first = weakref.ref(next(feed))
            assert next(feed)
            assert first() is None

    def test_who_takes_times_is_called_around_each_pull(self) -> None:
        seen: list[int | None] = []

        def watch(pull: Callable[[], int | None]) -> int | None:
            seen.append(pull())
            return seen[-1]

        with Feed(iter(range(2))) as feed:
            feed.around = watch
            assert list(feed) == [0, 1]
        assert seen == [0, 1, None]


class TestReadyItems:
    def test_what_is_ready_comes_in_order_and_stays_until_it_is_taken(self) -> None:
        with feed_of(iter(range(3))) as feed:
            assert feed.wait(3) == ["00", "11", "22"]
            feed.take(["11"])  # an equal text is not the same item
            waiting = feed.wait(3)
            feed.take(waiting[1:2])
            assert feed.wait(0) == ["00", "22"]

    def test_it_does_not_wait_for_more_than_there_is(self) -> None:
        with feed_of(iter(range(2))) as feed:
            assert feed.wait(5) == ["00", "11"]
            assert feed.ended
            feed.take(feed.wait(5))
            assert feed.wait(1) == []

    @pytest.mark.parametrize("bounds", [{"max_waiting": 2}, {"max_bytes": 4}])
    def test_no_more_than_the_bound_is_pulled(self, bounds: dict[str, int]) -> None:
        source = Source(10)
        with feed_of(iter(source), **bounds) as feed:
            waiting = feed.wait(10)
            assert len(waiting) == 2
            assert source.taken == 2
            feed.take(waiting[:1])
            source.wait_for(3)
            assert feed.wait(10) == ["11", "22"]
            assert not feed.ended

    def test_one_item_may_wait_whatever_its_size(self) -> None:
        with feed_of(iter(range(3)), max_bytes=1) as feed:
            assert feed.wait(1) == ["00"]

    def test_an_error_comes_to_who_waits_once_the_items_before_it_are_taken(self) -> None:
        def broken() -> Iterator[int]:
            yield 1
            raise OSError("the source broke")

        def run() -> None:
            with feed_of(broken()) as feed:
                waiting = feed.wait(2)
                assert waiting == ["11"]
                feed.take(waiting)
                assert feed.wait(0) == []
                assert feed.wait(1) == []
                assert feed.ended

        with pytest.raises(OSError, match="the source broke"):
            run()

    def test_an_item_that_cannot_be_made_ready_is_told_where_the_engine_waits(self) -> None:
        def make(item: int) -> str:
            return f"{1 // (2 - item)}"

        with feeding(iter(range(5))) as feed, ReadyItems(feed, make, size=len, max_waiting=9, max_bytes=9) as ready:
            waiting = ready.wait(5)
            assert waiting == ["0", "1"]
            ready.take(waiting)
            with pytest.raises(ZeroDivisionError):
                ready.wait(1)

    def test_fewer_are_enough_once_none_has_come_for_long(self) -> None:
        source = Slow()
        with feed_of(iter(source)) as feed:
            source.give(2)
            assert feed.wait(2) == ["11", "22"]
            assert feed.wait(5, patience_seconds=0.01) == ["11", "22"]
            assert not feed.ended
            source.give(3)
            assert len(feed.wait(5, patience_seconds=20)) == 5
            source.give()  # for the pull that is under way

    def test_what_waits_is_dropped_once_nobody_wants_it(self) -> None:
        dropped = threading.Event()
        with (
            Feed(iter(range(9)), drop=dropped.is_set) as feed,
            ReadyItems(feed, str, size=len, max_waiting=3, max_bytes=9) as ready,
        ):
            assert ready.wait(3) == ["0", "1", "2"]
            assert feed.num_waiting == 3
            dropped.set()
            assert (ready.wait(1), ready.ended) == ([], True)

    def test_closing_stops_pulling(self) -> None:
        source = Source(1000)
        with feed_of(iter(source), max_waiting=1) as feed:
            feed.wait(1)
        assert source.taken <= 2
        assert not any(thread.name == "reelscribe-feed" for thread in threading.enumerate())
