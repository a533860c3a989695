"""The real command in a process group of its own, to be watched, killed and looked at: for tests and benchmarks."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from reelscribe.runners.status import ledger_of


def _heed_ctrl_c() -> None:
    """Started from a job in the background, the tests may have been told to leave Ctrl-C alone; the command is not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Run:
    """The command, in a process group of its own."""

    def __init__(self, folder: Path, name: str, *words: str, limit_kib: int | None = None) -> None:
        self.output = folder / name / "out.jsonl"
        self.partial = self.output.with_name("out.jsonl.partial")
        typed = [sys.executable, "-m", "reelscribe.cli", "caption", "in.jsonl", "-o", f"{name}/out.jsonl", *words]
        if limit_kib is not None:
            typed = ["bash", "-c", f'ulimit -f {limit_kib}; exec "$@"', "bash", *typed]
        self.process = subprocess.Popen(
            typed,
            cwd=folder,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            preexec_fn=_heed_ctrl_c,  # noqa: PLW1509 - it takes no lock
        )

    def wait_until(self, true: Callable[[], bool]) -> None:
        """Look again and again until something is seen or the run has ended."""
        pause = threading.Event()
        while not true() and self.process.poll() is None:
            pause.wait(0.004)

    def lines(self) -> int:
        """Rows written so far."""
        with suppress(FileNotFoundError):
            return self.partial.read_bytes().count(b"\n")
        return 0

    def outcomes(self) -> int:
        """Outcomes on disk."""
        with (
            suppress(sqlite3.Error),
            closing(sqlite3.connect(f"file:{ledger_of(self.output)}?mode=ro", uri=True)) as base,
        ):
            return int(base.execute("SELECT count(*) FROM outcomes").fetchone()[0])
        return 0

    def kill(self, children_first: bool) -> None:
        """Kill the group, and the decoders, which are in groups of their own."""
        children = children_of(self.process.pid)
        groups = [*children, self.process.pid] if children_first else [self.process.pid, *children]
        for group in groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        self.end()

    def end(self) -> str:
        """Wait for the end; returns what it told."""
        return self.process.communicate()[1]


def children_of(pid: int) -> list[int]:
    """The processes that a process has started, its decoders among them."""
    found: set[int] = set()  # when a thread ends, its children are listed with another one: some may be seen twice
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found.update(map(int, file.read_text().split()))
    return sorted(found)


@contextmanager
def ended(run: Run) -> Iterator[Run]:
    """See to it that a test that fails leaves no process."""
    try:
        yield run
    finally:
        if run.process.poll() is None:
            run.kill(children_first=True)
