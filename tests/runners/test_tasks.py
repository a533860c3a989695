"""Runs that ask several tasks: what is counted of each, what is tried again, what shards are put together to."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from flow import ScriptedEngine, named, put_clip, put_rows, read_rows_of, request, said

from reelscribe.config import FailureLimit, Settings
from reelscribe.engines.fake import FakeEngine
from reelscribe.errors import BudgetError, DatasetError, FailuresError, SettingsError
from reelscribe.runners import local
from reelscribe.runners.local import RunSummary, run
from reelscribe.runners.merge import merge
from reelscribe.runners.retry import retry
from reelscribe.runners.spending import Spending
from reelscribe.runners.status import read_status
from reelscribe.runners.tally import Tally
from reelscribe.runners.watch import Watch
from reelscribe.values import NO_FRAMES, Failure, Row, Work

TASKS: dict[str, Any] = {
    "short": "In 5 words.",
    "long": {"prompt": "Tell all of {name}."},
    "check": {"prompt": "Is this right? {long}", "after": ["long"], "video": False},
}


class _Counting(ScriptedEngine):
    """Says the prompt and the sampling; notes what it was asked, and refuses prompts that hold a word."""

    def __init__(self, bad: str = "bad") -> None:
        super().__init__(self._say)
        self._bad = bad
        self.asked: list[tuple[int, str]] = []

    def _say(self, item: Work) -> Any:
        asked = item.requests[0]
        self.asked.append((asked.id.row, asked.id.task))
        if self._bad in asked.prompt:
            return Failure(id=asked.id, video=asked.clip.name, kind="engine", message="it does not like it")
        return said(f"{asked.prompt} [{asked.sampling.max_tokens}]")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two good rows, one of which a task fails, one that cannot be read, one without a video, and one that is none."""
    (tmp_path / "text.mp4").write_text("this is no video")
    rows: list[Row] = [
        {"video": put_clip(tmp_path / "a.mp4").name, "name": "a sheep"},
        {"video": put_clip(tmp_path / "b.mp4").name, "name": "a bad dog"},
        {"video": "text.mp4", "name": "a cow"},
        {"name": "nothing"},
        {"video": 5, "name": "odd"},
    ]
    return put_rows(tmp_path / "in.jsonl", rows)


def _run(data: Path, engine: Any = None, name: str = "out", **settings: Any) -> RunSummary:
    told: dict[str, Any] = {"tasks": TASKS, "decoders": 0}
    return run([data], data.parent / f"{name}.jsonl", Settings(**told | settings), engine=engine or _Counting())


# What is counted


def test_answers_are_counted_by_task_and_videos_once(tmp_path: Path, data: Path) -> None:
    summary = _run(data)
    by_task = {
        "short": {"captions": 2, "failures": {"unreadable": 1}},
        "long": {"captions": 1, "failures": {"engine": 1, "unreadable": 1}},
        "check": {"captions": 1, "failures": {"after": 2}},
    }
    assert summary.tasks == by_task
    assert (summary.rows, summary.videos, summary.captions, summary.known) == (5, 3, 4, 0)
    assert summary.failures == {"unreadable": 2, "engine": 1, "after": 2, "row": 1}
    assert summary.examples["engine"] == ["row 1, long: it does not like it"]
    assert summary.examples["unreadable"] == [
        "row 2, short and long: text.mp4 cannot be opened as a video: it looks like text."
    ]
    assert (summary.speed["clips"], summary.speed["answers"]) == (2, 5)
    record = json.loads((tmp_path / "out.run.json").read_text())
    assert (record["counts"]["tasks"], record["counts"]["videos"], record["in_flight"]) == (by_task, 3, 0)
    status = read_status(tmp_path / "out.jsonl")
    assert (status.tasks, status.videos, status.captions) == (by_task, 3, 4)
    again = _run(data, _Counting(bad="nothing is bad"))
    assert (again.known, again.captions) == (6, 6), "what was good, and that a file cannot be read"


def test_the_list_of_failures_names_tasks(tmp_path: Path, data: Path) -> None:
    _run(data)
    told = [(line["row"], line["task"], line["kind"]) for line in read_rows_of(tmp_path / "out.failures.jsonl")]
    assert told == [
        (1, "long", "engine"),
        (1, "check", "after"),
        (2, "short", "unreadable"),
        (2, "long", "unreadable"),
        (2, "check", "after"),
        (4, None, "row"),
    ]


def _work(*tasks: str, row: int = 0, video: bool = True) -> Work:
    names = (named(task)._replace(row=row) for task in tasks)
    return Work(requests=tuple(request(id=name, video=video) for name in names), frames=NO_FRAMES)


def test_requests_are_under_way_and_a_clip_is_done_with_its_last_answer() -> None:
    told = []
    watch = Watch(ScriptedEngine(lambda _: said("text"), batch_size=2))
    works = [_work("a", "b", "c"), _work("a", "b", row=1), _work("d", video=False), _work("a", row=2)]
    for _ in watch.generate(watch.rows(works)):
        told.append((watch.in_flight, watch.clips, watch.answers))
    assert told == [(4, 0, 1), (3, 1, 2), (2, 1, 3), (1, 1, 4), (0, 2, 5), (1, 3, 6), (0, 3, 7)]
    assert watch.told()["answers_per_second"] >= watch.told()["clips_per_second"] > 0


def test_a_video_that_fails_by_several_tasks_is_one_that_failed(data: Path) -> None:
    rows = [{"video": f"gone-{number}.mp4", "name": "x"} for number in range(9)]
    put_rows(data, rows)
    words = (
        r"stopped: 4 of 4 videos failed, more than max_failures allows \(3\)\. The commonest reason is missing \(4\),"
    )
    with pytest.raises(FailuresError, match=words):
        _run(data, max_failures="3")


def test_one_task_is_told_as_ever() -> None:
    assert not Tally(FailureLimit(count=3), ["caption"]).told().keys() & {"tasks", "videos"}


@pytest.mark.parametrize("tasks", [1, 3])
def test_a_budget_is_one_of_videos_whose_tasks_cost_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tasks: int
) -> None:
    now = 0.0
    monkeypatch.setattr(local, "Spending", functools.partial(Spending, clock=lambda: now))

    def reply(_: Work, __: int) -> str:
        nonlocal now
        now += 1 / tasks
        return "text"

    data = put_rows(tmp_path / "in.jsonl", [{"video": put_clip(tmp_path / f"{n}.mp4").name} for n in range(60)])
    named = {f"task{number}": f"{number}?" for number in range(tasks)}
    fewest_bytes = Settings().max_video_tokens * 32**2 * 2 * 3  # with which one clip is decoded at a time
    with pytest.raises(BudgetError):
        _run(data, FakeEngine(reply), tasks=named, price=3600.0, budget=30.0, prefetch_bytes=fewest_bytes)
    told = json.loads((tmp_path / "out.run.json").read_text())
    assert 20 <= told["cost"] <= 30
    assert told["counts"]["made"] == pytest.approx(told["cost"])
    assert told["counts"]["captions"] == tasks * told["counts"]["made"]


# What is tried again


def test_retry_takes_tasks(tmp_path: Path, data: Path) -> None:
    put_rows(data, [*read_rows_of(data), {"video": "gone.mp4", "name": "a hen"}])
    _run(data, _Counting(bad=" "))
    output = tmp_path / "out.jsonl"
    put_clip(tmp_path / "text.mp4")
    engine = _Counting()
    retry(output, tasks=["short"], engine=engine)
    new = [(2, "check"), (2, "long"), (2, "short")]  # a file that changed is another video
    assert sorted(engine.asked) == [(0, "short"), (1, "short"), *new]
    engine = _Counting(bad="nothing is bad")
    summary = retry(output, tasks=["long"], kinds=["engine"], engine=engine)
    assert sorted(engine.asked) == [(0, "check"), (0, "long"), (1, "check"), (1, "long")], "with what comes after it"
    assert summary.failures == {"missing": 2, "after": 1, "row": 1}
    with pytest.raises(SettingsError, match=r"the run has no task 'shrt'; tasks are short, long, check\."):
        retry(output, tasks=["short", "shrt"])


def test_failures_of_the_moment_of_other_tasks_are_left_alone(tmp_path: Path, data: Path) -> None:
    _run(data, _Counting(bad="5 words"))
    engine = _Counting()
    retry(tmp_path / "out.jsonl", tasks=["long"], engine=engine)
    assert engine.asked == []
    retry(tmp_path / "out.jsonl", engine=engine)
    assert engine.asked == [(0, "short"), (1, "short")]


@pytest.mark.parametrize(
    ("mark", "tasks", "asked"),
    [
        ({"task": "short"}, None, ["short"]),
        ({"task": "check"}, None, ["check"]),
        ({"task": "long"}, None, ["check", "long"]),
        ({}, None, ["check", "long", "short"]),
        ({}, ["short"], ["short"]),
        ({"task": "long"}, ["short"], []),
    ],
)
def test_marks_are_of_answers(
    tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture, mark: Row, tasks: list[str] | None, asked: list[str]
) -> None:
    _run(data, _Counting(bad="nothing is bad"))
    before = read_rows_of(tmp_path / "out.jsonl")
    marks = put_rows(tmp_path / "marks.jsonl", [{"row": 1, "video": "b.mp4", "flag": True, "note": "", **mark}])
    engine = _Counting(bad="nothing is bad")
    retry(tmp_path / "out.jsonl", marks=marks, tasks=tasks, settings={"sampling": {"max_tokens": 9}}, engine=engine)
    assert sorted(engine.asked) == [(1, task) for task in asked]
    assert not caplog.messages
    after = read_rows_of(tmp_path / "out.jsonl")
    assert [row for place, row in enumerate(after) if place != 1] == [row for n, row in enumerate(before) if n != 1]
    assert [task for task in sorted(TASKS) if after[1][task] != before[1][task]] == asked


def test_marks_of_tasks_that_a_run_does_not_have_are_told(
    tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _run(data)
    marks = put_rows(tmp_path / "marks.jsonl", [{"row": 0, "video": "a.mp4", "task": "gone", "flag": True}])
    retry(tmp_path / "out.jsonl", marks=marks, settings={"sampling": {"seed": 1}}, engine=_Counting())
    assert caplog.messages[-1] == "Not made again, since they are not what was marked: the videos of rows 0."


# Shards


def test_merged_shards_have_the_answers_of_all_tasks(tmp_path: Path, data: Path) -> None:
    rows = read_rows_of(data)
    put_rows(data, [*rows, *({"video": put_clip(tmp_path / f"{n}.mp4").name, "name": f"{n}"} for n in range(20))])
    whole = _run(data, name="whole")
    shards = [tmp_path / f"part-{number}.jsonl" for number in (1, 2)]
    for number, shard in enumerate(shards, 1):
        _run(data, name=shard.stem, shard=f"{number}/2")
        assert 1 < len(read_rows_of(shard)) < 24
    merged = merge(tmp_path / "merged.jsonl", shards)
    for name in ("jsonl", "failures.jsonl"):
        assert (tmp_path / f"merged.{name}").read_bytes() == (tmp_path / f"whole.{name}").read_bytes()
    assert (merged.tasks, merged.videos) == (whole.tasks, whole.videos)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"tasks": TASKS | {"short": "In 6 words."}}, "tasks"),
        ({"tasks": {"short": TASKS["short"]}}, "tasks"),
        ({"columns": "text"}, "columns"),
        ({"tasks": {}, "schema": "shot"}, "schema"),
    ],
)
def test_shards_of_other_tasks_or_columns_are_refused(
    tmp_path: Path, data: Path, other: dict[str, Any], told: str
) -> None:
    _run(data, name="part-1", shard="1/2")
    _run(data, name="part-2", shard="2/2", **other)
    with pytest.raises(DatasetError, match=rf"part-1\.jsonl and .*part-2\.jsonl differ in {told} \("):
        merge(tmp_path / "merged.jsonl", [tmp_path / "part-1.jsonl", tmp_path / "part-2.jsonl"])
