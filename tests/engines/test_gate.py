"""How many attempts are let through, and when all wait."""

import contextlib
import re
from collections.abc import Awaitable, Callable

import anyio
import pytest

from reelscribe.engines.gate import BusyError, FailedError, Gate, RefusedError
from reelscribe.errors import ClipError, EngineError


def _gate(*, most: int = 64, patience_seconds: float = 20.0, back_off_seconds: float = 0.001) -> Gate:
    return Gate(most=most, patience_seconds=patience_seconds, back_off_seconds=back_off_seconds)


async def _together(gate: Gate, count: int, end: Callable[[int], None] = lambda number: None) -> int:
    """Make attempts that all end once the gate lets no further one in; returns how many there were at most at once."""
    now = most = 0
    full = anyio.Event()

    async def work(number: int) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        if now == min(gate.limit, count):
            full.set()
        await full.wait()
        await anyio.lowlevel.checkpoint()
        now -= 1
        end(number)

    async def attempt(number: int) -> None:
        with contextlib.suppress(FailedError, RefusedError):
            await gate.attempt(lambda: work(number))

    async with anyio.create_task_group() as group:
        for number in range(count):
            group.start_soon(attempt, number)
    return most


def _once(error: Exception) -> Callable[[], Awaitable[str]]:
    """Work that fails once."""
    errors = iter([error])

    async def work() -> str:
        for exc in errors:
            raise exc
        return "done"

    return work


def test_limit_grows_with_each_answer_up_to_the_bound() -> None:
    async def play() -> None:
        gate = _gate(most=20)
        assert await _together(gate, 8) == 8
        assert gate.limit > 8
        await _together(gate, 200)
        assert gate.limit == 20
        assert await _together(gate, 200) == 20

    anyio.run(play)


def test_limit_does_not_grow_where_it_holds_nothing_back() -> None:
    async def play() -> None:
        gate = _gate()
        for _ in range(50):
            await _together(gate, 2)
        assert gate.limit == 8

    anyio.run(play)


def test_too_much_in_one_round_halves_the_limit_once() -> None:
    async def play() -> None:
        gate = _gate(most=64)
        refused = set(range(8))

        def end(number: int) -> None:
            if number in refused:
                refused.remove(number)
                raise BusyError("too much")

        await _together(gate, 8, end)
        assert gate.limit in (4, 5)

    anyio.run(play)


def test_growth_is_one_a_round_once_there_was_too_much() -> None:
    async def play() -> None:
        gate = _gate()
        with pytest.raises(FailedError):
            await gate.attempt(_once(FailedError("x", slow=True)))
        limits = []
        for _ in range(6):
            await _together(gate, gate.limit)  # of which only the first to end finds the gate full
            limits.append(gate.limit)
        assert limits == [4, 4, 4, 4, 5, 5]

    anyio.run(play)


@pytest.mark.parametrize(
    ("error", "limit"),
    [(FailedError("x", slow=True), 4), (FailedError("x"), 8), (RefusedError("x"), 8), (ClipError("engine", "x"), 8)],
)
def test_slowness_halves_the_limit_other_failures_do_not(error: Exception, limit: int) -> None:
    async def play() -> None:
        gate = _gate()
        with pytest.raises(type(error)):
            await gate.attempt(_once(error))
        assert gate.limit == limit

    anyio.run(play)


def test_limit_never_falls_below_one_and_is_not_lowered_further_while_the_server_is_away() -> None:
    async def play() -> None:
        gate = _gate()
        for _ in range(10):
            with pytest.raises(FailedError):
                await gate.attempt(_once(FailedError("x", slow=True)))
        assert gate.limit == 1
        gate, errors = _gate(), [BusyError("away", away=True)] * 6

        async def work() -> None:
            if errors:
                raise errors.pop()

        await gate.attempt(work)
        assert not errors
        assert gate.limit == 4

    anyio.run(play)


def test_server_that_is_away_is_tried_by_one_at_a_time() -> None:
    async def play() -> None:
        gate, fate, back = _gate(), iter([BusyError("away", away=True)]), anyio.Event()
        tried: list[int] = []

        async def work(number: int) -> None:
            for error in fate:
                raise error
            tried.append(number)
            await back.wait()

        async with anyio.create_task_group() as group:
            for number in range(6):
                group.start_soon(gate.attempt, lambda number=number: work(number))
            while not tried:
                await anyio.wait_all_tasks_blocked()
            assert len(tried) == 1
            back.set()
        assert sorted(tried) == list(range(6))

    anyio.run(play)


def test_pauses_double_with_jitter_up_to_a_bound() -> None:
    gate = _gate(back_off_seconds=1.0)
    for misses, longest in [(0, 1), (1, 2), (4, 16), (5, 30), (5000, 30)]:
        pauses = [gate.pause(misses) for _ in range(200)]
        assert longest / 2 <= min(pauses)
        assert max(pauses) <= longest
        assert len(set(pauses)) > 100


def test_patience_ends_where_there_is_no_answer_at_all() -> None:
    async def busy() -> None:
        raise BusyError("it is closed.")

    async def play() -> None:
        with pytest.raises(EngineError) as caught:
            await _gate(patience_seconds=0.02).attempt(busy)
        assert re.fullmatch(
            r"the server has given no answer for 0 s, and is to be left alone for 0 s more; retry_seconds is 0\.02\. "
            r"it is closed\.",
            str(caught.value),
        )

    anyio.run(play)


def test_whoever_is_still_being_answered_is_waited_for() -> None:
    async def play() -> None:
        gate, started, told = _gate(patience_seconds=0.0), anyio.Event(), []

        async def slow() -> str:
            started.set()
            await anyio.wait_all_tasks_blocked()
            told.append("answer")
            return "answer"

        async def busy() -> None:
            await started.wait()
            raise BusyError("busy", retry_after=100.0)

        async def give_up() -> None:
            with pytest.raises(EngineError):
                await gate.attempt(busy)
            told.append("error")

        async with anyio.create_task_group() as group:
            group.start_soon(gate.attempt, slow)
            group.start_soon(give_up)
        assert told == ["answer", "error"]

    anyio.run(play)


def test_any_answer_restores_patience() -> None:
    async def play() -> None:
        gate = _gate(patience_seconds=0.05, back_off_seconds=0.01)
        for _ in range(10):
            assert await gate.attempt(_once(BusyError("busy"))) == "done"

    anyio.run(play)
