"""Rows in: every record becomes a row, in order, readable or not."""

import json
from pathlib import Path
from typing import Any

import pytest
from flow import put_clip, put_rows

from reelscribe.dataset.read import VIDEO_SUFFIXES, count_rows, read_rows
from reelscribe.errors import DatasetError
from reelscribe.pipeline import InputRow
from reelscribe.schema import Row


def _read(*inputs: Path, output: Path | None = None) -> list[InputRow]:
    """Rows, having made sure that their number was known before."""
    rows = list(read_rows(inputs, output=output or inputs[0].parent / "out.jsonl"))
    assert count_rows(inputs) == len(rows)
    assert [item.index for item in rows] == list(range(len(rows)))
    return rows


def _names(rows: list[InputRow]) -> list[Any]:
    return [item.row["video"] for item in rows]


def test_rows_of_a_data_set_come_as_they_are_with_its_folder(tmp_path: Path) -> None:
    rows: list[Row] = [{"video": "a.mp4", "nested": {"list": [1, None, {"x": 1.5}]}}, {"text": "ünï 🐑 羊"}, {}]
    read = _read(put_rows(tmp_path / "data.jsonl", rows))
    assert [item.row for item in read] == rows
    assert {item.root for item in read} == {tmp_path}
    assert {item.problem for item in read} == {None}


@pytest.mark.parametrize("name", ["data.jsonl", "data.JSONL", "data.ndjson"])
def test_data_sets_are_known_by_their_suffix(tmp_path: Path, name: str) -> None:
    assert _names(_read(put_rows(tmp_path / name, [{"video": "a.mp4"}]))) == ["a.mp4"]


@pytest.mark.parametrize(
    "line",
    [
        '{"text": "\\ud83d half a pair"}',
        '{"number": 123456789012345678901234567890}',
        '{"numbers": [NaN, Infinity, 1e-9]}',
        '{"text": "line\\u2028separator", "tab": "\\t"}',
        '  {"padded": true}\t',
        '{"windows": "line end"}\r',
    ],
)
def test_odd_but_valid_lines_are_rows(tmp_path: Path, line: str) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(line.encode() + b"\n")
    (read,) = _read(file)
    assert read.problem is None
    assert json.dumps(read.row) == json.dumps(json.loads(line))


def test_byte_order_mark_blank_lines_and_a_missing_last_line_end_do_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"video": "a"}\n\n  \r\n{"video": "b"}')
    assert _names(_read(file)) == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "reason", "kept"),
    [
        (b'{"video": "a.mp4"', "Expecting ',' delimiter at column 18.", '{"video": "a.mp4"'),
        (b'["a.mp4"]', "it must be a JSON object; got list", '["a.mp4"]'),
        (b"null", "it must be a JSON object; got NoneType", "null"),
        (b"words", "Expecting value at column 1.", "words"),
        (b'{"text": "\xff"}', "codec can't decode byte 0xff", '{"text": "\ufffd"}'),
        (b'{"number": ' + b"9" * 5000 + b"}", "Exceeds the limit", '{"number": ' + "9" * 5000 + "}"),
        (b"[" * 100_000, "recursion", "[" * 100_000),
    ],
)
def test_line_that_is_no_row_becomes_one_that_keeps_its_text(
    tmp_path: Path, line: bytes, reason: str, kept: str
) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(b'{"video": "a"}\n\n' + line + b'\r\n{"video": "b"}\n')
    first, bad, last = _read(file)
    assert (first.row, last.row) == ({"video": "a"}, {"video": "b"})
    assert bad.row == {"unreadable_line": kept}
    assert bad.problem is not None
    assert (bad.problem.key, bad.problem.kind, bad.problem.video) == ("1", "row", None)
    assert bad.problem.message.startswith("line 3 of data.jsonl is not a row: ")
    assert reason in bad.problem.message


def test_empty_data_set_has_no_rows(tmp_path: Path) -> None:
    assert _read(put_rows(tmp_path / "data.jsonl", [])) == []


def test_folder_is_searched_in_depth_and_in_order_of_names(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    for name in ("b.mp4", "a/z.MKV", "a/b/c.webm", "A.mov", "notes.txt", "c.jsonl", "d.mp4.part"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    (folder / "folder.mp4").mkdir()
    read = _read(folder)
    assert _names(read) == ["clips/A.mov", "clips/a/b/c.webm", "clips/a/z.MKV", "clips/b.mp4"]
    assert {item.root for item in read} == {tmp_path}


def test_video_is_named_as_seen_from_the_output(tmp_path: Path) -> None:
    clip = put_clip(tmp_path / "clips" / "a.mp4")
    for output, name in [("out.jsonl", "clips/a.mp4"), ("clips/out.jsonl", "a.mp4"), ("x/out.jsonl", "../clips/a.mp4")]:
        (read,) = _read(clip, output=tmp_path / output)
        assert read.row == {"video": name}
        assert read.root == (tmp_path / output).parent


def test_video_is_found_from_an_output_in_a_linked_folder(tmp_path: Path) -> None:
    clip = put_clip(tmp_path / "data" / "clips" / "a.mp4")
    (tmp_path / "far" / "away" / "results").mkdir(parents=True)
    link = tmp_path / "data" / "results"
    link.symlink_to(tmp_path / "far" / "away" / "results")
    (read,) = _read(clip, output=link / "out.jsonl")
    assert read.root is not None
    assert (read.root / read.row["video"]).samefile(clip)


def test_linked_video_keeps_its_own_name(tmp_path: Path) -> None:
    link = tmp_path / "clips" / "sheep.mp4"
    target = put_clip(tmp_path / "store" / "0001.bin")
    link.parent.mkdir()
    link.symlink_to(target)
    assert _names(_read(tmp_path / "clips")) == ["clips/sheep.mp4"]


def test_file_that_is_named_itself_may_be_called_anything(tmp_path: Path) -> None:
    assert _names(_read(put_clip(tmp_path / "clip"), put_clip(tmp_path / "clip.data"))) == ["clip", "clip.data"]


def test_several_inputs_come_one_after_the_other_with_one_count(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    data = put_rows(tmp_path / "sub" / "data.jsonl", [{"video": "x.mp4"}, {"video": "y.mp4"}])
    data.write_bytes(data.read_bytes() + b"broken\n")
    clip, folder = put_clip(tmp_path / "z.mp4"), put_clip(tmp_path / "clips" / "a.mp4").parent
    read = _read(clip, data, folder, clip)
    assert [item.row.get("video") for item in read] == ["z.mp4", "x.mp4", "y.mp4", None, "clips/a.mp4", "z.mp4"]
    assert [item.root for item in read if not item.problem] == [tmp_path, data.parent, data.parent, tmp_path, tmp_path]
    assert [item.problem.key for item in read if item.problem] == ["3"]


@pytest.mark.parametrize("name", ["no.jsonl", "no.mp4", "no"])
def test_input_that_is_not_there_is_told(tmp_path: Path, name: str) -> None:
    message = rf"there is no .*{name}; give a \.jsonl file, a video or a folder of videos"
    with pytest.raises(DatasetError, match=message):
        count_rows([tmp_path / name])
    with pytest.raises(DatasetError, match=message):
        list(read_rows([tmp_path / name], output=tmp_path / "out.jsonl"))


@pytest.mark.parametrize("name", ["clips", "clips.jsonl"])
def test_folder_without_videos_is_told_what_counts(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "notes.txt").write_text("no video")
    with pytest.raises(DatasetError, match=rf"the folder .*{name} holds no video \(\.3gp, .*\.mp4, .*\.wmv\)"):
        count_rows([tmp_path / name])
    assert {".mp4", ".mkv", ".webm", ".mov", ".avi"} < VIDEO_SUFFIXES


def test_data_set_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    loop = tmp_path / "data.jsonl"
    loop.symlink_to(loop)
    with pytest.raises(DatasetError, match=r"cannot read .*data\.jsonl: Too many levels of symbolic links"):
        list(read_rows([loop], output=tmp_path / "out.jsonl"))
