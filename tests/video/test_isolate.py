"""Decoders in processes of their own: as good as in this one, and their crashes and hangs cost a clip each."""

import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from av.video.frame import VideoFrame
from clips import read_numbers, write_clip
from decoders import MEMORY, SECONDS, decoded, failure, gone, hanging, held, pool, waiting, when_busy, works
from decoding import BUDGET

from reelscribe.errors import ClipError, EngineError
from reelscribe.values import Clip, Frames
from reelscribe.video import isolate
from reelscribe.video.decode import decode
from reelscribe.video.prefetch import decode_ahead

pytestmark = [
    pytest.mark.usefixtures("no_idle_decoders"),
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at processes as Linux shows them"),
]

# As good as in this process


def test_frames_are_those_of_this_process(plain: Path) -> None:
    clip = Clip(source=str(plain))
    here, there = decode(clip, BUDGET), pool().decode(clip, BUDGET, threads=1)
    assert np.array_equal(here.pixels, there.pixels)
    assert (here.timestamps, here.duration_seconds) == (there.timestamps, there.duration_seconds)
    assert here.video_tokens == there.video_tokens
    assert there.pixels.flags.writeable


def test_frames_are_their_own_when_the_decoder_goes_on(tmp_path: Path) -> None:
    decoders = pool()
    files = [write_clip(tmp_path / f"{first}.mp4", range(first, first + 30)) for first in (0, 100)]
    frames = [decoded(file, decoders) for file in files]
    assert len(isolate._idle) == 1
    assert [read_numbers(each.pixels)[0] for each in frames] == [0, 100]


def test_bytes_and_relative_paths_reach_the_decoder(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = decode(Clip(source=str(plain)), BUDGET).pixels
    assert np.array_equal(decoded(plain.read_bytes()).pixels, expected)
    for folder in (tmp_path, plain.parent):  # the decoder was born elsewhere
        monkeypatch.chdir(folder)
        relative = Clip(source=plain.name, root=Path(os.path.relpath(plain.parent)))
        assert np.array_equal(pool().decode(relative, BUDGET, threads=1).pixels, expected)
    assert np.array_equal(decoded(plain.name).pixels, expected)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems set no limits of a running process")
@pytest.mark.parametrize("short", ["frames", "clips"])
def test_where_files_may_not_grow_nothing_is_lost(short: str, plain: Path) -> None:
    """Shared memory is a file as well to `ulimit -f`."""
    expected = decode(Clip(source=str(plain)), BUDGET).pixels
    decoder = waiting()
    pid = decoder.process.pid if short == "frames" else os.getpid()
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        frames = decoded(plain.read_bytes())
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    assert np.array_equal(frames.pixels, expected)
    assert frames.pixels.flags.writeable
    assert waiting() is decoder
    assert os.fstat(decoder.frames.file.fileno()).st_size == 0 or short == "clips"


@pytest.mark.parametrize("content", [None, b"", b"no video" * 100])
def test_failures_are_those_of_this_process(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "odd.mp4"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ClipError) as here:
        decode(Clip(source=str(file)), BUDGET)
    there = failure(file)
    assert (there.kind, str(there)) == (here.value.kind, str(here.value))
    assert waiting().usable


def test_a_process_serves_one_run_after_the_other(plain: Path) -> None:
    decoded(plain)
    first = waiting().process.pid
    list(decode_ahead(works(plain, plain), BUDGET, max_bytes=1))
    decoded(plain)
    assert [decoder.process.pid for decoder in isolate._idle] == [first]


def test_several_threads_have_a_process_each(plain: Path) -> None:
    decoders = pool()
    together = threading.Barrier(3)

    def one(_: int) -> Frames:
        together.wait(SECONDS)
        return decoded(plain, decoders)

    with ThreadPoolExecutor(3) as threads:
        assert len({frames.video_tokens for frames in threads.map(one, range(3))}) == 1
    assert 1 <= len(isolate._idle) <= 3


def test_a_thread_gets_the_process_that_it_had(plain: Path) -> None:
    """It may have a film open."""
    decoders = pool()
    decoded(plain, decoders)
    mine = isolate._idle.pop()
    decoded(plain, decoders)
    waiting().thread = 0
    isolate._idle.appendleft(mine)
    for _ in range(3):
        decoded(plain, decoders)
        assert isolate._idle[-1] is mine
        isolate._idle.reverse()


def test_a_film_takes_no_more_memory_than_its_first_stretches(tmp_path: Path) -> None:
    """Frames of PyAV are garbage in cycles: 40 stretches of 10 pictures of 3 MB each would be more than a gigabyte."""
    file = write_clip(tmp_path / "a.mp4", range(400), size=(1920, 1080), paint=_grey)
    budget = replace(BUDGET, fps=25, max_video_tokens=100)
    decoders = pool()
    sizes = []
    for number in range(40):
        clip = Clip(source=str(file), start_seconds=number * 0.4, end_seconds=(number + 1) * 0.4)
        assert len(decoders.decode(clip, budget, threads=1).pixels) == 10
        statm = Path(f"/proc/{waiting().process.pid}/statm").read_text().split()
        sizes.append((int(statm[1]) - int(statm[2])) * resource.getpagesize())
    assert sizes[-1] - sizes[4] < 100_000_000


def _grey(number: int, width: int, height: int) -> VideoFrame:
    return VideoFrame.from_ndarray(np.full((height, width, 3), number % 250, np.uint8), format="rgb24")


def test_another_limit_of_memory_takes_another_process(plain: Path) -> None:
    decoded(plain)
    first = waiting().process
    decoded(plain, pool(max_memory=MEMORY // 2))
    assert waiting().process.pid != first.pid
    assert first.returncode is not None, "no run is left that it is for"


def test_runs_with_other_limits_of_memory_leave_each_other_s_processes_alone(plain: Path) -> None:
    one, other = pool(), pool(max_memory=MEMORY // 2)
    pids = set()
    for _ in range(3):
        for decoders in (one, other):
            decoded(plain, decoders)
            pids |= {decoder.process.pid for decoder in isolate._idle}
    assert len(pids) == 2


def test_decoders_that_were_closed_start_no_process(plain: Path) -> None:
    decoders = pool()
    decoders.close()
    assert failure(plain, decoders).kind == "crashed"
    assert not isolate._idle


def test_a_process_gets_no_secret_of_the_environment(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "https_proxy", "SOME_LOGIN"):
        monkeypatch.setenv(name, "s3cret")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    decoded(plain)
    environment = Path(f"/proc/{waiting().process.pid}/environ").read_bytes()
    assert b"s3cret" not in environment
    assert b"LC_ALL=C.UTF-8" in environment


# Crashes and hangs


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_decoder_that_dies_in_the_middle_of_a_clip_costs_that_clip(
    number: signal.Signals, plain: Path, tmp_path: Path
) -> None:
    file = hanging(tmp_path)
    asked = works(plain, file, plain)
    with when_busy(tmp_path, lambda decoder: decoder.process.send_signal(number)):
        first, second, third = decode_ahead(asked, BUDGET, max_bytes=1, decode_seconds=SECONDS)
    assert isinstance(first[1], Frames)
    assert isinstance(third[1], Frames)
    assert isinstance(second[1], ClipError)
    assert second[1].kind == "crashed"
    hint = ", as a system short of memory does" if number == signal.SIGKILL else ""
    assert str(second[1]) == f"{file}: its decoder crashed ({number.name}{hint})."


def test_a_hang_costs_the_clip_and_the_time_that_it_may_take(plain: Path, tmp_path: Path) -> None:
    file = hanging(tmp_path)
    asked = works(plain, file, plain)
    answers = [outcome for _, outcome in decode_ahead(asked, BUDGET, max_bytes=1, decode_seconds=1.5)]
    assert [type(answer) for answer in answers] == [Frames, ClipError, Frames]
    message = f"{file} took longer than 1.5 seconds to decode; decode_seconds allows more."
    assert isinstance(answers[1], ClipError)
    assert (answers[1].kind, str(answers[1])) == ("timeout", message)


def test_a_decoder_that_stands_still_is_replaced(plain: Path) -> None:
    decoded(plain)
    still = waiting().process
    still.send_signal(signal.SIGSTOP)
    assert failure(plain, pool(seconds=0.5)).kind == "timeout"
    assert still.returncode == -signal.SIGKILL
    assert read_numbers(decoded(plain).pixels)[0] == 0


def test_a_clip_of_bytes_does_not_get_stuck_on_its_way_in(plain: Path) -> None:
    waiting().process.send_signal(signal.SIGSTOP)
    error = failure(plain.read_bytes() + bytes(1 << 24), pool(seconds=0.5))
    assert error.kind == "timeout"


def test_a_decoder_that_died_while_it_waited_costs_nothing(plain: Path) -> None:
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = waiting().process
        process.send_signal(number)
        assert gone(process.pid)
        assert read_numbers(decoded(plain).pixels)[0] == 0


def test_a_decoder_that_leaves_as_it_is_given_a_clip_costs_nothing(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = waiting()
    left = socket.socket(fileno=os.dup(decoder._connection.fileno()))
    left.shutdown(socket.SHUT_WR)  # what the decoder takes for the end of its owner
    assert gone(decoder.process.pid)
    monkeypatch.setattr(decoder.process, "poll", lambda: None)
    assert read_numbers(decoded(plain).pixels)[0] == 0
    assert decoder.process.returncode == 0
    left.close()


def test_a_bug_in_the_decoder_s_process_is_a_crash(plain: Path) -> None:
    decoder = waiting()
    decoder._connection.send("no job")
    error = failure(plain)
    assert error.kind == "crashed"
    with pytest.raises(ClipError, match=r"plain\.mp4: its decoder crashed \(exit code 1\)\.$"):
        raise error


def test_a_clip_that_takes_too_much_memory_fails_alone(plain: Path, tmp_path: Path) -> None:
    file = hanging(tmp_path)  # so that there is time to notice
    with pytest.raises(
        ClipError, match=r"hanging\.mp4 takes more than 1,000 bytes to decode; decoder_bytes allows more"
    ):
        decoded(file, pool(max_memory=1000))
    assert failure(file, pool(max_memory=1000)).kind == "too_large"
    asked = works(plain, plain)
    assert all(isinstance(outcome, Frames) for _, outcome in decode_ahead(asked, BUDGET, max_bytes=1))


def test_a_consumer_that_stops_does_not_wait_for_a_hang(plain: Path, tmp_path: Path) -> None:
    file = hanging(tmp_path)
    answers = decode_ahead(works(plain, file), BUDGET, max_bytes=1 << 30, decode_seconds=SECONDS * 10)
    next(answers)
    decoder = held(tmp_path)
    cast(Generator[object, None, None], answers).close()
    assert gone(decoder.process.pid)


def test_a_decoder_that_is_done_as_its_run_ends_is_not_given_to_the_next(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoders = pool()
    whole = isolate._Decoder.decode

    def done_too_late(self: isolate._Decoder, *args: Any) -> Frames:
        frames = whole(self, *args)
        decoders.close()
        return frames

    monkeypatch.setattr(isolate._Decoder, "decode", done_too_late)
    assert len(decoders.decode(Clip(source=str(plain)), BUDGET, threads=1).pixels)
    assert not isolate._idle


@pytest.mark.parametrize(
    ("executable", "message"),
    [
        ("/bin/false", r"cannot be started: it was not ready to work; see what it printed\. With decoders=0"),
        ("/nowhere/python", r"cannot be started: No such file or directory\. With decoders=0"),
    ],
)
def test_decoders_that_cannot_be_started_stop_the_run(
    executable: str, message: str, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolate, "get_executable", lambda: executable)
    with pytest.raises(EngineError, match=message):
        next(decode_ahead(works(plain), BUDGET, max_bytes=1))
