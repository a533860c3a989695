"""An OpenAI-compatible server: its address and key, what it says about itself, and what its errors mean.

The key is sent in the headers and appears nowhere else. It is removed from the texts of a server's errors. An answer
that contains it is discarded.
"""

import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import httpx2

from reelscribe.engines.gate import BusyError, DeniedError, FailedError, RefusedError
from reelscribe.errors import EngineError, SettingsError
from reelscribe.video.web import retry_after

_LONGEST_MESSAGE: Final = 300
"""The most characters of a server's message that our errors repeat."""
_SHORTEST_SECRET: Final = 8
"""The fewest characters of a real key. A shorter key is a placeholder, and removing it would only garble messages."""
_CONNECT_SECONDS: Final = 20.0
"""The time limit for opening a connection."""
_START_SECONDS: Final = 30.0
"""The time limit for the questions that are asked before a run."""
_PROMPT_END: Final = 16
"""Tokens at the end of a prompt in which a mark and a line break fit, even if the mark takes several tokens."""
_AWAY: Final = frozenset({502, 503, 529})
"""HTTP statuses that say that no server is there to answer."""
_FATAL: Final = frozenset({401, 402})
"""HTTP statuses after which no request can succeed."""
_DENIED: Final = frozenset({403, 404})
"""HTTP statuses for a wrong key or model, which servers also give for single requests that they moderate or cannot
route."""
_LOGS: Final = ("httpx2", *(f"httpcore2.{part}" for part in ("connection", "http11", "http2", "proxy", "socks")))
"""Loggers that log the headers of answers at DEBUG."""


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model as a server lists it."""

    name: str
    owner: str
    """The `owned_by` of the list, in which vLLM puts its own name."""


class Server:
    """A server's address, its key, and the requests that can be sent to it.

    Args:
        base_url: the address, including the version, such as http://localhost:8000/v1.
        api_key_env: the name of the environment variable that holds the key. If it is the default name, it need not be
            set, since a local server needs no key.
        request_timeout: seconds for a whole request.

    Raises:
        SettingsError: the address or the key cannot be used. The message does not repeat what may be a secret.
    """

    def __init__(self, base_url: str | None, api_key_env: str, request_timeout: float) -> None:
        self.url = _checked_url(base_url)
        self._env = api_key_env
        self._key = _read_key(api_key_env)
        self._seconds = request_timeout
        self.has_answered = False
        """Whether the server has answered a request for a completion. So key and model are right, or were."""
        for name in _LOGS if self._key else ():  # `addFilter` does not add an equal filter twice
            logging.getLogger(name).addFilter(_KeyFilter(key=self._key))

    def connect(self) -> httpx2.AsyncClient:
        """A client for one event loop. The caller closes it, and limits the number of connections."""
        return httpx2.AsyncClient(headers=self._headers(), timeout=self._timeout(None), limits=httpx2.Limits())

    def models(self) -> list[ServedModel] | None:
        """The models that the server lists; None if it has no list of models.

        Raises:
            EngineError: the server cannot be reached, refuses the key, or answers with something else.
        """
        response = self._call("GET", f"{self.url}/models")
        if response.status_code in (404, 405, 501):
            return None
        if response.status_code != 200:
            raise self._fatal(response)
        try:
            entries = self._read(response)["data"]
            named = [entry for entry in entries if isinstance(entry["id"], str)]
        except (FailedError, LookupError, TypeError) as exc:
            told = exc if isinstance(exc, FailedError) else "the server's answer has another form than it should."
            message = f"{self.url}/models gives no list of models: {told} Does base_url end as it should, in /v1?"
            raise EngineError(message) from exc
        return [ServedModel(name=entry["id"], owner=str(entry.get("owned_by"))) for entry in named]

    def vllm_version(self) -> tuple[int, int]:
        """The version of a vLLM server, such as (0, 32); (0, 0) if it does not say."""
        response = self._call("GET", f"{self.url.removesuffix('/v1')}/version")
        found = re.search(r'"version":\s*"(\d+)\.(\d+)', response.text) if response.status_code == 200 else None
        return (int(found[1]), int(found[2])) if found else (0, 0)

    def takes(self, body: Mapping[str, Any]) -> bool:
        """Whether the server accepts a request for a completion. The request is sent, so it should be a small one.

        Raises:
            EngineError: the server cannot be reached, or its error is not about this request alone.
        """
        response = self._call("POST", f"{self.url}/chat/completions", json.dumps(body).encode())
        if response.status_code not in (200, 400, 422):
            raise self._fatal(response)
        self.has_answered = True
        return response.status_code == 200

    def prompt_end(self, body: Mapping[str, Any]) -> str:
        """The text of the last tokens of the prompt that a vLLM server makes of messages; empty if it does not say.

        Raises:
            EngineError: the server cannot be reached.
        """
        asked = json.dumps({**body, "return_token_strs": True}).encode()
        response = self._call("POST", f"{self.url.removesuffix('/v1')}/tokenize", asked)
        try:
            return "".join(json.loads(response.text)["token_strs"][-_PROMPT_END:])
        except (ValueError, LookupError, TypeError):
            return ""

    async def ask(self, client: httpx2.AsyncClient, body: bytes) -> Any:
        """Send a request for a completion, once.

        Returns:
            The parsed JSON of the answer.

        Raises:
            BusyError, FailedError, RefusedError, DeniedError: the request failed; see these classes.
            EngineError: no request can be answered, for example because the key is wrong.
        """
        try:
            with anyio.fail_after(self._seconds):
                response = await client.post(f"{self.url}/chat/completions", content=body)
        except TimeoutError as exc:
            raise FailedError(f"the server gave no answer within {self._seconds:g} s.", slow=True) from exc
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as exc:
            raise BusyError(f"{self.url} cannot be reached: {self.tell(exc)}.", away=True) from exc
        except (httpx2.TransportError, httpx2.DecodingError) as exc:
            raise FailedError(f"the connection broke off: {self.tell(exc)}.") from exc
        self._judge(response)
        content = self._read(response)
        self.has_answered = True
        return content

    def tell(self, said: object) -> str:
        """A foreign text or exception for our messages: in one line, shortened, without the key."""
        text = _without(self._key, " ".join(str(said).split()) or type(said).__name__).rstrip(".")
        return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]} ..."

    def __repr__(self) -> str:
        return f"Server({self.url!r})"

    def _headers(self) -> dict[str, str]:
        content = {"Content-Type": "application/json"}
        return content | {"Authorization": f"Bearer {self._key}"} if self._key else content

    def _timeout(self, seconds: float | None) -> httpx2.Timeout:
        return httpx2.Timeout(seconds, connect=_CONNECT_SECONDS)

    def _call(self, method: str, url: str, content: bytes | None = None) -> httpx2.Response:
        try:
            with httpx2.Client(headers=self._headers(), timeout=self._timeout(_START_SECONDS)) as client:
                return client.request(method, url, content=content)
        except (httpx2.TransportError, httpx2.DecodingError) as exc:
            message = f"cannot reach {url}: {self.tell(exc)}. Is the server up, and base_url ({self.url}) right?"
            raise EngineError(message) from exc

    def _judge(self, response: httpx2.Response) -> None:
        """Raise the error that an HTTP status of 300 or more means."""
        status = response.status_code
        if status < 300:
            return
        if status < 400 or status in _FATAL:
            raise self._fatal(response)
        said = f"the server says {self._said(response)}."
        if status == 429 or status in _AWAY:
            raise BusyError(said, retry_after=_retry_after(response), away=status in _AWAY)
        if status >= 500 or status == 408:
            raise FailedError(said, slow=status in (408, 504))
        if status in _DENIED:
            raise DeniedError(said, for_all=self._fatal(response))
        raise RefusedError(said)

    def _fatal(self, response: httpx2.Response) -> EngineError:
        status, said = response.status_code, self._said(response)
        if status in (401, 403):
            hint = (
                f"It does not take the key in {self._env}."
                if self._key
                else "It wants a key: put it in an environment variable, and name that with api_key_env."
            )
        elif status == 404:
            hint = "Is base_url right (it mostly ends in /v1), and does the server have this model?"
        elif status < 400:
            target = self.tell(response.headers.get("location", "another address"))
            hint = f"It sends us to {target.partition('?')[0]}; give base_url as it is there."
        else:
            hint = "No request can be answered before that is mended."
        return EngineError(f"the server at {self.url} says {said}. {hint}")

    def _said(self, response: httpx2.Response) -> str:
        """The status and the message of an error. Servers put the message into different fields."""
        try:
            told = json.loads(response.text)
        except (ValueError, RecursionError):
            told = None
        for name in ("error", "message", "detail"):
            if isinstance(told, dict) and name in told:
                told = told[name]
        text = told if isinstance(told, str) else response.text
        return f"{response.status_code}: {self.tell(text or response.reason_phrase)}"

    def _read(self, response: httpx2.Response) -> Any:
        """Parse the JSON of an answer.

        Raises:
            FailedError: it is not JSON, or it contains the key.
        """
        try:
            content = json.loads(response.text)
        except (ValueError, RecursionError) as exc:
            raise FailedError(f"the server's answer is no JSON: {self.tell(response.text)!r}.") from exc
        plain = json.dumps(content, ensure_ascii=False)  # resolves escapes, in which a key could hide
        if _without(self._key, plain) != plain:
            raise FailedError("the server's answer holds the API key; it was thrown away.")
        return content


@dataclass(frozen=True, kw_only=True)
class _KeyFilter:
    """A logging filter that removes a key from log records."""

    key: str = field(repr=False)

    def filter(self, record: logging.LogRecord) -> bool:
        """Remove the key from a record. Always true, since no record is dropped."""
        record.msg, record.args = _without(self.key, record.getMessage()), ()
        return True


def _without(key: str, text: str) -> str:
    return text.replace(key, "***") if len(key) >= _SHORTEST_SECRET else text


def _checked_url(base_url: str | None) -> str:
    if not base_url:
        raise SettingsError("the engine openai needs base_url, the server's address, as http://localhost:8000/v1.")
    try:
        url = httpx2.URL(base_url)
    except httpx2.InvalidURL:
        url = httpx2.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise SettingsError("base_url must be an address as http://localhost:8000/v1; this one is none.")
    if url.userinfo or url.query or url.fragment:
        raise SettingsError(
            f"base_url must hold nothing but host, port and path, as http://{url.host}/v1; got more, which is not "
            "repeated here, lest it be a password. Keys come from the environment (api_key_env)."
        )
    return str(url).rstrip("/")


def _read_key(env: str) -> str:
    """Read the key from the environment; empty if there is none. Errors do not repeat `env`: it may be a key itself."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", env):
        raise SettingsError(
            "api_key_env must be the name of an environment variable; what it holds is none, and is not repeated here, "
            "lest it be the key."
        )
    key = os.environ.get(env, "").strip()
    if not key and env != "OPENAI_API_KEY":
        raise SettingsError("api_key_env names an environment variable that is not set; export the key there.")
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise SettingsError("the API key in the environment holds characters that no key has; copy it again.")
    return key


def _retry_after(response: httpx2.Response) -> float | None:
    return retry_after(response.headers.get("retry-after", ""))
