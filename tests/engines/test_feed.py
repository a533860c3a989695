"""The feed: what is ready waits within bounds, in order, and errors come out where the engine waits."""

import threading
from collections.abc import Iterator

import pytest

from reelscribe.engines.feed import Feed


def doubled(item: int) -> str:
    return f"{item}" * 2


def feed_of(items: Iterator[int], *, max_waiting: int = 100, max_bytes: int = 100) -> Feed[int, str]:
    return Feed(items, doubled, size=len, max_waiting=max_waiting, max_bytes=max_bytes)


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


class TestFeed:
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

        with feed_of(broken()) as feed:
            waiting = feed.wait(2)
            assert waiting == ["11"]
            feed.take(waiting)
            assert feed.wait(0) == []
            with pytest.raises(OSError, match="the source broke"):
                feed.wait(1)

    def test_closing_stops_pulling(self) -> None:
        source = Source(1000)
        with feed_of(iter(source), max_waiting=1) as feed:
            feed.wait(1)
        assert source.taken <= 2
        assert not any(thread.name == "reelscribe-feed" for thread in threading.enumerate())
