"""The ledger: the outcome of every request of every run on an output, in a file beside it.

It is all that a run needs to go on where another one ended. The output itself is written anew each time, from its first
row: what is in it is a function of rows and outcomes.
"""

import contextlib
import json
import sqlite3
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from reelscribe.config import Settings
from reelscribe.dataset.identity import Keys, told
from reelscribe.dataset.ledger_file import (
    Run,
    connect,
    pack,
    prepare,
    read_runs,
    runs_in,
    stored,
    troubles,
    unpack,
    uri_of,
)
from reelscribe.engines.base import ModelInfo
from reelscribe.errors import TRANSIENT_KINDS, DatasetError, FailureKind
from reelscribe.prompts import Outcome, row_of
from reelscribe.sampling_params import SamplingParams
from reelscribe.schema import Caption, CaptionRequest, Failure

MOST_TRIES: Final = 3
"""How many runs, one after the other, try a clip that fails for reasons of the moment."""
_COMMIT_SECONDS: Final = 1.0
_REPLACING: Final = (
    "ON CONFLICT (key) DO UPDATE SET kind = excluded.kind, outcome = excluded.outcome, run = excluded.run, "
    "tries = outcomes.tries + excluded.tries, limits = excluded.limits "
    "WHERE excluded.kind IS NULL OR outcomes.kind IS NOT NULL"
)


class Ledger:
    """Opens a ledger, or begins one. One that never saw a run is removed again when it is closed.

    What is recorded is on disk a second later, or when the ledger is closed. May be used from several threads.

    The journal is SQLite's plain one, in place of a write-ahead log: that needs memory which all processes share, so
    that to look at a run from another machine of a cluster would ruin it.

    Args:
        file: the ledger's.
        again: failures of these kinds, of earlier runs, are not known.
        marked: nor is anything of these videos of rows at these places; of all of a row's where none is named. A video
            goes by its path or URL, or by the number of its row, which a tar file gives it; of bytes nobody knows it.
        resampled: sampling parameters for requests that are made again because of that. Their outcomes take the place
            of those that there were.

    Raises:
        DatasetError: the file cannot be used.
    """

    def __init__(
        self,
        file: Path,
        *,
        again: frozenset[FailureKind] = frozenset(),
        marked: Mapping[int, frozenset[str]] | None = None,
        resampled: Mapping[str, Any] | None = None,
    ) -> None:
        self.file = file
        self._again, self._resampled = again, SamplingParams.parse(resampled or {}).told()
        self._marked = dict(marked or {})
        self.unmet = set(self._marked)
        """Places of marked rows of which no such video was looked up."""
        self._asked: dict[str, tuple[bytes, CaptionRequest, tuple[Any, ...]]] = {}
        self._lock = threading.RLock()
        self._trouble: DatasetError | None = None
        self._done = threading.Event()
        self._committer = threading.Thread(target=self._keep_committing, name="reelscribe-ledger", daemon=True)
        self._keys: Keys | None = None
        self._run = 0
        self._progress: dict[str, Any] = {}
        with troubles(file):
            self._base = connect(file)
            try:
                prepare(self._base, file)
                self._last = next(runs_in(self._base), None)
            except BaseException:
                self._base.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close, with what was recorded; a run that was begun is noted to have ended."""
        self._done.set()
        if self._committer.is_alive():
            self._committer.join()
        try:
            if self._run:
                self._end("finished" if error is None else str(error) or type(error).__name__)
                with contextlib.suppress(sqlite3.Error):  # who looks at the ledger just now may be in the way
                    self._base.execute("PRAGMA journal_mode = DELETE")
        except DatasetError:
            if error is None:
                raise
        finally:
            self._base.close()
            if not self._run and self._last is None:
                self.file.unlink(missing_ok=True)

    # Runs

    @property
    def last(self) -> Run | None:
        """The last run before this one."""
        return self._last

    @property
    def sidecar(self) -> str | None:
        """Kind of the files beside videos that earlier runs wrote; the last one that wrote any says."""
        with self._lock, troubles(self.file):
            kinds = (run.settings.get("sidecar") for run in runs_in(self._base))
            return next((kind for kind in kinds if kind), None)

    def begin(
        self, settings: Settings, info: ModelInfo, *, output: str, inputs: Sequence[str], total: int | None
    ) -> Run:
        """Note that a run begins; only then can outcomes be looked up.

        Args:
            settings: of the run.
            info: what is running.
            output: as it was typed.
            inputs: likewise.
            total: rows, where their number is known.
        """
        self._keys = Keys(settings, info)
        values = {
            "output": stored(output),
            "folder": stored(str(Path.cwd())),
            "inputs": json.dumps(inputs),
            "settings": json.dumps(settings.without_token(), default=str),
            "work": json.dumps(
                {**told(settings, "rows", "captions"), "weights": self._keys.weights, "commit": info.revision}
            ),
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

    def count_captions(self) -> int:
        """How many captions there are, of whatever settings."""
        with self._lock, troubles(self.file):
            (count,) = self._base.execute("SELECT count(*) FROM outcomes WHERE kind IS NULL").fetchone()
        return int(count)

    def knows_work_of(self, run: Run) -> bool:
        """Whether an earlier run had the same settings, as far as captions depend on them."""
        with self._lock, troubles(self.file):
            return any(other.work == run.work for other in runs_in(self._base) if other.number != run.number)

    def advance(self, progress: dict[str, Any]) -> None:
        """Note what the run did so far.

        Raises:
            DatasetError: what was recorded cannot be written.
        """
        self._progress = progress
        self._check()

    def flush(self) -> None:
        """Bring what was recorded to disk now.

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

    def look_up(self, request: CaptionRequest) -> Outcome | CaptionRequest:
        """The outcome of a request; where there is none that holds, the request to make."""
        keys = self._begun()
        video = keys.video(request.clip)
        key = keys.key(request, video)
        with self._lock, troubles(self.file):
            row = self._base.execute(
                "SELECT kind, outcome, run, tries, limits FROM outcomes WHERE key = ?", (key,)
            ).fetchone()
            earlier = row is not None and row[2] != self._run
            marked = self._is_marked(request) and earlier
            if row is not None and not marked and self._holds(known := unpack(row[1], request), *row[2:]):
                return known
            self._asked[request.key] = key, request, video
        again = marked or (earlier and row[0] in self._again)
        return self._resample(request) if again and self._resampled else request

    def _is_marked(self, request: CaptionRequest) -> bool:
        if not self._marked or (place := row_of(request)) not in self._marked:
            return False
        source = request.clip.source
        names = self._marked[place]
        found = not names or isinstance(source, bytes) or bool(names & {source, request.clip.name, f"{place:09d}"})
        if found:
            self.unmet.discard(place)
        return found

    def _holds(self, known: Outcome, run: int, tries: int, limits: str) -> bool:
        """Whether what is known is not to be tried again."""
        if run == self._run:
            return True
        if isinstance(known, Caption):
            return not _falls_short(known, self._begun().settings)
        if known.kind in self._again or limits != self._begun().failures:
            return False
        return known.kind not in TRANSIENT_KINDS or tries >= MOST_TRIES

    def _resample(self, request: CaptionRequest) -> CaptionRequest:
        sampling = SamplingParams.parse({**request.sampling.told(), **self._resampled})
        seed = request.seed
        if sampling.seed != request.sampling.seed:
            seed = (seed ^ zlib.crc32(str(sampling.seed).encode())) & (1 << 64) - 1
        return replace(request, sampling=sampling, seed=seed)

    def record(self, outcome: Outcome) -> None:
        """Take the outcome of a request that was looked up and not known.

        A failure of a file that is no longer what it was is not kept: it says nothing about what is there now. Nor is
        one that would take the place of a caption.
        """
        self._check()
        keys = self._begun()
        key, request, video = self._asked.pop(outcome.key)
        kind = outcome.kind if isinstance(outcome, Failure) else None
        if kind and keys.video(request.clip) != video:
            return
        with self._lock, troubles(self.file):
            self._write(
                "INSERT INTO outcomes VALUES (?, ?, ?, ?, 1, ?) " + _REPLACING,
                (key, kind, pack(outcome), self._run, keys.failures),
            )

    def adopt(self, other: Path) -> None:
        """Take over the outcomes of another ledger as if this run had made them. A failure takes no caption's place.

        Raises:
            DatasetError: it cannot be read.
        """
        read_runs(other)
        with self._lock, troubles(other):
            self._commit()
            self._base.execute("ATTACH ? AS other", (uri_of(other, "rw"),))
            try:
                self._write(
                    "INSERT INTO outcomes SELECT key, kind, outcome, ?, tries, limits FROM other.outcomes WHERE true "
                    + _REPLACING,
                    (self._run,),
                )
                self._commit()
            finally:
                self._base.execute("DETACH other")

    def _check(self) -> None:
        if self._trouble:
            raise self._trouble

    def _begun(self) -> Keys:
        if self._keys is None:
            raise RuntimeError("no run has begun")
        return self._keys

    # The connection, for who holds the lock

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
            except DatasetError as exc:  # told to the run at its next row
                self._trouble = exc
                return


def _falls_short(caption: Caption, settings: Settings) -> bool:
    """Whether a caption of an earlier run is not what these settings ask for, so that it is tried again."""
    if settings.retry_flagged and caption.meta["tries"] == 1 and all(caption.meta["faults"]):
        return True
    share = caption.meta.get("decoded_share")  # of a clip that is cut short or damaged
    return share is not None and (share < settings.min_decoded or settings.min_decoded == 1)
