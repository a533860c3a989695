"""A server on a loopback port that speaks as much of OpenAI's protocol as the engine does, and answers by a script."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

Body = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What to answer."""

    status: int = 200
    content: Any = None
    """Sent as JSON, or as it is where it is text."""
    headers: Mapping[str, str] = field(default_factory=dict)
    close: bool = False
    """Close the connection instead."""
    hang: bool = False
    """Say nothing for as long as the server lives."""


def say(*texts: str | None, finish: str = "stop", usage: Any = None, **choice: Any) -> Reply:
    """An answer with a choice for each text, the last one first."""
    choices = [
        {"index": n, "message": {"role": "assistant", "content": text}, "finish_reason": finish} | choice
        for n, text in enumerate(texts)
    ]
    told = {"prompt_tokens": 9, "completion_tokens": 5 * len(texts)} if usage is None else usage
    return Reply(content={"object": "chat.completion", "choices": choices[::-1], "usage": told})


def refuse(status: int, message: str = "no", **headers: str) -> Reply:
    """An error, in OpenAI's form. Headers are written with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status=status, content={"error": {"message": message, "code": status}}, headers=named)


def describe(body: Body) -> Reply:
    """As many captions as are asked for, each with its seed and the prompt in it."""
    prompt = body["messages"][-1]["content"][-1]["text"]
    return say(*(f"{prompt} {body['seed'] + number}" for number in range(body.get("n") or 1)))


class OpenAIServer:
    """The server; a context manager.

    Args:
        answer: makes the reply to a completion from the request's body. It may block.
        models: what it says it has; None: it has no such list; a Reply: that.
        owner: whose it says they are.
        version: what /version says.
        hello: what it answers where it is sent nothing but a few words.
        prompt_end: the last tokens of a prompt, as /tokenize of vLLM tells them; None: it does not.
    """

    def __init__(
        self,
        answer: Callable[[Body], Reply] = describe,
        *,
        models: tuple[str, ...] | Reply | None = ("some-model",),
        owner: str = "somebody",
        version: str | None = None,
        hello: Reply | None = None,
        prompt_end: list[str] | None = None,
    ) -> None:
        self.answer = answer
        self.models = models
        self.owner = owner
        self.version = version
        self.hello = hello or say("Hello")
        self.prompt_end = prompt_end
        self.tokenized: list[Body] = []
        """What it was to tokenize."""
        self.bodies: list[Body] = []
        """Of the completions that were asked for, in the order of their coming."""
        self.headers: list[dict[str, str]] = []
        """Of all requests."""
        self.times: list[float] = []
        """When completions were asked for, in seconds."""
        self.now = self.most = 0
        """Completions in the making, and the most of them so far."""
        self.changed = threading.Condition()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Listen, at the same port as before if it was up before."""
        self.closing = threading.Event()
        self.connections: list[socket.socket] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", self.port), _handler(self))
        self._http.daemon_threads = True
        self.port = self._http.server_port
        threading.Thread(target=self._http.serve_forever, args=(0.001,), daemon=True).start()

    def kill(self) -> None:
        """Stop listening, and cut all connections."""
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def wait_for(self, happened: Callable[[], bool]) -> None:
        """For scripts: wait until something is so, which other requests bring about."""
        with self.changed:
            assert self.changed.wait_for(happened, timeout=20), "it did not happen"

    def __enter__(self) -> "OpenAIServer":
        self.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.kill()


def _handler(server: OpenAIServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # headers and content in one packet

        def setup(self) -> None:
            super().setup()
            server.connections.append(self.connection)

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            server.headers.append(dict(self.headers))
            models = server.models if self.path == "/v1/models" else None
            if isinstance(models, Reply):
                self._send(models)
            elif models is not None:
                listed = [{"id": name, "object": "model", "owned_by": server.owner} for name in models]
                self._send(Reply(content={"object": "list", "data": listed}))
            elif self.path == "/version" and server.version:
                self._send(Reply(content={"version": server.version}))
            else:
                self._send(refuse(404, "no such page"))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/tokenize":
                server.tokenized.append(body)
                told = None if server.prompt_end is None else Reply(content={"token_strs": server.prompt_end})
                self._send(told or refuse(404, "no such page"))
                return
            if isinstance(body["messages"][-1]["content"], str):
                self._send(server.hello)
                return
            with server.changed:
                server.headers.append(dict(self.headers))
                server.bodies.append(body)
                server.times.append(time.monotonic())
                server.now += 1
                server.most = max(server.most, server.now)
                server.changed.notify_all()
            try:
                reply = server.answer(body) if self.path == "/v1/chat/completions" else refuse(404, "no such page")
            finally:
                with server.changed:
                    server.now -= 1
                    server.changed.notify_all()
            self._send(reply)

        def _send(self, reply: Reply) -> None:
            if reply.hang:
                server.closing.wait()
            if reply.close or server.closing.is_set():
                self.close_connection = True
                return
            text = reply.content if isinstance(reply.content, str) else json.dumps(reply.content)
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(text.encode())), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())
            self.wfile.flush()

    return Handler
