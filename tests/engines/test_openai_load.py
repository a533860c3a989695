"""The engine for servers with many requests in flight, and where the server is busy or away."""

import gc
import logging
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import wait
from typing import Any

import pytest
from conftest import Prepare
from openai_asking import answers_of, at_first, load_openai, only_to, prompt_of, texts_of
from openai_server import Body, OpenAIServer, Reply, describe, refuse

from reelscribe.engines import openai
from reelscribe.errors import EngineError
from reelscribe.values import Failure, Generation, Work

pytestmark = pytest.mark.usefixtures("quick_and_alone")


# How many at once


def test_number_of_requests_in_flight_falls_when_the_server_has_too_much_and_grows_again(prepare: Prepare) -> None:
    seen: list[int] = []  # of each request, how many there were with it

    def answer(body: Body) -> Reply:
        with server.changed:
            number = len(seen)
            seen.append(server.now)
        if number < 8:  # all of the first window are here before any is answered
            server.wait_for(lambda: len(seen) >= 8)
            return refuse(429, "slow down")
        if number < 12:  # and so are all of the second
            server.wait_for(lambda: len(seen) >= 12)
        return describe(body)

    with OpenAIServer(answer) as server:
        answers = answers_of(load_openai(server), *(prepare(f"{n}") for n in range(60)))
    assert len([texts_of(made) for made in answers.values()]) == 60
    assert max(seen[:8]) == 8
    assert max(seen[8:12]) == 4
    assert max(seen[12:]) < 16


def test_number_of_requests_in_flight_grows_up_to_the_bound(prepare: Prepare) -> None:
    def answer(body: Body) -> Reply:
        if len(server.bodies) <= 30:  # a window is full before any of it is answered, and the bound is reached
            server.wait_for(lambda: server.now >= 6 or len(server.bodies) > 30)
        return describe(body)

    with OpenAIServer(answer) as server:
        answers_of(load_openai(server, max_concurrency=6), *(prepare(f"{n}") for n in range(40)))
        assert server.most == 6
        server.most = 0
        answers_of(load_openai(server, max_concurrency=1), *(prepare(f"{n}") for n in range(5)))
        assert server.most == 1


def test_no_more_is_pulled_than_can_be_kept_in_flight(prepare: Prepare) -> None:
    pulled: list[int] = []

    def requests() -> Iterator[Work]:
        for number in range(40):
            pulled.append(number)
            yield prepare(f"{number}")

    def answer(body: Body) -> Reply:
        server.wait_for(lambda: server.now == 2 or len(server.bodies) > 39)
        return describe(body)

    with OpenAIServer(answer) as server:
        answers = load_openai(server, max_concurrency=2).generate(requests())
        for count, _ in enumerate(answers, 1):
            assert len(pulled) <= count + 2
    assert len(pulled) == 40


def test_bytes_in_flight_are_bounded(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    def requests() -> Iterator[Work]:
        for number in range(6):
            assert number == len(answers), "one is always let through, and no more"
            yield prepare(f"{number}")

    answers: list[Generation | Failure] = []
    monkeypatch.setattr(openai, "_WINDOW_BYTES", 1)
    with OpenAIServer() as server:
        for answer in load_openai(server).generate(requests()):
            answers.append(answer)
    assert len(answers) == 6


def test_answers_are_handed_out_while_the_next_request_is_not_there(prepare: Prepare) -> None:
    answered = threading.Event()

    def requests() -> Iterator[Work]:
        yield from (prepare(key) for key in "ab")
        assert answered.wait(20), "the answers wait for a slow clip"
        yield prepare("c")

    with OpenAIServer() as server:
        answers = load_openai(server).generate(requests())
        assert {next(answers).id.task for _ in range(2)} == {"a", "b"}
        answered.set()
        assert [answer.id.task for answer in answers] == ["c"]


def test_what_is_finished_is_handed_out_before_the_run_stops(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    all_wait = threading.Event()

    def answer(body: Body) -> Reply:
        assert all_wait.wait(20)
        return refuse(401) if prompt_of(body) == "bad" else describe(body)

    def wait_for_all(futures: list[Any], **_: Any) -> None:
        if len(server.bodies) == 8:
            all_wait.set()  # so that all come at once
        wait(futures, None if all_wait.is_set() else 0.01)

    monkeypatch.setattr(openai, "wait", wait_for_all)
    with OpenAIServer(answer) as server:
        answers = load_openai(server).generate(prepare(f"{n}", prompt="bad" if n == 3 else "good") for n in range(8))
        assert sorted(next(answers).id.task for _ in range(7)) == list("0124567")
        with pytest.raises(EngineError, match="says 401"):
            next(answers)


def test_answers_come_as_they_are_finished(prepare: Prepare) -> None:
    done = threading.Event()

    def answer(body: Body) -> Reply:
        if prompt_of(body) == "slow":
            assert done.wait(20)
        return describe(body)

    with OpenAIServer(answer) as server:
        answers = load_openai(server).generate(prepare(key, prompt="slow" if key == "a" else "quick") for key in "abc")
        assert {next(answers).id.task, next(answers).id.task} == {"b", "c"}
        done.set()
        assert [made.id.task for made in answers] == ["a"]


def test_pixels_are_let_go_while_a_request_is_in_flight(prepare: Prepare) -> None:
    pixels: list[weakref.ref[object]] = []

    def requests() -> Iterator[Work]:
        for key in "abc":
            item = prepare(key)
            pixels.append(weakref.ref(item.frames))
            yield item
            del item

    def answer(body: Body) -> Reply:
        server.wait_for(lambda: len(server.bodies) == 3)
        gc.collect()
        alive.append(sum(frames() is not None for frames in pixels))
        return describe(body)

    alive: list[int] = []
    with OpenAIServer(answer) as server:
        assert len(list(load_openai(server).generate(requests()))) == 3
    assert alive == [0, 0, 0]


def test_requests_in_flight_are_dropped_when_nobody_wants_answers_any_more(prepare: Prepare) -> None:
    with OpenAIServer(only_to("bad", Reply(hang=True))) as server:
        answers = load_openai(server).generate(iter([prepare("a", prompt="bad"), prepare("b")]))
        assert isinstance(next(answers), Generation)
        threads = threading.active_count()
        answers.close()  # type: ignore[attr-defined]
        assert threading.active_count() < threads


# Servers that are busy or away


def test_all_requests_wait_as_long_as_the_server_asks_for(prepare: Prepare) -> None:
    answer = at_first(refuse(429, "slow down", Retry_After="0.2"))
    with OpenAIServer(answer) as server:
        answers = answers_of(load_openai(server, max_concurrency=1), *(prepare(f"{n}") for n in range(3)))
    assert all(texts_of(made) for made in answers.values())
    assert server.times[1] - server.times[0] >= 0.2


@pytest.mark.parametrize("retry_after", ["86400", "Thu, 01 Jan 2099 00:00:00 GMT"])
def test_longer_pause_than_there_is_patience_for_stops_the_run(prepare: Prepare, retry_after: str) -> None:
    reply = refuse(429, "quota used up", Retry_After=retry_after)
    with OpenAIServer(lambda _: reply) as server, pytest.raises(EngineError) as caught:
        answers_of(load_openai(server), *(prepare(f"{n}") for n in range(20)))
    told = str(caught.value)
    assert told.startswith("the server has given no answer for 0 s, and is to be left alone for ")
    assert told.endswith(" s more; retry_seconds is 300. the server says 429: quota used up.")


def test_server_that_comes_back_is_waited_for(prepare: Prepare, caplog: pytest.LogCaptureFixture) -> None:
    def answer(body: Body) -> Reply:
        if len(server.bodies) == 10:
            server.kill()
        return describe(body)

    class StartAgain(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "All requests wait" in record.getMessage():
                server.start()

    log, start_again = logging.getLogger("reelscribe.engines.gate"), StartAgain()
    log.addHandler(start_again)
    try:
        with OpenAIServer(answer) as server:
            answers = answers_of(load_openai(server), *(prepare(f"{n}") for n in range(40)))
    finally:
        log.removeHandler(start_again)
    assert len([texts_of(made) for made in answers.values()]) == 40
    assert any(
        "cannot be reached" in text and "All requests wait, for at most 300 s." in text for text in caplog.messages
    )
    assert "The server answers again." in caplog.messages


@pytest.mark.parametrize("status", [502, 503])
def test_server_that_is_away_is_tried_by_one_request_at_a_time(prepare: Prepare, status: int) -> None:
    away = 8
    seen: list[int] = []

    def answer(body: Body) -> Reply:
        with server.changed:
            number = len(seen)
            seen.append(server.now)
        if number < away:
            server.wait_for(lambda: len(seen) >= away)
            return refuse(status, "away")
        return refuse(status, "away") if number < away + 3 else describe(body)

    with OpenAIServer(answer) as server:
        answers = answers_of(load_openai(server), *(prepare(f"{n}") for n in range(20)))
    assert len([texts_of(made) for made in answers.values()]) == 20
    assert seen[away : away + 4] == [1, 1, 1, 1]
