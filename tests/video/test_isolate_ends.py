"""Decoders in processes of their own: nothing is left of them, and they get on with forks and daemons."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Pipe
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

import pytest
from clips import read_numbers
from decoders import (
    SECONDS,
    decoded,
    files_of,
    gone,
    hanging,
    open_files,
    waiting,
    works,
)
from decoding import BUDGET

from reelscribe.values import Frames
from reelscribe.video import isolate, worker
from reelscribe.video.prefetch import decode_ahead

pytestmark = [
    pytest.mark.usefixtures("no_idle_decoders"),
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at processes as Linux shows them"),
]


def test_many_clips_leave_no_files_open_and_no_memory_behind(plain: Path) -> None:
    def resident(pid: int | str) -> int:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    # Names of its own for each keep them from sharing one decoding.
    asked = [works(Path(f"/{'./' * n}{plain}"))[0] for n in range(100)]

    def run() -> tuple[list[int], list[int]]:
        for _, outcome in decode_ahead(asked, BUDGET, max_bytes=1):
            assert isinstance(outcome, Frames)
        gc.collect()  # what other tests left may be open until then
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
from reelscribe.values import Clip, Request, Work
from reelscribe.video import isolate
from reelscribe.video.prefetch import decode_ahead
from decoding import BUDGET
from flow import named
asked = [Work(requests=(Request(id=named(c), clip=Clip(source=c), prompt=""),)) for c in {clips}]
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
        while busy and str(tmp_path / "hanging.mp4") not in files_of(decoder):
            assert not gone(decoder, 0)
        assert not gone(decoder, 0)
        process.kill()
        assert gone(decoder)


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
        # Started from a job in the background, the tests may have been told to leave Ctrl-C alone.
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
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
    (answer,) = decode_ahead(works(Path(file)), BUDGET, max_bytes=1)
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


@pytest.mark.parametrize("busy", [False, True])
def test_a_decoder_whose_owner_is_gone_leaves(busy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if somebody else holds the socket open, so that it is not hung up."""
    ours, _theirs = Pipe()
    left: list[int] = []
    working = threading.Event()
    if busy:
        working.set()
    monkeypatch.setattr(os, "_exit", left.append)
    monkeypatch.setattr(worker, "IDLE_SECONDS", 1e9)
    somebody_else = os.getppid() + 1
    listener = threading.Thread(
        target=worker._listen, args=(ours, SimpleQueue(), working, somebody_else, 1 << 62), daemon=True
    )
    listener.start()
    listener.join(SECONDS)
    assert left == [0]


def test_systems_without_memory_files_have_ordinary_ones(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    assert read_numbers(decoded(plain).pixels)[0] == 0
