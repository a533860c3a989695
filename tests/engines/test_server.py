"""Addresses, keys and errors of servers. What they do on the wire is in `test_openai.py`."""

import email.utils
import logging
import time

import httpx2
import pytest
from openai_server import OpenAIServer

from reelscribe.engines import server
from reelscribe.engines.server import Server
from reelscribe.errors import SettingsError

URL = "http://127.0.0.1:1/v1"


def _server(url: str | None = URL, env: str = "OPENAI_API_KEY") -> Server:
    return Server(url, env, 1.0)


@pytest.mark.parametrize("url", ["http://[::1]:8000/v1", "https://host.example/some/v1/"])
def test_address_is_taken_without_its_last_slash(url: str) -> None:
    assert _server(url).url == url.rstrip("/")


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://host/v1", "http://", "http://host:x/v1", "/v1"])
def test_wrong_address_is_refused(url: str) -> None:
    with pytest.raises(
        SettingsError, match=r"base_url must be an address as http://localhost:8000/v1; this one is none"
    ):
        _server(url)


@pytest.mark.parametrize("url", ["http://me:s3cret@host/v1", "http://s3cret@host/v1", "http://host/v1?key=s3cret"])
def test_secrets_in_an_address_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        _server(url)
    told = str(caught.value)
    assert told.startswith("base_url must hold nothing but host, port and path, as http://host/v1; got more, ")
    assert "s3cret" not in told
    assert "s3cret" not in repr(caught.value.__cause__)


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ("sk-123456", "api_key_env must be the name of an environment variable; what it holds is none"),
        ("", "api_key_env must be the name of an environment variable; what it holds is none"),
        ("hf_abcdefgh", "api_key_env names an environment variable that is not set; export the key there."),
    ],
)
def test_key_in_place_of_its_variable_is_refused_and_not_repeated(env: str, told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        _server(env=env)
    assert str(caught.value).startswith(told)
    assert not env or env not in str(caught.value)


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel"])
def test_what_cannot_be_a_key_is_refused_and_not_repeated(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("SOME_KEY", key)
    with pytest.raises(
        SettingsError, match="the API key in the environment holds characters that no key has"
    ) as caught:
        _server(env="SOME_KEY")
    assert key not in str(caught.value)


def test_messages_are_short_and_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "abcdefgh")
    there = _server(env="SOME_KEY")
    assert there.tell("one\n two abcdefgh.") == "one two ***"
    assert there.tell(ConnectionResetError()) == "ConnectionResetError"
    assert there.tell("x" * 297 + "abcdefgh" + "y") == "x" * 297 + "*** ..."
    assert repr(there) == f"Server('{URL}')"


def test_a_few_characters_are_a_placeholder_not_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "EMPTY")
    assert _server(env="SOME_KEY").tell("EMPTY prompt") == "EMPTY prompt"


def test_loggers_get_one_filter_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "one-and-the-same")
    before = len(logging.getLogger("httpx2").filters)
    for _ in range(3):
        _server(env="SOME_KEY")
    assert len(logging.getLogger("httpx2").filters) == before + 1
    assert "one-and-the-same" not in repr(logging.getLogger("httpx2").filters)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *(("2", 2.0), ("0.25", 0.25), ("Mon, 01 Jan 2001 00:00:00 GMT", 0.0)),
        *(("", None), ("soon", None), ("nan", None), ("-1", None)),
    ],
)
def test_pause_that_a_server_asks_for_is_read(value: str, seconds: float | None) -> None:
    assert server._retry_after(httpx2.Response(429, headers={"Retry-After": value})) == seconds


def test_pause_until_a_date_is_read() -> None:
    value = email.utils.formatdate(time.time() + 100, usegmt=True)
    seconds = server._retry_after(httpx2.Response(429, headers={"Retry-After": value}))
    assert seconds is not None
    assert 90 < seconds <= 100


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"error": {"message": "from OpenAI"}}, "from OpenAI"),
        ({"object": "error", "message": "from elsewhere"}, "from elsewhere"),
        ({"error": "from a gateway"}, "from a gateway"),
        ({"detail": "from FastAPI"}, "from FastAPI"),
        ({"detail": [{"loc": 1}]}, '{"detail":[{"loc":1}]}'),
        (["x"], '["x"]'),
    ],
)
def test_message_of_an_error_is_found(content: object, said: str) -> None:
    assert _server()._said(httpx2.Response(400, json=content)) == f"400: {said}"


def test_error_without_a_message_has_its_status_in_words() -> None:
    assert _server()._said(httpx2.Response(502)) == "502: Bad Gateway"


@pytest.mark.parametrize(("version", "read"), [("0.32.0", (0, 32)), ("1.2.3.dev4+cpu", (1, 2)), ("unknown", (0, 0))])
def test_version_of_vllm_is_read(version: str, read: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with OpenAIServer(version=version) as there:
        assert _server(there.url).vllm_version() == read
