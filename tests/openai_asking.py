"""What tests of the engine for servers share: to load it, to ask it, and to read what came of it."""

from collections.abc import Callable
from typing import Any

from openai_server import Body, OpenAIServer, Reply, describe

from reelscribe.config import Settings
from reelscribe.engines import load_engine
from reelscribe.engines.openai import OpenAIEngine
from reelscribe.values import Failure, Generation, Work


def load_openai(server: OpenAIServer, **settings: Any) -> OpenAIEngine:
    told: dict[str, Any] = {"engine": "openai", "base_url": server.url, "model": "some-model", **settings}
    engine = load_engine(Settings(**told))
    assert isinstance(engine, OpenAIEngine)
    return engine


def answers_of(engine: OpenAIEngine, *requests: Work) -> dict[str, Generation | Failure]:
    return {answer.id.task: answer for answer in engine.generate(iter(requests))}


def texts_of(answer: Generation | Failure) -> list[str]:
    assert isinstance(answer, Generation), answer
    return [candidate.text for candidate in answer.candidates]


def problem_of(answer: Generation | Failure) -> str:
    assert isinstance(answer, Failure), answer
    assert answer.kind == "engine"
    return answer.message


def prompt_of(body: Body) -> str:
    return str(body["messages"][-1]["content"][-1]["text"])


def only_to(prompt: str, reply: Reply) -> Callable[[Body], Reply]:
    """Answers so to this prompt, and well to others."""
    return lambda body: reply if prompt_of(body) == prompt else describe(body)


def at_first(*replies: Reply) -> Callable[[Body], Reply]:
    """Gives these replies one after another, then good ones."""
    waiting = iter(replies)
    return lambda body: next(waiting, None) or describe(body)
