"""Servers that are slow, busy, lead in circles, or hang up; and downloads that are given up."""

import email.utils
import io
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from flow import ScriptedEngine, clip_bytes, named, put_clip, put_rows, said
from web_server import Answer, Server, download, drip, give, give_whole, open_web, refused

from reelscribe.config import Settings
from reelscribe.errors import ClipError, EngineError
from reelscribe.runners.local import run
from reelscribe.values import Clip, Frames, Request, RowResult, Work
from reelscribe.video import web as web_module
from reelscribe.video.fetch import Fetcher, FetchLimits
from reelscribe.video.prefetch import decode_ahead
from reelscribe.video.sampling import FrameBudget, VisionLimits

LIMITS = FetchLimits(allow_private=True, seconds=30)
BUDGET = FrameBudget(fps=4, min_frames=2, max_frames=4, max_video_tokens=64, limits=VisionLimits())


def work(name: str, url: str) -> Work:
    return Work(requests=(Request(id=named(name), clip=Clip(source=url), prompt=""),))


def _busy_first(times: int, code: int, data: bytes = b"video", **headers: Callable[[], str] | str) -> Answer:
    """Be busy this often, then give the file."""
    asked: list[None] = []
    lock = threading.Lock()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        with lock:
            asked.append(None)
            is_busy = len(asked) <= times
        said = {name: value if isinstance(value, str) else value() for name, value in headers.items()}
        (give_whole(b"wait", code=code, **said) if is_busy else give_whole(data))(handler)

    return answer


def _in_a_second() -> str:
    return email.utils.formatdate(time.time() + 1, usegmt=True)


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize("pause", ["0", "0.01", _in_a_second])
def test_busy_server_is_asked_again_when_it_says(server: Server, code: int, pause: Callable[[], str] | str) -> None:
    server.answers["/a"] = _busy_first(2, code, Retry_After=pause)
    assert download(server.url("/a"), allow_private=True) == b"video"
    assert server.paths == {"/a": 3}
    assert server.connections == 1


def test_pause_is_as_long_as_the_server_says_and_holds_for_all_downloads_from_there(server: Server) -> None:
    class Event(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0)
            return super().wait(timeout)

    waits: list[float] = []
    server.answers["/a"] = _busy_first(1, 429, Retry_After="0.4")
    server.answers["/b"] = give_whole(b"video")
    with open_web(allow_private=True) as web, ThreadPoolExecutor(1) as pool:
        web._sockets.closed = Event()
        first = pool.submit(download, server.url("/a"), web)
        while not waits:
            assert not first.done()
        assert download(server.url("/b"), web) == first.result() == b"video"
    assert len(waits) >= 2
    assert 0.3 < max(waits) <= 0.4


def test_server_that_is_busy_beyond_the_limit_is_not_waited_for(server: Server) -> None:
    server.answers["/a"] = _busy_first(9, 429, Retry_After="3600")
    kind, message = refused(server.url("/a"), allow_private=True)
    assert kind == "download"
    assert message.endswith(
        "/a was not given in time: the server said 429 Too Many Requests, and to ask again in 3,600 s."
    )
    assert server.paths == {"/a": 1}


@pytest.mark.parametrize(("code", "tries"), [(503, 5), (429, 8)])
def test_busy_server_that_does_not_say_when_is_asked_after_pauses(
    server: Server, code: int, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_module, "_PAUSES", (0.01, 0.01, 0.01, 0.01))
    server.answers["/a"] = _busy_first(tries - 1, code)
    assert download(server.url("/a"), allow_private=True) == b"video"
    assert server.paths == {"/a": tries}
    server.answers["/b"] = _busy_first(99, 503)
    kind, message = refused(server.url("/b"), allow_private=True)
    assert (kind, "503 Service Unavailable" in message, server.paths["/b"]) == ("download", True, 5)


def test_other_statuses_are_not_tried_again(server: Server) -> None:
    server.answers["/a"] = _busy_first(1, 500, Retry_After="0")
    assert refused(server.url("/a"), allow_private=True)[0] == "download"
    assert server.paths == {"/a": 1}


def test_storm_of_429_is_weathered_by_all(server: Server) -> None:
    for number in range(40):
        server.answers[f"/{number}"] = _busy_first(2, 429, Retry_After="0.05")
    with open_web(allow_private=True, max_kept=8) as web, ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda number: download(server.url(f"/{number}"), web), range(40)))
    assert got == [b"video"] * 40
    assert set(server.paths.values()) == {3}
    assert server.connections <= 8


def test_circle_of_redirects_is_left(server: Server) -> None:
    server.answers["/a"] = give_whole(b"", code=302, Location="/b")
    server.answers["/b"] = give_whole(b"", code=301, Location="/a")
    kind, message = refused(server.url("/a"), allow_private=True)
    assert (kind, message) == ("download", f"{server.url('/a')} leads on to another URL more than 10 times.")
    assert sum(server.paths.values()) == 11


@pytest.mark.parametrize("target", ["http://[/", "http://x:port/", "//[::1", "http://half-\ufffd:99999/", "\x7f"])
def test_redirect_to_what_is_no_url_costs_the_clip(server: Server, target: str) -> None:
    server.answers["/a"] = give_whole(b"", code=302, Location=target.encode().decode("latin-1"))
    assert refused(server.url("/a"), allow_private=True, seconds=5)[0] in ("download", "missing")


def test_kept_connection_that_the_server_ended_is_replaced(server: Server) -> None:
    def hang_up(handler: BaseHTTPRequestHandler) -> None:
        give_whole(b"one")(handler)
        handler.wfile.flush()
        assert asked_again.wait(60)
        handler.connection.shutdown(socket.SHUT_RDWR)  # when the next request is on its way
        handler.close_connection = True

    asked_again = threading.Event()
    server.answers["/1"] = hang_up
    server.answers["/2"] = give_whole(b"two")
    with open_web(allow_private=True) as web:
        assert download(server.url("/1"), web) == b"one"
        (pool,) = web._pools.values()
        handle = pool.handle_request

        def late(request: object) -> object:
            asked_again.set()
            return handle(request)  # type: ignore[arg-type]

        pool.handle_request = late  # type: ignore[method-assign, assignment]
        assert download(server.url("/2"), web) == b"two"
    assert server.connections == 2


def test_server_that_hangs_up_each_time_is_a_failure(server: Server) -> None:
    def hang_up(handler: BaseHTTPRequestHandler) -> None:
        handler.connection.shutdown(socket.SHUT_RDWR)
        handler.close_connection = True

    server.answers["/a"] = hang_up
    kind, message = refused(server.url("/a"), allow_private=True)
    assert (kind, "disconnected" in message or "reset" in message.lower()) == ("download", True)
    assert server.connections == 1


# Giving up


def _silent(_: BaseHTTPRequestHandler) -> None:
    """Say nothing, for ever."""
    threading.Event().wait()


@pytest.mark.parametrize("slow", [drip(head=True), drip(head=False), _silent], ids=["head", "body", "silent"])
def test_download_under_way_is_given_up(server: Server, slow: Answer) -> None:
    asked = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.set()
        slow(handler)

    server.answers["/a"] = answer
    with closing(Fetcher(LIMITS)) as fetcher, ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(fetcher.fetched(Clip(source=server.url("/a"))).__enter__)
        assert asked.wait(60)
        fetcher.close()
        with pytest.raises(ClipError):
            under_way.result(20)
        with pytest.raises(ClipError, match="given up"):
            fetcher.fetched(Clip(source=server.url("/a"))).__enter__()


def test_wait_for_a_busy_server_is_given_up(server: Server) -> None:
    server.answers["/a"] = _busy_first(9, 429, Retry_After="20")
    with closing(Fetcher(LIMITS)) as fetcher, ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(fetcher.fetched(Clip(source=server.url("/a"))).__enter__)
        while not server.asked and not under_way.done():
            pass
        fetcher.close()
        with pytest.raises(ClipError):
            under_way.result(10)


def test_nothing_is_left_of_downloads_that_are_given_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    server.answers["/slow"] = drip(head=False)
    server.answers["/a"] = give(clip_bytes())
    sources = [server.url("/slow"), server.url("/a")]
    answers = decode_ahead(
        [work(source, source) for source in sources],
        BUDGET,
        max_bytes=1 << 30,
        decoders=0,
        limits=LIMITS,
    )
    asked, frames = next(answers)
    assert (asked.requests[0].id.task, isinstance(frames, Frames)) == (server.url("/a"), True)
    answers.close()  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_left_where_the_program_ends_before_its_downloads(server: Server, tmp_path: Path) -> None:
    """As with Ctrl-C while rows are waited for in the thread that would close the fetcher."""
    code = """
import os, sys, tempfile, threading, time
from reelscribe.values import Clip
from reelscribe.video.fetch import Fetcher, FetchLimits

def download():
    with fetcher.fetched(Clip(source=sys.argv[1])):
        pass

tempfile.gettempdir()  # its first call tries the folder with a file of its own
fetcher = Fetcher(FetchLimits(allow_private=True))
threading.Thread(target=download, daemon=True).start()
while not (files := os.listdir(os.environ["TMPDIR"])):
    time.sleep(0.01)
if not (child := os.fork()):
    sys.exit()
os.waitpid(child, 0)
assert os.listdir(os.environ["TMPDIR"]) == files
"""
    server.answers["/slow"] = drip(head=False)
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code, server.url("/slow")], env=environment, check=True, timeout=60)
    assert list(tmp_path.iterdir()) == []


def test_run_ends_at_once_when_the_engine_breaks_while_a_clip_downloads(server: Server, tmp_path: Path) -> None:
    server.answers["/slow"] = drip(head=False)
    put_clip(tmp_path / "a.mp4")
    put_clip(tmp_path / "b.mp4")
    rows = put_rows(tmp_path / "in.jsonl", [{"video": "a.mp4"}, {"video": server.url("/slow")}, {"video": "b.mp4"}])

    def answer(item: Work) -> None:
        while not server.asked:
            pass
        raise EngineError("it broke")

    settings = Settings(engine="fake", model="fake", allow_private_urls=True, decoders=0, download_seconds=200)
    before = set(threading.enumerate())
    with pytest.raises(EngineError, match="it broke"):
        run([rows], tmp_path / "out.jsonl", settings, engine=ScriptedEngine(answer))
    assert not [each for each in set(threading.enumerate()) - before if each.name in ("download", "decode")]


# Many at once


def test_as_many_downloads_run_at_once_as_are_set(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reelscribe.video.prefetch.usable_cpus", lambda: 1)
    together = threading.Barrier(12)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        together.wait(60)  # goes on once there are twelve
        give_whole(clip_bytes())(handler)

    for number in range(24):
        server.answers[f"/{number}"] = answer
    asked = [work(str(n), server.url(f"/{n}")) for n in range(24)]
    limits = FetchLimits(allow_private=True, max_downloads=12, seconds=60)
    answers = list(decode_ahead(asked, BUDGET, max_bytes=1 << 30, decoders=0, limits=limits))
    assert all(isinstance(outcome, Frames) for _, outcome in answers)
    assert sorted(int(each.requests[0].id.task) for each, _ in answers) == list(range(24))
    assert server.connections == 12


def test_no_more_downloads_run_at_once_than_are_set(server: Server) -> None:
    now, most, lock = [0], [0], threading.Lock()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        give_whole(clip_bytes())(handler)
        with lock:
            now[0] -= 1

    for number in range(30):
        server.answers[f"/{number}"] = answer
    asked = [work(str(n), server.url(f"/{n}")) for n in range(30)]
    limits = FetchLimits(allow_private=True, max_downloads=2, seconds=60)
    assert len(list(decode_ahead(asked, BUDGET, max_bytes=1 << 30, decoders=0, limits=limits))) == 30
    assert most[0] <= 3, "one may have its answer while its server's thread still says so"
    assert server.connections <= 3


def test_rows_come_out_in_their_order_though_a_slow_one_is_passed(server: Server, tmp_path: Path) -> None:
    """A clip that arrives only once all others are captioned holds back none of them, and its row is where it was."""
    others_are_done = threading.Event()
    captioned: list[str] = []

    def slow(handler: BaseHTTPRequestHandler) -> None:
        assert others_are_done.wait(60)
        give_whole(clip_bytes())(handler)

    def answer(item: Work) -> object:
        captioned.append(item.requests[0].clip.name)
        if len(captioned) == 9:
            others_are_done.set()
        return said(item.requests[0].clip.name)

    server.answers["/slow"] = slow
    names = [put_clip(tmp_path / f"{number}.mp4").name for number in range(9)]
    videos = [names[0], server.url("/slow"), *names[1:]]
    rows = put_rows(tmp_path / "in.jsonl", [{"video": video} for video in videos])
    results: list[RowResult] = []
    settings = Settings(engine="fake", model="fake", allow_private_urls=True, decoders=0)
    run([rows], tmp_path / "out.jsonl", settings, engine=ScriptedEngine(answer), on_row=results.append)  # type: ignore[arg-type]
    assert captioned[-1] == server.url("/slow")
    assert [result.captions[0].texts[0] for result in results] == videos


def test_failures_of_downloads_are_told_as_they_come(server: Server) -> None:
    server.answers["/slow"] = drip(head=False)
    urls = [server.url("/slow"), *(server.url(f"/{number}") for number in range(50))]
    asked = [work(url, url) for url in urls]
    answers = decode_ahead(
        asked, BUDGET, max_bytes=1, decoders=0, limits=FetchLimits(allow_private=True, max_downloads=3)
    )
    assert {next(answers)[0].requests[0].id.task for _ in range(50)} == set(urls[1:])
    answers.close()  # type: ignore[attr-defined]


def test_disk_that_is_full_costs_the_clip(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    server.answers["/a"] = give(b"x" * 100)
    monkeypatch.setattr("os.fdopen", lambda *_: Full())
    with pytest.raises(
        ClipError, match=r"/a cannot be kept in the temporary folder: No space left on device\.$"
    ) as caught:
        Fetcher(LIMITS).fetched(Clip(source=server.url("/a"))).__enter__()
    assert caught.value.kind == "download"


def test_temporary_folder_that_is_gone_costs_the_clip(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(ClipError, match=r"cannot be kept in the temporary folder: No such file or directory\.$"):
        Fetcher(LIMITS).fetched(Clip(source=server.url("/a"))).__enter__()
