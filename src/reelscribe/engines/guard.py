"""Child processes that do not outlive the program, however it ends.

A program that is killed cannot end its children, and vLLM's go on without it, GPU memory and all. So a small process
waits beside it for its end, and then ends whatever carries its mark in the environment.
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
    """Leave the group of processes that Ctrl-C is sent to; vLLM calls it in each process of its own (`pyproject.toml`).

    There it would break off what the program is about to finish.
    """
    if _MARK in os.environ and multiprocessing.parent_process() is not None:
        with suppress(OSError):
            os.setpgid(0, 0)


class Guard:
    """Ends the processes that were started under it, once this program ends or the guard is closed."""

    def __init__(self) -> None:
        self._mark = uuid.uuid4().hex
        self._watch = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WATCH, self._mark],
            stdin=subprocess.PIPE,
            start_new_session=True,  # to outlive what is sent to the program's group
        )

    @contextmanager
    def starting(self, environment: Mapping[str, str]) -> Iterator[None]:
        """Mark the processes that are started in this block, and give them variables that are not set yet."""
        outer = os.environ.get(_MARK)  # in a process that is guarded itself: its guard is to end these, too
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
        """End what is left of them."""
        self._watch.communicate()
