"""A real HTTP server on this machine, which answers as a test tells it to, and downloads from it."""

import io
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from reelscribe.errors import ClipError
from reelscribe.video.web import Web

Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """Answers each path as a test tells it to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str]] = []
        """Hosts and paths."""
        self.headers: list[dict[str, str]] = []
        """Of each request, their names in small letters."""
        self.connections = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                server.connections += 1
                super().setup()

            def do_GET(self) -> None:
                server.asked.append((self.headers["Host"], self.path))
                server.headers.append({name.lower(): value for name, value in self.headers.items()})
                answer = server.answers.get(self.path)
                if answer is None:
                    self.send_error(404)
                else:
                    answer(self)

            do_CONNECT = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        class Http(ThreadingHTTPServer):
            request_queue_size = 100
            daemon_threads = True

        self.http = Http(("0.0.0.0", 0), Handler)
        self.port = self.http.server_port
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign] # clients that hang up are expected
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def paths(self) -> Counter[str]:
        """How often each path was asked for."""
        return Counter(path for _, path in self.asked)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"


def give(data: bytes, *, length: int | None = None, code: int = 200, **headers: str) -> Answer:
    """Answer with this; underscores in names of headers are dashes."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        if length is not None:
            handler.send_header("Content-Length", str(length))
        if length != len(data):
            handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def give_whole(data: bytes, **more: Any) -> Answer:
    """Answer with this, and its length, so that the connection can be kept."""
    return give(data, length=len(data), **more)


def drip(*, head: bool) -> Answer:
    """Send a byte now and then, for ever: of the head, or of the body."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        if not head:
            handler.send_response(200)
            handler.end_headers()
        elif handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: "):
            pass
        while not gone.wait(0.05):
            handler.wfile.write(b"x")
            handler.wfile.flush()

    gone = threading.Event()
    return answer


def open_web(**limits: Any) -> AbstractContextManager[Web]:
    return closing(Web(**{"max_bytes": 1 << 20, "seconds": 20.0, "allow_private": False} | limits))


def download(url: str, web: Web | None = None, **limits: Any) -> bytes:
    """What is at a URL, with connections that are kept by `web`, or with new ones."""
    target = io.BytesIO()
    with nullcontext(web) if web else open_web(**limits) as opened:
        opened.download(url, target)
    return target.getvalue()


def refused(url: str, web: Web | None = None, **limits: Any) -> tuple[str, str]:
    """Kind and message of a download that fails."""
    with pytest.raises(ClipError) as caught:
        download(url, web, **limits)
    return caught.value.kind, str(caught.value)
