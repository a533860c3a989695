"""Downloads from a real server on this machine: whole, within limits, and only from where they may come."""

import io
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from reelscribe.errors import ClipError
from reelscribe.video import addresses
from reelscribe.video.addresses import is_public
from reelscribe.video.web import Web

Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """Answers each path as a test tells it to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append((self.headers["Host"], self.path))
                answer = server.answers.get(self.path)
                if answer is None:
                    self.send_error(404)
                else:
                    answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("0.0.0.0", 0), Handler)
        self.http.daemon_threads = True
        self.port = self.http.server_port
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign] # clients that hang up are expected
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"


def _give(data: bytes, *, length: int | None = None, code: int = 200, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name, value)
        if length is not None:
            handler.send_header("Content-Length", str(length))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def _drip(*, head: bool) -> Answer:
    """Send a byte now and then, for ever: of the head, or of the body."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
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


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def as_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 stands for an address of the public internet."""
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1")


def _web(**limits: Any) -> AbstractContextManager[Web]:
    return closing(Web(**{"max_bytes": 1 << 20, "seconds": 20.0, "allow_private": False} | limits))


def _download(url: str, **limits: Any) -> bytes:
    target = io.BytesIO()
    with _web(**limits) as web:
        web.download(url, target)
    return target.getvalue()


def _refused(url: str, **limits: Any) -> tuple[str, str]:
    with pytest.raises(ClipError) as caught:
        _download(url, **limits)
    return caught.value.kind, str(caught.value)


@pytest.mark.parametrize("length", [None, 300_000])
def test_file_comes_whole(server: Server, as_public: None, length: int | None) -> None:
    server.answers["/a.mp4"] = _give(b"abc" * 100_000, length=length)
    assert _download(server.url("/a.mp4")) == b"abc" * 100_000


def test_redirects_are_followed(server: Server, as_public: None) -> None:
    server.answers["/a"] = _give(b"", code=302, Location="/b")
    server.answers["/b"] = _give(b"", code=307, Location=server.url("/c"))
    server.answers["/c"] = _give(b"video")
    assert _download(server.url("/a")) == b"video"


def test_file_that_is_not_there_is_missing(server: Server, as_public: None) -> None:
    server.answers["/secret"] = _give(b"", code=403)
    kind, message = _refused(server.url("/a"))
    assert (kind, message) == ("missing", f"{server.url('/a')} was not given; the server said 404 Not Found.")
    kind, message = _refused(server.url("/secret"))
    assert (kind, "403 Forbidden" in message) == ("download", True)


@pytest.mark.parametrize("length", [None, 2000])
def test_file_beyond_the_limit_is_not_fetched(server: Server, as_public: None, length: int | None) -> None:
    server.answers["/a"] = _give(b"x" * 2000, length=length)
    target = io.BytesIO()
    got = "more" if length is None else "2,000"
    message = rf"too large: at most 1,000 bytes are taken \(max_video_bytes\); got {got}\."
    with _web(max_bytes=1000) as web, pytest.raises(ClipError, match=message):
        web.download(server.url("/a"), target)
    assert len(target.getvalue()) <= 1000
    server.answers["/b"] = _give(b"x" * 1000, length=1000)
    assert len(_download(server.url("/b"), max_bytes=1000)) == 1000


def test_file_that_breaks_off_is_told(server: Server, as_public: None) -> None:
    server.answers["/a"] = _give(b"x" * 500, length=1000)
    kind, message = _refused(server.url("/a"))
    assert kind == "download"
    assert message.endswith("cannot be downloaded: it broke off after 500 of 1,000 bytes.")


@pytest.mark.parametrize("head", [True, False])
def test_server_that_drips_for_ever_is_cut_off_in_time(server: Server, as_public: None, head: bool) -> None:
    server.answers["/a"] = _drip(head=head)
    start = time.monotonic()
    kind, message = _refused(server.url("/a"), seconds=0.5)
    assert time.monotonic() - start < 10  # of which it would take all
    assert kind == "download"
    assert message.endswith("/a: the download took longer than 0.5 s (download_seconds).")


def test_server_that_says_nothing_is_cut_off_in_time(as_public: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        kind, message = _refused(f"http://127.0.0.1:{silent.getsockname()[1]}/a", seconds=0.5)
    assert kind == "download"
    assert re.search(r"took longer than 0\.5 s|timed out", message)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/a", "http://no.such.host.invalid/a", "http://[/a", "http://"])
def test_server_that_is_not_there_is_told(url: str) -> None:
    kind, message = _refused(url, allow_private=True)
    assert kind == "download"
    assert message.startswith(f"{url} cannot be downloaded: ")


def test_answer_that_is_no_http_is_told(as_public: None) -> None:
    def talk() -> None:
        connection, _ = odd.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"220 mail.example.org ESMTP\r\n")

    with socket.create_server(("127.0.0.1", 0)) as odd:
        threading.Thread(target=talk, daemon=True).start()
        kind, message = _refused(f"http://127.0.0.1:{odd.getsockname()[1]}/a")
    assert kind == "download"
    assert message.endswith(" cannot be downloaded: Server disconnected without sending a response.")


# Where URLs lead


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "127.1", "2130706433", "0x7f.1"])
def test_this_machine_is_not_asked(server: Server, host: str) -> None:
    server.answers["/a"] = _give(b"secret")
    kind, message = _refused(server.url("/a", host))
    assert kind == "refused"
    assert message.startswith(f"{server.url('/a', host)} leads to {host} (")
    assert message.endswith("), which is no public address; such URLs need allow_private_urls.")
    assert server.asked == []
    assert _download(server.url("/a", host), allow_private=True) == b"secret"


@pytest.mark.parametrize("host", ["127.0.0.2", "localhost.localdomain", "[::1]"])
def test_redirect_to_another_address_is_checked(
    server: Server, as_public: None, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    resolve = socket.getaddrinfo
    names = {"localhost.localdomain": "127.0.0.2"}
    monkeypatch.setattr(socket, "getaddrinfo", lambda name, *a, **k: resolve(names.get(name, name), *a, **k))
    server.answers["/a"] = _give(b"", code=302, Location=server.url("/b", host))
    server.answers["/b"] = _give(b"secret")
    kind, message = _refused(server.url("/a"))
    assert (kind, [path for _, path in server.asked]) == ("refused", ["/a"])
    assert message.startswith(f"{server.url('/a')} leads to {host.strip('[]')}")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,x", "gopher://x/"])
def test_redirect_to_another_scheme_is_not_followed(server: Server, as_public: None, target: str) -> None:
    server.answers["/a"] = _give(b"", code=302, Location=target)
    assert _refused(server.url("/a"))[0] == "download"


def test_name_is_resolved_once_so_that_what_was_checked_is_what_is_asked(
    server: Server, as_public: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve, asked = socket.getaddrinfo, []

    def change(name: str, *rest: Any, **more: Any) -> Any:
        asked.append(name)
        return resolve("127.0.0.1" if len(asked) == 1 else "127.0.0.2", *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", change)
    server.answers["/a"] = _give(b"video")
    assert _download(server.url("/a", "rebound.test")) == b"video"
    assert asked == ["rebound.test"]
    assert _refused(server.url("/a", "rebound.test"))[0] == "refused"


def test_name_with_one_private_address_among_others_is_refused(
    server: Server, as_public: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = socket.getaddrinfo

    def several(_: str, *rest: Any, **more: Any) -> Any:
        return [*resolve("127.0.0.1", *rest, **more), *resolve("127.0.0.2", *rest, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", several)
    assert _refused(server.url("/a", "several.test"))[0] == "refused"
    assert server.asked == []


def test_proxy_of_the_environment_is_used_and_hosts_are_still_checked(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url(""))
    server.answers["http://203.0.113.7.example.invalid/a"] = _give(b"by proxy")
    assert _download("http://203.0.113.7.example.invalid/a") == b"by proxy"
    kind, message = _refused("http://10.0.0.1/a")
    assert (kind, "leads to 10.0.0.1 (10.0.0.1)" in message) == ("refused", True)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::", "2001:db8::1",
    ],
)  # fmt: skip
def test_address_that_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_address_that_is_public(address: str) -> None:
    assert is_public(address)
