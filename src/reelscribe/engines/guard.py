"""Ending child processes with the program, however the program ends.

A program that is killed cannot end its children, and vLLM's processes would go on and keep their GPU memory. So a small
process waits for the program's end, and then kills all processes that have the guard's mark in their environment.
"""

import multiprocessing
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

_MARK: Final = "REELSCRIBE_GUARDED"
"""The environment variable with the marks of the guards that end a process."""

_WATCH: Final = """
import os, signal, sys
mark = sys.argv[1].encode()
sys.stdin.buffer.read()  # until the program closes its end, or dies
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            marked = mark in file.read()
        if marked:
            os.kill(int(pid), signal.SIGKILL)
    except OSError:  # gone, or someone else's
        pass
"""


def leave_group() -> None:
    """Leave the process group that Ctrl-C is sent to. vLLM calls this in each of its processes (see `pyproject.toml`).

    Otherwise Ctrl-C would end these processes while the program still finishes its work with them.
    """
    if _MARK in os.environ and multiprocessing.parent_process() is not None:
        with suppress(OSError):
            os.setpgid(0, 0)


class Guard:
    """Ends the processes that were started within `starting`, once this program ends or the guard is closed."""

    def __init__(self) -> None:
        self._mark = uuid.uuid4().hex
        self._watch = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WATCH, self._mark],
            stdin=subprocess.PIPE,
            start_new_session=True,  # so that signals to the program's group do not end it
        )

    @contextmanager
    def starting(self, environment: Mapping[str, str]) -> Iterator[None]:
        """A context that marks the processes started in it, and sets environment variables that are not set yet."""
        outer = os.environ.get(_MARK)  # set if this process is guarded itself: its guard also ends the new processes
        added = {name: value for name, value in environment.items() if name not in os.environ}
        os.environ.update(added, **{_MARK: f"{outer} {self._mark}" if outer else self._mark})
        try:
            yield
        finally:
            for name in (*added, _MARK):
                os.environ.pop(name, None)
            if outer:
                os.environ[_MARK] = outer

    def close(self) -> None:
        """Kill the processes that are left, and wait until that is done."""
        self._watch.communicate()
