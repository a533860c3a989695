"""Decoding ahead: in order but for slow clips, failures too, within the bounds, and no further than it is asked for."""

import os
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from clips import read_numbers, write_clip
from flow import named

from reelscribe.errors import ClipError
from reelscribe.values import Clip, Frames, Request, Work
from reelscribe.video import isolate, prefetch, stages
from reelscribe.video.prefetch import decode_ahead
from reelscribe.video.sampling import FrameBudget, VisionLimits
from reelscribe.video.stages import Stages

BUDGET = FrameBudget(fps=5, min_frames=4, max_frames=8, max_video_tokens=100, limits=VisionLimits())
CPUS = 4

Decode = Callable[[str], Frames]


class Source:
    """Requests without end, unless told otherwise; counts those that were pulled."""

    def __init__(self, count: int = 1000) -> None:
        self.pulled = 0
        self._count = count

    def __iter__(self) -> Iterator[Work]:
        while self.pulled < self._count:
            self.pulled += 1
            yield work(str(self.pulled - 1))


def work(key: str, clip: Clip | None = None) -> Work:
    return Work(requests=(Request(id=named(key), clip=clip or Clip(source=key), prompt="What is it?"),))


def frames(size: int = BUDGET.max_bytes) -> Frames:
    return Frames(
        pixels=np.empty((1, 1, size // 3, 3), np.uint8), timestamps=(0.0,), duration_seconds=1, video_tokens=1
    )


def close(answers: Iterator[object]) -> None:
    cast(Generator[object, None, None], answers).close()


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Callable[[Decode], list[int]]:
    """Put a function of the clip's name in the decoder's place, in this process; gives the number of threads that each
    call may use.
    """

    def put(function: Decode) -> list[int]:
        threads_of_calls = []

        def decode(clip: Clip, _: FrameBudget, *, threads: int) -> Frames:
            threads_of_calls.append(threads)
            return function(clip.name)

        monkeypatch.setattr(prefetch, "decode", decode)
        monkeypatch.setattr(prefetch, "AVAILABLE", False)
        monkeypatch.setattr(prefetch, "usable_cpus", lambda: CPUS)
        return threads_of_calls

    return put


Put = Callable[[Decode], list[int]]


def test_clips_come_decoded_with_failures_in_their_places(tmp_path: Path) -> None:
    good = [write_clip(tmp_path / f"{first}.mp4", range(first, first + 10)) for first in (0, 100)]
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    sources = [good[0], tmp_path / "gone.mp4", good[1], broken, good[0]]
    asked = [work(str(number), Clip(source=str(source))) for number, source in enumerate(sources)]
    answers = sorted(decode_ahead(asked, BUDGET, max_bytes=1 << 30), key=lambda answer: answer[0].requests[0].id.task)
    assert [each for each, _ in answers] == asked
    first, missing, second, unreadable, third = (outcome for _, outcome in answers)
    for outcome, number in ((first, 0), (second, 100), (third, 0)):
        assert isinstance(outcome, Frames)
        assert read_numbers(outcome.pixels)[0] == number
    assert isinstance(missing, ClipError)
    assert missing.kind == "missing"
    assert f"{tmp_path / 'gone.mp4'}: there is no such file" in str(missing)
    assert isinstance(unreadable, ClipError)
    assert unreadable.kind == "unreadable"


def test_the_order_is_kept_though_a_later_clip_is_ready_first(decoder: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "_PATIENCE_SECONDS", 60.0)
    last_is_ready = threading.Event()

    def decode(name: str) -> Frames:
        if name == "3":
            last_is_ready.set()
        else:
            assert last_is_ready.wait(timeout=60)
        return frames()

    decoder(decode)
    answers = decode_ahead(Source(4), BUDGET, max_bytes=1 << 30)
    assert [each.requests[0].id.task for each, _ in answers] == ["0", "1", "2", "3"]


def test_clips_that_are_ready_pass_a_slow_one(decoder: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "_PATIENCE_SECONDS", 0.05)
    others_are_out = threading.Event()

    def decode(name: str) -> Frames:
        if name == "0":
            assert others_are_out.wait(timeout=60)
        return frames()

    decoder(decode)
    answers = decode_ahead(Source(40), BUDGET, max_bytes=4 * BUDGET.max_bytes)
    passed = [next(answers)[0].requests[0].id.task for _ in range(39)]
    others_are_out.set()
    assert sorted(passed, key=int) == [str(number) for number in range(1, 40)]
    assert [each.requests[0].id.task for each, _ in answers] == ["0"]


def test_nothing_is_pulled_before_it_is_asked_for(decoder: Put) -> None:
    decoder(lambda _: frames())
    source = Source()
    decode_ahead(source, BUDGET, max_bytes=1 << 30)
    assert source.pulled == 0


@pytest.mark.parametrize("clips", [1, 2, 5])
def test_no_more_is_pulled_than_the_bound_of_bytes_allows(clips: int, decoder: Put) -> None:
    decoder(lambda _: frames())
    source = Source()
    answers = decode_ahead(source, BUDGET, max_bytes=clips * BUDGET.max_bytes)
    for taken in range(20):
        next(answers)
        assert source.pulled == taken + clips


def test_a_clip_that_is_not_decoded_yet_counts_as_the_largest(decoder: Put) -> None:
    all_pulled = threading.Event()

    def decode(name: str) -> Frames:
        if name != "0":
            assert all_pulled.wait(timeout=60)
        return frames(3)

    decoder(decode)
    source = Source()
    answers = decode_ahead(source, BUDGET, max_bytes=3 * BUDGET.max_bytes)
    next(answers)
    # Only the first was ready, and is small: in its room there was a place for one more.
    assert source.pulled in (3, 4)
    all_pulled.set()
    close(answers)


def test_small_clips_run_ahead_of_the_decoders_and_no_further(decoder: Put) -> None:
    decoder(lambda _: frames(3))
    source = Source()
    answers = decode_ahead(source, BUDGET, max_bytes=1 << 30)
    for taken in range(20):
        next(answers)
        assert source.pulled == taken + 2 * CPUS


def test_failures_take_no_room(decoder: Put) -> None:
    def decode(_: str) -> Frames:
        raise ClipError("decode", "broken")

    decoder(decode)
    source = Source(100)
    answers = list(decode_ahead(source, BUDGET, max_bytes=BUDGET.max_bytes))
    assert [each.requests[0].id.task for each, _ in answers] == [str(number) for number in range(100)]
    assert all(isinstance(outcome, ClipError) for _, outcome in answers)


def test_a_bound_that_is_too_small_for_any_clip_lets_one_through_at_a_time(decoder: Put) -> None:
    decoder(lambda _: frames())
    source = Source(10)
    for taken, _ in enumerate(decode_ahead(source, BUDGET, max_bytes=1), start=1):
        assert source.pulled == taken
    assert source.pulled == 10


def test_a_consumer_that_stops_stops_the_pulling_and_the_decoding(
    decoder: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = threading.Event()
    stopping = Stages.stopping

    @contextmanager
    def told(stages: Stages) -> Iterator[None]:
        try:
            with stopping(stages):
                yield
        finally:
            stopped.set()

    def decode(name: str) -> Frames:
        if name != "0":
            assert stopped.wait(timeout=60)
        return frames(3)

    monkeypatch.setattr(Stages, "stopping", told)
    calls = decoder(decode)
    source, before = Source(), set(threading.enumerate())
    answers = decode_ahead(source, BUDGET, max_bytes=1 << 30)
    next(answers)
    close(answers)
    assert source.pulled == 2 * CPUS
    assert len(calls) <= 1 + CPUS  # those that had begun
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "decode"]


def test_a_consumer_that_stops_does_not_wait_for_a_thread_that_cannot_be_stopped(
    decoder: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    def decode(name: str) -> Frames:
        if name != "0":
            ended.wait(timeout=60)
        return frames(3)

    monkeypatch.setattr(stages, "_END_SECONDS", 0.01)
    decoder(decode)
    answers = decode_ahead(Source(), BUDGET, max_bytes=1 << 30)
    next(answers)
    close(answers)
    stuck = [thread for thread in threading.enumerate() if thread.name == "decode"]
    assert stuck
    assert all(thread.daemon for thread in stuck)
    ended.set()
    for thread in stuck:
        thread.join(60)


def test_who_waits_for_a_clip_can_be_told_that_it_is_not_wanted_any_more(decoder: Put) -> None:
    ended, cancelled = threading.Event(), threading.Event()

    def decode(_: str) -> Frames:
        cancelled.set()
        ended.wait(timeout=60)
        return frames(3)

    decoder(decode)
    source = Source()
    assert list(decode_ahead(source, BUDGET, max_bytes=1 << 30, cancelled=cancelled.is_set)) == []
    assert 0 < source.pulled <= 2 * CPUS
    ended.set()


def test_an_error_that_is_no_clip_s_own_is_raised_in_its_turn(decoder: Put) -> None:
    def decode(name: str) -> Frames:
        if name == "2":
            raise RuntimeError("a bug")
        return frames(3)

    decoder(decode)
    answers = decode_ahead(Source(), BUDGET, max_bytes=1 << 30)
    assert [next(answers)[0].requests[0].id.task, next(answers)[0].requests[0].id.task] == ["0", "1"]
    with pytest.raises(RuntimeError, match=r"^a bug$"):
        next(answers)


@pytest.mark.parametrize(("room", "threads"), [(100, 1), (4, 1), (3, 2), (2, 2), (1, 4), (0.5, 4)])
def test_cpus_that_have_no_clip_of_their_own_help_with_another(room: float, threads: int, decoder: Put) -> None:
    calls = decoder(lambda _: frames())
    list(decode_ahead(Source(10), BUDGET, max_bytes=int(room * BUDGET.max_bytes)))
    assert set(calls) == {threads}


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not tell")
def test_only_cpus_that_the_process_may_run_on_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5})
    assert prefetch.usable_cpus() == 3


def test_the_bound_counts_what_the_largest_clip_really_takes(tmp_path: Path) -> None:
    budget = replace(BUDGET, max_video_tokens=20)
    clip = Clip(source=str(write_clip(tmp_path / "clip.mp4", size=(320, 240))))
    ((_, outcome),) = decode_ahead([work("0", clip)], budget, max_bytes=1)
    assert isinstance(outcome, Frames)
    assert 0.7 * budget.max_bytes < outcome.pixels.nbytes <= budget.max_bytes


def test_a_clip_that_several_requests_name_is_decoded_once(decoder: Put) -> None:
    calls = decoder(lambda _: frames())
    asked = [work(f"{clip}:{prompt}", Clip(source=str(clip))) for clip in range(3) for prompt in range(5)]
    answers = list(decode_ahead(asked, BUDGET, max_bytes=1 << 30))
    assert [each for each, _ in answers] == asked
    assert len(calls) == 3
    shared = [outcome for _, outcome in answers]
    assert all(outcome is shared[number // 5 * 5] for number, outcome in enumerate(shared))
    assert len({id(outcome) for outcome in shared}) == 3


def test_clips_by_content_are_shared_too_and_names_alone_are_not(decoder: Put) -> None:
    calls = decoder(lambda _: frames())
    clips = [Clip(source=bytes([1, 2, 3])), Clip(source=bytes([1, 2, 3])), Clip(source=bytes([1, 2, 4]))]
    clips += [Clip(source="a.mp4", root=Path("/one")), Clip(source="a.mp4", root=Path("/two"))]
    list(decode_ahead([work(str(n), clip) for n, clip in enumerate(clips)], BUDGET, max_bytes=1 << 30))
    assert len(calls) == 4


@pytest.mark.parametrize("room", [1, 3])
def test_shared_frames_count_once(room: int, decoder: Put) -> None:
    calls = decoder(lambda _: frames())
    asked = [work(f"{clip}:{prompt}", Clip(source=str(clip))) for clip in range(20) for prompt in range(2)]
    pulled = 0

    def source() -> Iterator[Work]:
        nonlocal pulled
        for pulled, each in enumerate(asked, start=1):  # noqa: B007
            yield each

    for taken, _ in enumerate(decode_ahead(source(), BUDGET, max_bytes=room * BUDGET.max_bytes), start=1):
        under_way = {each.clip for each in asked[taken - 1 : pulled]}
        assert len(under_way) <= room
    assert len(calls) == 20


def test_many_requests_for_one_clip_leave_no_decoder_idle(decoder: Put) -> None:
    decoder(lambda _: frames(3))
    names = iter(range(1000))

    def source() -> Iterator[Work]:
        for number in range(100):
            for prompt in range(4):
                yield work(f"{number}:{prompt}", Clip(source=str(next(names) // 4)))

    answers = decode_ahead(source(), BUDGET, max_bytes=1 << 30)
    next(answers)
    assert next(names) == 4 * (2 * CPUS - 1) + 1, "eight clips are under way"
    close(answers)


def test_no_end_of_requests_for_one_clip_is_pulled(decoder: Put) -> None:
    decoder(lambda _: frames(3))
    pulled: list[None] = []

    def source() -> Iterator[Work]:
        while True:
            pulled.append(None)
            yield work(str(len(pulled)), Clip(source="one.mp4"))

    answers = decode_ahead(source(), BUDGET, max_bytes=1 << 30)
    next(answers)
    assert len(pulled) == 8 * 2 * CPUS
    close(answers)


def test_a_failure_is_told_to_each_request_that_named_the_clip(decoder: Put) -> None:
    def decode(_: str) -> Frames:
        raise ClipError("decode", "broken")

    calls = decoder(decode)
    asked = [work(str(number), Clip(source="one.mp4")) for number in range(3)]
    outcomes = [outcome for _, outcome in decode_ahead(asked, BUDGET, max_bytes=1 << 30)]
    assert [(outcome.kind, str(outcome)) for outcome in outcomes if isinstance(outcome, ClipError)] == [
        ("decode", "broken")
    ] * 3
    assert len(calls) == 1


@pytest.mark.parametrize("decoders", [0, 1, 2])
@pytest.mark.usefixtures("no_idle_decoders")
def test_clips_can_be_decoded_in_this_process_or_in_others(decoders: int, tmp_path: Path) -> None:
    files = [write_clip(tmp_path / f"{first}.mp4", range(first, first + 10)) for first in (0, 50, 100)]
    asked = [work(file.name, Clip(source=file.name, root=tmp_path)) for file in files]
    answers = list(decode_ahead(asked, BUDGET, max_bytes=1 << 30, decoders=decoders))
    first = {each.requests[0].id.task: read_numbers(cast(Frames, outcome).pixels)[0] for each, outcome in answers}
    assert first == {"0.mp4": 0, "50.mp4": 50, "100.mp4": 100}
    assert 0 < len(isolate._idle) <= decoders or decoders == 0
