"""Clips as data sets name them to clips that can be opened."""

import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flow import clip_bytes, put_clip

from reelscribe.config import Settings
from reelscribe.errors import ClipError
from reelscribe.values import Clip
from reelscribe.video.fetch import Fetcher, FetchLimits, checked, fetched, scheme_of
from reelscribe.video.web import Web


def _fetch(source: str | bytes, start: Path | None = None, **limits: Any) -> tuple[Clip, bytes]:
    """The clip, and what can be read from it."""
    with fetched(Clip(source=source, root=start), FetchLimits(**limits)) as clip:
        return clip, clip.source if isinstance(clip.source, bytes) else clip.path.read_bytes()


def _refused(source: str, start: Path | None = None, **limits: Any) -> tuple[str, str]:
    with pytest.raises(ClipError) as caught:
        _fetch(source, start, **limits)
    return caught.value.kind, str(caught.value)


def test_limits_are_those_of_the_settings() -> None:
    settings = Settings(root="videos", max_video_bytes=5, download_seconds=6, allow_private_urls=True, max_downloads=7)
    assert FetchLimits.of(settings) == FetchLimits(
        root=Path("videos"), max_bytes=5, seconds=6, allow_private=True, max_downloads=7
    )
    assert FetchLimits.of(Settings()) == FetchLimits()


@pytest.mark.parametrize(
    ("source", "scheme"),
    [
        ("a.mp4", None), ("/a/b.mp4", None), ("10:30.mp4", None), ("a::b.mp4", None), ("C:/a.mp4", None), ("", None),
        ("http://x/a", "http"), ("HTTPS://x/a", "https"), ("file:///a", "file"), ("s3://b/a", "s3"),
        ("simplecache::s3://b/a", "simplecache"), ("zip://a.mp4::http://x/z.zip", "zip"),
    ],
)  # fmt: skip
def test_schemes(source: str, scheme: str | None) -> None:
    assert scheme_of(source) == scheme


def test_paths_and_bytes_are_what_they_are(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    assert _fetch("a.mp4", tmp_path) == (Clip(source="a.mp4", root=tmp_path), clip_bytes())
    assert _fetch(b"bytes") == (Clip(source=b"bytes"), b"bytes")


@pytest.mark.parametrize("host", ["", "localhost"])
def test_file_url_is_a_path(tmp_path: Path, host: str) -> None:
    put_clip(tmp_path / "a ü.mp4")
    url = f"file://{host}{tmp_path}/a%20%C3%BC.mp4"
    clip, data = _fetch(url, Path("/elsewhere"))
    assert (clip.name, data) == (url, clip_bytes())


def test_file_url_of_another_machine_is_refused() -> None:
    kind, message = _refused("file://server/share/a.mp4")
    assert (kind, message) == (
        "refused",
        "file://server/share/a.mp4 is on another machine, server; give file:///path.",
    )


# The root folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put_clip(tmp_path / "root" / "sub" / "a.mp4")
    put_clip(tmp_path / "root-2" / "secret.mp4")
    (tmp_path / "root" / "in").symlink_to("sub")
    (tmp_path / "root" / "out").symlink_to(tmp_path / "root-2")
    (tmp_path / "root" / "out.mp4").symlink_to("../root-2/secret.mp4")
    (tmp_path / "root" / "loop.mp4").symlink_to("loop.mp4")
    return tmp_path / "root"


@pytest.mark.parametrize("source", ["sub/a.mp4", "in/a.mp4", "sub/../sub/./a.mp4", "../root/sub/a.mp4", "{}/sub/a.mp4"])
def test_paths_inside_the_root_are_taken(root: Path, source: str) -> None:
    assert _fetch(source.format(root), root, root=root)[1] == clip_bytes()


@pytest.mark.parametrize(
    "source",
    ["../root-2/secret.mp4", "out/secret.mp4", "out.mp4", "sub/../../root-2/secret.mp4", "{}-2/secret.mp4",
     "file://{}-2/secret.mp4", "/dev/zero", "..", "nul\0.mp4", "half \ud83d.mp4"],
)  # fmt: skip
def test_paths_that_leave_the_root_are_refused(root: Path, source: str) -> None:
    kind, message = _refused(source.format(root), root, root=root)
    assert kind == "refused"
    assert message == f"{source.format(root)} leads out of the root folder {root}."


def test_paths_may_go_anywhere_without_a_root(root: Path) -> None:
    assert _fetch("../root-2/secret.mp4", root)[1] == clip_bytes()


def test_loop_of_links_inside_the_root_is_left_to_the_decoder(root: Path) -> None:
    with fetched(Clip(source="loop.mp4", root=root), FetchLimits(root=root)) as clip:
        assert clip.path == root / "loop.mp4"


# URLs


def test_web_download_is_a_file_for_as_long_as_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def put(web: Web, url: str, target: Any) -> None:
        asked.append(url)
        target.write(b"video")

    monkeypatch.setattr(Web, "download", put)
    with fetched(Clip(source="https://x/a.mp4?b", root=Path("/data")), FetchLimits()) as clip:
        assert (clip.name, clip.path.read_bytes()) == ("https://x/a.mp4?b", b"video")
        assert clip.root is None
    assert not clip.path.exists()
    assert asked == ["https://x/a.mp4?b"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Downloads from the web; there is nothing at URLs that end with "gone"."""
    urls: list[str] = []

    def put(web: Web, url: str, target: Any) -> None:
        urls.append(url)
        if url.endswith("gone"):
            raise ClipError("missing", f"{url}: there is no such file.")
        target.write(b"video")

    monkeypatch.setattr(Web, "download", put)
    return urls


def test_a_film_is_downloaded_once_for_its_stretches(asked: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with closing(Fetcher(FetchLimits())) as fetcher:
        for start in (1.0, 5.0, 9.0):
            for film in ("https://x/a", "https://x/b"):
                with fetcher.fetched(Clip(source=film, start_seconds=start)) as clip:
                    assert (clip.path.read_bytes(), clip.start_seconds) == (b"video", start)
                    assert clip.name == f"{film}#t={start:g}"
        assert asked == ["https://x/a", "https://x/b"]
        with fetcher.fetched(Clip(source="https://x/c", start_seconds=1)), fetcher.fetched(Clip(source="https://x/d")):
            pass
        assert len(list(tmp_path.iterdir())) == 2, "those of the latest films"
        with fetcher.fetched(Clip(source="https://x/c", start_seconds=2)):
            pass
        assert asked[2:] == ["https://x/c", "https://x/d"]
    assert not list(tmp_path.iterdir())


def test_what_is_not_there_is_asked_for_once_for_all_its_stretches(asked: list[str]) -> None:
    with closing(Fetcher(FetchLimits())) as fetcher:
        for start in (1.0, 5.0):
            with (
                pytest.raises(ClipError, match="gone: there is no such file"),
                fetcher.fetched(Clip(source="https://x/gone", start_seconds=start)),
            ):
                pass
    assert asked == ["https://x/gone"]


def test_threads_share_a_download(asked: list[str]) -> None:
    with closing(Fetcher(FetchLimits())) as fetcher, ThreadPoolExecutor(4) as pool:

        def read(start: float) -> bytes:
            with fetcher.fetched(Clip(source="https://x/a", start_seconds=start)) as clip:
                return clip.path.read_bytes()

        assert set(pool.map(read, range(1, 20))) == {b"video"}
    assert asked == ["https://x/a"]


@pytest.mark.parametrize(
    "url",
    ["memory://a.mp4", "ftp://127.0.0.1/a", "sftp://x/a", "local:///etc/passwd", "simplecache::http://127.0.0.1/a",
     "zip://a::s3://b/c.zip", "filecache::file:///etc/passwd", "http://x::file:///etc/passwd", "nope://x",
     "s3://b/a::http://127.0.0.1/"],
)  # fmt: skip
def test_schemes_that_reach_anything_are_refused(url: str) -> None:
    kind, message = _refused(url)
    assert (kind, "videos are taken from abfs, " in message, "need allow_private_urls" in message) == (
        "refused",
        True,
        True,
    )


@pytest.fixture
def store() -> Any:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe("/a.mp4", clip_bytes())
    return memory


def test_any_scheme_that_fsspec_knows_is_taken_when_allowed(store: Any) -> None:
    clip, data = _fetch("memory://a.mp4", allow_private=True)
    assert (clip.name, data) == ("memory://a.mp4", clip_bytes())
    assert not Path(str(clip.source)).exists()


def test_store_is_held_to_the_limits(store: Any) -> None:
    assert _refused("memory://gone.mp4", allow_private=True) == ("missing", "memory://gone.mp4: there is no such file.")
    kind, message = _refused("memory://a.mp4", allow_private=True, max_bytes=10)
    assert (kind, "too large: at most 10 bytes are taken (max_video_bytes); got more." in message) == ("download", True)
    kind, message = _refused("memory://a.mp4", allow_private=True, seconds=-1)
    assert (kind, "took longer than -1 s (download_seconds)." in message) == ("download", True)
    kind, message = _refused("nope://a.mp4", allow_private=True)
    assert kind == "download"
    assert message.startswith("nope://a.mp4 cannot be downloaded: ValueError: Protocol not known: nope")


def test_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    kind, message = _refused("s3://bucket/a.mp4")
    assert kind == "download"
    assert "needs a package that is not installed: " in message
    assert "pip install 'reelscribe[data]'" in message


def test_no_file_is_left_behind(store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    _fetch("memory://a.mp4", allow_private=True)
    _refused("memory://a.mp4", allow_private=True, max_bytes=10)
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - brevity


# For someone else to open


def test_clip_for_a_server_is_checked_and_not_fetched(root: Path) -> None:
    limits = FetchLimits(root=root)
    good = Clip(source="sub/a.mp4", root=root)
    assert checked(good, limits) is good
    assert checked(Clip(source=b"x"), limits) == Clip(source=b"x")
    assert checked(Clip(source=f"file://{root}/sub/a.mp4"), limits).path == root / "sub" / "a.mp4"
    with pytest.raises(ClipError, match=r"\.\./root-2/secret\.mp4 leads out of the root folder"):
        checked(Clip(source="../root-2/secret.mp4", root=root), limits)


def test_address_for_a_server_is_looked_at() -> None:
    private = Clip(source="http://127.0.0.1/a.mp4")
    with pytest.raises(ClipError, match=r"leads to 127\.0\.0\.1 .*which is no public address") as caught:
        checked(private, FetchLimits())
    assert caught.value.kind == "refused"
    assert checked(private, FetchLimits(allow_private=True)) is private
    for url in ("https://1.1.1.1/a.mp4", "http://known.to.the.server.invalid/a.mp4", "http://[/"):
        assert checked(Clip(source=url), FetchLimits()).source == url
