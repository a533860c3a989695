"""The file of a ledger: its tables, how runs and outcomes lie in them, and what can be read of it at any time."""

import contextlib
import json
import os
import sqlite3
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from reelscribe.errors import DatasetError
from reelscribe.prompts import Outcome
from reelscribe.schema import Candidate, Caption, CaptionRequest, Failure

_WAIT_SECONDS: Final = 60.0
"""For another process that reads or writes the ledger at the same moment."""
_CACHE_KIB: Final = 32 << 10
_VERSION: Final = 2
_SCHEMA: Final = (
    "CREATE TABLE outcomes (key BLOB PRIMARY KEY, kind TEXT, outcome BLOB, run INTEGER, tries INTEGER, limits TEXT)",
    "CREATE TABLE runs (number INTEGER PRIMARY KEY, output TEXT, folder TEXT, inputs TEXT, settings TEXT, work TEXT, "
    "engine TEXT, model TEXT, total INTEGER, started REAL, updated REAL, ended REAL, ending TEXT, progress TEXT)",
    f"PRAGMA user_version = {_VERSION}",
)
"""outcomes.kind: of a failure, NULL for a caption. limits: the settings under which it failed. The columns of runs are
the fields of `Run`."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run, as the ledger has it."""

    number: int
    output: str
    """As it was typed, like the inputs."""
    folder: str
    """Working directory."""
    inputs: tuple[str, ...]
    settings: dict[str, Any]
    work: dict[str, Any]
    """Those of them on which captions depend, what tells the model's files from others, and its commit."""
    engine: str
    model: str
    total: int | None
    """Rows, where their number was known."""
    started: float
    """Seconds since 1970, like the times below."""
    updated: float | None
    """When it last said how far it is."""
    ended: float | None
    """None for a run that is going on, or was killed."""
    ending: str | None
    """"finished", or why it ended."""
    progress: dict[str, Any]
    """What it did so far, as the runner tells it."""


def read_runs(file: Path) -> list[Run]:
    """All runs that a ledger knows, the last one first; also while one of them is going on.

    Raises:
        DatasetError: there is no ledger, or it cannot be read.
    """
    if not file.is_file():
        raise DatasetError(f"there is no {file.name} in {file.parent}: no run has begun to write there.")
    with troubles(file), contextlib.closing(connect(file, "rw")) as base:
        return list(runs_in(base)) if _is_ledger(base, file) else []


def read_captions(file: Path, *, most: int) -> dict[int, list[Caption]] | None:
    """All captions that a ledger knows, by the seed of their request, which is a function of what was asked.

    Args:
        file: the ledger's.
        most: captions to hold in memory.

    Returns:
        None where there are more than that.

    Raises:
        DatasetError: there is no ledger, or it cannot be read.
    """
    read_runs(file)
    found: dict[int, list[Caption]] = {}
    with troubles(file), contextlib.closing(connect(file, "rw")) as base:
        (count,) = base.execute("SELECT count(*) FROM outcomes WHERE kind IS NULL").fetchone()
        if count > most:
            return None
        for (packed,) in base.execute("SELECT outcome FROM outcomes WHERE kind IS NULL ORDER BY run DESC"):
            known = _caption(json.loads(zlib.decompress(packed)), key="")
            found.setdefault(known.meta.get("seed", -1), []).append(known)
    return found


def aside(file: Path) -> Path:
    """Where a ledger is set aside."""
    return file.with_name(f"{file.name}.older")


def set_aside(file: Path) -> None:
    """Give a ledger another name, so that the next run begins a new one."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(connect(file, "rw")) as base:
        base.execute("SELECT count(*) FROM runs").fetchone()  # has what a killed run left in the journal undone
    try:
        if file.exists():
            file.replace(aside(file))
        file.with_name(f"{file.name}-journal").unlink(missing_ok=True)
    except OSError as exc:
        raise DatasetError(f"cannot set {file} aside: {exc.strerror}.") from exc


def connect(file: Path, mode: str = "rwc") -> sqlite3.Connection:
    """Open the file; commits are the caller's affair."""
    base = sqlite3.connect(
        uri_of(file, mode), uri=True, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False
    )
    base.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    return base


def uri_of(file: Path, mode: str) -> str:
    """The file as SQLite is told of it, with the mode to open it in."""
    return f"file:{quote(os.fsencode(file.absolute()))}?mode={mode}"


def _is_ledger(base: sqlite3.Connection, file: Path) -> bool:
    """Whether a database is a ledger; False for an empty one.

    Raises:
        DatasetError: it is something else.
    """
    (version,) = base.execute("PRAGMA user_version").fetchone()
    (tables,) = base.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if version != _VERSION and (version or tables):
        raise DatasetError(f"{file} is no ledger that this release knows; --no-resume sets it aside and begins anew.")
    return bool(version)


def prepare(base: sqlite3.Connection, file: Path) -> None:
    """Make a ledger of an empty file, and see that what is committed is on disk.

    Raises:
        DatasetError: it is something else.
    """
    if not _is_ledger(base, file):
        base.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA:
            base.execute(statement)
        base.execute("COMMIT")
    base.execute("PRAGMA journal_mode = TRUNCATE")
    base.execute("PRAGMA synchronous = FULL")


def runs_in(base: sqlite3.Connection) -> Iterator[Run]:
    """All runs, the last one first."""
    names = [item.name for item in fields(Run)]
    for row in base.execute(f"SELECT {', '.join(names)} FROM runs ORDER BY number DESC"):
        values = dict(zip(names, row, strict=True))
        for name in ("inputs", "settings", "work", "progress"):
            values[name] = json.loads(values[name])
        for name in ("output", "folder"):
            values[name] = os.fsdecode(values[name])
        yield Run(**{**values, "inputs": tuple(values["inputs"])})


def stored(path: str) -> str | bytes:
    """A path as a table takes it: as bytes if they are not UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path)
    return path


@contextlib.contextmanager
def troubles(file: Path) -> Iterator[None]:
    """Say what to do about what SQLite says."""
    try:
        yield
    except sqlite3.Error as exc:
        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
        hint = _HINTS.get(code, "once that is put right, the same command goes on.")
        raise DatasetError(f"the ledger {file} cannot be used: {exc}; {hint}") from exc


_HINTS: Final = {
    sqlite3.SQLITE_FULL: "make room, and the same command goes on.",
    sqlite3.SQLITE_NOTADB: "--no-resume sets it aside and begins anew.",
    sqlite3.SQLITE_CORRUPT: "--no-resume sets it aside and begins anew.",
}


def pack(outcome: Outcome) -> bytes:
    """An outcome as it lies in its table."""
    values = asdict(outcome)
    del values["key"]  # it names a place in one run
    return zlib.compress(json.dumps(values).encode())


def unpack(packed: bytes, request: CaptionRequest) -> Outcome:
    """The way back, as the outcome of a request of this run."""
    values = json.loads(zlib.decompress(packed))
    if "kind" in values:
        return Failure(key=request.key, **{**values, "video": request.clip.name})
    return _caption(values, request.key)


def _caption(values: dict[str, Any], key: str) -> Caption:
    candidates = tuple(Candidate(**candidate) for candidate in values.pop("candidates"))
    return Caption(key=key, **{**values, "kept": tuple(values["kept"])}, candidates=candidates)
