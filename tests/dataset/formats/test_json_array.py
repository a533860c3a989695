"""JSON files: arrays of objects, and JSON Lines by another name."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from flow import put_clip, read_rows_of

from reelscribe.config import Settings
from reelscribe.dataset.formats import Record, json_array
from reelscribe.dataset.read import count_rows, read_rows
from reelscribe.dataset.sources import find_sources
from reelscribe.errors import DatasetError
from reelscribe.runners.local import run
from reelscribe.values import Row

ROWS: list[Row] = [
    {"id": "0", "video": "a.mp4", "conversations": [{"from": "human", "value": '<video>\nWhat, [here]? {"x"} \\'}]},
    {"id": 1, "video": "b.mp4", "big": 2**70, "text": "ünï \ud83d"},
    {},
]


def _read(file: Path, **settings: Any) -> list[Record]:
    return list(json_array.read(str(file), Settings(**settings), file.parent))


def _put(file: Path, text: str) -> Path:
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    return file


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("chunk", [1, 2, 7, 1 << 20])
def test_elements_are_rows_wherever_the_file_is_cut_for_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indent: int | None, chunk: int
) -> None:
    monkeypatch.setattr(json_array, "_CHUNK", chunk)
    if chunk < 100:
        monkeypatch.setattr(json_array, "_start", lambda file: file.read(1))
    records = _read(_put(tmp_path / "a.json", json.dumps(ROWS, indent=indent)))
    assert [record.row for record in records] == ROWS
    assert not any("\n" in record.source for record in records)
    assert [json.loads(record.source) for record in records] == ROWS
    assert {record.root for record in records} == {tmp_path}


@pytest.mark.parametrize("text", ["[]", " [ \n ] ", "", "\ufeff[]"])
def test_no_rows(tmp_path: Path, text: str) -> None:
    file = _put(tmp_path / "a.json", text)
    assert _read(file) == []
    assert count_rows(find_sources([file])) == 0


def test_json_lines_and_compressed_arrays_may_be_called_json(tmp_path: Path) -> None:
    lines = _put(tmp_path / "lines.json", '{"video": "a.mp4"}\n\n{"video": "b.mp4"}\n')
    assert [record.row["video"] for record in _read(lines)] == ["a.mp4", "b.mp4"]
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(json.dumps(ROWS).encode()))
    assert [record.row for record in _read(tmp_path / "a.json.gz")] == ROWS
    found = find_sources([lines, tmp_path / "a.json.gz"])
    assert [source.format for source in found] == ["json_array"] * 2
    assert (count_rows(found[:1]), count_rows(found)) == (2, None)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("3", "it must be a JSON object; got int"),
        ('"a, b"', "it must be a JSON object; got str"),
        ('{"a": }', "Expecting value at column 7"),
        ('{"a": 1]', "Expecting ',' delimiter at column 8"),
        ('{"a"}}', "Expecting ':' delimiter at column 5"),
        ("", "Expecting value at column 1"),
        ('{"a": "' + "x" * 2000 + '"}', r"it is longer than 1,000 bytes \(max_line_bytes\)"),
        ('{"a": "two\nlines"}', "Invalid control character at column 11"),
    ],
)
def test_element_that_is_no_row_costs_itself(tmp_path: Path, bad: str, told: str) -> None:
    file = _put(tmp_path / "a.json", f'[{{"n": 0}}, {bad}, {{"n": 2}}]')
    first, record, last = _read(file, max_line_bytes=1000)
    assert (first.row, last.row) == ({"n": 0}, {"n": 2})
    assert record.problem is not None
    assert f"element 2 of a.json is not a row: {told}".replace("\\", "") in record.problem
    assert count_rows(find_sources([file])) == 3


def test_long_element_is_not_held(tmp_path: Path) -> None:
    class Wide(io.BytesIO):
        """Gives what would be 200 MB, piece by piece."""

        left = 200

        def read(self, size: int | None = -1) -> bytes:
            if super().tell() == 0:
                return super().read(size)
            self.left -= 1
            return b"x" * (1 << 20) if self.left > 0 else b'"}, {}]' if self.left == 0 else b""

    scanner = json_array._Scanner(Wide(b'[{"a": "'), 1000)
    elements = []
    for element, cut in scanner.elements():
        elements.append((len(element), cut))
        assert len(scanner._held) < 3 << 20
    assert elements == [(1001, True), (2, False)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[{"n": 0}, {"n": 1', "cannot read on in .*: the file ends within its array"),
        ('[{"n": 0}', "cannot read on in .*: the file ends within its array"),
        ('[{"n": 0}, "', "cannot read on in .*: the file ends within its array"),
        ('[{"n": 0}] {"n": 1}', "cannot read on in .*: its array ends, and more follows"),
    ],
)
def test_array_that_breaks_off_gives_its_rows_and_says_so(tmp_path: Path, text: str, told: str) -> None:
    file = _put(tmp_path / "a.json", text)
    records = json_array.read(str(file), Settings(), tmp_path)
    assert next(records).row == {"n": 0}
    with pytest.raises(DatasetError, match=told):
        list(records)
    *good, problem = read_rows(find_sources([file]), Settings(), output=tmp_path / "out.jsonl")
    assert [item.row for item in good] == [{"n": 0}]
    assert problem.problem is not None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{\n "data": [\n {}\n ]\n}', "it is one JSON object over several lines"),
        ("video,text\n", "it holds no JSON objects"),
        ("3", "it holds no JSON objects"),
    ],
)
def test_what_holds_no_rows_says_what_to_give(tmp_path: Path, text: str, told: str) -> None:
    file = _put(tmp_path / "a.json", text)
    with pytest.raises(DatasetError, match=rf"cannot read .*a\.json: {told}; rows are an array of objects, .*jq -c "):
        find_sources([file])
    file.write_bytes("[]".encode("utf-16"))
    with pytest.raises(DatasetError, match="it is not in UTF-8; "):
        find_sources([file])


def test_run_over_an_array_writes_lines(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    rows = [{**ROWS[0], "number": 1.5}, {"video": "gone.mp4"}]
    data = _put(tmp_path / "in.json", json.dumps(rows, indent=1).replace("1.5", "1.50"))
    summary = run(data, tmp_path / "out.jsonl", Settings(engine="fake"))
    assert (summary.captions, summary.failures) == (1, {"missing": 1})
    written = read_rows_of(tmp_path / "out.jsonl")
    assert [before.items() <= after.items() for before, after in zip(rows, written, strict=True)] == [True, True]
    assert '"number": 1.50' in (tmp_path / "out.jsonl").read_text()
