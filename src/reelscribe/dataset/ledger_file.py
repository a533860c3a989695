"""The SQLite file of a ledger: its tables, the format of runs and outcomes, and functions to read it at any time."""

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

from reelscribe.config import Settings
from reelscribe.dataset.files import sync_folder
from reelscribe.dataset.identity import told
from reelscribe.engines.base import ModelInfo
from reelscribe.errors import DatasetError
from reelscribe.outcomes import without_choice
from reelscribe.values import Answer, Candidate, Failure, Outcome, Request, RequestId
from reelscribe.video.sampling import VisionLimits

_WAIT_SECONDS: Final = 60.0
"""Maximum seconds to wait for another process that has the ledger locked."""
_CACHE_KIB: Final = 32 << 10
"""SQLite's page cache for a ledger, in KiB."""
_RUNS: Final = (
    "CREATE TABLE runs (number INTEGER PRIMARY KEY, output TEXT, folder TEXT, inputs TEXT, settings TEXT, work TEXT, "
    "engine TEXT, model TEXT, total INTEGER, started REAL, updated REAL, ended REAL, ending TEXT, progress TEXT)"
)
_OUTCOMES: Final = (
    "CREATE TABLE outcomes (key BLOB PRIMARY KEY, kind TEXT, outcome BLOB, run INTEGER, tries INTEGER, limits TEXT)"
)
_MIGRATIONS: Final[tuple[tuple[int, tuple[str, ...]], ...]] = (
    (2, (_OUTCOMES, _RUNS)),
    (3, ("CREATE TABLE sidecars (digest BLOB PRIMARY KEY) WITHOUT ROWID",)),
    (4, ("CREATE TABLE scenes (film BLOB PRIMARY KEY, found TEXT)",)),
)
"""For each version of the tables: the statements that migrate the version before to it. The first is release 0.1.0's.

The columns of `runs` are the fields of `Run`. `outcomes.kind` is the kind of a failure, and NULL for a caption;
`outcomes.limits` is the hash of the settings under which it failed. `sidecars.digest` is a hash of the name and the
content of a file that a run wrote beside a video. `scenes.found` is a JSON list of the start and end of each scene, in
seconds."""
_REPLACING: Final = (
    "ON CONFLICT (key) DO UPDATE SET kind = excluded.kind, outcome = excluded.outcome, run = excluded.run, "
    "tries = {tries}, limits = excluded.limits WHERE excluded.kind IS NULL OR outcomes.kind IS NOT NULL"
)
MAKE: Final = "INSERT INTO outcomes VALUES (?, ?, ?, ?, 1, ?) " + _REPLACING.format(
    tries="outcomes.tries + (outcomes.run <> excluded.run)"
)
"""Stores an outcome. A failure never replaces a caption, and duplicates of a clip in one run count as one try."""
ADOPT: Final = (
    "INSERT INTO outcomes SELECT key, kind, outcome, ?, tries, limits FROM other.outcomes WHERE true "
    + _REPLACING.format(tries="max(outcomes.tries, excluded.tries)")
)
"""Copies the outcomes of another ledger. Doing it twice changes nothing."""
_NO_ID: Final = RequestId(row=-1)
"""Id of answers that are read outside a run."""
_SCENES_SINCE: Final = 4
_OLDEST: Final = _MIGRATIONS[0][0]
_VERSION: Final = _MIGRATIONS[-1][0]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run, as it is stored in the ledger."""

    number: int
    output: str
    """Path or URL of the output, as the user typed it; the inputs are stored in the same way."""
    folder: str
    """Working directory."""
    inputs: tuple[str, ...]
    settings: dict[str, Any]
    work: dict[str, Any]
    """Settings on which captions depend, the identity of the model's files, and its commit."""
    engine: str
    model: str
    total: int | None
    """Number of rows, if it was known."""
    started: float
    """Seconds since 1970, like the times below."""
    updated: float | None
    """When the run last stored its progress."""
    ended: float | None
    """None if the run is going on, or was killed."""
    ending: str | None
    """"finished", or why it ended."""
    progress: dict[str, Any]
    """Counts of what the run did so far, as the runner gives them."""

    @property
    def is_of_0_1(self) -> bool:
        """Whether it was made by release 0.1.0."""
        return "overwrite_sidecars" not in self.settings

    def model_info(self) -> ModelInfo:
        """Names of engine and model. Limits are not recorded; those given here have no meaning."""
        return ModelInfo(engine=self.engine, model=self.model, revision=self.work.get("commit"), limits=VisionLimits())

    def differs_from(self, other: "Run") -> list[str]:
        """Names of settings on which captions depend, and that differ from another run's.

        A setting that the other run's release did not have counts as its default there.
        """
        defaults = told(Settings(), "rows", "captions")
        return [name for name, value in self.work.items() if value != other.work.get(name, defaults.get(name))]


class DamagedError(Exception):
    """An outcome in a ledger cannot be read."""


def read_runs(file: Path) -> list[Run]:
    """All runs in a ledger, the last one first. May be called while a run is going on.

    Raises:
        DatasetError: there is no ledger, or it cannot be read.
    """
    if not file.is_file():
        raise DatasetError(f"there is no {file.name} in {file.parent}: no run has begun to write there.")
    with troubles(file), contextlib.closing(connect(file, "rw")) as base:
        return list(runs_in(base)) if _version_of(base, file) else []


def read_answers(file: Path, *, most: int) -> dict[int, list[Answer]] | None:
    """All answers in a ledger, by the seed of their request. The seed is a function of what was asked.

    The answers belong to no run, so their ids have no meaning.

    Args:
        file: path of the ledger.
        most: maximum number of answers to hold in memory.

    Returns:
        Lists of answers by seed; None if there are more than `most` answers.

    Raises:
        DatasetError: there is no ledger, or it cannot be read.
    """
    read_runs(file)
    found: dict[int, list[Answer]] = {}
    with troubles(file), contextlib.closing(connect(file, "rw")) as base:
        (count,) = base.execute("SELECT count(*) FROM outcomes WHERE kind IS NULL").fetchone()
        if count > most:
            return None
        for (packed,) in base.execute("SELECT outcome FROM outcomes WHERE kind IS NULL ORDER BY run DESC"):
            with contextlib.suppress(DamagedError), _unpacked(packed) as values:  # the next run makes it again
                found.setdefault(values.get("asked", values["meta"].get("seed", -1)), []).append(
                    _answer(values, _NO_ID)
                )
    return found


def aside(file: Path) -> Path:
    """Path to which a ledger is renamed when it is set aside."""
    return file.with_name(f"{file.name}.older")


def set_aside(file: Path) -> None:
    """Rename a ledger, so that the next run begins a new one.

    Raises:
        DatasetError: it cannot be renamed.
    """
    with contextlib.suppress(sqlite3.Error), contextlib.closing(connect(file, "rw")) as base:
        base.execute("SELECT count(*) FROM runs").fetchone()  # SQLite rolls back what a killed run left in the journal
    try:
        # A journal must move with its ledger: SQLite would apply it to any other file of the ledger's name.
        if file.exists():
            journal_of(aside(file)).unlink(missing_ok=True)
            if journal_of(file).exists():
                journal_of(file).replace(journal_of(aside(file)))
            file.replace(aside(file))
        journal_of(file).unlink(missing_ok=True)
    except OSError as exc:
        raise DatasetError(f"cannot set {file} aside: {exc.strerror}.") from exc


def journal_of(file: Path) -> Path:
    """Path of SQLite's rollback journal."""
    return file.with_name(f"{file.name}-journal")


def copy_ledger(file: Path, to: Path) -> None:
    """Copy a ledger. The copy is consistent, even while a run writes.

    Raises:
        DatasetError: it cannot be read, or the copy not written.
    """
    partial = to.with_name(f"{to.name}.partial")
    partial.unlink(missing_ok=True)
    with (
        troubles(file),
        contextlib.closing(connect(file, "rw")) as base,
        contextlib.closing(connect(partial)) as copy,
    ):
        base.backup(copy)
    partial.replace(to)


def connect(file: Path, mode: str = "rwc") -> sqlite3.Connection:
    """Connect to a ledger's file. The caller begins and commits transactions itself."""
    base = sqlite3.connect(
        uri_of(file, mode), uri=True, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False
    )
    base.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    return base


def uri_of(file: Path, mode: str) -> str:
    """SQLite's URI of a file, with the mode to open it in."""
    return f"file:{quote(os.fsencode(file.absolute()))}?mode={mode}"


def _version_of(base: sqlite3.Connection, file: Path) -> int:
    """The version of a ledger's tables; 0 for an empty file.

    Raises:
        DatasetError: it is something else, or of a release that is not known.
    """
    (version,) = base.execute("PRAGMA user_version").fetchone()
    (tables,) = base.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not version and not tables:
        return 0
    if _OLDEST <= version <= _VERSION:
        return int(version)
    what = f"it is of version {version}, and versions {_OLDEST} to {_VERSION} are known" if version else "it is none"
    raise DatasetError(
        f"{file} is no ledger that this release knows ({what}): take the release that wrote it, or {_start_over(file)}"
    )


def _start_over(file: Path) -> str:
    return f"--no-resume sets it aside, as {aside(file).name}, and starts over."


def prepare(base: sqlite3.Connection, file: Path) -> None:
    """Create the tables in an empty file or migrate older ones, and make SQLite flush each commit to disk.

    A ledger of an older version is copied first: to `FILE.v2` for version 2 of its tables.

    Raises:
        DatasetError: the file is not a ledger, or cannot be copied.
    """
    base.execute("PRAGMA synchronous = FULL")
    before = _version_of(base, file)
    if before < _VERSION:
        if before:
            copy_ledger(file, file.with_name(f"{file.name}.v{before}"))
        base.execute("BEGIN IMMEDIATE")
        for version, statements in _MIGRATIONS:
            if version > before:
                for statement in statements:
                    base.execute(statement)
        base.execute(f"PRAGMA user_version = {_VERSION}")
        base.execute("COMMIT")
        sync_folder(file.parent)
    base.execute("PRAGMA journal_mode = TRUNCATE")


def has_sidecars(file: Path) -> bool:
    """Whether a ledger has the table `sidecars`, which one of release 0.1.0 lacks."""
    with troubles(file), contextlib.closing(connect(file, "rw")) as base:
        return _version_of(base, file) > _OLDEST


def has_scenes(file: Path) -> bool:
    """Whether a ledger has the table `scenes`."""
    with troubles(file), contextlib.closing(connect(file, "rw")) as base:
        return _version_of(base, file) >= _SCENES_SINCE


def has_keys_of_0_1(base: sqlite3.Connection) -> bool:
    """Whether there are outcomes of release 0.1.0, whose keys are shorter."""
    (found,) = base.execute("SELECT EXISTS (SELECT 1 FROM outcomes WHERE length(key) = 16)").fetchone()
    return bool(found)


def runs_in(base: sqlite3.Connection) -> Iterator[Run]:
    """All runs, the last one first."""
    names = [item.name for item in fields(Run)]
    for row in base.execute(f"SELECT {', '.join(names)} FROM runs ORDER BY number DESC"):
        values = dict(zip(names, row, strict=True))
        for name in ("inputs", "settings", "work", "progress"):
            values[name] = json.loads(values[name])
            if not isinstance(values[name], list if name == "inputs" else dict):
                raise ValueError(f"{name} of run {values['number']} is {values[name]!r}")
        for name in ("output", "folder"):
            values[name] = os.fsdecode(values[name])
        yield Run(**{**values, "inputs": tuple(values["inputs"])})


def stored(path: str) -> str | bytes:
    """A path as it is stored in a table: as bytes if it cannot be encoded as UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path)
    return path


@contextlib.contextmanager
def troubles(file: Path) -> Iterator[None]:
    """Translate errors of SQLite and of damaged contents into a DatasetError that says what to do."""
    try:
        yield
    except sqlite3.Error as exc:
        # Errors without a code are raised by Python for text that is not UTF-8, which means a damaged file.
        code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        hint = "once that is put right, the same command goes on."
        if code == sqlite3.SQLITE_FULL:
            hint = "make room, and the same command goes on."
        elif code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            hint = f"put a copy of it in its place, or {_start_over(file)}"
        raise DatasetError(f"the ledger {file} cannot be used: {exc}; {hint}") from exc
    except (ValueError, TypeError) as exc:  # a column holds a value that no run writes
        raise DatasetError(
            f"the ledger {file} is damaged: {exc}; put a copy of it in its place, or {_start_over(file)}"
        ) from exc


def pack(outcome: Outcome, asked: int) -> bytes:
    """Serialize an outcome: the model's whole answer, or the failure.

    Args:
        outcome: outcome of a request.
        asked: seed of the request. A later try of the request may have used another seed.

    Returns:
        JSON, compressed with zlib.
    """
    if isinstance(outcome, Failure):
        values = asdict(outcome)
        del values["id"]  # the id names a row of one run, and has no meaning in another
    else:
        candidates = [vars(candidate) for candidate in outcome.candidates]  # whose fields are JSON as they are
        values = {"candidates": candidates, "meta": without_choice(outcome.meta), "asked": asked}
    return zlib.compress(json.dumps(values).encode())


def unpack(packed: bytes, request: Request) -> Answer | Failure:
    """Deserialize an outcome, for a request of this run.

    Raises:
        DamagedError: the bytes are damaged.
    """
    with _unpacked(packed) as values:
        if "kind" in values:
            return Failure(id=request.id, **{**values, "video": request.clip.name})
        return _answer(values, request.id)


@contextlib.contextmanager
def _unpacked(packed: bytes) -> Iterator[dict[str, Any]]:
    try:
        # zlib stores a checksum of the content, so that a flipped bit on disk raises an error here.
        yield json.loads(zlib.decompress(packed))
    except (zlib.error, ValueError, TypeError, LookupError, AttributeError) as exc:
        raise DamagedError(str(exc)) from exc


def _answer(values: dict[str, Any], asked: RequestId) -> Answer:
    candidates = tuple(Candidate(**candidate) for candidate in values["candidates"])
    return Answer(id=asked, candidates=candidates, meta=without_choice(values["meta"]))
