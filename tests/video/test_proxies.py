"""Proxies as people write them, in the environment."""

import base64
import shutil
import socket
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from web_server import Server, download, give, give_whole, refused

FAR = "http://203.0.113.7.example.invalid/a"


@pytest.fixture
def proxy(server: Server) -> Server:
    server.answers[FAR] = give_whole(b"by proxy")
    return server


def test_proxy_of_the_environment_is_used_and_hosts_are_still_checked(
    proxy: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", proxy.url(""))
    assert download(FAR) == b"by proxy"
    kind, message = refused("http://10.0.0.1/a")
    assert (kind, "leads to 10.0.0.1 (10.0.0.1)" in message) == ("refused", True)


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "Http_Proxy", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize(
    "written", ["http://localhost:{}", "localhost:{}", "LocalHost:{}", "HTTP://LOCALHOST:{}/", " 127.0.0.1:{} "]
)
def test_proxy_is_found_however_it_is_written(
    proxy: Server, monkeypatch: pytest.MonkeyPatch, name: str, written: str
) -> None:
    monkeypatch.setenv(name, written.format(proxy.port))
    assert download(FAR) == b"by proxy"
    assert proxy.asked == [("203.0.113.7.example.invalid", FAR)]


@pytest.mark.parametrize("written", ["http://proxy.test", "proxy.test", "Proxy.Test/"])
def test_proxy_without_a_port_has_that_of_http(monkeypatch: pytest.MonkeyPatch, proxy: Server, written: str) -> None:
    resolve, asked = socket.getaddrinfo, []

    def resolved(name: str, port: Any, *rest: Any, **more: Any) -> Any:
        if name == "proxy.test":
            asked.append(port)
            return resolve("127.0.0.1", proxy.port, *rest, **more)
        return resolve(name, port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    monkeypatch.setenv("http_proxy", written)
    assert download(FAR) == b"by proxy"
    assert asked == [80]


@pytest.mark.parametrize("login", ["user:hidden", "us%40er:hid%3Aden"])
def test_credentials_of_a_proxy_go_to_it_and_nowhere_else(
    proxy: Server, monkeypatch: pytest.MonkeyPatch, login: str
) -> None:
    monkeypatch.setenv("http_proxy", f"http://{login}@127.0.0.1:{proxy.port}")
    assert download(FAR) == b"by proxy"
    sent = base64.b64decode(proxy.headers[0]["proxy-authorization"].removeprefix("Basic ")).decode()
    assert sent in ("user:hidden", "us@er:hid:den")
    monkeypatch.setenv("http_proxy", f"http://{login}@127.0.0.1:1")
    kind, message = refused(FAR)
    assert (kind, message) == ("download", f"{FAR} cannot be downloaded by the proxy: Connection refused.")


@pytest.mark.parametrize(
    "no_proxy",
    [
        "127.0.0.1",
        "*",
        "other.test, 127.0.0.1",
        "127.0.0.1:{}",
        "127.0.0.0/8",
        "::1,127.0.0.0/24",
        "localhost,127.0.0.1",
    ],
)
def test_hosts_that_need_no_proxy_are_asked_directly(
    server: Server, monkeypatch: pytest.MonkeyPatch, no_proxy: str
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("No_Proxy", no_proxy.format(server.port))
    server.answers["/a"] = give(b"directly")
    assert download(server.url("/a"), allow_private=True) == b"directly"
    assert server.asked == [(f"127.0.0.1:{server.port}", "/a")]


@pytest.mark.parametrize(
    ("no_proxy", "host", "is_direct"),
    [
        *((".example.test", "a.example.test", True), ("example.test", "a.example.test", True)),
        *(("*.example.test", "a.example.test", True), ("example.test", "anexample.test", False)),
        *(("EXAMPLE.test", "example.test", True), ("10.0.0.0/8", "example.test", False)),
    ],
)
def test_domains_that_need_no_proxy(
    proxy: Server, monkeypatch: pytest.MonkeyPatch, no_proxy: str, host: str, is_direct: bool
) -> None:
    url = f"http://{host}:{proxy.port}/a"
    resolve = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _, *rest, **more: resolve("127.0.0.1", *rest, **more))
    monkeypatch.setenv("http_proxy", proxy.url(""))
    monkeypatch.setenv("no_proxy", no_proxy)
    proxy.answers["/a"] = give(b"directly")
    proxy.answers[url] = give(b"by proxy")
    assert download(url, allow_private=True) == (b"directly" if is_direct else b"by proxy")


def test_redirects_choose_their_own_way(proxy: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", proxy.url(""))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    proxy.answers[FAR] = give_whole(b"", code=302, Location=proxy.url("/b"))
    proxy.answers["/b"] = give_whole(b"secret")
    kind, message = refused(FAR)
    assert (kind, message.startswith(f"{FAR} leads to 127.0.0.1 (127.0.0.1), ")) == ("refused", True)
    assert proxy.asked == [("203.0.113.7.example.invalid", FAR)]
    assert download(FAR, allow_private=True) == b"secret"


def test_host_is_checked_by_the_name_that_the_proxy_is_told(proxy: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's resolver has letters of its own for some."""
    resolve, url = socket.getaddrinfo, "http://stra\u00dfe.test/a"
    names = {"xn--strae-oqa.test": "10.0.0.1", "stra\u00dfe.test": "1.1.1.1"}
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda name, *rest, **more: resolve(names.get(name, name), *rest, **more)
    )
    monkeypatch.setenv("http_proxy", proxy.url(""))
    assert refused(url)[0] == "refused"
    assert proxy.asked == []


@pytest.mark.parametrize("written", ["ftp://127.0.0.1:{}", "http://", "nonsense://x"])
def test_what_is_no_proxy_costs_the_clip(proxy: Server, monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.setenv("http_proxy", written.format(proxy.port))
    kind, message = refused(FAR)
    assert kind == "download"
    assert message.startswith(
        f"{FAR} cannot be downloaded by the proxy: the environment must name one as http://host:port"
    )


def test_proxies_that_need_what_is_not_installed_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reelscribe.video.proxies.find_spec", lambda name: None)
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    kind, message = refused(FAR)
    assert kind == "download"
    assert message.endswith("one that speaks SOCKS needs socksio: pip install socksio.")


def test_https_goes_through_a_tunnel(proxy: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", f"user:hidden@127.0.0.1:{proxy.port}")
    proxy.answers["far.example.invalid:443"] = give_whole(b"", code=407)
    kind, message = refused("https://far.example.invalid/a")
    assert (kind, message) == (
        "download",
        "https://far.example.invalid/a cannot be downloaded by the proxy: 407 Proxy Authentication Required.",
    )
    assert proxy.paths == {"far.example.invalid:443": 1}
    assert proxy.headers[0]["proxy-authorization"] == "Basic " + base64.b64encode(b"user:hidden").decode()


# TLS


@pytest.fixture
def secure(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server with a certificate that this process trusts, for localhost."""
    if not shutil.which("openssl"):
        pytest.skip("there is no openssl to make a certificate with")
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run(
        [*command.split(), "-keyout", "key.pem", "-out", "cert.pem"], cwd=tmp_path, check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    return server


def test_https_is_asked_for_its_certificate(secure: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    secure.answers["/a"] = give_whole(b"safe")
    assert download(f"https://localhost:{secure.port}/a", allow_private=True) == b"safe"
    kind, message = refused(f"https://127.0.0.1:{secure.port}/a", allow_private=True)
    assert (kind, "certificate" in message.lower()) == ("download", True)
    assert refused(f"https://localhost:{secure.port}/a")[0] == "refused"
    monkeypatch.delenv("SSL_CERT_FILE")
    kind, message = refused(f"https://localhost:{secure.port}/a", allow_private=True)
    assert (kind, "certificate" in message.lower()) == ("download", True)


def test_https_through_a_tunnel_is_between_the_two_ends(secure: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def tunnel(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with socket.create_connection(("127.0.0.1", secure.port)) as there:
            back = threading.Thread(target=_pass_on, args=(there, handler.connection), daemon=True)
            back.start()
            _pass_on(handler.connection, there)
            back.join(60)
        handler.close_connection = True

    between = Server()
    between.answers[f"localhost:{secure.port}"] = tunnel
    secure.answers["/a"] = give_whole(b"safe")
    monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{between.port}")
    assert download(f"https://localhost:{secure.port}/a", allow_private=True) == b"safe"
    assert between.paths == {f"localhost:{secure.port}": 1}
    assert refused(f"https://localhost:{secure.port}/a")[0] == "refused"


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    try:
        while data := one.recv(1 << 16):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)
    except OSError:
        pass
