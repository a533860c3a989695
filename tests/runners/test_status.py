"""What is done, failed and left."""

import gzip
import json
import sqlite3
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from flow import put_clip, put_rows

from reelscribe.config import Settings
from reelscribe.dataset.ledger_file import read_runs
from reelscribe.engines.fake import FakeEngine
from reelscribe.errors import DatasetError, EngineError
from reelscribe.runners.local import run
from reelscribe.runners.status import RunStatus, ledger_of, lock_of, read_status
from reelscribe.values import RowResult


@pytest.fixture
def data(tmp_path: Path) -> Path:
    put_clip(tmp_path / "a.mp4")
    rows = [{"video": "gone.mp4"}, {}, *({"video": "a.mp4", "text": str(number)} for number in range(8))]
    return put_rows(tmp_path / "in.jsonl", rows)


def _run(output: Path, data: Path, break_after: int | None = None, **settings: Any) -> None:
    engine = FakeEngine(break_after=break_after)
    if break_after is None:
        run([data], output, Settings(**settings), engine=engine)
        return
    with pytest.raises(EngineError):
        run([data], output, Settings(**settings), engine=engine)


def test_finished_run(tmp_path: Path, data: Path) -> None:
    output = tmp_path / "out.jsonl"
    _run(output, data, fps=3)
    status = read_status(output)
    assert (status.state, status.detail) == ("finished", "")
    assert (status.rows, status.total, status.left, status.captions, status.without_video) == (10, 10, 0, 8, 1)
    assert status.failures == {"missing": 1}
    assert status.examples["missing"][0].startswith("row 0: gone.mp4: there is no such file")
    assert (status.engine, status.model, status.inputs) == ("fake", "fake", (str(data),))
    assert status.settings["fps"] == 3
    assert status.made_per_second is not None
    assert status.made_per_second > 0
    assert status.updated is not None
    assert status.updated > status.started
    json.dumps(asdict(status))


def test_run_that_broke_off_and_goes_on_counts_as_one(tmp_path: Path, data: Path) -> None:
    output = tmp_path / "out.jsonl"
    _run(output, data, break_after=4)
    status = read_status(output)
    assert (status.state, status.rows, status.left) == ("broken off", 6, 4)
    assert status.detail == "the fake engine breaks after 4 requests, as it was told to."
    seen: list[RunStatus] = []

    def look(result: RowResult) -> None:
        if result.index == 1:
            while not read_runs(ledger_of(output))[0].progress:
                threading.Event().wait(0.01)
            seen.append(read_status(output))

    run([data], output, Settings(), engine=FakeEngine(), on_row=look)
    assert (seen[0].state, seen[0].rows, seen[0].left) == ("running", 6, 4)
    assert seen[0].detail.startswith("process ")
    assert (read_status(output).state, read_status(output).left) == ("finished", 0)


def test_killed_run_is_told_and_looking_changes_nothing(tmp_path: Path, data: Path) -> None:
    output = tmp_path / "out.jsonl"
    _run(output, data, break_after=4)
    with sqlite3.connect(ledger_of(output)) as base:
        base.execute("UPDATE runs SET ended = NULL, ending = NULL")
    lock_of(output).write_text("process 1 on host")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert (read_status(output).state, read_status(output).detail) == ("broken off", "it was killed")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_run_with_other_settings_starts_from_the_beginning(tmp_path: Path, data: Path) -> None:
    output = tmp_path / "out.jsonl"
    _run(output, data)
    _run(output, data, break_after=1, fps=1)
    status = read_status(output)
    assert (status.rows, status.left, status.state) == (3, 7, "broken off")


def test_number_of_rows_that_is_not_known_is_not_made_up(tmp_path: Path, data: Path) -> None:
    packed = tmp_path / "in.jsonl.gz"
    packed.write_bytes(gzip.compress(data.read_bytes()))
    _run(tmp_path / "out.jsonl", packed, break_after=1)
    assert (read_status(tmp_path / "out.jsonl").total, read_status(tmp_path / "out.jsonl").left) == (None, None)
    _run(tmp_path / "out.jsonl", packed)
    assert read_status(tmp_path / "out.jsonl").total == 10


def test_outputs_that_share_a_ledger_are_told_apart(tmp_path: Path, data: Path) -> None:
    _run(tmp_path / "out.jsonl", data)
    _run(tmp_path / "out.jsonl.gz", data, break_after=0, fps=1)
    assert read_status(tmp_path / "out.jsonl").state == "finished"
    assert read_status(tmp_path / "out.jsonl.gz").state == "broken off"
    with pytest.raises(DatasetError, match=r"no run has begun to write .*out\.tar; out\.ledger\.sqlite is the ledger "):
        read_status(tmp_path / "out.tar")


@pytest.mark.parametrize(
    ("output", "ledger"),
    [
        ("out.jsonl", "out.ledger.sqlite"),
        ("out.jsonl.gz", "out.ledger.sqlite"),
        ("part-{shard}.parquet", "part.ledger.sqlite"),
        ("{shard}.tar", "shards.ledger.sqlite"),
        ("folder", "folder.ledger.sqlite"),
    ],
)
def test_ledger_lies_beside_the_output(output: str, ledger: str, tmp_path: Path) -> None:
    assert ledger_of(tmp_path / output) == tmp_path / ledger
    assert lock_of(tmp_path / output) == tmp_path / ledger.replace("sqlite", "lock")
    with pytest.raises(DatasetError, match=f"there is no {ledger} in "):
        read_status(tmp_path / output)
