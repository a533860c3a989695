"""Rows in: one source after the other, in order, whatever breaks off."""

import gzip
from pathlib import Path
from typing import Any

import pytest
from flow import put_clip, put_rows

from reelscribe.config import Settings
from reelscribe.dataset import read
from reelscribe.dataset.read import count_rows, read_rows
from reelscribe.dataset.sources import find_sources
from reelscribe.errors import DatasetError
from reelscribe.values import InputRow


def _read(*inputs: Path, **settings: Any) -> list[InputRow]:
    output = inputs[0].parent / "out.jsonl"
    rows = list(read_rows(find_sources(inputs), Settings(**settings), output=output))
    assert [item.index for item in rows] == list(range(len(rows)))
    return rows


def test_several_inputs_come_one_after_the_other_with_one_count(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    data = put_rows(tmp_path / "sub" / "data.jsonl", [{"video": "x.mp4"}, {"video": "y.mp4"}])
    data.write_bytes(data.read_bytes() + b"broken\n")
    clip, folder = put_clip(tmp_path / "z.mp4"), put_clip(tmp_path / "clips" / "a.mp4").parent
    inputs = (clip, data, folder, clip)
    rows = _read(*inputs)
    assert [item.row.get("video") for item in rows] == ["z.mp4", "x.mp4", "y.mp4", None, "clips/a.mp4", "z.mp4"]
    assert [item.root for item in rows if not item.problem] == [tmp_path, data.parent, data.parent, tmp_path, tmp_path]
    assert [(item.problem.id.row, item.problem.kind) for item in rows if item.problem] == [(3, "row")]
    assert count_rows(find_sources(inputs)) == 6


def test_what_breaks_off_ends_with_a_problem_and_the_next_source_follows(tmp_path: Path) -> None:
    lines = b"".join(b'{"n": %d}\n' % number for number in range(10_000))
    data = gzip.compress(lines)
    (tmp_path / "1.jsonl.gz").write_bytes(data[: len(data) // 2])
    put_rows(tmp_path / "2.jsonl", [{"n": "last"}])
    rows = _read(tmp_path / "1.jsonl.gz", tmp_path / "2.jsonl")
    assert [item.row.get("n") for item in rows[:2]] == [0, 1]
    assert [item.row.get("n") for item in rows[-2:]] == [None, "last"]
    problem = rows[-2].problem
    assert problem is not None
    assert problem.message == (
        f"cannot read {tmp_path}/1.jsonl.gz: Compressed file ended before the end-of-stream marker was reached. "
        "What it holds from here on is left out."
    )


def test_number_of_rows_is_unknown_where_one_source_does_not_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = put_rows(tmp_path / "a.jsonl", [{}] * 2000)
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(b"{}\n"))
    assert count_rows(find_sources([plain])) == 2000
    assert count_rows(find_sources([plain, packed])) is None
    monkeypatch.setattr(read, "_COUNT_SECONDS", -1.0)
    assert count_rows(find_sources([plain])) is None


def test_columns_of_the_flow_are_the_same_from_all_formats(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    row = {"video": "a.mp4", "text": "t", "ask": "p", "other": 1}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    (read_back,) = _read(tmp_path / "a.parquet", prompt_key="ask")
    assert read_back.row == {"video": "a.mp4", "text": "t", "ask": "p"}
    assert read_back.source.as_row() == row
    assert _read(put_rows(tmp_path / "a.jsonl", [row]))[0].row == row


def test_url_of_a_data_set_is_read_with_fsspec(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    pytest.importorskip("pyarrow")
    for name, data in {"a.jsonl": b'{"n": 1}\n', "b.jsonl.gz": gzip.compress(b'{"n": 2}\n')}.items():
        with fsspec.open(f"memory://set/{name}", "wb") as file:
            file.write(data)
    rows = list(read_rows(find_sources(["memory://set/*.jsonl*"]), Settings(), output=tmp_path / "out.jsonl"))
    assert [(item.row, item.root) for item in rows] == [({"n": 1}, None), ({"n": 2}, None)]


@pytest.mark.parametrize("url", ["nope://x/a.jsonl", "memory://gone/a.jsonl", "memory://gone/a.parquet"])
def test_url_that_cannot_be_read_is_told(url: str) -> None:
    pytest.importorskip("fsspec")
    pytest.importorskip("pyarrow")
    with pytest.raises(DatasetError, match=rf"(cannot read {url}: ValueError: Protocol not known|there is no {url})"):
        find_sources([url])
    with pytest.raises(
        DatasetError, match=r"(cannot search nope://.*: ValueError: Protocol not known|nothing is called)"
    ):
        find_sources([url.replace("a.", "*.")])
