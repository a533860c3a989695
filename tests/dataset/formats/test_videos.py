"""Folders of videos: all that is there, in order, and nothing twice."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flow import put_clip

from reelscribe.config import Settings
from reelscribe.dataset.formats import Record, videos
from reelscribe.dataset.read import read_rows
from reelscribe.dataset.sources import find_sources
from reelscribe.errors import DatasetError


def _read(source: Path, base: Path, **settings: Any) -> list[Record]:
    records = list(videos.read(str(source), Settings(**settings), base))
    assert videos.count(str(source), time.monotonic() + 1e6) == len(records)
    return records


def _names(records: list[Record]) -> list[Any]:
    return [item.row["video"] for item in records]


def test_folder_is_searched_in_depth_and_in_order_of_names(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    for name in ("b.mp4", "a/z.MKV", "a/b/c.webm", "A.mov", "notes.txt", "c.jsonl", "d.mp4.part"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    (folder / "folder.mp4").mkdir()
    read = _read(folder, tmp_path)
    assert _names(read) == ["clips/A.mov", "clips/a/b/c.webm", "clips/a/z.MKV", "clips/b.mp4"]
    assert {item.root for item in read} == {tmp_path}


def test_video_is_named_as_seen_from_the_output_or_the_root(tmp_path: Path) -> None:
    clip = put_clip(tmp_path / "clips" / "a.mp4")
    for base, name in [("", "clips/a.mp4"), ("clips", "a.mp4"), ("x", "../clips/a.mp4")]:
        (read,) = _read(clip, tmp_path / base)
        assert read.row == {"video": name}
        assert read.root == tmp_path / base
    (read,) = _read(clip, tmp_path / "x", root=str(tmp_path))
    assert (read.row, read.root) == ({"video": "clips/a.mp4"}, tmp_path)


def test_video_is_found_from_an_output_in_a_linked_folder(tmp_path: Path) -> None:
    clip = put_clip(tmp_path / "data" / "clips" / "a.mp4")
    (tmp_path / "far" / "away" / "results").mkdir(parents=True)
    link = tmp_path / "data" / "results"
    link.symlink_to(tmp_path / "far" / "away" / "results")
    (read,) = _read(clip, link)
    assert read.root is not None
    assert (read.root / read.row["video"]).samefile(clip)


def test_linked_video_keeps_its_own_name(tmp_path: Path) -> None:
    link = tmp_path / "clips" / "sheep.mp4"
    target = put_clip(tmp_path / "store" / "0001.bin")
    link.parent.mkdir()
    link.symlink_to(target)
    assert _names(_read(tmp_path / "clips", tmp_path)) == ["clips/sheep.mp4"]


def test_url_is_a_video_as_it_stands(tmp_path: Path) -> None:
    (read,) = list(videos.read("https://example.org/a.mp4", Settings(), tmp_path))
    assert (read.row, read.root) == ({"video": "https://example.org/a.mp4"}, None)


def test_url_is_in_the_column_that_is_named(tmp_path: Path) -> None:
    [record] = videos.read("https://host/a.mp4", Settings(video_key="clip"), tmp_path)
    assert record.row == {"clip": "https://host/a.mp4"}


def test_files_beside_a_video_are_its_columns(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    (tmp_path / "a.txt").write_text("two sheep\n", "utf-8")
    (tmp_path / "a.json").write_text('{"id": 7, "video": "other", "tags": ["x", null]}', "utf-8")
    put_clip(tmp_path / "b.mp4")
    (read, bare) = _read(tmp_path, tmp_path)
    assert read.row == {"video": "a.mp4", "id": 7, "tags": ["x", None], "text": "two sheep"}
    assert bare.row == {"video": "b.mp4"}
    (read, _) = _read(tmp_path, tmp_path, text_key="title", video_key="clip")
    assert (read.row["clip"], read.row["title"], read.row["video"]) == ("a.mp4", "two sheep", "other")


def test_what_the_run_itself_writes_beside_videos_is_not_read(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    (tmp_path / "a.txt").write_text("a caption")
    (tmp_path / "a.json").write_text('{"id": 7}')
    both = {"video": "a.mp4", "id": 7, "text": "a caption"}
    assert [item.row for item in _read(tmp_path, tmp_path, sidecar="txt")] == [both], "a person may have written it"
    sources, seen = find_sources([tmp_path]), []

    def is_own(file: Path, content: bytes) -> bool:
        seen.append((file.name, content))
        return file.suffix == ".txt"

    rows = read_rows(sources, Settings(), output=tmp_path / "out.jsonl", is_own=is_own)
    assert [item.row for item in rows] == [{"video": "a.mp4", "id": 7}]
    assert seen == [("a.json", b'{"id": 7}'), ("a.txt", b"a caption")]
    (tmp_path / "a.txt.bak").write_text("older")
    (tmp_path / "a.txt.bak1").write_text("what a person wrote")
    rows = read_rows(sources, Settings(), output=tmp_path / "out.jsonl", is_own=is_own)
    assert [item.row["text"] for item in rows] == ["what a person wrote"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{", "cannot be read: Expecting property name"),
        (b"[1]", "must hold a JSON object; it holds list."),
        (b"\xff", "cannot be read: 'utf-8' codec can't decode"),
        (b"[" * 100_000, "cannot be read: maximum recursion"),
        (b" " * 200_001, "is longer than 200,000 bytes (max_line_bytes)."),
    ],
)
def test_file_beside_a_video_that_cannot_be_read_is_a_problem(tmp_path: Path, content: bytes, told: str) -> None:
    put_clip(tmp_path / "a.mp4")
    (tmp_path / "a.json").write_bytes(content)
    (read,) = _read(tmp_path, tmp_path, max_line_bytes=200_000)
    assert read.row == {"video": "a.mp4"}
    assert read.problem is not None
    assert "a.json" in read.problem
    assert told in read.problem


def test_loop_of_links_ends_with_a_problem_and_no_video_comes_twice(tmp_path: Path) -> None:
    put_clip(tmp_path / "clips" / "deep" / "a.mp4")
    (tmp_path / "clips" / "deep" / "up").symlink_to(tmp_path / "clips")
    (tmp_path / "clips" / "self").symlink_to("self")
    read = _read(tmp_path / "clips", tmp_path)
    assert [(item.row["video"], item.kind) for item in read if item.problem] == [("clips/deep/up", "unreadable")]
    assert [item.row["video"] for item in read if not item.problem] == ["clips/deep/a.mp4"]
    assert "deep/up leads back to a folder that it is in; it is not followed." in str(read[1].problem)


def test_many_links_between_folders_are_searched_once_each(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in "abcdefgh":
        put_clip(tmp_path / "clips" / name / f"{name}.mp4")
        for other in "abcdefgh":
            (tmp_path / "clips" / name / f"to-{other}").symlink_to(tmp_path / "clips" / other)
    read = _read(tmp_path / "clips", tmp_path)
    assert sorted(Path(name).name for name in _names(read) if name.endswith("mp4")) == [f"{n}.mp4" for n in "abcdefgh"]
    assert "was searched already, by another name; it is left out." in caplog.text


def test_linked_folder_is_followed(tmp_path: Path) -> None:
    put_clip(tmp_path / "store" / "a.mp4")
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "link").symlink_to(tmp_path / "store")
    (read,) = _read(tmp_path / "clips", tmp_path)
    assert read.root is not None
    assert (read.root / read.row["video"]).samefile(tmp_path / "store" / "a.mp4")


def test_folder_that_cannot_be_searched_costs_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_clip(tmp_path / "clips" / "a.mp4")
    (tmp_path / "clips" / "locked").mkdir()
    listed = Path.iterdir

    def refuse(path: Path) -> Iterator[Path]:
        if path.name == "locked":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    good, bad = _read(tmp_path / "clips", tmp_path)
    assert (good.row, good.problem) == ({"video": "clips/a.mp4"}, None)
    assert (bad.row, bad.kind) == ({"video": "clips/locked"}, "unreadable")
    assert str(bad.problem).endswith("clips/locked cannot be searched: Permission denied.")
    with pytest.raises(DatasetError, match="locked cannot be searched: Permission denied"):
        list(videos.walk(tmp_path / "clips" / "locked"))


def test_pipes_and_broken_links_that_are_named_as_videos_are_rows(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere")
    assert _names(_read(tmp_path, tmp_path)) == ["gone.mp4", "pipe.mp4"]


def test_counting_ends_in_time(tmp_path: Path) -> None:
    for number in range(1024):
        (tmp_path / f"{number}.mp4").touch()
    assert videos.count(str(tmp_path), time.monotonic() - 1) is None


def test_videos_are_known_by_all_their_suffixes(tmp_path: Path) -> None:
    names = [
        "a.3g2",
        "b.f4v",
        "c.hevc",
        "d.nut",
        "e.divx",
        "f.M2V",
        "g.rmvb",
        "h.ogm",
        "i.h264",
        "j.y4m",
        "k.mj2",
        "l.qt",
        "m.WMV",
    ]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    assert _names(_read(tmp_path, tmp_path)) == names


def test_an_ogg_file_is_a_video_if_it_has_pictures(tmp_path: Path) -> None:
    page = b"OggS\0\2" + bytes(21) + b"\x2a"
    (tmp_path / "film.ogg").write_bytes(page + b"\x80theora" + bytes(500))
    (tmp_path / "song.ogg").write_bytes(page + b"\x01vorbis" + bytes(500))
    assert _names(_read(tmp_path, tmp_path)) == ["film.ogg"]
    assert videos.left_out(tmp_path) == "1 file that is no video: 1 .ogg"


def test_what_is_left_out_is_counted_and_named(tmp_path: Path) -> None:
    def put(*names: str) -> None:
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"")

    put("a.mp4", "sub/b.mov")
    assert videos.left_out(tmp_path) == ""
    put(
        "a.txt",
        "a.txt.bak",
        "a.json.bak12",
        "a.json",
        "a.mp4.txt",
        "sub/b.json",
        ".hidden",
        ".DS_Store",
        "captions.jsonl",
        "captions.ledger.sqlite",
    )
    put("captions.failures.jsonl", "captions.run.json", "captions.jsonl.partial", "captions.report.html")
    assert videos.left_out(tmp_path) == ""
    put("readme.txt", "sub/a.txt", "sub/c.nfo", "d.NFO", "sub/e.nfo", "LICENSE", "other.jsonl")
    assert videos.left_out(tmp_path) == "7 files that are no videos: 3 .nfo, 2 .txt, 1 without a suffix, 1 .jsonl"
    put(*(f"z.{number}" for number in range(9)))
    assert videos.left_out(tmp_path).endswith("1 .0, 1 .1, 7 others")
