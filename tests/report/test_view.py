"""The page from a server: the real command, and whoever else is on the machine."""

import http.client
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from reelscribe.errors import SettingsError
from reelscribe.report.view import view
from report.conftest import Opened


@pytest.fixture(scope="module")
def address(data: Path) -> Iterator[str]:
    """Where the page is served. In the end the server goes at Ctrl-C, without a word."""
    command = [sys.executable, "-m", "reelscribe.cli", "view", str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        assert served.stderr is not None
        yield served.stdout.readline().strip()
        served.send_signal(signal.SIGINT)
        assert served.wait(30) == 0
        assert (served.stdout.read(), served.stderr.read()) == ("", "")


def _ask(address: str, path: str | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Ask for a path as it is, not made canonical."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    connection.putrequest("GET", parts.path if path is None else path, skip_host=True)
    for name, value in ({"Host": parts.netloc} | headers).items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    told = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    connection.close()
    return told


def test_the_address_is_of_this_machine_and_has_a_token(address: str) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", address)
    status, headers, page = _ask(address)
    assert status == 200
    assert page.count(b"<article") == 8
    assert headers["cache-control"] == "no-store"
    assert headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("", 200, slice(None)),
        ("bytes=0-9", 206, slice(0, 10)),
        ("bytes=100-", 206, slice(100, None)),
        ("bytes=-7", 206, slice(-7, None)),
    ],
)
def test_videos_come_whole_and_in_parts(address: str, data: Path, asked: str, status: int, part: slice) -> None:
    given, headers, body = _ask(f"{address}video/1-0", **({"Range": asked} if asked else {}))
    assert (given, headers["content-type"]) == (status, "video/mp4")
    assert body == (data.parent / "in" / "dog.mp4").read_bytes()[part]


def test_a_part_that_is_not_there(address: str) -> None:
    assert _ask(f"{address}video/1-0", Range="bytes=99999999-")[0] == 416


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/video/1-0",
        "/wrong/",
        "/wrong/video/1-0",
        "/%2e%2e/",
        "TOKEN/video/6-0",
        "TOKEN/video/99-0",
        "TOKEN/video/../../../etc/passwd",
        "TOKEN/video/..%2f..%2f..%2f..%2fetc%2fpasswd",
        "TOKEN/video//etc/passwd",
        "TOKEN/video/%2fetc%2fpasswd",
        "TOKEN/video/1-0%00",
        "TOKEN/out.jsonl",
        "TOKEN/../",
    ],
)
def test_nothing_else_can_be_had(address: str, path: str) -> None:
    status, _, body = _ask(address, path.replace("TOKEN/", urlsplit(address).path))
    assert status == 404
    assert b"root:" not in body
    assert b"<article" not in body


@pytest.mark.parametrize("host", ["example.org", "example.org:80", "127.0.0.1.example.org", "", "0.0.0.0"])
def test_other_hosts_are_refused(address: str, host: str) -> None:
    for path in ("", "video/1-0"):
        assert _ask(address, urlsplit(address).path + path, Host=host)[0] == 400


def test_localhost_is_this_machine(address: str) -> None:
    assert _ask(address, Host=f"localhost:{urlsplit(address).port}")[0] == 200


def test_nobody_on_the_network_is_served(address: str) -> None:
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for other in (*others, "127.0.0.2"):
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((str(other), urlsplit(address).port or 0), timeout=5)


def test_a_port_that_is_taken(data: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"cannot serve at port {port}: .*0 takes one that is free"):
            view(data, port=port)
    with pytest.raises(SettingsError, match="cannot serve at port 70000"):
        view(data, port=70000)


@pytest.mark.browser
def test_a_browser_plays_from_the_server(look: Callable[..., Opened], address: str) -> None:
    from playwright.sync_api import expect

    opened = look(address)
    opened.page.locator("article[data-video='loop.mp4'] .strip img").nth(5).click()
    video = opened.page.locator("video")
    expect(video).not_to_have_js_property("currentTime", 0)
    expect(video).to_have_js_property("seeking", False)
    assert all(url.startswith((address, "data:")) for url in opened.requests)
    assert f"{address}video/3-0" in opened.requests
