"""The ledger: the outcome of every request of every run on an output, in a file beside it.

A run needs only the ledger to continue an earlier run. The output itself is written again each time, from its first
row: its content is a function of rows and outcomes.
"""

import contextlib
import hashlib
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from reelscribe.config import Settings
from reelscribe.dataset.identity import Keys, work_of
from reelscribe.dataset.ledger_file import (
    ADOPT,
    MAKE,
    DamagedError,
    Run,
    connect,
    has_keys_of_0_1,
    has_scenes,
    has_sidecars,
    journal_of,
    pack,
    prepare,
    read_runs,
    runs_in,
    stored,
    troubles,
    unpack,
    uri_of,
)
from reelscribe.dataset.remake import NOTHING_TO_REMAKE, Mark, Remake
from reelscribe.engines.base import ModelInfo
from reelscribe.errors import RETRIED_KINDS, DatasetError, FailureKind
from reelscribe.outcomes import choose
from reelscribe.values import Answer, Caption, Failure, Outcome, Request, RequestId

logger = logging.getLogger(__name__)

MOST_TRIES: Final = 3
"""Number of runs in a row that try a clip which fails with one of `RETRIED_KINDS`."""
_COMMIT_SECONDS: Final = 1.0
_LARGEST_SEED: Final = (1 << 63) - 1


class Ledger:
    """All outcomes of the runs on an output, in a SQLite file. The constructor opens the file, or creates it.

    A recorded outcome is on disk within a second, and at the latest when the ledger is closed. Methods may be called
    from several threads. A ledger that was opened without beginning a run, and holds none, is deleted when closed.

    The journal is SQLite's rollback journal. A write-ahead log needs shared memory between all processes that have the
    file open, which a network file system does not give: looking at a run from another machine would corrupt it.

    Args:
        file: path of the SQLite file.
        remake: outcomes of earlier runs to make again although they are known. The new ones replace them.

    Raises:
        DatasetError: the file cannot be used.
    """

    def __init__(self, file: Path, *, remake: Remake = NOTHING_TO_REMAKE) -> None:
        self.file = file
        self._remake = remake
        self.unmatched_marks = {mark for mark in remake.marked if mark.task is None or remake.is_of(mark.task)}
        """Marks that no request has matched so far."""
        self._marked: dict[int, list[Mark]] = {}
        for mark in self.unmatched_marks:
            self._marked.setdefault(mark.row, []).append(mark)
        self.not_remade: list[Failure] = []
        """Failures to make a marked caption again; the earlier caption stays."""
        self.already_remade = 0
        """Marked captions that an earlier retry made with the same settings; they are not made once more."""
        self.num_asked = 0
        """Requests whose outcome was not known, so that the engine was asked."""
        self._asked: dict[RequestId, _Asked] = {}
        self._rows_again: set[int] = set()
        self._running: tuple[str, str, str | None] | None = None
        self._damaged = 0
        self._lock = threading.RLock()
        self._trouble: DatasetError | None = None
        self._done = threading.Event()
        self._committer = threading.Thread(target=self._keep_committing, name="reelscribe-ledger", daemon=True)
        self._keys: Keys | None = None
        self._only_looks = False
        self._run = 0
        self._progress: dict[str, Any] = {}
        with troubles(file):
            self._base = connect(file)
            try:
                prepare(self._base, file)
                runs = list(runs_in(self._base))
                self._has_keys_of_0_1 = has_keys_of_0_1(self._base)
            except BaseException:
                self._base.close()
                raise
        self._last = next(iter(runs), None)
        self._kinds_of_0_1 = _sidecars_of_0_1(runs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Commit what was recorded, note the end of the run if one was begun, and close the file."""
        self._done.set()
        if self._committer.is_alive():
            self._committer.join()
        try:
            if self._run:
                self._end("finished" if error is None else str(error) or type(error).__name__)
                with contextlib.suppress(sqlite3.Error):  # fails if another process is reading the ledger just now
                    self._base.execute("PRAGMA journal_mode = DELETE")
        except DatasetError:
            if error is None:
                raise
        finally:
            self._base.close()
            if not self._run and self._last is None:
                self.file.unlink(missing_ok=True)
                journal_of(self.file).unlink(missing_ok=True)

    # Runs

    @property
    def last(self) -> Run | None:
        """The last run before this one."""
        return self._last

    def begin(
        self, settings: Settings, info: ModelInfo, *, output: str, inputs: Sequence[str], total: int | None
    ) -> Run:
        """Note that a run begins. Must be called before outcomes are looked up.

        Args:
            settings: settings of the run.
            info: the engine and model that are running.
            output: path or URL as it was typed.
            inputs: paths or URLs as they were typed.
            total: number of rows, if known.
        """
        self._running, last = (info.engine, info.model, info.revision), self._remake.run
        if last:
            info = last.model_info()
        self._keys = Keys(settings, info, weights=last.work.get("weights") if last else None)
        values = {
            "output": stored(output),
            "folder": stored(str(Path.cwd())),
            "inputs": json.dumps(inputs),
            "settings": json.dumps(settings.without_token(), default=str),
            "work": json.dumps(work_of(settings, self._keys.weights, info.revision)),
            "engine": info.engine,
            "model": info.model,
            "total": total,
            "started": time.time(),
            "progress": "{}",
        }
        with self._lock, troubles(self.file):
            marks = ", ".join("?" * len(values))
            self._write(f"INSERT INTO runs ({', '.join(values)}) VALUES ({marks})", tuple(values.values()))
            self._commit()
            run = next(runs_in(self._base))
        self._run = run.number
        self._committer.start()
        return run

    def recall(self, settings: Settings, info: ModelInfo, *, weights: str | None) -> None:
        """Prepare to look up outcomes of a run that is going on elsewhere or broke off, without beginning a run.

        Failures count as known, whether or not a run would try them again. Nothing is written.

        Args:
            settings: settings of that run.
            info: its engine and model.
            weights: identity of its model's files, as the ledger has it.
        """
        self._keys = Keys(settings, info, weights=weights)
        self._only_looks = True

    def count_captions(self) -> int:
        """Number of captions in the ledger, made with any settings."""
        with self._lock, troubles(self.file):
            (count,) = self._base.execute("SELECT count(*) FROM outcomes WHERE kind IS NULL").fetchone()
        return int(count)

    def knows_work_of(self, run: Run) -> bool:
        """Whether an earlier run had the same values of all settings that captions depend on."""
        with self._lock, troubles(self.file):
            return any(not run.differs_from(other) for other in runs_in(self._base) if other.number != run.number)

    def advance(self, progress: dict[str, Any]) -> None:
        """Take the run's counts so far; the next commit stores them.

        Raises:
            DatasetError: an earlier commit in the background failed.
        """
        self._progress = progress
        self._check()

    def flush(self) -> None:
        """Commit everything that was recorded to disk.

        Raises:
            DatasetError: it cannot be written.
        """
        with self._lock, troubles(self.file):
            self._write(
                "UPDATE runs SET updated = ?, progress = ? WHERE number = ?",
                (time.time(), json.dumps(self._progress), self._run),
            )
            self._commit()

    def _end(self, ending: str) -> None:
        with self._lock, troubles(self.file):
            self._write("UPDATE runs SET ended = ?, ending = ? WHERE number = ?", (time.time(), ending, self._run))
            self.flush()

    # Outcomes

    def look_up(self, request: Request) -> Outcome | Request:
        """The stored outcome of a request if it is valid; else the request to send to the engine.

        Raises:
            DatasetError: the outcome is not known, and this run is a retry with another model or other frames, so it
                cannot make it as the run would.
        """
        keys = self._begun()
        video = keys.video(request.clip)
        key = keys.key(request, video)
        found = self._find(request, key, video)
        with self._lock:
            must_remake = self._must_remake(request, found)
            holds = found is not None and not must_remake and self._holds(found)
            if found is not None and holds and not (found.unscored or found.unverified):
                return found.outcome
            if must_remake and isinstance(request.instead, Failure):  # its prompt names what the row does not have
                return self._stays(found, request.instead)
            replaces = found if must_remake else None
            if found is not None and holds:
                asked, replaces = found.completed(request), found
            else:
                asked = self._to_ask(request, remake=must_remake)
            self.num_asked += 1
            self._asked[request.id] = _Asked(key, request, video, replaces)
        return asked

    def _must_remake(self, request: Request, found: "_Found | None") -> bool:
        """Whether a known outcome must be made again: it is marked, or it is a failure of a kind to retry."""
        marked = self._is_marked(request)
        if found is None or not found.earlier or not self._remake.is_of(request.id.task):
            return False
        if marked and self._is_already_remade(found.outcome):
            self.already_remade += 1
            return False
        return marked or found.kind in self._remake.kinds

    def _is_already_remade(self, outcome: Outcome) -> bool:
        """Whether an earlier retry made it with the same settings and model, so that another try gives the same."""
        meta = outcome.meta if isinstance(outcome, Caption) else {}
        by = tuple(meta.get(name) for name in ("engine", "model", "revision"))
        return meta.get("retried_with") == self._remake.differs and by == self._running

    def _to_ask(self, request: Request, *, remake: bool) -> Request:
        """The request to send to the engine. A retry may replace its prompt, model or sampling."""
        differs = self._remake.model_differs
        if remake:
            self._rows_again.add(request.id.row)
            differs = self._remake.differs
        elif differs and request.id.row not in self._rows_again:
            raise DatasetError(
                f"{request.id} is not known from the last run, as its video or its row has changed since, or the run "
                "did not come to its end. Give its command once more, and retry then: this retry has another model, or "
                "other frames."
            )
        asked = request.instead if remake and isinstance(request.instead, Request) else request
        if differs or asked.instead:
            return replace(asked, instead=None, retried_with=differs)
        return asked

    def _stays(self, found: "_Found | None", failure: Failure) -> Outcome:
        """The outcome that holds if making it again failed: the earlier caption, if there was one."""
        if found is None or found.kind:
            return failure
        self.not_remade.append(failure)
        return found.outcome

    def _find(self, request: Request, key: bytes, video: tuple[Any, ...]) -> "_Found | None":
        """The stored outcome of a request, under its key or that of release 0.1.0; captions come first."""
        names = [key]
        if self._has_keys_of_0_1:
            names.append(self._begun().key_of_0_1(request, video))
        marks = ", ".join("?" * len(names))
        with self._lock, troubles(self.file):
            rows = self._base.execute(
                f"SELECT key, kind, outcome, run, tries, limits FROM outcomes WHERE key IN ({marks}) "
                "ORDER BY kind IS NOT NULL, key <> ?",
                (*names, key),
            ).fetchall()
        for stored_key, kind, packed, run, tries, limits in rows:
            try:
                known = unpack(packed, request)
                if isinstance(known, Answer) and not known.has_scores_for(request):
                    continue  # made for another way of choosing candidates, and lacks the scores that this one needs
                chosen = self._chosen(known, request) if isinstance(known, Answer) else known
            except DamagedError as exc:
                self._drop(stored_key, exc)
                continue
            answer = known if isinstance(known, Answer) else None
            verified = answer is None or self._remake.model_differs or answer.is_verified_for(request)
            return _Found(
                outcome=chosen,
                unscored=answer if answer and request.lacks_scores(answer) else None,
                unverified=None if verified else answer,
                kind=kind,
                earlier=run != self._run,
                tries=tries,
                limits=limits,
            )
        return None

    def _chosen(self, known: Answer, request: Request) -> Caption:
        """The caption with the candidates that this run keeps.

        The seed is reduced to 63 bits: release 0.1.0 had 64-bit seeds, which Arrow's int64 cannot hold.
        """
        try:
            made = choose(request, known)
        except (ValueError, LookupError, TypeError, AttributeError) as exc:
            raise DamagedError(str(exc)) from exc
        return replace(made, meta={**made.meta, "seed": made.meta["seed"] & _LARGEST_SEED})

    def _drop(self, key: bytes, why: DamagedError) -> None:
        """Delete an outcome that cannot be read, so that it is made again."""
        if self._only_looks:
            return
        with self._lock, troubles(self.file):
            self._write("DELETE FROM outcomes WHERE key = ?", (key,))
            self._damaged += 1
            if self._damaged == 1:
                logger.warning(
                    "The ledger %s is damaged: an outcome cannot be read (%s). It is made again, and so are others "
                    "like it; see to the disk.",
                    *(self.file, why),
                )

    def _is_marked(self, request: Request) -> bool:
        if not self._remake.is_of(request.id.task):
            return False
        found = {mark for mark in self._marked.get(request.id.row, ()) if mark.means(request)}
        self.unmatched_marks -= found
        return bool(found)

    def _holds(self, found: "_Found") -> bool:
        """Whether a known outcome is still valid; if not, it is tried again."""
        if self._only_looks or not found.earlier or self._remake.model_differs:
            return True
        if isinstance(found.outcome, Caption):
            return not _falls_short(found.outcome, self._begun().settings)
        if not self._remake.is_of(found.outcome.id.task):
            return True
        if found.limits != self._begun().failure_settings_hash:
            return False
        return found.outcome.kind not in RETRIED_KINDS or found.tries >= MOST_TRIES

    def record(self, outcome: Outcome) -> Outcome:
        """Store the outcome of a request that `look_up` did not know.

        Two kinds of failures are not stored: those of a file that changed meanwhile, and those that would replace a
        caption.

        Returns:
            The valid outcome: the new one, or the earlier caption if making it again failed.
        """
        self._check()
        keys = self._begun()
        asked = self._asked.pop(outcome.id)
        kind = outcome.kind if isinstance(outcome, Failure) else None
        if isinstance(outcome, Failure) and asked.replaces and not asked.replaces.kind:
            return self._stays(asked.replaces, outcome)
        if kind and keys.video(asked.request.clip) != asked.video:
            return outcome
        with self._lock, troubles(self.file):
            self._write(
                MAKE,
                (asked.key, kind, pack(outcome, asked.request.seed), self._run, keys.failure_settings_hash),
            )
        return outcome

    def adopt(self, other: Path) -> None:
        """Copy the outcomes and scenes of another ledger as if this run had made them. Failures replace no captions.

        Raises:
            DatasetError: the other ledger cannot be read.
        """
        read_runs(other)
        self._take_from(other, ADOPT, (self._run,))
        if has_scenes(other):
            self._take_from(other, "INSERT OR IGNORE INTO scenes SELECT film, found FROM other.scenes", ())
        with self._lock, troubles(self.file):
            self._has_keys_of_0_1 = has_keys_of_0_1(self._base)

    def adopt_sidecars(self, other: Path) -> None:
        """Copy the notes of another ledger on the files that its runs wrote beside videos.

        Raises:
            DatasetError: the other ledger cannot be read.
        """
        self._kinds_of_0_1 |= _sidecars_of_0_1(read_runs(other))
        if has_sidecars(other):
            self._take_from(other, "INSERT OR IGNORE INTO sidecars SELECT digest FROM other.sidecars", ())

    def _take_from(self, other: Path, statement: str, values: Sequence[Any]) -> None:
        with self._lock, troubles(other):
            self._commit()
            self._base.execute("ATTACH ? AS other", (uri_of(other, "rw"),))
            try:
                self._write(statement, values)
                self._commit()
            finally:
                if self._base.in_transaction:  # the statement failed: the other ledger is damaged
                    self._base.execute("ROLLBACK")
                self._base.execute("DETACH other")

    # Scenes of films

    def scenes_of(self, film: bytes) -> list[tuple[float, float]] | None:
        """Start and end of each scene of a film in seconds, by the film's key; None if they are not known."""
        with self._lock, troubles(self.file):
            found = self._base.execute("SELECT found FROM scenes WHERE film = ?", (film,)).fetchone()
        return None if found is None else [(start, end) for start, end in json.loads(found[0])]

    def note_scenes(self, film: bytes, scenes: Sequence[tuple[float, float]]) -> None:
        """Store the scenes of a film: start and end of each, in seconds."""
        with self._lock, troubles(self.file):
            self._write("INSERT OR REPLACE INTO scenes VALUES (?, ?)", (film, json.dumps(scenes)))

    # Files beside videos

    def wrote(self, file: Path, content: bytes) -> bool:
        """Whether a run wrote this content to a file of this name. The folder does not count, since data sets move."""
        with self._lock, troubles(self.file):
            found = self._base.execute("SELECT 1 FROM sidecars WHERE digest = ?", (_digest(file, content),))
            return found.fetchone() is not None

    def may_have_written(self, file: Path, content: bytes) -> bool:
        """Whether a run wrote a file, or may have: release 0.1.0 did not note what it wrote."""
        return file.suffix[1:] in self._kinds_of_0_1 or self.wrote(file, content)

    def note_sidecar(self, file: Path, content: bytes) -> None:
        """Note that a file is about to be written. After a `flush` the note survives even if the run is killed."""
        if not self.wrote(file, content):
            with self._lock, troubles(self.file):
                self._write("INSERT OR IGNORE INTO sidecars VALUES (?)", (_digest(file, content),))

    def _check(self) -> None:
        if self._trouble:
            raise self._trouble

    def _begun(self) -> Keys:
        if self._keys is None:
            raise RuntimeError("no run has begun")
        return self._keys

    # Statements on the connection. The caller must hold the lock.

    def _write(self, statement: str, values: Sequence[Any]) -> None:
        if not self._base.in_transaction:
            self._base.execute("BEGIN IMMEDIATE")
        self._base.execute(statement, values)

    def _commit(self) -> None:
        if self._base.in_transaction:
            self._base.execute("COMMIT")

    def _keep_committing(self) -> None:
        while not self._done.wait(_COMMIT_SECONDS):
            try:
                self.flush()
            except DatasetError as exc:  # raised at the next call of `record` or `advance`
                self._trouble = exc
                return


class _Asked(NamedTuple):
    """A request that was looked up and not known, while the engine answers it."""

    key: bytes
    request: Request
    """The request with the run's own settings; a retry may send a changed one to the engine."""
    video: tuple[Any, ...]
    replaces: "_Found | None"
    """The known outcome that is being made again, if any."""


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A stored outcome, and how it was made."""

    outcome: Outcome
    unscored: Answer | None
    """The answer, if its candidates lack scores that the request needs; else None."""
    unverified: Answer | None
    """The answer, if claims of its candidates must still be judged; else None."""
    kind: FailureKind | None
    earlier: bool
    """Whether a run before this one made it."""
    tries: int
    """Number of runs that tried it."""
    limits: str
    """Hash of the settings under which it failed; see `Keys.failure_settings_hash`."""

    def completed(self, request: Request) -> Request:
        """The request for what the answer lacks: a judgement of its claims, or scores, or both."""
        if self.unverified:
            return replace(request, given=self.unverified)
        return replace(request, answered=self.unscored)


def _sidecars_of_0_1(runs: Sequence[Run]) -> set[str]:
    """Suffixes of the files that runs of release 0.1.0 wrote beside videos. That release did not note them."""
    return {run.settings["sidecar"] for run in runs if run.is_of_0_1 and run.settings.get("sidecar")}


def _digest(file: Path, content: bytes) -> bytes:
    return hashlib.sha256(os.fsencode(file.name) + b"\0" + content).digest()[:16]


def _falls_short(caption: Caption, settings: Settings) -> bool:
    """Whether a caption of an earlier run falls short of these settings, so that it is tried again.

    This is so if `retry_flagged` is set and all candidates of its only try have faults, or if too little of the video
    was decoded. A caption that a retry made with other settings stays.
    """
    if caption.meta.get("retried_with"):
        return False
    verifies = any(task.name == caption.id.task and task.verifies is not None for task in settings.all_tasks)
    if settings.retry_flagged and not verifies and caption.meta["tries"] == 1 and all(caption.meta["faults"]):
        return True
    truncated = "truncated" in caption.meta.get("flags", ())
    return truncated and (caption.meta["decoded_share"] < settings.min_decoded or settings.min_decoded == 1)
