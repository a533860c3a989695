"""Rows out: whole or not there, whatever is in them."""

import json
from pathlib import Path

import pytest
from flow import read_rows_of

from reelscribe.dataset.write import JsonlWriter
from reelscribe.errors import DatasetError
from reelscribe.pipeline import RowResult
from reelscribe.schema import Failure, Row

FAILURE = Failure(key="3:1", video="clips/a.mp4", kind="missing", message="there is no such file.")
LISTED = {"row": 3, "video": "clips/a.mp4", "kind": "missing", "message": "there is no such file."}


def _result(*rows: Row, failures: tuple[Failure, ...] = ()) -> RowResult:
    return RowResult(index=3, rows=rows, outcomes=failures)


def _files(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_rows_get_their_name_when_all_are_there(tmp_path: Path) -> None:
    output = tmp_path / "made" / "on the way" / "out.jsonl"
    with JsonlWriter(output) as writer:
        writer.write(_result({"a": 1}, {"a": 2}))
        writer.write(_result())
        writer.write(_result({"a": 3}))
        assert not output.exists()
        assert read_rows_of(writer.partial) == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert read_rows_of(output) == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert _files(output.parent) == {"out.jsonl"}


def test_failures_are_listed_beside_the_output(tmp_path: Path) -> None:
    with JsonlWriter(tmp_path / "out.jsonl") as writer:
        writer.write(_result({"a": 1}, failures=(FAILURE, FAILURE)))
    assert writer.failures == tmp_path / "out.failures.jsonl"
    assert read_rows_of(writer.failures) == [LISTED, LISTED]
    assert _files(tmp_path) == {"out.jsonl", "out.failures.jsonl"}


def test_rerun_without_failures_leaves_no_older_list(tmp_path: Path) -> None:
    for failures in ((FAILURE,), ()):
        with JsonlWriter(tmp_path / "out.jsonl") as writer:
            writer.write(_result({"run": len(failures)}, failures=failures))
    assert _files(tmp_path) == {"out.jsonl"}
    assert read_rows_of(tmp_path / "out.jsonl") == [{"run": 0}]


def test_run_that_breaks_off_leaves_partial_files_and_the_older_output(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("older")
    (tmp_path / "out.failures.jsonl").write_text("older")

    def run_and_break() -> None:
        with JsonlWriter(tmp_path / "out.jsonl") as writer:
            writer.write(_result({"a": 1}, failures=(FAILURE,)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_and_break()
    assert read_rows_of(tmp_path / "out.jsonl.partial") == [{"a": 1}]
    assert read_rows_of(tmp_path / "out.failures.jsonl.partial") == [LISTED]
    assert (tmp_path / "out.jsonl").read_text() == (tmp_path / "out.failures.jsonl").read_text() == "older"
    with JsonlWriter(tmp_path / "out.jsonl") as writer:
        writer.write(_result({"a": 2}))
    assert _files(tmp_path) == {"out.jsonl"}


def test_run_that_breaks_off_before_its_first_row_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), JsonlWriter(tmp_path / "out.jsonl"):
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
    with JsonlWriter(tmp_path / "out.jsonl") as writer:
        writer.write(_result(row, {"next": 1}))
    lines = (tmp_path / "out.jsonl").read_bytes().decode().removesuffix("\n").split("\n")
    assert [json.loads(line) for line in lines] == [row, {"next": 1}]


def test_text_is_readable_in_the_file(tmp_path: Path) -> None:
    with JsonlWriter(tmp_path / "out.jsonl") as writer:
        writer.write(_result({"text": "🐑 羊"}))
    assert (tmp_path / "out.jsonl").read_text("utf-8") == '{"text": "🐑 羊"}\n'


def test_folder_is_no_output(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"cannot write to .*: it is a folder; name a file, as captions\.jsonl"):
        JsonlWriter(tmp_path)


def test_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(DatasetError, match=r"cannot write to .*file/out\.jsonl: (File exists|Not a directory)"),
        JsonlWriter(tmp_path / "file" / "out.jsonl"),
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
        with JsonlWriter(tmp_path / "out.jsonl") as writer:
            writer.write(_result({"a": 1}, failures=(FAILURE,)))

    with pytest.raises(DatasetError, match=r"cannot write to .*: No space left on device") as caught:
        run()
    assert str(tmp_path / told) in str(caught.value)
    assert not (tmp_path / "out.jsonl").exists()
