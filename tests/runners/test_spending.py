"""A run stops before it costs more than it may, and goes on later."""

import functools
import json
from pathlib import Path

import pytest
from flow import put_clip, put_rows, read_rows_of

from reelscribe.config import Settings
from reelscribe.engines.fake import FakeEngine
from reelscribe.errors import BudgetError
from reelscribe.runners import local
from reelscribe.runners.local import run
from reelscribe.runners.spending import Spending
from reelscribe.values import Work


class Clock:
    """Goes on when it is told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def _spending(clock: Clock, price: float | None = 3600.0, budget: float | None = 60.0) -> Spending:
    return Spending(Settings(price=price, budget=budget), clock=clock)


def test_loading_and_every_gpu_count() -> None:
    clock = Clock()
    spending = _spending(clock)
    clock.now += 5
    spending.start(gpus=4)
    clock.now += 1
    assert spending.cost == pytest.approx(24)
    assert _spending(clock, price=None, budget=None).cost is None


def test_what_is_under_way_is_paid_for_beforehand() -> None:
    clock = Clock()
    spending = _spending(clock)
    clock.now += 10
    spending.start(gpus=1)
    clock.now += 20  # 20 clips in 20 seconds: 29 more end at 59, 30 at 60
    assert not spending.must_stop(20, 29)
    assert spending.must_stop(20, 30)
    assert spending.must_stop(20, 0)  # for good
    assert spending.is_over


def test_before_the_first_clip_the_money_itself_decides() -> None:
    clock = Clock()
    spending = _spending(clock)
    spending.start(gpus=1)
    clock.now += 59
    assert not spending.must_stop(0, 100)
    clock.now += 1
    assert spending.must_stop(0, 100)


def test_without_a_budget_nothing_stops() -> None:
    clock = Clock()
    spending = _spending(clock, budget=None)
    clock.now += 1e9
    assert not spending.must_stop(1, 1e9)


FEWEST_BYTES = Settings().max_video_tokens * 32**2 * 2 * 3
"""With which one clip is decoded at a time, however fast that is."""


def test_a_run_ends_within_its_budget_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(local, "Spending", functools.partial(Spending, clock=clock))

    def reply(item: Work, _: int) -> str:
        clock.now += 1
        return str(item.requests[0].id.row)

    clips = [put_clip(tmp_path / f"{number}.mp4").name for number in range(60)]
    data = put_rows(tmp_path / "in.jsonl", [{"video": clip, "id": number} for number, clip in enumerate(clips)])
    output, settings = tmp_path / "out.jsonl", Settings(price=3600.0, budget=30.0, prefetch_bytes=FEWEST_BYTES)
    with pytest.raises(
        BudgetError, match=r"stopped after \d+ rows, at a cost of .*, before the budget of 30 was passed"
    ):
        run([data], output, settings, engine=FakeEngine(reply))
    told = json.loads((tmp_path / "out.run.json").read_text())
    assert 20 <= told["cost"] <= 30
    assert told["ending"].startswith("stopped after")
    made = len(read_rows_of(tmp_path / "out.jsonl.partial"))
    assert made == told["counts"]["made"] == told["cost"]
    summary = run([data], output, Settings(price=3600.0), engine=FakeEngine(reply))
    assert (summary.captions, summary.known, summary.cost) == (60, made, 60 - made)
    assert [row["id"] for row in read_rows_of(output)] == list(range(60))


def test_a_budget_that_is_enough_is_not_heard_of(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    data = put_rows(tmp_path / "in.jsonl", [{"video": "a.mp4"}] * 5)
    summary = run([data], tmp_path / "out.jsonl", Settings(price=1.0, budget=1e6), engine=FakeEngine())
    assert summary.captions == 5
