"""Children end with the program, however it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from reelscribe.engines.guard import Guard

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux")

PROGRAM = """
import subprocess, sys, time
from reelscribe.engines.guard import Guard
guard = Guard()
command = [sys.executable, "-c", "import time; time.sleep(600)"]
with guard.starting({}):
    child = subprocess.Popen(command)
print(child.pid, flush=True)
time.sleep(600)
"""


def sleeper() -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_children_end_with_a_program_that_is_killed(how: signal.Signals) -> None:
    # The program is a child of a shell that ends at once, so that the child's end can be read off a pipe that it holds.
    read, write = os.pipe()
    program = subprocess.Popen(
        [
            sys.executable,
            "-c",
            PROGRAM.replace("subprocess.Popen(command)", f"subprocess.Popen(command, pass_fds=[{write}])"),
        ],
        stdout=subprocess.PIPE,
        pass_fds=[write],
    )
    os.close(write)
    assert program.stdout is not None
    assert int(program.stdout.readline())
    program.send_signal(how)
    program.wait(timeout=30)
    with os.fdopen(read, "rb") as held:
        assert held.read() == b""  # returns once nobody holds the other end


def test_closing_ends_what_was_started_under_it_and_nothing_else() -> None:
    guard = Guard()
    with guard.starting({}):
        mine = sleeper()
    other = sleeper()
    guard.close()
    assert mine.wait(timeout=30) == -signal.SIGKILL
    assert other.poll() is None
    other.kill()
    other.wait()


def test_what_is_started_under_a_guard_in_a_guarded_program_has_both() -> None:
    outer, inner = Guard(), Guard()
    with outer.starting({}):
        with inner.starting({}):
            mine = sleeper()
        other = sleeper()
    outer.close()
    assert mine.wait(timeout=30) == other.wait(timeout=30) == -signal.SIGKILL
    inner.close()


def test_variables_are_lent_where_they_are_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RS_SET", "by the user")
    monkeypatch.delenv("RS_UNSET", raising=False)
    before = dict(os.environ)
    guard = Guard()
    with guard.starting({"RS_SET": "ours", "RS_UNSET": "ours"}):
        assert (os.environ["RS_SET"], os.environ["RS_UNSET"]) == ("by the user", "ours")
    assert dict(os.environ) == before
    guard.close()
