"""Decoders in processes of their own: as good as in this one, and their crashes and hangs cost a clip each."""

import multiprocessing
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Pipe
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

import numpy as np
import pytest
from clips import read_numbers, write_clip
from decoding import BUDGET

from reelscribe.errors import ClipError, EngineError
from reelscribe.schema import CaptionRequest, Clip, Failure, Frames
from reelscribe.video import isolate, worker
from reelscribe.video.decode import decode
from reelscribe.video.isolate import DecoderPool
from reelscribe.video.prefetch import decode_ahead

pytestmark = [
    pytest.mark.usefixtures("no_idle_decoders"),
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at processes as Linux shows them"),
]

MEMORY = 4 << 30
SECONDS = 60.0


def pool(*, seconds: float = SECONDS, max_memory: int = MEMORY) -> DecoderPool:
    return DecoderPool(seconds=seconds, max_memory=max_memory)


def decoded(source: Path | str | bytes, decoders: DecoderPool | None = None) -> Frames:
    clip = Clip(source=source if isinstance(source, bytes) else str(source))
    return (decoders or pool()).decode(clip, BUDGET, threads=1)


def failure(source: Path | str | bytes, decoders: DecoderPool | None = None) -> ClipError:
    with pytest.raises(ClipError) as caught:
        decoded(source, decoders)
    return caught.value


def waiting() -> isolate._Decoder:
    """A decoder that waits for work."""
    while not isolate._idle:
        failure(b"")
    return isolate._idle[-1]


def gone(pid: int, seconds: float = SECONDS) -> bool:
    """Wait until a process that need not be a child of this one has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], seconds)[0])
    finally:
        os.close(handle)


def open_files(pid: int | str = "self") -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def files_of(pid: int) -> set[str]:
    """Names of what a process has open."""
    names = set()
    with suppress(OSError):  # it may end meanwhile
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                names.add(str(file.readlink()))
    return names


def hanging(folder: Path) -> Path:
    """A file that FFmpeg opens and never returns from: a list of files that names a pipe to which nobody writes."""
    os.mkfifo(folder / "pipe")
    file = folder / "hanging.mp4"
    file.write_text("ffconcat version 1.0\nfile pipe\n")
    return file


def requests(*sources: Path) -> list[CaptionRequest]:
    return [CaptionRequest(key=str(n), clip=Clip(source=str(s)), prompt="What?") for n, s in enumerate(sources)]


# As good as in this process


def test_frames_are_those_of_this_process(plain: Path) -> None:
    clip = Clip(source=str(plain))
    here, there = decode(clip, BUDGET), pool().decode(clip, BUDGET, threads=1)
    assert np.array_equal(here.pixels, there.pixels)
    assert (here.timestamps, here.duration_seconds) == (there.timestamps, there.duration_seconds)
    assert here.video_tokens == there.video_tokens
    assert there.pixels.flags.owndata
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
    list(decode_ahead(requests(plain, plain), BUDGET, max_bytes=1))
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


def test_another_limit_of_memory_takes_another_process(plain: Path) -> None:
    decoded(plain)
    first = waiting().process
    decoded(plain, pool(max_memory=MEMORY // 2))
    assert waiting().process.pid != first.pid
    assert first.returncode is not None


# Crashes and hangs


@contextmanager
def when_busy(folder: Path, act: Callable[[isolate._Decoder], object]) -> Iterator[None]:
    """Do something to the decoder that `hanging` holds, as soon as it does."""

    def wait() -> None:
        writer = os.open(folder / "pipe", os.O_WRONLY)  # returns when FFmpeg has opened the other end
        busy = next(decoder for decoder in isolate._all if str(folder / "pipe") in files_of(decoder.process.pid))
        act(busy)
        gone(busy.process.pid)
        os.close(writer)

    with ThreadPoolExecutor(1) as side:
        done = side.submit(wait)
        yield
        done.result(SECONDS)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_decoder_that_dies_in_the_middle_of_a_clip_costs_that_clip(
    number: signal.Signals, plain: Path, tmp_path: Path
) -> None:
    file = hanging(tmp_path)
    asked = requests(plain, file, plain)
    with when_busy(tmp_path, lambda decoder: decoder.process.send_signal(number)):
        first, second, third = decode_ahead(asked, BUDGET, max_bytes=1, decode_seconds=SECONDS)
    assert isinstance(first[1], Frames)
    assert isinstance(third[1], Frames)
    assert isinstance(second[1], Failure)
    assert (second[1].key, second[1].video, second[1].kind) == ("1", str(file), "crashed")
    hint = ", as a system short of memory does" if number == signal.SIGKILL else ""
    assert second[1].message == f"{file}: its decoder crashed ({number.name}{hint})."


def test_a_hang_costs_the_clip_and_the_time_that_it_may_take(plain: Path, tmp_path: Path) -> None:
    file = hanging(tmp_path)
    asked = requests(plain, file, plain)
    answers = [outcome for _, outcome in decode_ahead(asked, BUDGET, max_bytes=1, decode_seconds=1.5)]
    assert [type(answer) for answer in answers] == [Frames, Failure, Frames]
    message = f"{file} took longer than 1.5 seconds to decode; decode_seconds allows more."
    assert answers[1] == Failure(key="1", video=str(file), kind="timeout", message=message)


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
    asked = requests(plain, plain)
    assert all(isinstance(outcome, Frames) for _, outcome in decode_ahead(asked, BUDGET, max_bytes=1))


def test_a_consumer_that_stops_does_not_wait_for_a_hang(plain: Path, tmp_path: Path) -> None:
    file = hanging(tmp_path)
    ended: list[int] = []
    with when_busy(tmp_path, lambda decoder: ended.append(decoder.process.pid)):
        answers = decode_ahead(requests(plain, file), BUDGET, max_bytes=1 << 30, decode_seconds=SECONDS * 10)
        next(answers)
        writer = os.open(tmp_path / "pipe", os.O_WRONLY)  # by now the second clip is hanging, too
        cast(Generator[object, None, None], answers).close()
        os.close(writer)
    assert gone(ended[0])


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
        next(decode_ahead(requests(plain), BUDGET, max_bytes=1))


# Nothing is left


def test_many_clips_leave_no_files_open_and_no_memory_behind(plain: Path) -> None:
    def resident(pid: int | str) -> int:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    # Names of its own for each keep them from sharing one decoding.
    asked = [replace(requests(plain)[0], clip=Clip(source=f"/{'./' * n}{plain}")) for n in range(100)]

    def run() -> tuple[list[int], list[int]]:
        for _, outcome in decode_ahead(asked, BUDGET, max_bytes=1):
            assert isinstance(outcome, Frames)
        pids = [os.getpid(), waiting().process.pid]
        return [open_files(pid) for pid in pids], [resident(pid) for pid in pids]

    files, memory = run()
    for _ in range(2):
        files_after, memory_after = run()
        assert files_after == files
        assert all(after < before + (8 << 20) for before, after in zip(memory, memory_after, strict=True))


def test_a_decoder_s_end_leaves_no_files_open_and_no_process(plain: Path) -> None:
    decoded(plain)
    isolate.end_idle()
    before = open_files()
    decoded(plain)
    process = waiting().process
    isolate.end_idle()
    assert open_files() == before
    assert process.returncode is not None
    assert not Path(f"/proc/{process.pid}").exists()


PARENT = """
import os, sys
sys.path[:] = {path}
from pathlib import Path
from reelscribe.schema import CaptionRequest, Clip
from reelscribe.video import isolate
from reelscribe.video.prefetch import decode_ahead
from decoding import BUDGET
asked = [CaptionRequest(key=c, clip=Clip(source=c), prompt="") for c in {clips}]
for request, outcome in decode_ahead(asked, BUDGET, max_bytes=1, decoders=1):
    print(isolate._idle[-1].process.pid, flush=True)
{then}
"""


@contextmanager
def parent(clips: list[Path], then: str = "sys.stdin.read()") -> "Iterator[tuple[subprocess.Popen[str], int]]":
    """A Python of its own that decodes clips, with the process that it uses; `-I` hides the environment's paths."""
    code = PARENT.format(path=sys.path, clips=[str(clip) for clip in clips], then=then)
    with subprocess.Popen(
        [sys.executable, "-I", "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


@pytest.mark.parametrize("busy", [False, True])
def test_a_decoder_dies_with_its_owner(busy: bool, plain: Path, tmp_path: Path) -> None:
    with parent([plain, hanging(tmp_path)] if busy else [plain]) as (process, decoder):
        writer = os.open(tmp_path / "pipe", os.O_WRONLY) if busy else None
        assert not gone(decoder, 0)
        process.kill()
        assert gone(decoder)
        if writer is not None:
            os.close(writer)


def test_a_decoder_dies_with_its_owner_though_a_forked_child_of_that_lives(plain: Path) -> None:
    fork = "if (child := os.fork()): print(child, flush=True)\nsys.stdin.read()"
    with parent([plain], fork) as (process, decoder):
        assert process.stdout
        child = int(process.stdout.readline())
        process.kill()
        assert gone(decoder)
        os.kill(child, signal.SIGKILL)


def test_ctrl_c_is_left_to_the_owner(plain: Path) -> None:
    then = (
        "try:\n print('here', flush=True)\n sys.stdin.read()\n"
        "except KeyboardInterrupt:\n print(isolate._idle[-1].process.poll(), flush=True)"
    )
    with parent([plain], then) as (process, _):
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == "here\n"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.stdout.readline() == "None\n", "the decoder is alive"
        assert process.wait(SECONDS) == 0
        assert process.stderr.read() == ""


def test_a_run_that_ends_leaves_no_decoder_and_says_nothing(plain: Path) -> None:
    with parent([plain], "") as (process, decoder):
        assert process.wait(SECONDS) == 0
        assert gone(decoder)
        assert process.stderr
        assert process.stderr.read() == ""


def test_a_forked_process_starts_decoders_of_its_own(plain: Path) -> None:
    decoded(plain)
    mine = waiting().process.pid
    child = os.fork()
    if not child:
        decoded(plain)
        os._exit(0 if len(isolate._idle) == 1 and waiting().process.pid != mine else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert read_numbers(decoded(plain).pixels)[0] == 0
    assert waiting().process.pid == mine


def _decode_in_a_daemon(file: str) -> None:
    (answer,) = decode_ahead(requests(Path(file)), BUDGET, max_bytes=1)
    sys.exit(0 if isinstance(answer[1], Frames) else 1)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_that_may_have_no_children_can_decode(method: str, plain: Path) -> None:
    daemon = cast(Any, multiprocessing.get_context(method)).Process(
        target=_decode_in_a_daemon, args=(str(plain),), daemon=True
    )
    daemon.start()
    daemon.join(SECONDS)
    assert daemon.exitcode == 0


def test_a_decoder_that_nobody_needs_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _theirs = Pipe()
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    monkeypatch.setattr(worker, "IDLE_SECONDS", 0)
    worker._listen(ours, SimpleQueue(), threading.Event(), os.getppid(), 0)
    assert left == [0]


def test_systems_without_memory_files_have_ordinary_ones(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    assert read_numbers(decoded(plain).pixels)[0] == 0
