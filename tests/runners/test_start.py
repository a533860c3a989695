"""Where a run that is told to stop ends: before a row that it would have begun, and as finished where there is none."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flow import ScriptedEngine, put_clip, put_rows, said

from reelscribe.config import Settings, Shard
from reelscribe.dataset.ledger_file import read_runs
from reelscribe.errors import StoppedError
from reelscribe.layouts import LAYOUTS
from reelscribe.pipeline import plan_row
from reelscribe.runners.local import RunSummary, run
from reelscribe.runners.status import ledger_of
from reelscribe.values import InputRow, Row, Work

FEWEST_BYTES = Settings().max_video_tokens * 32**2 * 2 * 3
"""With which one clip is decoded at a time."""


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    return [{"video": put_clip(tmp_path / f"{number:02}.mp4").name} for number in range(30)]


def _run(
    tmp_path: Path, rows: list[Row], stop_at: Callable[[Work, int], bool], **settings: Any
) -> tuple[RunSummary, list[str]]:
    """Run, and send a signal when a request is answered."""
    asked: list[str] = []

    def say(item: Work) -> Any:
        asked.append(item.requests[0].clip.name)
        if stop_at(item, len(asked)):
            os.kill(os.getpid(), signal.SIGINT)
        return said("text")

    data = put_rows(tmp_path / "in.jsonl", rows)
    made = Settings(decoders=0, prefetch_bytes=FEWEST_BYTES, **settings)
    engine = ScriptedEngine(say)
    return run([data], tmp_path / "out.jsonl", made, engine=engine, handle_signals=True, on_stop=lambda _: None), asked


def _lots(tmp_path: Path, rows: list[Row]) -> list[bool]:
    """Which rows are in the first of two shards."""
    plan = LAYOUTS["columns"].plan
    return [Shard.parse("1/2").holds(plan(row, n, Settings(), tmp_path).shard_hash) for n, row in enumerate(rows)]


def test_signal_at_the_last_row_stops_nothing(tmp_path: Path, rows: list[Row]) -> None:
    summary, _ = _run(tmp_path, rows, lambda _, count: count == len(rows))
    assert summary.captions == len(rows)
    assert read_runs(ledger_of(tmp_path / "out.jsonl"))[0].ending == "finished"


def test_signal_at_the_last_row_stops_nothing_where_more_rows_are_read_than_are_looked_at_first(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    rows: list[Row] = [*({"id": number} for number in range(100)), {"video": "a.mp4"}]
    summary, _ = _run(tmp_path, rows, lambda *_: True)
    assert (summary.rows, summary.captions) == (101, 1)


def test_signal_before_the_last_row_stops_the_run_and_it_goes_on(tmp_path: Path, rows: list[Row]) -> None:
    with pytest.raises(StoppedError, match=r"stopped by SIGINT after \d+ rows"):
        _run(tmp_path, rows, lambda _, count: count == 5)
    assert not (tmp_path / "out.jsonl").exists()
    assert read_runs(ledger_of(tmp_path / "out.jsonl"))[0].ending != "finished"
    summary, asked = _run(tmp_path, rows, lambda *_: False)
    assert summary.captions == len(rows) == summary.known + len(asked)
    assert 5 <= summary.known < 12


@pytest.mark.parametrize("count", [3, 30])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_what_the_engine_has_not_begun_is_dropped_and_made_by_the_next_run(
    tmp_path: Path, rows: list[Row], count: int, batch_size: int
) -> None:
    """Also if all rows were read, and wait in front of the engine: the output is not written with some missing."""
    data, output, asked = put_rows(tmp_path / "in.jsonl", rows[:count]), tmp_path / "out.jsonl", list[str]()

    def say(item: Work) -> Any:
        asked.append(item.requests[0].clip.name)
        if len(asked) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return said("text")

    told: list[str] = []
    settings = Settings(decoders=0)
    engine = ScriptedEngine(say, batch_size=batch_size)
    with pytest.raises(StoppedError, match=rf"after {batch_size} rows"):
        run([data], output, settings, engine=engine, handle_signals=True, on_stop=told.append)
    assert len(asked) == batch_size
    assert not output.exists()
    assert told[0].startswith("finishing")
    summary = run([data], output, settings, engine=engine)
    assert (summary.captions, summary.known, len(asked)) == (count, batch_size, count)


@pytest.mark.parametrize("others_behind", [0, 1, 5, 100])
def test_rows_of_other_shards_are_none_that_are_left(tmp_path: Path, rows: list[Row], others_behind: int) -> None:
    ours = [row for row, is_ours in zip(rows, _lots(tmp_path, rows), strict=True) if is_ours]
    others = [row for row in rows if row not in ours]
    assert len(ours) > 5
    assert len(others) > 5
    behind = [others[number % len(others)] for number in range(others_behind)]
    summary, asked = _run(tmp_path, [*others, *ours, *behind], lambda _, n: n == len(ours), shard="1/2")
    assert (summary.captions, len(asked)) == (len(ours), len(ours))
    with pytest.raises(StoppedError):
        _run(tmp_path, [*ours, *behind], lambda _, n: n == 1, shard="1/2", fps=4)


def test_plans_of_rows_say_their_shard_whatever_the_layout() -> None:
    row: Row = {"videos": ["a.mp4"], "text": "<__dj__video>old"}
    settings = Settings(layout="columns")
    plans = [plan_row(InputRow(index=3, row=row), layout, settings) for layout in LAYOUTS.values()]
    assert len({plan.shard_hash for plan in plans}) == 1
