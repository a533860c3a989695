"""CSV and TSV."""

import csv
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flow import put_clip, read_rows_of

from reelscribe.config import Settings
from reelscribe.dataset.formats import Record, delimited
from reelscribe.dataset.read import count_rows, read_rows
from reelscribe.dataset.sources import find_sources
from reelscribe.errors import DatasetError
from reelscribe.runners.local import run


@pytest.fixture(autouse=True)
def _field_limit() -> Iterator[None]:
    """Readers raise it for the whole process."""
    before = csv.field_size_limit()
    yield
    csv.field_size_limit(before)


def _read(file: Path, **settings: Any) -> list[Record]:
    return list(delimited.read(str(file), Settings(**settings), file.parent))


def _put(file: Path, text: str, encoding: str = "utf-8") -> Path:
    file.write_bytes(text.encode(encoding))
    return file


WANTED = [{"video": "a.mp4", "text": 'says "hi",\n twice; ünï'}, {"video": "b.mp4", "text": ""}]


@pytest.mark.parametrize("name", ["a.csv", "a.CSV", "a.tsv", "a.csv.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_rows_are_text_by_column(tmp_path: Path, name: str, end: str, mark: str) -> None:
    sign = "\t" if "tsv" in name else ","
    lines = [f"video{sign}text", f'a.mp4{sign}"says ""hi"",\n twice; ünï"', "", f"b.mp4{sign}"]
    data = (mark + end.join(lines)).encode()
    file = tmp_path / name
    file.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert [record.row for record in _read(file)] == WANTED
    assert {record.root for record in _read(file)} == {tmp_path}
    (source,) = find_sources([file])
    assert (source.format, count_rows([source])) == ("delimited", None if name.endswith("gz") else 2)


@pytest.mark.parametrize("sign", [";", "\t"])
def test_other_signs_between_the_names_are_seen(tmp_path: Path, sign: str) -> None:
    file = _put(tmp_path / "a.csv", f"video{sign}text\na.mp4{sign}one, two\n")
    assert _read(file)[0].row == {"video": "a.mp4", "text": "one, two"}


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("a.mp4", "it has 1 cells, and the names are 2"),
        ("a.mp4,one,two", "it has 3 cells, and the names are 2"),
        ('a.mp4,"one" two', "',' expected after '\"'"),
        ("a.mp4,\udcff", "it is not in UTF-8"),
    ],
)
def test_line_that_is_no_row_costs_itself(tmp_path: Path, bad: str, told: str) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(f"video,text\n1.mp4,one\n{bad}\n3.mp4,three\n".encode("utf-8", "surrogateescape"))
    first, record, last = _read(file)
    assert (first.row["text"], last.row["text"]) == ("one", "three")
    assert record.problem == f"the row that ends in line 3 of a.csv is not a row: {told}."
    assert count_rows(find_sources([file])) == 3


def test_quote_that_is_never_closed_is_told(tmp_path: Path) -> None:
    record = _read(_put(tmp_path / "a.csv", 'video,text\na.mp4,"one\nb.mp4,two\n'))[-1]
    assert record.problem == "the row that ends in line 3 of a.csv is not a row: unexpected end of data."


def test_values_may_be_as_long_as_a_line_of_json(tmp_path: Path) -> None:
    file = _put(tmp_path / "a.csv", f"video,text\na.mp4,{'x' * 200_000}\n")
    assert len(_read(file)[0].row["text"]) == 200_000
    with pytest.raises(DatasetError, match=r"cannot read on in .*a\.csv: it has a line of more than 1,000 characters"):
        _read(file, max_line_bytes=1000)
    [problem] = read_rows(find_sources([file]), Settings(max_line_bytes=1000), output=tmp_path / "out.jsonl")
    assert problem.problem is not None


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"video,text,video\n", "has several columns called video; rename them"),
        ("video,text\n".encode("utf-16"), "it is not in UTF-8; save it as CSV UTF-8"),
        (b'"video\n', "its first line holds no names of columns: unexpected end of data"),
    ],
)
def test_table_without_names_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DatasetError, match=told):
        find_sources([tmp_path / "a.csv"])


@pytest.mark.parametrize("content", ["", "video,text\n"])
def test_no_rows(tmp_path: Path, content: str) -> None:
    file = _put(tmp_path / "a.csv", content)
    assert _read(file) == []
    with pytest.raises(DatasetError, match=r"nothing to caption: .*a\.csv has no rows"):
        run(file, tmp_path / "out.jsonl", Settings(engine="fake"))


def test_file_that_is_cut_short_gives_its_rows_up_to_there(tmp_path: Path) -> None:
    whole = gzip.compress("".join(["n,video\n", *(f"{n},{n}.mp4\n" for n in range(50_000))]).encode())
    (tmp_path / "a.csv.gz").write_bytes(whole[: len(whole) // 2])
    records = delimited.read(str(tmp_path / "a.csv.gz"), Settings(), tmp_path)
    assert [next(records).row["n"] for _ in range(100)] == [str(number) for number in range(100)]
    with pytest.raises(DatasetError, match=r"cannot read .*a\.csv\.gz: "):
        list(records)


@pytest.mark.parametrize("output", ["out.jsonl", "out.parquet"])
def test_run_over_a_table(tmp_path: Path, output: str) -> None:
    if output.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    put_clip(tmp_path / "a.mp4")
    file = _put(tmp_path / "a.csv", "video,text,n\na.mp4,old,1\n,none,2\n")
    summary = run(file, tmp_path / output, Settings(engine="fake"))
    assert (summary.captions, summary.failures) == (1, {"row": 1})
    if output == "out.jsonl":
        assert [row["n"] for row in read_rows_of(tmp_path / output)] == ["1", "2"]


def test_long_line_that_may_be_read_is_no_trouble_where_rows_are_counted(tmp_path: Path) -> None:
    file = _put(tmp_path / "a.csv", f"video,notes\na.mp4,{'x' * (2 << 20)}\nb.mp4,short\n")
    assert count_rows(find_sources([file])) is None
    assert [record.row["video"] for record in _read(file)] == ["a.mp4", "b.mp4"]
