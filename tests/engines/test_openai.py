"""The engine for servers, against a real one on a loopback port."""

import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from clips import write_audio
from conftest import Prepare
from flow import clip_bytes, put_clip, put_rows, read_rows_of
from openai_server import Body, OpenAIServer, Reply, describe, refuse, say

from reelscribe import cli
from reelscribe.config import Settings
from reelscribe.engines import load_engine, openai
from reelscribe.engines.openai import OpenAIEngine
from reelscribe.errors import EngineError, SettingsError
from reelscribe.runners.local import run
from reelscribe.schema import NO_FRAMES, CaptionRequest, Clip, Failure, Generation, PreparedRequest

Make = Callable[..., PreparedRequest]


@pytest.fixture(autouse=True)
def _quick_and_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "BACK_OFF_SECONDS", 0.002)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def _load(server: OpenAIServer, **settings: Any) -> OpenAIEngine:
    told: dict[str, Any] = {"engine": "openai", "base_url": server.url, "model": "some-model", **settings}
    engine = load_engine(Settings(**told))
    assert isinstance(engine, OpenAIEngine)
    return engine


def _answers(engine: OpenAIEngine, *requests: PreparedRequest) -> dict[str, Generation | Failure]:
    return {answer.key: answer for answer in engine.generate(iter(requests))}


def _texts(answer: Generation | Failure) -> list[str]:
    assert isinstance(answer, Generation), answer
    return [candidate.text for candidate in answer.candidates]


def _problem(answer: Generation | Failure) -> str:
    assert isinstance(answer, Failure), answer
    assert answer.kind == "engine"
    return answer.message


def _prompt(body: Body) -> str:
    return str(body["messages"][-1]["content"][-1]["text"])


def _only(prompt: str, reply: Reply) -> Callable[[Body], Reply]:
    """Answers so to this prompt, and well to others."""
    return lambda body: reply if _prompt(body) == prompt else describe(body)


def _at_first(*replies: Reply) -> Callable[[Body], Reply]:
    """Gives these replies one after another, then good ones."""
    waiting = iter(replies)
    return lambda body: next(waiting, None) or describe(body)


# At the start


def test_model_is_looked_for_on_the_server() -> None:
    with OpenAIServer(models=("other", "some-model")) as server:
        assert _load(server).info.model == "some-model"
        with pytest.raises(EngineError, match=r"127\.0\.0\.1:\d+/v1 has no model 'gone'; it has other, some-model\.$"):
            _load(server, model="gone")


def test_only_model_of_a_server_is_taken_where_nobody_chose_one(prepare: Prepare) -> None:
    with OpenAIServer(models=("org/only",)) as server:
        engine = _load(server, model=Settings().model)
        assert engine.info.model == "org/only"
        _answers(engine, prepare("a"))
    assert server.bodies[0]["model"] == "org/only"


def test_default_model_is_not_guessed_where_there_are_several() -> None:
    with OpenAIServer(models=tuple(f"m{n}" for n in range(12))) as server, pytest.raises(EngineError) as caught:
        _load(server, model=Settings().model)
    assert "it has m0, m1, m2, m3, m4, m5, m6, m7, m8, m9 and 2 more." in str(caught.value)


def test_server_without_a_list_of_models_is_asked_for_the_one_that_is_named(prepare: Prepare) -> None:
    with OpenAIServer(models=None) as server:
        _answers(_load(server), prepare("a"))
    assert server.bodies[0]["model"] == "some-model"


@pytest.mark.parametrize(
    ("models", "told"),
    [
        (refuse(401, "bad key"), "says 401: bad key. It wants a key: put it in an environment variable"),
        (refuse(503, "loading"), "says 503: loading. No request can be answered before that is mended."),
        (Reply(content={"models": []}), "/v1/models gives no list of models; does base_url end as it should, in /v1?"),
        (Reply(status=307, headers={"Location": "https://else.where/v1?token=1"}, content="moved"),
         "says 307: moved. It sends us to https://else.where/v1; give base_url as it is there."),
    ],
)  # fmt: skip
def test_server_that_cannot_be_used_is_told_at_once(models: Reply, told: str) -> None:
    with OpenAIServer(models=models) as server, pytest.raises(EngineError) as caught:
        _load(server)
    assert told in str(caught.value)


def test_server_that_is_not_there_is_told_at_once() -> None:
    with OpenAIServer() as server:
        pass
    with pytest.raises(EngineError, match=r"^cannot reach http://127\.0\.0\.1:\d+/v1/models: .*Is the server up"):
        _load(server)


def test_server_needs_an_address() -> None:
    with pytest.raises(SettingsError, match="the engine openai needs base_url, the server's address, as http://"):
        load_engine(Settings(engine="openai"))


# What is sent


@pytest.mark.parametrize(
    ("server", "send", "sent"),
    [
        ({"owner": "vllm", "version": "0.32.0"}, "frames", "frames"),
        ({"owner": "vllm", "version": "0.19.1"}, "frames", "images"),
        ({"owner": "vllm", "version": None}, "frames", "images"),
        ({"owner": "vllm", "version": "0.32.0", "trusts": False}, "frames", "images"),
        ({"owner": "openai", "version": "9.9"}, "frames", "images"),
        ({"owner": "vllm", "version": "0.32.0"}, "images", "images"),
        ({"owner": "openai"}, "video", "video"),
    ],
)
def test_frames_go_as_one_video_where_the_server_takes_that(
    prepare: Prepare, server: dict[str, Any], send: str, sent: str
) -> None:
    with OpenAIServer(**server) as there:
        engine = _load(there, send=send)
        assert engine.info.details["sent"] == sent
        assert engine.info.wants_frames == (send != "video")
        if send != "video":
            _answers(engine, prepare("a"))
            kinds = {part["type"] for part in there.bodies[0]["messages"][0]["content"]}
            assert kinds == {"text", "video_url" if sent == "frames" else "image_url"}


@pytest.mark.parametrize(
    ("server", "told"),
    [
        ({"version": "0.19.1"}, "The server's vLLM takes no frames with their times; at least 0.20 does."),
        ({"version": "0.32.0", "trusts": False}, "start vLLM with --trust-request-mm-kwargs."),
    ],
)
def test_vllm_that_takes_no_frames_is_told_of(
    server: dict[str, Any], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    with OpenAIServer(owner="vllm", **server) as there:
        _load(there)
    assert told in " ".join(caplog.messages)
    assert "So frames go as images" in caplog.messages[-1]


def test_fields_of_the_body_can_be_added_and_replaced(prepare: Prepare) -> None:
    with OpenAIServer() as server:
        extra = {"max_completion_tokens": 9, "seed": 1}
        _answers(_load(server, model_params=extra), prepare("a"))
    assert extra.items() <= server.bodies[0].items()


def test_key_goes_in_the_header(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", " key-of-the-server\n")
    with OpenAIServer() as server:
        _answers(_load(server, api_key_env="SOME_KEY"), prepare("a"))
    assert [headers["Authorization"] for headers in server.headers] == ["Bearer key-of-the-server"] * 2


def test_no_key_is_sent_where_there_is_none(prepare: Prepare) -> None:
    with OpenAIServer() as server:
        _answers(_load(server), prepare("a"))
    assert not any("Authorization" in headers for headers in server.headers)


# Candidates


def test_candidates_come_in_one_request_and_in_order(prepare: Prepare) -> None:
    with OpenAIServer() as server:
        answer = _answers(_load(server), prepare("a", num_captions=3, seed=2**40 + 5, prompt="x"))["a"]
    assert _texts(answer) == ["x 5", "x 6", "x 7"]
    assert [body["n"] for body in server.bodies] == [3]
    assert isinstance(answer, Generation)
    assert answer.prompt_tokens == 9
    assert [candidate.num_tokens for candidate in answer.candidates] == [None] * 3


def test_vllm_is_asked_for_the_tokens_of_each_candidate(prepare: Prepare) -> None:
    ids = iter([[1], [1, 2]])

    def answer(body: Body) -> Reply:
        assert body["return_token_ids"] is True
        reply = say("a", "b")
        for choice in reply.content["choices"]:
            choice["token_ids"] = next(ids)
        return reply

    with OpenAIServer(answer, owner="vllm", version="0.32.0") as server:
        made = _answers(_load(server), prepare("a", num_captions=2))["a"]
    assert isinstance(made, Generation)
    assert [candidate.num_tokens for candidate in made.candidates] == [2, 1]


@pytest.mark.parametrize("refuses", [True, False])
def test_server_that_gives_one_candidate_at_a_time_is_asked_again(prepare: Prepare, refuses: bool) -> None:
    def answer(body: Body) -> Reply:
        if refuses and body.get("n", 1) > 1:
            return refuse(400, "n must be 1")
        return describe(body | {"n": 1})

    with OpenAIServer(answer) as server:
        engine = _load(server, max_concurrency=1)
        asked = [prepare(key, num_captions=3, seed=5, prompt="x") for key in "ab"]
        answers = _answers(engine, *asked)
    assert all(_texts(made) == ["x 5", "x 6", "x 7"] for made in answers.values())
    seeds = [(body.get("n"), body["seed"]) for body in server.bodies]
    once = [(None, 5), (None, 6), (None, 7)]  # what it does not take is tried once in a run
    assert seeds == [(3, 5), *(once if refuses else once[1:]), *once]


def test_more_candidates_than_asked_for_are_left_out(prepare: Prepare) -> None:
    with OpenAIServer(lambda _: say("a", "b", "c")) as server:
        assert _texts(_answers(_load(server), prepare("a", num_captions=2))["a"]) == ["a", "b"]


def test_bad_request_with_several_candidates_costs_one_request_once_it_is_known_that_n_is_taken(
    prepare: Prepare,
) -> None:
    with OpenAIServer(_only("bad", refuse(400, "too long"))) as server:
        engine = _load(server, max_concurrency=1)
        _answers(engine, *(prepare(f"{n}", num_captions=2, prompt=p) for n, p in enumerate(["bad", "good", "bad"])))
    assert [(_prompt(body), body.get("n")) for body in server.bodies] == [
        ("bad", 2), ("bad", None), ("good", 2), ("bad", 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("owner", "request_", "temperature"),
    [
        ("somebody", {"num_captions": 2}, 1.0),
        ("somebody", {}, None),
        ("vllm", {"num_captions": 2}, None),
    ],
)
def test_candidates_differ_also_where_nobody_named_a_temperature(
    prepare: Prepare, owner: str, request_: dict[str, Any], temperature: float | None
) -> None:
    with OpenAIServer(owner=owner) as server:
        _answers(_load(server), prepare("a", **request_))
    assert server.bodies[0].get("temperature") == temperature


# Requests that fail


@pytest.mark.parametrize("status", [400, 413, 422])
def test_refused_request_costs_one_row(prepare: Prepare, status: int, caplog: pytest.LogCaptureFixture) -> None:
    said = "prompt " + "too long " * 100
    with OpenAIServer(_only("bad", refuse(status, said))) as server:
        requests = [prepare(key, prompt="bad" if key in "bd" else "good") for key in "abcde"]
        answers = _answers(_load(server), *requests)
    message = _problem(answers["b"])
    assert message.startswith(f"the server says {status}: prompt too long too long")
    assert len(message) < 350
    assert [key for key, answer in sorted(answers.items()) if isinstance(answer, Failure)] == ["b", "d"]
    assert [len([body for body in server.bodies if _prompt(body) == "bad"])] == [2], "not tried again"
    assert len([text for text in caplog.messages if "refused a request, the first of this run" in text]) == 1


@pytest.mark.parametrize(
    "trouble",
    [
        refuse(500, "oops"),
        refuse(408),
        refuse(504),
        Reply(close=True),
        Reply(content="<html>"),
        Reply(content='{"choices": ['),
        Reply(content={"object": "error"}),
        Reply(content={"choices": []}),
        Reply(content={"choices": [{"message": {"content": 3}, "finish_reason": "stop"}]}),
    ],
)
def test_what_the_server_fails_at_is_tried_again(prepare: Prepare, trouble: Reply) -> None:
    with OpenAIServer(_at_first(trouble, trouble, trouble)) as server:
        assert _texts(_answers(_load(server), prepare("a", prompt="x", seed=0))["a"]) == ["x 0"]
    assert len(server.bodies) == 4
    assert all(body == server.bodies[0] for body in server.bodies)


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        (refuse(500, "oops"), "the server says 500: oops."),
        (Reply(close=True), "the connection broke off: "),
        (Reply(content="<html>"), "the server's answer is no JSON: '<html>'."),
        (Reply(content=["x"]), "the server's answer has another form than it should: TypeError "),
        (Reply(content={"choices": []}), "the server's answer has no choices."),
    ],
)
def test_what_the_server_fails_at_again_and_again_costs_one_row(prepare: Prepare, trouble: Reply, told: str) -> None:
    with OpenAIServer(_only("bad", trouble)) as server:
        answers = _answers(_load(server), *(prepare(key, prompt="bad" if key == "b" else "good") for key in "abc"))
    assert _problem(answers["b"]).startswith(told)
    assert [len(_texts(answers[key])) for key in "ac"] == [1, 1]
    assert len([body for body in server.bodies if _prompt(body) == "bad"]) == 4


def test_server_that_hangs_is_given_up_on_request_by_request(prepare: Prepare) -> None:
    with OpenAIServer(_only("bad", Reply(hang=True))) as server:
        engine = _load(server, request_timeout=0.1)
        answers = _answers(engine, prepare("a"), prepare("b", prompt="bad"), prepare("c"))
    assert _problem(answers["b"]) == "the server gave no answer within 0.1 s."
    assert len([body for body in server.bodies if _prompt(body) == "bad"]) == 4
    assert [len(_texts(answers[key])) for key in "ac"] == [1, 1]


def test_answer_that_ends_for_another_reason_is_a_failure(prepare: Prepare) -> None:
    with OpenAIServer(lambda _: say("half of", finish="content_filter")) as server:
        message = _problem(_answers(_load(server), prepare("a"))["a"])
    assert message == "the server ended the answer for the reason 'content_filter', which is neither stop nor length."
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        (refuse(401, "no"), "says 401: no. It does not take the key in SOME_KEY."),
        (refuse(403, "no"), "says 403: no. It does not take the key in SOME_KEY."),
        (refuse(404, "no such model"), "says 404: no such model. Is base_url right (it mostly ends in /v1), and does "),
        (refuse(402, "pay"), "says 402: pay. No request can be answered before that is mended."),
    ],
)
def test_wrong_key_and_wrong_model_stop_the_run(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch, trouble: Reply, told: str
) -> None:
    monkeypatch.setenv("SOME_KEY", "key-of-the-server")
    with OpenAIServer(lambda _: trouble) as server:
        engine = _load(server, api_key_env="SOME_KEY")
        with pytest.raises(EngineError) as caught:
            _answers(engine, *(prepare(f"{n}") for n in range(50)))
    assert told in str(caught.value)
    assert len(server.bodies) <= 8, "nothing but the first window was sent"


def test_too_many_failures_in_a_row_stop_the_run(prepare: Prepare) -> None:
    with OpenAIServer(lambda body: refuse(500, "dead") if _prompt(body) == "bad" else describe(body)) as server:
        engine = _load(server, error_budget=3, max_concurrency=1)
        good_between = [prepare(f"{n}", prompt="good" if n % 3 == 2 else "bad") for n in range(9)]
        assert len(_answers(engine, *good_between)) == 9
        answers = engine.generate(prepare(f"{n}", prompt="bad") for n in range(9))
        assert isinstance(next(answers), Failure)
        assert isinstance(next(answers), Failure)
        with pytest.raises(EngineError) as caught:
            next(answers)
    assert str(caught.value) == (
        "the server failed at 3 requests in a row, each tried 4 times (error_budget is 3). "
        "The last one: the server says 500: dead."
    )


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
        answers = _answers(_load(server), *(prepare(f"{n}") for n in range(60)))
    assert len([_texts(made) for made in answers.values()]) == 60
    assert max(seen[:8]) == 8
    assert max(seen[8:12]) == 4
    assert max(seen[12:]) < 16


def test_number_of_requests_in_flight_grows_up_to_the_bound(prepare: Prepare) -> None:
    def answer(body: Body) -> Reply:
        if len(server.bodies) <= 30:  # a window is full before any of it is answered, and the bound is reached
            server.wait_for(lambda: server.now >= 6 or len(server.bodies) > 30)
        return describe(body)

    with OpenAIServer(answer) as server:
        _answers(_load(server, max_concurrency=6), *(prepare(f"{n}") for n in range(40)))
        assert server.most == 6
        server.most = 0
        _answers(_load(server, max_concurrency=1), *(prepare(f"{n}") for n in range(5)))
        assert server.most == 1


def test_no_more_is_pulled_than_can_be_kept_in_flight(prepare: Prepare) -> None:
    pulled: list[int] = []

    def requests() -> Iterator[PreparedRequest]:
        for number in range(40):
            pulled.append(number)
            yield prepare(f"{number}")

    def answer(body: Body) -> Reply:
        server.wait_for(lambda: server.now == 2 or len(server.bodies) > 39)
        return describe(body)

    with OpenAIServer(answer) as server:
        answers = _load(server, max_concurrency=2).generate(requests())
        for count, _ in enumerate(answers, 1):
            assert len(pulled) <= count + 2
    assert len(pulled) == 40


def test_bytes_in_flight_are_bounded(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    def requests() -> Iterator[PreparedRequest]:
        for number in range(6):
            assert number == len(answers), "one is always let through, and no more"
            yield prepare(f"{number}")

    answers: list[Generation | Failure] = []
    monkeypatch.setattr(openai, "_WINDOW_BYTES", 1)
    with OpenAIServer() as server:
        for answer in _load(server).generate(requests()):
            answers.append(answer)
    assert len(answers) == 6


def test_pulling_stops_where_something_is_finished(prepare: Prepare) -> None:
    class Portal:
        def start_task_soon(self, *_: Any) -> Future[None]:
            future: Future[None] = Future()
            future.set_result(None)
            return future

    flying: dict[Any, Any] = {}
    with OpenAIServer() as server:
        gate: Any = SimpleNamespace(limit=8)
        portal: Any = Portal()
        client: Any = None
        _load(server)._launch((prepare(f"{n}") for n in range(9)), flying, portal, client, gate)
    assert len(flying) == 1


def test_what_is_finished_is_handed_out_before_the_run_stops(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(body: Body) -> Reply:
        server.wait_for(lambda: len(server.bodies) == 8)
        return refuse(401) if _prompt(body) == "bad" else describe(body)

    monkeypatch.setattr(openai, "wait", lambda futures, return_when: wait(futures))  # so that all come at once
    with OpenAIServer(answer) as server:
        answers = _load(server).generate(prepare(f"{n}", prompt="bad" if n == 3 else "good") for n in range(8))
        assert sorted(next(answers).key for _ in range(7)) == list("0124567")
        with pytest.raises(EngineError, match="says 401"):
            next(answers)


def test_answers_come_as_they_are_finished(prepare: Prepare) -> None:
    done = threading.Event()

    def answer(body: Body) -> Reply:
        if _prompt(body) == "slow":
            assert done.wait(20)
        return describe(body)

    with OpenAIServer(answer) as server:
        answers = _load(server).generate(prepare(key, prompt="slow" if key == "a" else "quick") for key in "abc")
        assert {next(answers).key, next(answers).key} == {"b", "c"}
        done.set()
        assert [made.key for made in answers] == ["a"]


def test_pixels_are_let_go_while_a_request_is_in_flight(prepare: Prepare) -> None:
    pixels: list[weakref.ref[object]] = []

    def requests() -> Iterator[PreparedRequest]:
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
        assert len(list(_load(server).generate(requests()))) == 3
    assert alive == [0, 0, 0]


def test_requests_in_flight_are_dropped_when_nobody_wants_answers_any_more(prepare: Prepare) -> None:
    with OpenAIServer(_only("bad", Reply(hang=True))) as server:
        answers = _load(server).generate(iter([prepare("a", prompt="bad"), prepare("b")]))
        assert isinstance(next(answers), Generation)
        threads = threading.active_count()
        answers.close()  # type: ignore[attr-defined]
        assert threading.active_count() < threads


# Servers that are busy or away


def test_all_requests_wait_as_long_as_the_server_asks_for(prepare: Prepare) -> None:
    answer = _at_first(refuse(429, "slow down", Retry_After="0.2"))
    with OpenAIServer(answer) as server:
        answers = _answers(_load(server, max_concurrency=1), *(prepare(f"{n}") for n in range(3)))
    assert all(_texts(made) for made in answers.values())
    assert server.times[1] - server.times[0] >= 0.2


@pytest.mark.parametrize("retry_after", ["86400", "Thu, 01 Jan 2099 00:00:00 GMT"])
def test_longer_pause_than_there_is_patience_for_stops_the_run(prepare: Prepare, retry_after: str) -> None:
    reply = refuse(429, "quota used up", Retry_After=retry_after)
    with OpenAIServer(lambda _: reply) as server, pytest.raises(EngineError) as caught:
        _answers(_load(server), *(prepare(f"{n}") for n in range(20)))
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
            answers = _answers(_load(server), *(prepare(f"{n}") for n in range(40)))
    finally:
        log.removeHandler(start_again)
    assert len([_texts(made) for made in answers.values()]) == 40
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
        answers = _answers(_load(server), *(prepare(f"{n}") for n in range(20)))
    assert len([_texts(made) for made in answers.values()]) == 20
    assert seen[away : away + 4] == [1, 1, 1, 1]


# Whole runs


def _rows(folder: Path, count: int) -> Path:
    put_clip(folder / "clip.mp4")
    return put_rows(folder / "in.jsonl", [{"video": "clip.mp4", "text": f"{n}"} for n in range(count)])


SHOWN = {"frame_timestamps": [0.0, 0.25, 0.5, 0.875], "frame_size": [64, 64]}


@pytest.mark.parametrize(
    ("send", "owner", "sent", "told"),
    [
        ("frames", "vllm", "frames", {**SHOWN, "video_tokens": 8}),
        ("frames", "other", "images", {**SHOWN, "video_tokens": None}),
        ("video", "other", "video", {"video_tokens": None}),
    ],
)
def test_run_writes_captions_and_where_they_come_from(
    tmp_path: Path, send: str, owner: str, sent: str, told: dict[str, Any]
) -> None:
    data = put_rows(
        tmp_path / "in.jsonl", [{"video": "clip.mp4"}, {"video": "gone.mp4"}, {"video": "text.mp4"}, {"video": "s.m4a"}]
    )
    put_clip(tmp_path / "clip.mp4")
    write_audio(tmp_path / "s.m4a")
    (tmp_path / "text.mp4").write_text("no video")
    with OpenAIServer(owner=owner, version="0.32.0") as server:
        settings = Settings(engine="openai", base_url=server.url, model="some-model", send=send, prompt="What?")
        summary = run([data], tmp_path / "out.jsonl", settings)
    assert summary.captions == 1
    assert summary.failures == {"missing": 1, "unreadable": 1, "no_video": 1}
    meta = read_rows_of(tmp_path / "out.jsonl")[0]["caption_meta"]
    assert (meta["engine"], meta["model"], meta["revision"], meta["sent"]) == ("openai", "some-model", None, sent)
    assert (meta["prompt_tokens"], meta["completion_tokens"]) == (9, [5])
    facts = {name: meta[name] for name in ("frame_timestamps", "frame_size", "video_tokens") if name in meta}
    assert facts == told


def test_nothing_is_decoded_where_the_file_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reelscribe.pipeline.decode_ahead", lambda *_, **__: pytest.fail("decoded"))
    data = _rows(tmp_path, 2)
    with OpenAIServer() as server:
        settings = Settings(engine="openai", base_url=server.url, model="some-model", send="video")
        assert run([data], tmp_path / "out.jsonl", settings).captions == 2


def test_too_large_a_file_costs_its_row(tmp_path: Path) -> None:
    data, size = _rows(tmp_path, 1), len(clip_bytes())
    with OpenAIServer() as server:
        told: dict[str, Any] = {"engine": "openai", "base_url": server.url, "model": "some-model", "send": "video"}
        assert run([data], tmp_path / "o.jsonl", Settings(**told, max_upload_bytes=size)).captions == 1
        summary = run([data], tmp_path / "o.jsonl", Settings(**told, max_upload_bytes=size - 1))
    (failure,) = read_rows_of(summary.failures_file)
    assert failure["kind"] == "engine"
    assert failure["message"] == (
        f"clip.mp4 has {size:,} bytes; max_upload_bytes is {size - 1:,}. Raise it, or send frames."
    )


def test_rerun_asks_the_same(tmp_path: Path) -> None:
    data, runs = _rows(tmp_path, 4), []
    for _ in range(2):
        with OpenAIServer() as server:
            settings = Settings(engine="openai", base_url=server.url, model="some-model", num_captions=2)
            run([data], tmp_path / "out.jsonl", settings)
        runs.append(sorted(server.bodies, key=str))
    assert runs[0] == runs[1]
    assert len({body["seed"] for body in runs[0]}) == 4


def test_server_that_is_killed_in_mid_run_stops_it_cleanly(tmp_path: Path) -> None:
    data = _rows(tmp_path, 30)

    def answer(body: Body) -> Reply:
        if len(server.bodies) == 12:
            server.kill()
        return describe(body)

    words = ["caption", str(data), "-o", str(tmp_path / "out.jsonl"), "--engine", "openai", "--model", "some-model"]
    with OpenAIServer(answer) as server:
        words += ["--base-url", server.url]
        result = CliRunner().invoke(cli.main, [*words, "--retry-seconds", "0.05"])
        assert result.exit_code == 1
        assert isinstance(result.exception, SystemExit)
        last = result.stderr.splitlines()[-1]
        assert last.startswith(
            "reelscribe: the server has given no answer for 0 s, and is to be left alone for 0 s more"
        )
        assert "retry_seconds is 0.05. " in last
        assert last.endswith(f"{server.url} cannot be reached: All connection attempts failed.")
        done = read_rows_of(tmp_path / "out.jsonl.partial")
        assert 0 < len(done) < 30
        assert all(row["caption"] for row in done), "nobody's caption is lost, none is made up"
        assert not (tmp_path / "out.jsonl").exists()
        server.start()
        assert CliRunner().invoke(cli.main, words).exit_code == 0
    assert len(read_rows_of(tmp_path / "out.jsonl")) == 30


# The key

KEY = "sk-4f9d2c71b0a84e6d"


def _leaks() -> Iterator[Reply]:
    """All that a server can say, with the key in it."""
    echo = {"X-Key": KEY, "Location": f"http://{KEY}/{KEY}"}
    yield say("a caption")
    for status in (302, 400, 401, 403, 404, 408, 413, 422, 429, 500, 502, 503):
        yield Reply(status=status, content={"error": {"message": f"the key {KEY} is bad"}}, headers=echo)
        yield Reply(status=status, content=f"{'x' * 290}{KEY}", headers=echo)
    yield Reply(content=f"Bearer {KEY}")
    yield Reply(content={KEY: KEY})
    yield say(f"the key is {KEY}")
    yield say("text", finish=KEY)
    yield Reply(close=True)
    yield Reply(hang=True)


def test_key_is_nowhere_to_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)  # of httpx2 and its kin, too
    data, codes = _rows(tmp_path, 3), set()
    for number, reply in enumerate(_leaks()):
        with OpenAIServer(lambda _, reply=reply: reply) as server:  # type: ignore[misc]
            output = tmp_path / f"{number}" / "out.jsonl"
            words = ["-v", "caption", str(data), "-o", str(output), "--engine", "openai", "--base-url", server.url]
            limits = ["--retry-seconds", "0.01", "--request-timeout", "0.5", "--error-budget", "3"]
            result = CliRunner().invoke(cli.main, [*words, "--model", "some-model", *limits])
            assert any(KEY in headers.get("Authorization", "") for headers in server.headers), "it was used"
        assert isinstance(result.exception, SystemExit | None), reply
        codes.add(result.exit_code)
        files = "".join(file.read_text() for file in output.parent.iterdir())
        for text in (result.output, files):
            assert KEY[:-4] not in text, reply
    assert codes == {0, 1, 3}
    assert any(record.name.startswith("httpcore2") for record in caplog.records)
    assert not [record for record in caplog.records if KEY in record.getMessage() or KEY in repr(record.__dict__)]


def test_key_is_in_no_representation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with OpenAIServer() as server:
        engine = _load(server)
    assert KEY not in repr((engine, engine.info, vars(engine)))


@pytest.mark.parametrize("models", [refuse(401, f"bad key {KEY}"), refuse(500, KEY), Reply(content=f'"{KEY}"'), None])
def test_key_is_not_told_when_the_start_fails(monkeypatch: pytest.MonkeyPatch, models: Reply | None) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with OpenAIServer(models=models or (KEY,)) as server:
        result = CliRunner().invoke(
            cli.main, ["caption", __file__, "-o", "out.jsonl", "--engine", "openai", "--base-url", server.url]
        )
    assert result.exit_code in (1, 2)
    assert KEY not in result.output


def test_web_addresses_are_sent_as_they_are() -> None:
    clip = Clip(source="https://example.org/clip.mp4?signature=1")
    item = PreparedRequest(request=CaptionRequest(key="a", clip=clip, prompt="x"), frames=NO_FRAMES)
    with OpenAIServer() as server:
        _answers(_load(server, send="video"), item)
    video = server.bodies[0]["messages"][0]["content"][0]
    assert video == {"type": "video_url", "video_url": {"url": "https://example.org/clip.mp4?signature=1"}}


def test_engine_can_be_used_again(prepare: Prepare) -> None:
    with OpenAIServer() as server:
        engine = _load(server)
        for _ in range(2):
            assert len(_answers(engine, *(prepare(key) for key in "ab"))) == 2
        assert list(engine.generate(iter(()))) == []
