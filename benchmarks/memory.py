"""How much memory a process has taken. Apart from `common`, for processes that are to load nothing else."""

from pathlib import Path


def peak_memory_bytes(process: int | str = "self") -> int:
    """Most memory that a process has had, in bytes. (What getrusage tells of a child may hold its parent's memory.)"""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
