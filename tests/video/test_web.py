"""Downloads from a real server on this machine: whole, within limits, and only from where they may come."""

import io
import re
import socket
import threading
import time
from typing import Any

import pytest
from web_server import Server, download, drip, give, open_web, refused

from reelscribe.errors import ClipError
from reelscribe.video.addresses import is_public


@pytest.mark.parametrize("length", [None, 300_000])
def test_file_comes_whole(server: Server, as_public: None, length: int | None) -> None:
    server.answers["/a.mp4"] = give(b"abc" * 100_000, length=length)
    assert download(server.url("/a.mp4")) == b"abc" * 100_000


def test_redirects_are_followed(server: Server, as_public: None) -> None:
    server.answers["/a"] = give(b"", code=302, Location="/b")
    server.answers["/b"] = give(b"", code=307, Location=server.url("/c"))
    server.answers["/c"] = give(b"video")
    assert download(server.url("/a")) == b"video"


def test_file_that_is_not_there_is_missing(server: Server, as_public: None) -> None:
    server.answers["/secret"] = give(b"", code=403)
    kind, message = refused(server.url("/a"))
    assert (kind, message) == ("missing", f"{server.url('/a')} was not given; the server said 404 Not Found.")
    kind, message = refused(server.url("/secret"))
    assert (kind, "403 Forbidden" in message) == ("download", True)


@pytest.mark.parametrize("length", [None, 2000])
def test_file_beyond_the_limit_is_not_fetched(server: Server, as_public: None, length: int | None) -> None:
    server.answers["/a"] = give(b"x" * 2000, length=length)
    target = io.BytesIO()
    got = "more" if length is None else "2,000"
    message = rf"too large: at most 1,000 bytes are taken \(max_video_bytes\); got {got}\."
    with open_web(max_bytes=1000) as opened, pytest.raises(ClipError, match=message):
        opened.download(server.url("/a"), target)
    assert len(target.getvalue()) <= 1000
    server.answers["/b"] = give(b"x" * 1000, length=1000)
    assert len(download(server.url("/b"), max_bytes=1000)) == 1000


def test_what_is_said_beside_the_status_may_break_off(server: Server, as_public: None) -> None:
    server.answers["/gone"] = give(b"cut", length=100, code=404)
    assert refused(server.url("/gone"))[0] == "missing"
    server.answers["/moved"] = give(b"cut", length=100, code=302, Location="/there")
    server.answers["/there"] = give(b"whole")
    assert download(server.url("/moved")) == b"whole"


def test_file_that_breaks_off_is_told(server: Server, as_public: None) -> None:
    server.answers["/a"] = give(b"x" * 500, length=1000)
    kind, message = refused(server.url("/a"))
    assert kind == "download"
    assert message.endswith("cannot be downloaded: it broke off after 500 of 1,000 bytes.")


@pytest.mark.parametrize("head", [True, False])
def test_server_that_drips_for_ever_is_cut_off_in_time(server: Server, as_public: None, head: bool) -> None:
    server.answers["/a"] = drip(head=head)
    start = time.monotonic()
    kind, message = refused(server.url("/a"), seconds=0.5)
    assert time.monotonic() - start < 10  # of which it would take all
    assert kind == "download"
    assert message.endswith("/a: the download took longer than 0.5 s (download_seconds).")


def test_server_that_says_nothing_is_cut_off_in_time(as_public: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        kind, message = refused(f"http://127.0.0.1:{silent.getsockname()[1]}/a", seconds=0.5)
    assert kind == "download"
    assert re.search(r"took longer than 0\.5 s|timed out", message)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/a", "http://no.such.host.invalid/a", "http://[/a", "http://"])
def test_server_that_is_not_there_is_told(url: str) -> None:
    kind, message = refused(url, allow_private=True)
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
        kind, message = refused(f"http://127.0.0.1:{odd.getsockname()[1]}/a")
    assert kind == "download"
    assert message.endswith(" cannot be downloaded: Server disconnected without sending a response.")


# Where URLs lead


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "127.1", "2130706433", "0x7f.1"])
def test_this_machine_is_not_asked(server: Server, host: str) -> None:
    server.answers["/a"] = give(b"secret")
    kind, message = refused(server.url("/a", host))
    assert kind == "refused"
    assert message.startswith(f"{server.url('/a', host)} leads to {host} (")
    assert message.endswith("), which is no public address; such URLs need allow_private_urls.")
    assert server.asked == []
    assert download(server.url("/a", host), allow_private=True) == b"secret"


@pytest.mark.parametrize("host", ["127.0.0.2", "localhost.localdomain", "[::1]"])
def test_redirect_to_another_address_is_checked(
    server: Server, as_public: None, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    resolve = socket.getaddrinfo
    names = {"localhost.localdomain": "127.0.0.2"}
    monkeypatch.setattr(socket, "getaddrinfo", lambda name, *a, **k: resolve(names.get(name, name), *a, **k))
    server.answers["/a"] = give(b"", code=302, Location=server.url("/b", host))
    server.answers["/b"] = give(b"secret")
    kind, message = refused(server.url("/a"))
    assert (kind, [path for _, path in server.asked]) == ("refused", ["/a"])
    assert message.startswith(f"{server.url('/a')} leads to {host.strip('[]')}")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,x", "gopher://x/"])
def test_redirect_to_another_scheme_is_not_followed(server: Server, as_public: None, target: str) -> None:
    server.answers["/a"] = give(b"", code=302, Location=target)
    assert refused(server.url("/a"))[0] == "download"


def test_name_is_resolved_once_so_that_what_was_checked_is_what_is_asked(
    server: Server, as_public: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve, asked = socket.getaddrinfo, []

    def change(name: str, *rest: Any, **more: Any) -> Any:
        asked.append(name)
        return resolve("127.0.0.1" if len(asked) == 1 else "127.0.0.2", *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", change)
    server.answers["/a"] = give(b"video")
    assert download(server.url("/a", "rebound.test")) == b"video"
    assert asked == ["rebound.test"]
    assert refused(server.url("/a", "rebound.test"))[0] == "refused"


def test_name_with_one_private_address_among_others_is_refused(
    server: Server, as_public: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = socket.getaddrinfo

    def several(_: str, *rest: Any, **more: Any) -> Any:
        return [*resolve("127.0.0.1", *rest, **more), *resolve("127.0.0.2", *rest, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", several)
    assert refused(server.url("/a", "several.test"))[0] == "refused"
    assert server.asked == []


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::", "2001:db8::1",
        "64:ff9b:1::a00:1", "::10.0.0.1", "::ffff:0:10.0.0.1", "fec0::1",
    ],
)  # fmt: skip
def test_address_that_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_address_that_is_public(address: str) -> None:
    assert is_public(address)
