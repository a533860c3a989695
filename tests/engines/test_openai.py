"""The engine for servers, against a real one on a loopback port: what is sent, and what answers come to."""

import base64
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Prepare
from flow import clip_bytes, named
from openai_asking import answers_of, at_first, load_openai, only_to, problem_of, prompt_of, texts_of
from openai_server import Body, OpenAIServer, Reply, describe, refuse, say

from reelscribe.config import Settings
from reelscribe.engines import load_engine, openai
from reelscribe.engines.chat import Shown, show
from reelscribe.errors import EngineError, SettingsError
from reelscribe.schemas import Schema
from reelscribe.values import NO_FRAMES, Answer, Candidate, Clip, Failure, Generation, Request, Work

pytestmark = pytest.mark.usefixtures("quick_and_alone")


# At the start


def test_model_is_looked_for_on_the_server() -> None:
    with OpenAIServer(models=("other", "some-model")) as server:
        assert load_openai(server).info.model == "some-model"
        with pytest.raises(EngineError, match=r"127\.0\.0\.1:\d+/v1 has no model 'gone'; it has other, some-model\.$"):
            load_openai(server, model="gone")


def test_only_model_of_a_server_is_taken_where_nobody_chose_one(prepare: Prepare) -> None:
    with OpenAIServer(models=("org/only",)) as server:
        engine = load_openai(server, model=Settings().model)
        assert engine.info.model == "org/only"
        answers_of(engine, prepare("a"))
    assert server.bodies[0]["model"] == "org/only"


def test_default_model_is_not_guessed_where_there_are_several() -> None:
    with OpenAIServer(models=tuple(f"m{n}" for n in range(12))) as server, pytest.raises(EngineError) as caught:
        load_openai(server, model=Settings().model)
    assert "it has m0, m1, m2, m3, m4, m5, m6, m7, m8, m9 and 2 more." in str(caught.value)


def test_server_without_a_list_of_models_is_asked_for_the_one_that_is_named(prepare: Prepare) -> None:
    with OpenAIServer(models=None) as server:
        answers_of(load_openai(server), prepare("a"))
    assert server.bodies[0]["model"] == "some-model"


@pytest.mark.parametrize(
    ("models", "told"),
    [
        (refuse(401, "bad key"), "says 401: bad key. It wants a key: put it in an environment variable"),
        (refuse(503, "loading"), "says 503: loading. No request can be answered before that is mended."),
        (Reply(content={"models": []}),
         "/v1/models gives no list of models: the server's answer has another form than it should. Does base_url end "),
        (Reply(content={"data": ["x"]}), "/v1/models gives no list of models: the server's answer has another form "),
        (Reply(content="<html>"), "/v1/models gives no list of models: the server's answer is no JSON: '<html>'. "),
        (Reply(status=307, headers={"Location": "https://else.where/v1?token=1"}, content="moved"),
         "says 307: moved. It sends us to https://else.where/v1; give base_url as it is there."),
    ],
)  # fmt: skip
def test_server_that_cannot_be_used_is_told_at_once(models: Reply, told: str) -> None:
    with OpenAIServer(models=models) as server, pytest.raises(EngineError) as caught:
        load_openai(server)
    assert told in str(caught.value)


def test_server_that_is_not_there_is_told_at_once() -> None:
    with OpenAIServer() as server:
        pass
    with pytest.raises(EngineError, match=r"^cannot reach http://127\.0\.0\.1:\d+/v1/models: .*Is the server up"):
        load_openai(server)


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
        ({"owner": "vllm", "version": "0.32.0", "hello": refuse(400)}, "frames", "images"),
        ({"owner": "openai", "version": "9.9"}, "frames", "images"),
        ({"owner": "vllm", "version": "0.32.0"}, "images", "images"),
        ({"owner": "openai"}, "video", "video"),
    ],
)
def test_frames_go_as_one_video_where_the_server_takes_that(
    prepare: Prepare, server: dict[str, Any], send: str, sent: str
) -> None:
    with OpenAIServer(**server) as there:
        engine = load_openai(there, send=send)
        assert engine.info.details["sent"] == sent
        assert engine.info.wants_frames == (send != "video")
        if send != "video":
            answers_of(engine, prepare("a"))
            kinds = {part["type"] for part in there.bodies[0]["messages"][0]["content"]}
            assert kinds == {"text", "video_url" if sent == "frames" else "image_url"}


@pytest.mark.parametrize(
    ("server", "told"),
    [
        ({"version": "0.19.1"}, "The server's vLLM takes no frames with their times; at least 0.20 does."),
        ({"version": "0.32.0", "hello": refuse(400)}, "start vLLM with --trust-request-mm-kwargs."),
    ],
)
def test_vllm_that_takes_no_frames_is_told_of(
    server: dict[str, Any], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    with OpenAIServer(owner="vllm", **server) as there:
        load_openai(there)
    assert told in " ".join(caplog.messages)
    assert "So frames go as images" in caplog.messages[-1]


def test_fields_of_the_body_can_be_added_and_replaced(prepare: Prepare) -> None:
    with OpenAIServer() as server:
        extra = {"max_completion_tokens": 9, "seed": 1}
        answers_of(load_openai(server, extra_body=extra), prepare("a"))
    assert extra.items() <= server.bodies[0].items()


# Thoughts


QWEN3_5 = ["<|im_start|>", "assistant", "Ċ", "<think>", "Ċ"]
"""The end of a prompt, as /tokenize of vLLM tells it."""


@pytest.mark.parametrize("thinking", [False, True])
def test_vllm_is_told_whether_to_let_the_model_think(prepare: Prepare, thinking: bool) -> None:
    with OpenAIServer(owner="vllm", version="0.32.0") as server:
        answers_of(load_openai(server, thinking=thinking), prepare("a"))
    assert server.bodies[0]["chat_template_kwargs"] == {"enable_thinking": thinking}


def test_vllm_that_refuses_to_be_told_is_told_only_if_the_model_is_to_think(prepare: Prepare) -> None:
    with OpenAIServer(owner="vllm", version="0.32.0", hello=refuse(400, "not for Mistral tokenizers")) as server:
        answers_of(load_openai(server), prepare("a"))
        answers_of(load_openai(server, thinking=True), prepare("b"))
    assert ["chat_template_kwargs" in body for body in server.bodies] == [False, True]


def test_another_server_is_told_only_if_the_model_is_to_think(prepare: Prepare) -> None:
    with OpenAIServer(owner="sglang") as server:
        answers_of(load_openai(server), prepare("a"))
        answers_of(load_openai(server, thinking=True), prepare("b"))
    assert [body.get("chat_template_kwargs") for body in server.bodies] == [None, {"enable_thinking": True}]


def test_tables_of_the_body_are_put_together(prepare: Prepare) -> None:
    with OpenAIServer(owner="vllm", version="0.32.0") as server:
        extra = {"chat_template_kwargs": {"thinking_budget": 9}, "media_io_kwargs": {"audio": {}}}
        answers_of(load_openai(server, extra_body=extra), prepare("a"))
    (body,) = server.bodies
    assert body["chat_template_kwargs"] == {"enable_thinking": False, "thinking_budget": 9}
    assert list(body["media_io_kwargs"]) == ["video", "audio"]


@pytest.mark.parametrize(
    ("prompt_end", "finish", "text"),
    [
        (QWEN3_5, "length", "<think>It moves"),
        (QWEN3_5, "stop", "It moves"),  # a server may have set an empty thought apart
        ([*QWEN3_5, "Ċ", "</think>", "ĊĊ"], "length", "It moves"),
        (None, "length", "It moves"),
    ],
)
def test_answer_that_is_cut_off_within_a_thought_that_the_template_opens_says_so(
    prepare: Prepare, prompt_end: list[str] | None, finish: str, text: str
) -> None:
    with OpenAIServer(lambda _: say("It moves", finish=finish), owner="vllm", prompt_end=prompt_end) as server:
        assert texts_of(answers_of(load_openai(server), prepare("a"))["a"]) == [text]


def test_prompt_of_the_user_s_own_template_is_looked_at(prepare: Prepare) -> None:
    with OpenAIServer(owner="vllm", prompt_end=QWEN3_5) as server:
        load_openai(server, extra_body={"chat_template": "x", "chat_template_kwargs": {"a": 1}, "top_p": 0.5})
    asked = server.tokenized[0]
    assert {name: value for name, value in asked.items() if name not in ("model", "messages", "max_tokens")} == {
        "chat_template": "x",
        "chat_template_kwargs": {"enable_thinking": False, "a": 1},
        "return_token_strs": True,
    }


def test_key_goes_in_the_header(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", " key-of-the-server\n")
    with OpenAIServer() as server:
        answers_of(load_openai(server, api_key_env="SOME_KEY"), prepare("a"))
    assert [headers["Authorization"] for headers in server.headers] == ["Bearer key-of-the-server"] * 2


def test_no_key_is_sent_where_there_is_none(prepare: Prepare) -> None:
    with OpenAIServer() as server:
        answers_of(load_openai(server), prepare("a"))
    assert not any("Authorization" in headers for headers in server.headers)


# Candidates


def test_candidates_come_in_one_request_and_in_order(prepare: Prepare) -> None:
    with OpenAIServer() as server:
        answer = answers_of(load_openai(server), prepare("a", num_captions=3, seed=2**40 + 5, prompt="x"))["a"]
    assert texts_of(answer) == ["x 5", "x 6", "x 7"]
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
        made = answers_of(load_openai(server), prepare("a", num_captions=2))["a"]
    assert isinstance(made, Generation)
    assert [candidate.num_tokens for candidate in made.candidates] == [2, 1]


@pytest.mark.parametrize("refuses", [True, False])
def test_server_that_gives_one_candidate_at_a_time_is_asked_again(prepare: Prepare, refuses: bool) -> None:
    def answer(body: Body) -> Reply:
        if refuses and body.get("n", 1) > 1:
            return refuse(400, "n must be 1")
        return describe(body | {"n": 1})

    with OpenAIServer(answer) as server:
        engine = load_openai(server, max_concurrency=1)
        asked = [prepare(key, num_captions=3, seed=5, prompt="x") for key in "ab"]
        answers = answers_of(engine, *asked)
    assert all(texts_of(made) == ["x 5", "x 6", "x 7"] for made in answers.values())
    seeds = [(body.get("n"), body["seed"]) for body in server.bodies]
    once = [(None, 5), (None, 6), (None, 7)]  # what it does not take is tried once in a run
    assert seeds == [(3, 5), *(once if refuses else once[1:]), *once]


def test_more_candidates_than_asked_for_are_left_out(prepare: Prepare) -> None:
    with OpenAIServer(lambda _: say("a", "b", "c")) as server:
        assert texts_of(answers_of(load_openai(server), prepare("a", num_captions=2))["a"]) == ["a", "b"]


def test_bad_request_with_several_candidates_costs_one_request_once_it_is_known_that_n_is_taken(
    prepare: Prepare,
) -> None:
    with OpenAIServer(only_to("bad", refuse(400, "too long"))) as server:
        engine = load_openai(server, max_concurrency=1)
        answers_of(engine, *(prepare(f"{n}", num_captions=2, prompt=p) for n, p in enumerate(["bad", "good", "bad"])))
    assert [(prompt_of(body), body.get("n")) for body in server.bodies] == [
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
        answers_of(load_openai(server), prepare("a", **request_))
    assert server.bodies[0].get("temperature") == temperature


# Requests that fail


@pytest.mark.parametrize("status", [400, 413, 422])
def test_refused_request_costs_one_row(prepare: Prepare, status: int, caplog: pytest.LogCaptureFixture) -> None:
    said = "prompt " + "too long " * 100
    with OpenAIServer(only_to("bad", refuse(status, said))) as server:
        requests = [prepare(key, prompt="bad" if key in "bd" else "good") for key in "abcde"]
        answers = answers_of(load_openai(server), *requests)
    message = problem_of(answers["b"])
    assert message.startswith(f"the server says {status}: prompt too long too long")
    assert len(message) < 350
    assert [key for key, answer in sorted(answers.items()) if isinstance(answer, Failure)] == ["b", "d"]
    assert [len([body for body in server.bodies if prompt_of(body) == "bad"])] == [2], "not tried again"
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
    with OpenAIServer(at_first(trouble, trouble, trouble)) as server:
        assert texts_of(answers_of(load_openai(server), prepare("a", prompt="x", seed=0))["a"]) == ["x 0"]
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
    with OpenAIServer(only_to("bad", trouble)) as server:
        answers = answers_of(
            load_openai(server), *(prepare(key, prompt="bad" if key == "b" else "good") for key in "abc")
        )
    assert problem_of(answers["b"]).startswith(told)
    assert [len(texts_of(answers[key])) for key in "ac"] == [1, 1]
    assert len([body for body in server.bodies if prompt_of(body) == "bad"]) == 4


def test_server_that_hangs_is_given_up_on_request_by_request(prepare: Prepare) -> None:
    with OpenAIServer(only_to("bad", Reply(hang=True))) as server:
        engine = load_openai(server, request_timeout=0.2)
        answers = answers_of(engine, prepare("a"), prepare("b", prompt="bad"), prepare("c"))
    assert problem_of(answers["b"]) == "the server gave no answer within 0.2 s."
    assert len([body for body in server.bodies if prompt_of(body) == "bad"]) == 4
    assert [len(texts_of(answers[key])) for key in "ac"] == [1, 1]


def test_answer_that_ends_for_another_reason_is_a_failure(prepare: Prepare) -> None:
    with OpenAIServer(lambda _: say("half of", finish="content_filter")) as server:
        message = problem_of(answers_of(load_openai(server), prepare("a"))["a"])
    assert message == "the server ended the answer for the reason 'content_filter', not stop or length."
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
    with OpenAIServer(lambda _: trouble, hello=trouble) as server:
        engine = load_openai(server, api_key_env="SOME_KEY")
        with pytest.raises(EngineError) as caught:
            answers_of(engine, *(prepare(f"{n}") for n in range(50)))
    assert told in str(caught.value)
    assert len(server.bodies) <= 8, "nothing but the first window was sent"


@pytest.mark.parametrize("status", [403, 404, 400, 451])
@pytest.mark.parametrize("num_captions", [1, 2])
def test_request_that_a_server_moderates_costs_one_row(prepare: Prepare, status: int, num_captions: int) -> None:
    """Whichever of those sent at first comes back first, and on a server that has answered before."""

    def answer(body: Body) -> Reply:
        if prompt_of(body) == "bad":
            return refuse(status, "your input was flagged")
        server.wait_for(lambda: any(prompt_of(body) == "bad" for body in server.bodies) and server.now <= 7)
        return describe(body)

    with OpenAIServer(answer) as server:
        engine = load_openai(server)
        for _ in range(2):
            asked = [prepare(f"{n}", prompt="bad" if n == 3 else "good", num_captions=num_captions) for n in range(8)]
            answers = answers_of(engine, *asked)
            assert problem_of(answers.pop("3")) == f"the server says {status}: your input was flagged."
            assert all(texts_of(answer) for answer in answers.values())


def test_a_wrong_key_stops_the_run_also_in_the_middle(prepare: Prepare) -> None:
    with OpenAIServer(only_to("bad", refuse(401, "expired"))) as server:
        engine = load_openai(server, max_concurrency=1)
        answers = engine.generate(prepare(f"{n}", prompt="good" if n == 0 else "bad") for n in range(3))
        assert isinstance(next(answers), Generation)
        with pytest.raises(EngineError, match="says 401: expired"):
            next(answers)


def test_request_that_is_moderated_may_be_the_only_one(prepare: Prepare) -> None:
    """As where all others are known from earlier runs."""
    with OpenAIServer(lambda _: refuse(403, "flagged")) as server:
        answers = answers_of(load_openai(server), *(prepare(f"{n}") for n in range(3)))
    assert {problem_of(answer) for answer in answers.values()} == {"the server says 403: flagged."}


@pytest.mark.parametrize(
    "hello", [say("Hello"), refuse(400, "no text alone"), refuse(403, "gone"), refuse(404, "gone")]
)
def test_many_denied_requests_in_a_row_stop_the_run_only_if_key_or_model_are_not_right_any_more(
    prepare: Prepare, hello: Reply
) -> None:
    with OpenAIServer(only_to("bad", refuse(403, "no")), hello=hello) as server:
        engine = load_openai(server, error_budget=3, max_concurrency=1)
        answers = engine.generate(prepare(f"{n}", prompt="bad" if n else "good") for n in range(9))
        assert isinstance(next(answers), Generation)
        assert [problem_of(next(answers)) for _ in range(2)] == ["the server says 403: no."] * 2
        if hello.status in (403, 404):
            with pytest.raises(EngineError, match="says 403: no"):
                next(answers)
        else:
            assert len(list(answers)) == 6


def test_too_many_failures_in_a_row_stop_the_run(prepare: Prepare) -> None:
    with OpenAIServer(lambda body: refuse(500, "dead") if prompt_of(body) == "bad" else describe(body)) as server:
        engine = load_openai(server, error_budget=3, max_concurrency=1)
        good_between = [prepare(f"{n}", prompt="good" if n % 3 == 2 else "bad") for n in range(9)]
        assert len(answers_of(engine, *good_between)) == 9
        answers = engine.generate(prepare(f"{n}", prompt="bad") for n in range(9))
        assert isinstance(next(answers), Failure)
        assert isinstance(next(answers), Failure)
        with pytest.raises(EngineError) as caught:
            next(answers)
    assert str(caught.value) == (
        "the server failed at 3 requests in a row, each tried 4 times (error_budget is 3). "
        "The last one: the server says 500: dead."
    )


@pytest.mark.parametrize("source", ["https://example.org/clip.mp4?signature=1", clip_bytes()])
def test_addresses_and_bytes_are_sent_as_they_are(source: str | bytes) -> None:
    item = Work(requests=(Request(id=named("a"), clip=Clip(source=source), prompt="x"),), frames=NO_FRAMES)
    with OpenAIServer() as server:
        answers_of(load_openai(server, send="video"), item)
    video = server.bodies[0]["messages"][0]["content"][0]
    url = source if isinstance(source, str) else f"data:video/mp4;base64,{base64.b64encode(source).decode()}"
    assert video == {"type": "video_url", "video_url": {"url": url}}


def test_engine_can_be_used_again(prepare: Prepare) -> None:
    with OpenAIServer() as server:
        engine = load_openai(server)
        for _ in range(2):
            assert len(answers_of(engine, *(prepare(key) for key in "ab"))) == 2
        assert list(engine.generate(iter(()))) == []


# Several requests about one clip


@pytest.mark.parametrize("send", ["frames", "images"])
def test_requests_of_a_work_are_sent_each_and_its_clip_is_encoded_once(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch, send: str
) -> None:
    shown = []

    def count(work: Work, *args: Any) -> Shown:
        shown.append(work.clip.name)
        return show(work, *args)

    monkeypatch.setattr(openai, "show", count)
    works = [
        replace(one, requests=tuple(replace(one.requests[0], id=named(f"{key}{n}"), prompt=f"{n}?") for n in range(3)))
        for key, one in ((key, prepare(key)) for key in "ab")
    ]
    with OpenAIServer(models=("some-model",), owner="vllm") as server:
        engine = load_openai(server, send=send)
        replies = list(engine.generate(iter(works)))
    assert sorted(reply.id.task for reply in replies) == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert all(isinstance(reply, Generation) for reply in replies)
    assert sorted(shown) == ["a.mp4", "b.mp4"]
    assert sorted(map(prompt_of, server.bodies)) == sorted(["0?", "1?", "2?"] * 2)
    assert len({str(body["messages"][-1]["content"][:-1]) for body in server.bodies}) == 2


def test_candidates_are_judged_one_by_one_by_a_single_token(prepare: Prepare) -> None:
    def answer(body: Body) -> Reply:
        if "top_logprobs" not in body:
            return say("a dog", "a sheep", "a dog")
        chance = -0.25 if "a sheep" in prompt_of(body) else -1.0
        told = [{"token": "Yes", "logprob": chance}, {"token": "No", "logprob": -0.5}]
        return say("Yes", finish="length", logprobs={"content": [{"logprob": chance, "top_logprobs": told}]})

    work = prepare("a", num_captions=3, keep="judged", judge="Right? {caption}")
    with OpenAIServer(answer) as server:
        [reply] = load_openai(server).generate(iter([work]))
    assert isinstance(reply, Generation)
    low, high = (1 / (1 + math.exp(-0.5 - chance)) for chance in (-1.0, -0.25))
    assert [each.scores["judged"] for each in reply.candidates] == pytest.approx([low, high, low])
    first, *judged = server.bodies
    assert {prompt_of(body) for body in judged} == {"Right? a dog", "Right? a sheep"}
    assert [(body["max_tokens"], body["top_logprobs"]) for body in judged] == [(1, 20)] * 2
    assert all(body["messages"][-1]["content"][:-1] == first["messages"][-1]["content"][:-1] for body in judged)


def test_of_a_text_that_is_given_only_its_claims_are_asked_about(prepare: Prepare) -> None:
    def answer(body: Body) -> Reply:
        told = [{"token": "No" if "bark" in prompt_of(body) else "Yes", "logprob": -0.1}]
        return say("Yes", finish="length", logprobs={"content": [{"logprob": -0.1, "top_logprobs": told}]})

    text = Candidate(text="A man sits. Dogs bark.", stop_reason="stop", num_tokens=None)
    told = Answer(id=named("a"), candidates=(text,), meta={})
    work = prepare("a", verify=True, judge="Right? {caption}", given=told)
    with OpenAIServer(answer) as server:
        [reply] = load_openai(server).generate(iter([work]))
    assert isinstance(reply, Generation)
    assert reply.candidates[0].claims == {"A man sits.": 1.0, "Dogs bark.": 0.0}
    assert [prompt_of(body) for body in server.bodies] == ["Right? A man sits.", "Right? Dogs bark."]


def test_clip_that_cannot_be_shown_is_a_failure_of_each_of_its_requests(prepare: Prepare) -> None:
    one = prepare("a")
    requests = tuple(replace(one.requests[0], id=named(f"{n}")) for n in range(3))
    with OpenAIServer() as server:
        replies = answers_of(load_openai(server, send="video"), Work(requests=requests), prepare("b", video=False))
    assert [reply.kind for reply in replies.values() if isinstance(reply, Failure)] == ["missing"] * 3
    assert isinstance(replies["b"], Generation)


def test_request_without_a_video_is_sent_as_text(prepare: Prepare) -> None:
    text = replace(prepare("a", prompt="Sum it up.", video=False), frames=NO_FRAMES)
    with OpenAIServer() as server:
        assert isinstance(answers_of(load_openai(server), text)["a"], Generation)
    assert server.bodies[0]["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Sum it up."}]}]


# Schemas

SHOT = Schema.of("shot", folder=Path())


def test_server_is_sent_the_schema_of_each_request_and_no_other(prepare: Prepare) -> None:
    own = Schema.of(
        {"type": "object", "properties": {"a": {"type": "string"}, "s": {"type": "number", "x-from": "duration"}}},
        folder=Path(),
    )
    told = Schema(text=own.text, name="clips, in München: " + "x" * 90)
    with OpenAIServer() as server:
        batch = [prepare("a", prompt="a", schema=told), prepare("b", prompt="b", schema=SHOT), prepare("c", prompt="c")]
        answers_of(load_openai(server), *batch)
    sent = {prompt_of(body): body.get("response_format") for body in server.bodies}
    assert sent["a"] == {
        "type": "json_schema",
        "json_schema": {
            "name": "clips__in_M_nchen__" + "x" * 45,
            "schema": {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False},
            "strict": True,
        },
    }
    assert sent["b"] == {"type": "json_schema", "json_schema": {"name": "shot", "schema": SHOT.asked, "strict": True}}
    assert sent["c"] is None


@pytest.mark.parametrize("num_captions", [1, 2])
def test_server_that_takes_no_schema_refuses_its_own_requests(prepare: Prepare, num_captions: int) -> None:
    def answer(body: Body) -> Reply:
        return refuse(400, "response_format is not supported") if "response_format" in body else describe(body)

    with OpenAIServer(answer) as server:
        batch = [prepare("a", schema=SHOT, num_captions=num_captions), prepare("b", num_captions=num_captions)]
        replies = answers_of(load_openai(server), *batch)
    assert "400: response_format is not supported" in problem_of(replies["a"])
    assert len(texts_of(replies["b"])) == num_captions
