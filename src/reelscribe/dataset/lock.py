"""Locks, so that only one run at a time writes an output."""

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from reelscribe.errors import DatasetError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_PAUSES: Final = (0.02, 0.05, 0.1)
_FOR: Final = ", for "


@contextlib.contextmanager
def locked(file: Path, output: str | Path) -> Iterator[None]:
    """Hold the lock of an output within the context. The system releases it when the process ends, even if killed.

    The lock file exists while the lock is held, and says who holds it. It is not the ledger itself: a process loses its
    POSIX locks on a file when it closes any descriptor of it, so SQLite's own locks would be lost.

    Raises:
        DatasetError: another run holds the lock, or the file cannot be created.
    """
    opened = _acquire(file, output)
    try:
        yield
    finally:
        if opened is not None:
            with contextlib.suppress(OSError):  # its disk may have gone
                file.unlink(missing_ok=True)
            opened.close()


def holder(file: Path, output: Path | None = None) -> str | None:
    """Who holds a lock, as a text; None if nobody does, or if it is held for another output that shares the lock."""
    try:
        with file.open("rb") as opened:
            if _try(opened, shared=True):
                return None
            told, name = _read(opened)
            return None if output and name not in ("", output.name) else told
    except OSError:
        return None


@contextlib.contextmanager
def held(opened: IO[bytes], *, shared: bool = False) -> Iterator[None]:
    """Lock an open file within the context; other processes wait meanwhile.

    Args:
        opened: the file.
        shared: whether other processes may hold the lock as well, for reading.
    """
    locks = False
    if fcntl is not None:
        try:
            fcntl.flock(opened, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            locks = True
        except OSError as exc:  # some network disks have no locks
            logger.warning("%s cannot be locked (%s): see that nobody else changes it.", opened.name, exc.strerror)
    try:
        yield
    finally:
        if locks:
            fcntl.flock(opened, fcntl.LOCK_UN)


def _acquire(file: Path, output: str | Path) -> IO[bytes] | None:
    while True:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            opened = file.open("a+b", buffering=0)
        except OSError as exc:
            raise DatasetError(f"cannot write to {output}: {file} cannot be made: {exc.strerror}.") from exc
        try:
            if not _try(opened, patiently=True):
                who, name = _read(opened)
                opened.close()
                if name not in ("", Path(output).name):
                    raise DatasetError(
                        f"cannot write to {output}: a run is writing to {name}, which shares its ledger ({who}); "
                        "wait for it, stop it, or choose an output with another stem."
                    )
                raise DatasetError(
                    f"another run is writing to {output} ({who}); wait for it, stop it, or choose another output."
                )
        except OSError as exc:
            opened.close()
            logger.warning("%s cannot be locked (%s): see that no other run writes to it.", output, exc.strerror)
            return None
        if _is(file, opened):
            with contextlib.suppress(OSError):  # the content is only for people to read
                opened.truncate(0)
                told = f"process {os.getpid()} on {socket.gethostname()}{_FOR}{Path(output).name}"
                opened.write(os.fsencode(told))
            return opened
        opened.close()  # the previous holder removed this file after it was opened here: open it again


def _try(opened: IO[bytes], *, shared: bool = False, patiently: bool = False) -> bool:
    """Try to get the lock, with `patiently` a few times: `holder` in another process may hold it for an instant."""
    if fcntl is None:
        raise OSError(0, "this system has no such locks")
    for pause in (*_PAUSES, None) if patiently else (None,):
        try:
            fcntl.flock(opened, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if pause is not None:
                time.sleep(pause)
    return False


def _is(file: Path, opened: IO[bytes]) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(file.stat(), os.fstat(opened.fileno()))
    return False


def _read(opened: IO[bytes]) -> tuple[str, str]:
    """Who holds the lock, and the name of the output that it is held for; empty if that is not known."""
    opened.seek(0)
    who, _, name = os.fsdecode(opened.read(1000)).partition(_FOR)
    return who or "an unknown process", name
