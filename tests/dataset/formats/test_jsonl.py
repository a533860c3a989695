"""JSON Lines: every line a row or a problem, and what was in a line stays as it was."""

import gzip
import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from flow import put_rows

from reelscribe.config import Settings
from reelscribe.dataset.formats import Record, jsonl
from reelscribe.dataset.formats.jsonl import JsonLine, splice, to_json
from reelscribe.errors import DatasetError
from reelscribe.values import Row

LATER = time.monotonic() + 1e6


def _read(file: Path, **settings: Any) -> list[Record]:
    """Records, having made sure that their number was known before."""
    records = list(jsonl.read(str(file), Settings(**settings), file.parent))
    assert jsonl.count(str(file), LATER) == len(records)
    return records


def test_rows_come_as_they_are_with_their_folder(tmp_path: Path) -> None:
    rows: list[Row] = [{"video": "a.mp4", "nested": {"list": [1, None, {"x": 1.5}]}}, {"text": "ünï 🐑 羊"}, {}]
    read = _read(put_rows(tmp_path / "data.jsonl", rows))
    assert [item.row for item in read] == rows
    assert {item.root for item in read} == {tmp_path}
    assert {item.problem for item in read} == {None}
    assert [item.root for item in _read(tmp_path / "data.jsonl", root="/videos")] == [Path("/videos")] * 3


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
    assert read.source == line.strip()


def test_byte_order_mark_blank_lines_and_a_missing_last_line_end_do_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"video": "a"}\n\n  \r\n{"video": "b"}')
    assert [item.row["video"] for item in _read(file)] == ["a", "b"]


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
        (b'{"a":' * 100_000, "recursion", '{"a":' * 100_000),
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
    assert bad.problem.startswith("line 3 of data.jsonl is not a row: ")
    assert reason in bad.problem


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_line_beyond_the_limit_is_a_problem_that_keeps_its_beginning(tmp_path: Path, end: bytes) -> None:
    file = tmp_path / "data.jsonl"
    fits = json.dumps({"text": "x" * 4987}).encode()
    assert len(fits) == 4999
    file.write_bytes(fits + b"\n" + b'{"text": "' + b"y" * 5000 + b'"}\n{"a": 1}\n' + b"z" * 3_000_000 + end)
    first, long, after, last = _read(file, max_line_bytes=5000)
    assert (first.problem, first.row["text"]) == (None, "x" * 4987)
    assert after.row == {"a": 1}
    assert long.row == {"unreadable_line": '{"text": "' + "y" * 990 + "..."}
    assert last.row == {"unreadable_line": "z" * 1000 + "..."}
    assert long.problem == "line 2 of data.jsonl is not a row: it is longer than 5,000 bytes (max_line_bytes)."


def test_gigantic_line_takes_no_memory(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    with file.open("wb") as opened:
        opened.truncate(300 << 20)  # one line of as many NULs, which take no place on the disk
    tracemalloc.start()
    (long,) = _read(file, max_line_bytes=1 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert long.row == {"unreadable_line": "\0" * 1000 + "..."}
    assert peak < 8 << 20


def test_empty_file_has_no_rows(tmp_path: Path) -> None:
    assert _read(put_rows(tmp_path / "data.jsonl", [])) == []


def test_counting_ends_in_time_and_is_left_out_where_it_would_take_long(tmp_path: Path) -> None:
    file = put_rows(tmp_path / "data.jsonl", [{"n": number} for number in range(2000)])
    assert jsonl.count(str(file), LATER) == 2000
    assert jsonl.count(str(file), time.monotonic() - 1) is None
    assert jsonl.count(str(file) + ".gz", LATER) is None
    assert jsonl.count("s3://bucket/data.jsonl", LATER) is None


def test_gzip_with_several_parts_is_read_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"a": 1}\n') + gzip.compress(b'{"a": 2}\n'))
    assert [item.row for item in jsonl.read(str(file), Settings(), tmp_path)] == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("name", ["cut.jsonl.gz", "wrong.jsonl.gz"])
def test_compressed_file_that_is_damaged_is_told_after_its_good_rows(tmp_path: Path, name: str) -> None:
    lines = b"".join(b'{"n": %d}\n' % number for number in range(100_000))
    file = tmp_path / name
    whole = gzip.compress(lines)
    file.write_bytes(whole[: len(whole) // 2] if name.startswith("cut") else whole[:50_000] + b"x" * 50_000)
    records = jsonl.read(str(file), Settings(), tmp_path)
    assert [next(records).row for _ in range(100)] == [{"n": number} for number in range(100)]
    with pytest.raises(DatasetError, match=rf"cannot read .*{name}: "):
        list(records)


@pytest.mark.parametrize(
    ("line", "changes", "made"),
    [
        ("{}", {"a": 1}, '{"a": 1}'),
        ("{ }", {"a": 1}, '{"a": 1}'),
        ('{"n": 1.0e5}', {"a": "ü"}, '{"n": 1.0e5, "a": "ü"}'),
        ('{"n":1 }', {"a": None}, '{"n":1, "a": null}'),
        ('{"a": 1, "b":2}', {"a": [1]}, '{"a": [1], "b":2}'),
        ('{"b":{"a":1}, "a" :  {"a": 2} , "c":"}"}', {"a": 3, "d": 4}, '{"b":{"a":1}, "a" :  3 , "c":"}", "d": 4}'),
        ('{"a": 1, "a": 2}', {"a": 3}, '{"a": 3, "a": 3}'),
        ('{"\\u0061": 1}', {"a": 2}, '{"\\u0061": 2}'),
        ('{"x": "\\ud83d"}', {"a": 1}, '{"x": "\\ud83d", "a": 1}'),
        ('{"big": 123456789012345678901234567890, "f": 0.10000000000000000001}', {}, None),
        ('{"text": "a \\"quoted\\" {"}', {"text": "b"}, '{"text": "b"}'),
        ('{"n": NaN, "z": -0}', {"a": True}, '{"n": NaN, "z": -0, "a": true}'),
        ('{"a": "\\ud83d"}', {"b": "\ud83d"}, '{"a": "\\ud83d", "b": "\\ud83d"}'),
    ],
)
def test_columns_are_set_into_a_line_and_all_else_stays(line: str, changes: Row, made: str | None) -> None:
    assert splice(JsonLine(line), changes).decode() == (line if made is None else made)


def test_what_json_does_not_know_becomes_text() -> None:
    import datetime
    import decimal

    day = datetime.datetime(2024, 2, 29, 12, 30, 0, 1, datetime.UTC)
    assert to_json([day, day.date(), day.time()]) == (
        '["2024-02-29T12:30:00.000001+00:00", "2024-02-29", "12:30:00.000001"]'
    )
    assert to_json({"d": decimal.Decimal("1.10"), "b": b"\xff\x00"}) == '{"d": "1.10", "b": "/wA="}'


@pytest.mark.parametrize("text", ['[{"n": 1}, {"n": 2}]', '[\n{"n": 1},\n{"n": 2}\n]\n', "[\n", '[{"n":\n1}]'])
def test_array_that_is_called_lines_says_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.jsonl").write_text(text, "utf-8")
    with pytest.raises(DatasetError, match=r"data\.jsonl: it is a JSON array, .*; call it \.json, and its"):
        jsonl.check(str(tmp_path / "data.jsonl"))


def test_array_in_a_line_costs_that_line(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('[1]\n{"n": 2}\n')
    jsonl.check(str(tmp_path / "data.jsonl"))
    assert [bool(record.problem) for record in _read(tmp_path / "data.jsonl")] == [True, False]
