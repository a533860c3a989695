"""Rates, and the stage that holds a run up, by a clock that the test sets."""

from collections.abc import Iterator

import pytest
from flow import ScriptedEngine, named, request, said

from reelscribe.runners import watch as module
from reelscribe.runners.watch import Watch
from reelscribe.values import NO_FRAMES, Candidate, Failure, Work


class _Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def _run(clock: _Clock, *, reading: float, decoding: float, engine: float, writing: float) -> Watch:
    """Ten clips, each stage as slow as is said."""

    def answer(_: Work) -> tuple[Candidate, ...]:
        clock.now += engine
        return said("two words", "and three words")

    def rows() -> Iterator[int]:
        for number in range(10):
            clock.now += reading
            yield number

    def prepared() -> Iterator[Work]:
        for number in watch.rows(rows()):
            clock.now += decoding
            yield Work(requests=(request(key=f"{number}"),), frames=NO_FRAMES)

    watch = Watch(ScriptedEngine(answer))
    for _ in watch.generate(prepared()):
        with watch.writing():
            clock.now += writing
    return watch


def test_time_left_is_known_from_the_second_batch_on(clock: _Clock) -> None:
    watch = Watch(ScriptedEngine(lambda _: said("text"), batch_size=4))
    left: list[float | None] = []

    def prepared() -> Iterator[Work]:
        for number in watch.rows(range(12)):
            clock.now += 0 if number % 4 else 8
            yield Work(requests=(request(key=f"{number}"),), frames=NO_FRAMES)

    watch.count_row(False)  # one that was known, and one that fails at once, say nothing of the rate
    watch.count_row(True)
    for _ in watch.generate(prepared()):
        watch.count_row(True)
        left.append(watch.seconds_for(12))
    assert left[:4] == [None] * 4
    assert left[7] == pytest.approx(12 * 16 / 9)
    assert watch.rows_done == 14
    clock.now += 5
    assert watch.seconds_for(12) == pytest.approx(12 * 24 / 13 - 5)
    assert watch.clips_begun == 0


def test_rates_and_shares(clock: _Clock) -> None:
    watch = _run(clock, reading=1, decoding=2, engine=6, writing=1)
    told = watch.told()
    tokens = sum(candidate.num_tokens or 0 for candidate in said("two words", "and three words"))
    assert (told["seconds"], told["clips"], told["tokens"]) == (100, 10, 10 * tokens)
    assert (told["clips_per_second"], told["tokens_per_second"]) == (0.1, round(tokens / 10, 1))
    assert told["shares_waited_for"] == {"reading": 0.1, "decoding": 0.2, "writing": 0.1}
    assert told["bottleneck"] == "engine"
    assert (told["engine_busy_share"], told["in_flight"]) == (0.6, 0)


@pytest.mark.parametrize("slow", ["reading", "decoding", "engine", "writing"])
def test_slow_stage_is_named(clock: _Clock, slow: str) -> None:
    stages = {"reading": 1.0, "decoding": 1.0, "engine": 1.0, "writing": 1.0}
    assert _run(clock, **stages | {slow: 9.0}).bottleneck() == slow


def test_nothing_has_happened_yet() -> None:
    told = Watch(ScriptedEngine(lambda _: said("text"))).told()
    assert (told["seconds"], told["clips"], told["clips_per_second"], told["bottleneck"]) == (0, 0, 0, "engine")


def test_failures_count_as_clips_without_tokens() -> None:
    failure = Failure(id=named("0"), video="a.mp4", kind="engine", message="no")
    watch = Watch(ScriptedEngine(lambda _: failure))
    asked = Work(requests=(request(),), frames=NO_FRAMES)
    assert list(watch.generate(iter([asked]))) == [failure]
    assert (watch.clips, watch.tokens) == (1, 0)


def test_the_course_of_a_long_run_has_few_points(clock: _Clock) -> None:
    def answer(_: Work) -> tuple[Candidate, ...]:
        clock.now += 1
        return said("text")

    watch = Watch(ScriptedEngine(answer))
    asked = (Work(requests=(request(key=f"{key}"),), frames=NO_FRAMES) for key in watch.rows(range(5000)))
    assert sum(1 for _ in watch.generate(asked)) == 5000
    assert 50 < len(watch.course) < 125
    assert watch.course[-1] == (5000, 5000)
    assert all(seconds == clips for seconds, clips in watch.course)
    assert Watch(ScriptedEngine(answer)).course == []


def test_an_engine_is_busy_while_it_has_work(clock: _Clock) -> None:
    told = []

    def requests() -> Iterator[Work]:
        for key in "abc":
            yield Work(requests=(request(key=key),), frames=NO_FRAMES)
            told.append((watch.in_flight, watch.engine_busy_share))
            clock.now += 1

    watch = Watch(ScriptedEngine(lambda _: said("text"), batch_size=3))
    answers = watch.generate(iter(watch.rows(requests())))
    next(answers)
    assert [count for count, _ in told] == [1, 2]
    assert watch.in_flight == 2
    clock.now += 8
    assert watch.engine_busy_share == 1.0
    list(answers)
    clock.now += 10
    assert watch.engine_busy_share < 0.6
