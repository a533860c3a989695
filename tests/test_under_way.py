"""Requests under way: what the engine has, and who waits for answers."""

import threading
from collections.abc import Iterator

import pytest
from flow import named, request

from reelscribe.config import Settings
from reelscribe.errors import EngineError, SettingsError
from reelscribe.under_way import InFlight, Pausing, Tries
from reelscribe.values import Failure, Request


def _failed(key: str) -> Failure:
    return Failure(id=named(key), video=None, kind="engine", message="no")


def test_who_waits_for_room_does_not_give_up_while_an_answer_is_taken() -> None:
    """The rows that it finishes are what makes room."""
    in_flight = InFlight()
    in_flight.add(request(key="a"), {})
    looked, room = threading.Event(), threading.Event()
    looks = []

    def enough() -> bool:
        looks.append(room.is_set())
        looked.set()
        return room.is_set()

    in_flight.take(_failed("a"))
    waiting = threading.Thread(target=in_flight.wait, args=(enough,))
    waiting.start()
    assert looked.wait(10)
    room.set()
    in_flight.tell()
    waiting.join(10)
    assert looks == [False, True]


def test_who_waits_for_room_gives_up_where_no_answer_is_to_come_or_nobody_wants_it() -> None:
    in_flight = InFlight()
    in_flight.wait(lambda: False)
    in_flight.add(request(key="a"), {})
    in_flight.cancel()
    in_flight.wait(lambda: False)
    assert in_flight.cancelled.is_set()
    assert [asked.id.task for asked in in_flight.clear()] == ["a"]


def test_answers_are_those_that_were_asked_for_once() -> None:
    in_flight = InFlight()
    in_flight.add(request(key="a"), {"video_tokens": 3})
    assert in_flight.take(_failed("a"))[1] == {"video_tokens": 3}
    for key in ("a", "b"):
        asked = f"{key} of video 0 of row 0"
        with pytest.raises(EngineError, match=f"the engine answered {asked}, which it was not asked, or had answered"):
            in_flight.take(_failed(key))


class _Pausing(Iterator[Request]):
    """Gives one request at a time, then pauses."""

    def __init__(self, count: int) -> None:
        self.paused, self._keys = True, [str(number) for number in range(count)]

    def has_room(self) -> bool:
        return bool(self._keys)

    def __next__(self) -> Request:
        self.paused = not self.paused and bool(self._keys)
        if self.paused or not self._keys:
            raise StopIteration
        return request(key=self._keys.pop(0))


def test_requests_that_pause_go_on_and_leave_in_order() -> None:
    source = _Pausing(2)
    assert isinstance(source, Pausing)
    tries = Tries(source, Settings(), None)
    [first] = tries
    assert tries.paused
    assert tries.go_on()
    [second] = tries
    assert list(tries) == []
    assert not tries.paused
    tries.settle(second, _failed("1"))
    assert list(tries.finished()) == []
    tries.settle(first, _failed("0"))
    assert [outcome.id.task for outcome in tries.finished()] == ["0", "1"]
    assert not tries.begin_again()


def test_a_key_may_come_again_only_once_its_outcome_has_left() -> None:
    tries = Tries((request(key="a") for _ in range(4)), Settings(), None)
    first = next(tries)
    with pytest.raises(SettingsError, match="two requests have the name a of video 0 of row 0"):
        next(tries)
    tries.settle(first, _failed("a"))
    with pytest.raises(SettingsError, match="two requests have the name a of video 0 of row 0"):
        next(tries)
    assert len(list(tries.finished())) == 1
    assert next(tries).id.task == "a"
