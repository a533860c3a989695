"""Clips on their way to the engine: what they count for, and which of them may pass others."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext

import numpy as np
import pytest
from flow import named

from reelscribe.errors import ClipError
from reelscribe.values import Clip, Frames, Request, Work
from reelscribe.video import stages
from reelscribe.video.stages import Stages

LARGEST = 3000
"""Bytes that a clip counts as until it is decoded."""


def frames(size: int = LARGEST) -> Frames:
    pixels = np.empty((1, 1, size // 3, 3), np.uint8)
    return Frames(pixels=pixels, timestamps=(0.0,), duration_seconds=1, video_tokens=1)


def work(name: str) -> Work:
    return Work(requests=(Request(id=named(name), clip=Clip(source=name), prompt="What is it?"),))


def test_failures_that_wait_take_no_room() -> None:
    """Failed clips behind one that is decoded count for nothing, so that as many more are pulled."""
    all_begun = threading.Event()

    def decode(clip: Clip) -> Frames:
        if clip.name == "7":
            all_begun.set()
        if clip.name in ("0", "7"):
            assert all_begun.wait(timeout=60)
            return frames()
        raise ClipError("decode", "broken")

    room = Stages(workers=4, max_downloads=1, max_bytes=2 * LARGEST, clip_bytes=LARGEST)
    room.start(nullcontext, decode)
    with closing(room), room.stopping():
        for number in range(8):
            assert room.has_room(), number
            room.add(work(str(number)))
            if 0 < number < 7:
                wait_for(room, number)


def wait_for(room: Stages, number: int) -> None:
    """Wait until the clip of this place is done, without taking it."""
    with room._changed:
        assert room._changed.wait_for(lambda: room._passages[number].stage == max(stages._Stage), timeout=60)


class Slow:
    """Clips that are fetched and decoded when a test says so."""

    def __init__(self) -> None:
        self.fetched: dict[str, threading.Event] = {}
        self.decoded: dict[str, threading.Event] = {}

    @contextmanager
    def fetch(self, clip: Clip) -> Iterator[Clip]:
        assert self.fetched.get(clip.name, _now()).wait(60)
        yield clip

    def decode(self, clip: Clip) -> Frames:
        assert self.decoded.get(clip.name, _now()).wait(60)
        return frames(3)


def _now() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


def _stages(slow: Slow, *, patience: float, monkeypatch: pytest.MonkeyPatch) -> Stages:
    monkeypatch.setattr(stages, "_PATIENCE_SECONDS", patience)
    made = Stages(workers=2, max_downloads=2, max_bytes=1 << 30, clip_bytes=LARGEST)
    made.start(slow.fetch, slow.decode)
    return made


def _next(made: Stages) -> str | None:
    """Who comes next; None where nobody does."""
    cancelled = threading.Event()
    giving_up = threading.Timer(60, cancelled.set)
    giving_up.start()
    ready = made.next_ready(or_room=False, cancelled=cancelled.is_set)
    giving_up.cancel()
    return ready and ready[0].requests[0].id.task


@pytest.mark.parametrize("part", ["fetched", "decoded"])
def test_a_clip_that_is_downloaded_is_passed_at_once(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, url = Slow(), "http://x/a.mp4"
    getattr(slow, part)[url] = threading.Event()
    made = _stages(slow, patience=60, monkeypatch=monkeypatch)
    with closing(made), made.stopping():
        for name in (url, "1", "2"):
            made.add(work(name))
        assert [_next(made), _next(made)] == ["1", "2"]
        getattr(slow, part)[url].set()
        assert _next(made) == url
        assert _next(made) is None


def test_a_clip_that_takes_long_to_decode_is_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    slow.decoded["0"] = threading.Event()
    made = _stages(slow, patience=0, monkeypatch=monkeypatch)
    with closing(made), made.stopping():
        for name in "0123":
            made.add(work(name))
        assert [_next(made) for _ in range(3)] == ["1", "2", "3"]
        slow.decoded["0"].set()
        assert _next(made) == "0"


def test_downloads_leave_room_for_clips_that_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    slow.fetched = {f"http://x/{number}": threading.Event() for number in range(2)}
    made = _stages(slow, patience=60, monkeypatch=monkeypatch)
    with closing(made), made.stopping():
        made.add(work("http://x/0"))
        for number in range(20):
            assert made.has_room()
            made.add(work(str(number)))
            assert _next(made) == str(number)
        made.add(work("http://x/1"))
        assert not made.has_room(), "two downloads are under way"
        for event in slow.fetched.values():
            event.set()
        assert {_next(made), _next(made)} == set(slow.fetched)


def stretches(source: str, count: int) -> list[Work]:
    clips = [Clip(source=source, start_seconds=number, end_seconds=number + 1) for number in range(count)]
    return [
        Work(requests=(Request(id=named(str(number)), clip=clip, prompt="What is it?"),))
        for number, clip in enumerate(clips)
    ]


def test_stretches_of_a_film_wait_for_its_one_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take one of the places for downloads, and leave the other to the next film."""
    slow, asked = Slow(), []
    slow.fetched = {"http://x/a#t=0,1": threading.Event()}
    plain = slow.fetch
    slow.fetch = lambda clip: asked.append(clip.name) or plain(clip)  # type: ignore[method-assign, func-returns-value]
    made = _stages(slow, patience=60, monkeypatch=monkeypatch)
    with closing(made), made.stopping():
        for each in stretches("http://x/a", 6):
            assert made.has_room()
            made.add(each)
        made.add(work("http://x/b"))
        assert _next(made) == "http://x/b"
        assert sorted(asked) == ["http://x/a#t=0,1", "http://x/b"]
        slow.fetched["http://x/a#t=0,1"].set()
        assert {_next(made) for _ in range(6)} == set("012345")


def test_more_stretches_than_files_are_under_way() -> None:
    room = Stages(workers=1, max_downloads=1, max_bytes=1 << 30, clip_bytes=LARGEST)
    begun, may_end = threading.Event(), threading.Event()

    def decode(clip: Clip) -> Frames:
        begun.set()
        assert may_end.wait(60)
        return frames(3)

    room.start(nullcontext, decode)
    with closing(room), room.stopping():
        count = 0
        for each in stretches("a", 100):
            if not room.has_room():
                break
            room.add(each)
            count += 1
        may_end.set()
        assert count == stages._CLIPS_AHEAD * stages._STRETCHES
