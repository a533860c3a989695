"""Requests under way: what the engine has, and who waits for answers."""

import threading
from collections.abc import Iterable
from typing import Any

import pytest
from flow import named, request, said

from reelscribe.config import Settings
from reelscribe.errors import EngineError, SettingsError
from reelscribe.schemas import Facts
from reelscribe.under_way import InFlight, Queue, RequestEntry
from reelscribe.values import Answer, Failure, Work


def _said(key: str, *, faults: list[str]) -> Answer:
    meta = {"faults": faults, "seed": 1, "tries": 1}
    return Answer(id=named(key), candidates=said("a sheep"), meta=meta)


def _failed(key: str) -> Failure:
    return Failure(id=named(key), video=None, kind="engine", message="no")


def test_who_waits_for_room_does_not_give_up_while_an_answer_is_taken() -> None:
    """The rows that it finishes are what makes room."""
    in_flight = InFlight()
    in_flight.add(request(key="a"), {}, Facts())
    looked, room = threading.Event(), threading.Event()
    looks = []

    def enough() -> bool:
        looks.append(room.is_set())
        looked.set()
        return room.is_set()

    in_flight.take(named("a"))
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
    in_flight.add(request(key="a"), {}, Facts())
    in_flight.cancel()
    in_flight.wait(lambda: False)
    assert in_flight.cancelled()
    assert [asked.id.task for asked in in_flight.clear()] == ["a"]


def test_answers_are_those_that_were_asked_for_once() -> None:
    in_flight = InFlight()
    asked, facts = request(key="a"), Facts(fps=25.0)
    in_flight.add(asked, {"video_tokens": 3}, facts)
    assert in_flight.take(named("a")) == (asked, {"video_tokens": 3}, facts)
    for key in ("a", "b"):
        name = f"{key} of video 0 of row 0"
        with pytest.raises(EngineError, match=f"the engine answered {name}, which it was not asked, or had answered"):
            in_flight.take(named(key))


def _queue(*keys: str, max_entries: int = 4, **settings: Any) -> Queue[RequestEntry]:
    return Queue((RequestEntry(request(key=key)) for key in keys), Settings(**settings), max_entries=max_entries)


def _names(works: Iterable[Work]) -> list[str]:
    return [asked.id.task for work in works for asked in work.requests]


def test_works_that_run_out_for_want_of_room_go_on_once_some_have_left_in_order() -> None:
    queue = _queue(*"abc", max_entries=2)
    assert _names(queue) == ["a", "b"]
    assert not queue.ended
    assert not queue.go_on()
    queue.settle(_failed("b"))
    assert list(queue.finished()) == []
    queue.settle(_failed("a"))
    assert [entry.outcome().id.task for entry in queue.finished()] == ["a", "b"]
    assert queue.go_on()
    assert _names(queue) == ["c"]
    assert queue.ended
    queue.settle(_failed("c"))
    assert not queue.begin_again()


def test_what_follows_goes_before_what_is_new_and_is_waited_for_at_the_end() -> None:
    queue = _queue("a", "b", retry_flagged=True)
    assert _names([next(queue)]) == ["a"]
    queue.settle(_said("a", faults=["loop"]))
    assert _names(queue) == ["a", "b"]
    assert not queue.ended, "more may follow"
    queue.settle(_said("a", faults=["loop"]))
    queue.settle(_said("b", faults=[""]))
    assert _names(queue) == []
    assert queue.ended
    assert [entry.outcome().id.task for entry in queue.finished()] == ["a", "b"]


def test_a_name_may_come_again_only_once_it_is_settled() -> None:
    queue = _queue(*"aaa")
    assert _names([next(queue)]) == ["a"]
    with pytest.raises(SettingsError, match="two requests have the name a of video 0 of row 0"):
        next(queue)
    queue.settle(_failed("a"))
    assert _names([next(queue)]) == ["a"]
