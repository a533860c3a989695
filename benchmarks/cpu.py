"""How much CPU time processes have taken. Apart from `common`, for processes that are to load nothing else."""

import os
from pathlib import Path
from typing import Final

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


def tree_cpu_seconds(root: int | None = None) -> float:
    """CPU seconds, user and system, of a process, all below it, and those of them that have ended and were waited for.

    By /proc/PID/stat (proc(5)): fields 14 to 17, in ticks. The process itself, if none is named.
    """
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()  # the name before it may hold blanks
        except OSError:  # it has just ended
            continue
        parents[int(stat.parent.name)] = int(fields[1])
        ticks[int(stat.parent.name)] = sum(map(int, fields[11:15]))
    root = root or os.getpid()

    def is_below(process: int) -> bool:
        while process != root and process in parents:
            process = parents[process]
        return process == root

    return sum(used for process, used in ticks.items() if is_below(process)) / _TICKS_PER_SECOND
