"""Rows out: whole or not there, whatever is in them."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from flow import named, read_rows_of

from reelscribe.config import Settings
from reelscribe.dataset.write import DatasetWriter
from reelscribe.errors import DatasetError
from reelscribe.values import Failure, Row, RowResult

FAILURE = Failure(id=named("short"), video="clips/a.mp4", kind="missing", message="there is no such file.")
LISTED = {"row": 3, "video": "clips/a.mp4", "task": "short", "kind": "missing", "message": "there is no such file."}


def _result(*rows: Row, failures: tuple[Failure, ...] = ()) -> RowResult:
    return RowResult(index=3, rows=rows, outcomes=failures)


def _writer(output: Path, **settings: Any) -> DatasetWriter:
    return DatasetWriter(output, Settings(**settings))


def _files(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_rows_get_their_name_when_all_are_there(tmp_path: Path) -> None:
    output = tmp_path / "made" / "on the way" / "out.jsonl"
    with _writer(output) as writer:
        writer.write(_result({"a": 1}, {"a": 2}))
        writer.write(_result())
        writer.write(_result({"a": 3}))
        assert not output.exists()
        assert read_rows_of(writer.partial) == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert read_rows_of(output) == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert _files(output.parent) == {"out.jsonl"}


def test_failures_are_listed_beside_the_output(tmp_path: Path) -> None:
    with _writer(tmp_path / "out.jsonl") as writer:
        writer.write(_result({"a": 1}, failures=(FAILURE, FAILURE)))
        writer.write(_result(failures=(Failure.of_row(3, "it is no row.", "row"),)))
    assert writer.failures == tmp_path / "out.failures.jsonl"
    whole = {"row": 3, "video": None, "task": None, "kind": "row", "message": "it is no row."}
    assert read_rows_of(writer.failures) == [LISTED, LISTED, whole]
    assert _files(tmp_path) == {"out.jsonl", "out.failures.jsonl"}


def test_rerun_without_failures_leaves_no_older_list(tmp_path: Path) -> None:
    for failures in ((FAILURE,), ()):
        with _writer(tmp_path / "out.jsonl") as writer:
            writer.write(_result({"run": len(failures)}, failures=failures))
    assert _files(tmp_path) == {"out.jsonl"}
    assert read_rows_of(tmp_path / "out.jsonl") == [{"run": 0}]


def test_run_that_breaks_off_leaves_partial_files_and_the_older_output(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("older")
    (tmp_path / "out.failures.jsonl").write_text("older")

    def run_and_break() -> None:
        with _writer(tmp_path / "out.jsonl") as writer:
            writer.write(_result({"a": 1}, failures=(FAILURE,)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_and_break()
    assert read_rows_of(tmp_path / "out.jsonl.partial") == [{"a": 1}]
    assert read_rows_of(tmp_path / "out.failures.jsonl.partial") == [LISTED]
    assert (tmp_path / "out.jsonl").read_text() == (tmp_path / "out.failures.jsonl").read_text() == "older"
    with _writer(tmp_path / "out.jsonl") as writer:
        writer.write(_result({"a": 2}))
    assert _files(tmp_path) == {"out.jsonl"}


def test_run_that_breaks_off_before_its_first_row_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), _writer(tmp_path / "out.jsonl"):
        raise KeyboardInterrupt
    assert _files(tmp_path) == set()


@pytest.mark.parametrize(
    "row",
    [
        {"text": "ünï 🐑 羊 \u2028", "ключ": None},
        {"text": "half a pair \ud83d", "\udc00": "too"},
        {"big": 123456789012345678901234567890, "small": 5e-324, "zero": -0.0},
        {"nested": {"list": [[], {}, [None, True, {"x": [1]}]]}},
        {"line": "a\nb\r\nc\u0085d\x00"},
        {},
    ],
)
def test_every_row_comes_back_as_it_was_in_one_line_of_utf8(tmp_path: Path, row: Row) -> None:
    with _writer(tmp_path / "out.jsonl") as writer:
        writer.write(_result(row, {"next": 1}))
    lines = (tmp_path / "out.jsonl").read_bytes().decode().removesuffix("\n").split("\n")
    assert [json.loads(line) for line in lines] == [row, {"next": 1}]


def test_text_is_readable_in_the_file(tmp_path: Path) -> None:
    with _writer(tmp_path / "out.jsonl") as writer:
        writer.write(_result({"text": "🐑 羊"}))
    assert (tmp_path / "out.jsonl").read_text("utf-8") == '{"text": "🐑 羊"}\n'


def test_folder_is_no_output(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"cannot write to .*: it is a folder; name a file, as captions\.jsonl"):
        _writer(tmp_path)


def test_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(DatasetError, match=r"cannot write to .*file/out\.jsonl: (File exists|Not a directory)"),
        _writer(tmp_path / "file" / "out.jsonl"),
    ):
        pass


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(
    ("full", "told"), [("out.jsonl.partial", "out.jsonl"), ("out.failures.jsonl.partial", "out.failures.jsonl")]
)
def test_full_disk_is_told(tmp_path: Path, full: str, told: str) -> None:
    (tmp_path / full).symlink_to(FULL)

    def run() -> None:
        with _writer(tmp_path / "out.jsonl") as writer:
            writer.write(_result({"a": 1}, failures=(FAILURE,)))

    with pytest.raises(DatasetError, match=r"cannot write to .*: No space left on device") as caught:
        run()
    assert str(tmp_path / told) in str(caught.value)
    assert not (tmp_path / "out.jsonl").exists()


# Formats and shards


@pytest.mark.parametrize("name", ["out.jsonl", "OUT.JSONL", "out.ndjson", "out.jsonl.gz", "out.jsonl.zst"])
def test_lines_are_compressed_as_the_name_says_and_the_same_each_time(tmp_path: Path, name: str) -> None:
    if name.endswith("zst"):
        pytest.importorskip("pyarrow")
    made = []
    for _ in range(2):
        with _writer(tmp_path / name) as writer:
            for number in range(1000):
                writer.write(_result({"n": number}))
        made.append((tmp_path / name).read_bytes())
    assert made[0] == made[1]
    lines = b"".join(b'{"n": %d}\n' % number for number in range(1000))
    if name.endswith("gz"):
        assert gzip.decompress(made[0]) == lines
        assert made[0][4:8] == bytes(4)  # where the time would be
    else:
        assert (made[0] == lines) is not name.endswith("zst")
    assert _files(tmp_path) == {name}


def test_shards_get_their_names_when_they_are_full(tmp_path: Path) -> None:
    with _writer(tmp_path / "made" / "part-{shard}.jsonl", shard_rows=2) as writer:
        for number in range(2):
            writer.write(_result({"n": number}))
        assert _files(tmp_path / "made") == {"part-00000.jsonl.partial", "part.jsonl.shards.failures.jsonl.partial"}
        writer.write(_result({"n": 2}, failures=(FAILURE,)))
        assert _files(tmp_path / "made") - {"part.jsonl.shards.failures.jsonl.partial"} == {
            "part-00000.jsonl",
            "part-00001.jsonl.partial",
        }
    assert _files(tmp_path / "made") == {"part-00000.jsonl", "part-00001.jsonl", "part.jsonl.shards.failures.jsonl"}
    assert read_rows_of(tmp_path / "made" / "part-00000.jsonl") == [{"n": 0}, {"n": 1}]
    assert read_rows_of(tmp_path / "made" / "part-00001.jsonl") == [{"n": 2}]


def test_rows_of_one_input_row_stay_in_one_shard(tmp_path: Path) -> None:
    with _writer(tmp_path / "{shard}.jsonl", shard_rows=2) as writer:
        for _ in range(2):
            writer.write(_result({"n": 1}, {"n": 2}, {"n": 3}))
    assert [len(read_rows_of(tmp_path / f"0000{n}.jsonl")) for n in range(2)] == [3, 3]


def test_folder_of_shards(tmp_path: Path) -> None:
    with _writer(tmp_path / "made", output_format="jsonl", shard_rows=1) as writer:
        writer.write(_result({"n": 0}, failures=(FAILURE,)))
        writer.write(_result({"n": 1}))
    assert _files(tmp_path / "made") == {"00000.jsonl", "00001.jsonl"}
    assert _files(tmp_path) == {"made", "made.data.failures.jsonl"}


def test_shards_of_an_earlier_longer_run_go_and_nothing_else(tmp_path: Path) -> None:
    kept = ("a-1.jsonl", "b-00007.jsonl", "a-00007.txt", "a-00007.jsonl.bak")
    for name in (*kept, "a-00001.jsonl", "a-00007.jsonl"):
        (tmp_path / name).write_text("older")
    with _writer(tmp_path / "a-{shard}.jsonl") as writer:
        writer.write(_result({"n": 0}))
    assert _files(tmp_path) == {*kept, "a-00000.jsonl"}


def test_shards_have_ten_thousand_rows_unless_told(tmp_path: Path) -> None:
    with _writer(tmp_path / "{shard}.jsonl") as writer:
        for number in range(10_001):
            writer.write(_result({"n": number}))
    assert len(read_rows_of(tmp_path / "00000.jsonl")) == 10_000
    assert len(read_rows_of(tmp_path / "00001.jsonl")) == 1


def test_run_that_breaks_off_leaves_the_full_shards_and_a_partial_one(tmp_path: Path) -> None:
    def run_and_break() -> None:
        with _writer(tmp_path / "{shard}.jsonl", shard_rows=1) as writer:
            writer.write(_result({"n": 0}))
            writer.write(_result({"n": 1}))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_and_break()
    assert _files(tmp_path) == {"00000.jsonl", "00001.jsonl.partial"}


def test_parquet_that_breaks_off_can_be_read_as_far_as_it_goes(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    def run_and_break(name: str, **settings: Any) -> None:
        with _writer(tmp_path / name, **settings) as writer:
            writer.write(_result({"n": 0}))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_and_break("out.parquet")
    with pytest.raises(KeyboardInterrupt):
        run_and_break("out", output_format="hf")
    assert _files(tmp_path) == {"out.parquet.partial", "out.partial"}
    assert pq.read_table(tmp_path / "out.parquet.partial").column("n").to_pylist() == [0]
    with pytest.raises(KeyboardInterrupt):
        run_and_break("out", output_format="hf")
    shutil.rmtree(tmp_path / "out.partial")
    with pytest.raises(KeyboardInterrupt), _writer(tmp_path / "out", output_format="hf"):
        raise KeyboardInterrupt
    assert _files(tmp_path) == {"out.parquet.partial"}


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        (
            "out.data",
            {},
            r"out\.data: its name says no format; end it in \.jsonl, \.parquet, \.tar, or set output_format",
        ),
        ("out.csv", {}, r"out\.csv: \.csv files are read, not written; end it in \.jsonl, \.parquet, \.tar\."),
        ("out.json", {"output_format": "jsonl"}, r"out\.json: \.json files are read, not written; end it in \.jsonl"),
        ("out-{}.jsonl", {}, r"\{\} stands for nothing; \{shard\} is where the number of each file goes"),
        ("out-{0..3}.jsonl", {}, r"\{0\.\.3\} stands for nothing"),
        ("{Shard}-{shard}.jsonl", {}, r"\{Shard\} stands for nothing"),
        ("out", {}, r"out: its name says no format"),
        ("out.jsonl", {"output_format": "parquet"}, r"its name says jsonl, but output_format is parquet"),
        ("out.tar", {"output_format": "hf"}, r"its name says webdataset, but output_format is hf"),
        ("a{shard}/out.jsonl", {}, r"\{shard\} must be in the name of the file, not in a folder's"),
        ("out.jsonl", {"shard_rows": 5}, r" shards to .*: put \{shard\} into its name, or name a folder"),
    ],
)
def test_output_that_is_not_clear_is_refused(tmp_path: Path, name: str, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(DatasetError, match=f"cannot write.*{told}"):
        _writer(tmp_path / name, **settings)
    assert _files(tmp_path) == set()


def test_format_may_be_told_where_the_name_says_none(tmp_path: Path) -> None:
    with _writer(tmp_path / "out.data", output_format="jsonl") as writer:
        writer.write(_result({"n": 0}, failures=(FAILURE,)))
    assert _files(tmp_path) == {"out.data", "out.data.data.failures.jsonl"}


@pytest.mark.parametrize(
    ("output", "settings", "ours"),
    [
        ("out.jsonl", {}, {"out.jsonl", "out.failures.jsonl"}),
        ("out-{shard}.jsonl", {}, {"out-00000.jsonl", "out-123456.jsonl", "out.jsonl.shards.failures.jsonl"}),
        ("out", {"output_format": "hf"}, {"out", "out/data-00000.arrow", "out.data.failures.jsonl"}),
        ("out", {"output_format": "jsonl", "shard_rows": 1}, {"out", "out/00000.jsonl", "out.data.failures.jsonl"}),
    ],
)
def test_what_may_be_replaced_is_known(tmp_path: Path, output: str, settings: dict[str, Any], ours: set[str]) -> None:
    if settings.get("output_format") == "hf":
        pytest.importorskip("pyarrow")
    writer = _writer(tmp_path / output, **settings)
    others = {"in.jsonl", "out/in.jsonl", "out-1.jsonl", "sub/out.jsonl", "out-00000.jsonl.gz"} - {"out/in.jsonl"}
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ours:
        assert writer.owns(tmp_path / name), name
        assert writer.owns(tmp_path / "link" / name), name
    for name in others:
        assert not writer.owns(tmp_path / name), name
