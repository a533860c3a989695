"""URLs as people write them: any characters, quoted or not; hosts of any script; credentials, which nobody sees."""

import base64
import json
import logging
import socket
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from flow import clip_bytes, put_rows
from web_server import Server, download, give, give_whole, open_web, refused

from reelscribe.config import Settings
from reelscribe.errors import ClipError, DatasetError, without_passwords
from reelscribe.runners.local import run
from reelscribe.runners.retry import retry
from reelscribe.runners.status import read_status
from reelscribe.values import Clip
from reelscribe.video.fetch import FetchLimits, fetched


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("/clips/überflug 1.mp4", "/clips/%C3%BCberflug%201.mp4"),
        ("/clips/%C3%BCberflug%201.mp4", "/clips/%C3%BCberflug%201.mp4"),
        ("/日本/🎬.mp4?名=値 b", "/%E6%97%A5%E6%9C%AC/%F0%9F%8E%AC.mp4?%E5%90%8D=%E5%80%A4%20b"),
        ("/100%.mp4", "/100%25.mp4"),
        ("/a.mp4?t=00::10&u=http://x::y/", "/a.mp4?t=00::10&u=http://x::y/"),
        ("/a::b.mp4", "/a::b.mp4"),
        ("/a|b[1]{2}^`.mp4", "/a|b[1]%7B2%7D^%60.mp4"),
        ("/a\tb\nc.mp4", "/a%09b%0Ac.mp4"),
        ("/a.mp4?sig=a%2Fb%3D&x=+", "/a.mp4?sig=a%2Fb%3D&x=+"),
        ("/a.mp4#t=10,20", "/a.mp4"),
        ("?q=1", "/?q=1"),
        ("/a.mp4 \n", "/a.mp4"),
    ],
)
def test_what_has_to_be_quoted_is_quoted_once(server: Server, written: str, asked: str) -> None:
    server.answers[asked] = give(clip_bytes())
    with fetched(Clip(source=server.url(written)), FetchLimits(allow_private=True)) as clip:
        assert clip.path.read_bytes() == clip_bytes()
    assert [path for _, path in server.asked] == [asked]


@pytest.mark.parametrize(
    ("host", "known_as"),
    [("bücher.test", "xn--bcher-kva.test"), ("BÜCHER.Test", "xn--bcher-kva.test"), ("例え.test", "xn--r8jz45g.test")],
)
def test_hosts_of_any_script_are_asked_by_the_names_that_they_have(
    server: Server, monkeypatch: pytest.MonkeyPatch, host: str, known_as: str
) -> None:
    resolve, asked = socket.getaddrinfo, []

    def local(name: str, *rest: Any, **more: Any) -> Any:
        asked.append(name)
        return resolve("127.0.0.1", *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", local)
    server.answers["/a"] = give(b"video")
    assert download(server.url("/a", host), allow_private=True) == b"video"
    assert asked == [known_as]
    assert server.asked == [(f"{known_as}:{server.port}", "/a")]


def test_address_of_version_6_is_no_chain() -> None:
    with pytest.raises(ClipError, match=r"leads to ::1 \(::1\), which is no public address"):
        fetched(Clip(source="http://[::1]:1/a.mp4"), FetchLimits()).__enter__()


@pytest.mark.parametrize(
    "url",
    ["http://a..b/", "http://[::1", "http://[/", "http://host:port/", "http://host:99999/", "http://host:-1/",
     "http://x" + "a" * 70 + ".test/", "http://half \ud83d/", "http://x.test/\ud83d", "http://%00/", "http://é\x00.test/",
     "http://x.test/" + "a" * 70_000, "http:///", "http://?", "http://\r\nX: y/", "http://999.1.1.1/"],
)  # fmt: skip
def test_what_is_no_url_costs_its_row(url: str) -> None:
    kind, message = refused(url, allow_private=True, seconds=5)
    assert kind == "download"
    assert " cannot be downloaded: " in message


# Credentials


def _basic(login: str) -> str:
    return "Basic " + base64.b64encode(login.encode()).decode()


@pytest.mark.parametrize(
    ("written", "login"),
    [("user:secret", "user:secret"), ("us%40er:s%2Fec%3Aret", "us@er:s/ec:ret"), ("user", "user:"),
     ("jörg:pä ß", "jörg:pä ß"), ("user:100%", "user:100%"),
     ("user:pa@ss", "user:pa@ss")],
)  # fmt: skip
def test_credentials_are_sent(server: Server, written: str, login: str) -> None:
    server.answers["/a"] = give(b"video")
    assert download(server.url("/a", f"{written}@127.0.0.1"), allow_private=True) == b"video"
    assert server.headers[0]["authorization"] == _basic(login)


def test_credentials_stay_with_their_host(server: Server) -> None:
    other = Server()
    server.answers["/a"] = give_whole(b"", code=302, Location="/b")
    server.answers["/b"] = give_whole(b"", code=302, Location=other.url("/c"))
    other.answers["/c"] = give_whole(b"", code=302, Location=server.url("/d"))
    server.answers["/d"] = give_whole(b"", code=302, Location=server.url("/e", "new:one@127.0.0.1"))
    server.answers["/e"] = give_whole(b"video")
    assert download(server.url("/a", "user:secret@127.0.0.1"), allow_private=True) == b"video"
    sent = [headers.get("authorization") for headers in server.headers]
    assert sent == [_basic("user:secret"), _basic("user:secret"), None, _basic("new:one")]
    assert "authorization" not in other.headers[0]


@pytest.mark.parametrize("path", ["/gone", "/secret", "/huge", "/loop", "/short", "/file"])
def test_credentials_are_in_no_message(server: Server, path: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server.answers["/secret"] = give(b"", code=401)
    server.answers["/huge"] = give(b"x" * 2000)
    server.answers["/loop"] = give(b"", code=302, Location=server.url("/loop", "user:hidden@127.0.0.1"))
    server.answers["/short"] = give(b"x" * 10, length=20)
    server.answers["/file"] = give(b"", code=302, Location="file://user:hidden@x/etc/passwd")
    _, message = refused(server.url(path, "user:hidden@127.0.0.1"), allow_private=True, max_bytes=1000)
    assert message.startswith(server.url(path, "***@127.0.0.1"))
    assert "hidden" not in message + caplog.text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("http://user:hidden@host/a: no", "http://***@host/a: no"),
        ("(ftp://hidden@host)", "(ftp://***@host)"),
        ("http://user:hid@den@host/a@b", "http://***@host/a@b"),
        ("http://user:hid/den@host/a", "http://***@host/a"),
        ("zip://a.mp4::https://u:hidden@host/b.zip", "zip://a.mp4::https://***@host/b.zip"),
        ("a http://u:hidden@x and http://u:hidden@y", "a http://***@x and http://***@y"),
        ("http://host/@user/a.mp4", "http://host/@user/a.mp4"),
        ("http://host:80/@user/a.mp4", "http://host:80/@user/a.mp4"),
        ("http://[::1]:80/@user", "http://[::1]:80/@user"),
        ("http://host/a?mail=me@x.test", "http://host/a?mail=me@x.test"),
        ("me@x.test", "me@x.test"),
    ],
)
def test_passwords_are_found_in_texts(text: str, told: str) -> None:
    assert without_passwords(text) == told
    assert str(ClipError("download", text)) == told


def test_input_by_url_is_named_without_its_password(server: Server, tmp_path: Path) -> None:
    server.answers["/a.mp4"] = give(clip_bytes())
    settings = Settings(engine="fake", model="fake", allow_private_urls=True, decoders=0)
    output = tmp_path / "out.jsonl"
    assert run([server.url("/a.mp4", "user:hidden@127.0.0.1")], output, settings).captions == 1
    assert "hidden" not in (tmp_path / "out.run.json").read_text()
    assert read_status(output).inputs == (server.url("/a.mp4", "***@127.0.0.1"),)
    assert retry(output).captions == 1
    pytest.importorskip("fsspec")
    with pytest.raises(DatasetError, match=r"://\*\*\*@127\.0\.0\.1"):
        run([server.url("/gone.jsonl", "user:hidden@127.0.0.1")], tmp_path / "other.jsonl", settings)


def test_run_leaves_no_password_anywhere_but_in_the_row_itself(server: Server, tmp_path: Path) -> None:
    server.answers["/a.mp4"] = give(clip_bytes())
    urls = [server.url(path, "user:hidden@127.0.0.1") for path in ("/a.mp4", "/gone.mp4")]
    rows = put_rows(tmp_path / "in.jsonl", [{"video": url} for url in urls])
    settings = Settings(engine="fake", model="fake", allow_private_urls=True, decoders=0)
    summary = run([rows], tmp_path / "out.jsonl", settings)
    assert (summary.captions, summary.failures) == (1, {"missing": 1})
    first, second = (json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines())
    assert [first.pop("video"), second.pop("video")] == urls
    assert "hidden" not in json.dumps([first, second])
    assert "hidden" not in repr(summary)
    for file in tmp_path.iterdir():
        if file.name not in ("in.jsonl", "out.jsonl"):
            assert b"hidden" not in file.read_bytes(), file
    with sqlite3.connect(tmp_path / "out.ledger.sqlite") as ledger:
        assert "hidden" not in "\n".join(ledger.iterdump())


def test_connections_are_kept(server: Server, as_public: None) -> None:
    for number in range(20):
        server.answers[f"/{number}"] = give_whole(b"%d" % number)
    server.answers["/moved"] = give_whole(b"gone there", code=302, Location="/1")
    with open_web() as web:
        assert [download(server.url(f"/{number}"), web) for number in range(20)] == [b"%d" % n for n in range(20)]
        assert refused(server.url("/nowhere"), web)[0] == "missing"
        assert download(server.url("/moved"), web) == b"1"
    assert server.connections <= 2  # the server itself ends that of a failure
