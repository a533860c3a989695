"""Rows of an unfinished run, rebuilt from its ledger.

The output of a running run cannot be read: a Parquet file has its index at the end, and a compressed file is cut off.
The ledger has each outcome about a second after it was made, whatever the format. So this module reads the inputs
again and builds each row from the stored outcomes, as the run itself does. It stops at the first row with an outcome
that the ledger does not have.
"""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from reelscribe.config import Settings
from reelscribe.dataset.files import is_url
from reelscribe.dataset.ledger import Ledger
from reelscribe.dataset.ledger_file import Run
from reelscribe.dataset.read import read_rows
from reelscribe.dataset.sources import Source, find_sources
from reelscribe.dataset.splitting import split_rows
from reelscribe.engines.base import ModelInfo
from reelscribe.engines.hub import in_cache
from reelscribe.layouts import Layout, choose_layout
from reelscribe.pipeline import peek, plan_row
from reelscribe.runners.status import find_ledger
from reelscribe.under_way import RowEntry
from reelscribe.values import InputRow, RowResult
from reelscribe.video.sampling import VisionLimits


class _NotKnownError(Exception):
    """The next row needs something that the ledger does not have yet."""


class _Notes:
    """Read-only access to a run's notes: scenes of films, and files beside videos."""

    ledger: Ledger

    def scenes_of(self, film: bytes) -> list[tuple[float, float]]:
        """The scenes of a film, by its key.

        Raises:
            _NotKnownError: the run has not found them yet.
        """
        found = self.ledger.scenes_of(film)
        if found is None:
            raise _NotKnownError
        return found

    def note_scenes(self, film: bytes, scenes: object) -> None:
        """Do nothing: only the run itself notes scenes."""

    def may_have_written(self, file: Path, content: bytes) -> bool:
        """Whether a run wrote a file beside a video."""
        return self.ledger.may_have_written(file, content)


class KnownRows:
    """Rebuilds the rows of a run from its ledger, in batches. It writes nothing and loads no model.

    Args:
        output: path of the run's output.
        run: the unfinished run, as its ledger describes it.

    Raises:
        DatasetError: an input no longer exists.
    """

    def __init__(self, output: Path, run: Run) -> None:
        self._output, self._run = output, run
        settings = Settings.of_run(run.settings)
        root = settings.root and os.path.join(run.folder, settings.root)  # noqa: PTH118
        self._settings = replace(settings, root=root)
        self._sources = _sources_of(run)
        self._shard = settings.part()
        self._notes = _Notes()
        self._rows = self._read()
        self._next: list[InputRow] = []
        self._read_so_far = 0
        self._layout: Layout | None = None
        self.taken = 0
        """Number of rows that `take` has returned so far."""

    def take(self, most: int) -> list[RowResult]:
        """Return the next rows, at most `most` of them, up to the first one that is not complete in the ledger.

        Raises:
            DatasetError: the ledger or an input cannot be read.
        """
        found: list[RowResult] = []
        with self._looking() as ledger, suppress(_NotKnownError):
            while len(found) < most and (item := self._item()):
                result = self._result(item, ledger)
                found += [result] if result else []
        self.taken += len(found)
        return found

    def is_interleaved(self) -> bool:
        """Whether captions go into the text of rows. This is known before the first caption is made.

        Raises:
            DatasetError: the ledger or an input cannot be read.
        """
        with self._looking():
            self._item()
        return self._layout is not None and not self._layout.adds

    @contextmanager
    def _looking(self) -> Iterator[Ledger]:
        with Ledger(find_ledger(self._output)) as ledger:
            ledger.recall(self._settings, self._info(), weights=self._run.work.get("weights"))
            self._notes.ledger = ledger
            yield ledger

    def _info(self) -> ModelInfo:
        """The run's model, and those of its tasks, by the names that are part of the ledger's content keys."""
        tasks = {task.name: self._settings.of_task(task) for task in self._settings.all_tasks if task.engine}
        return replace(self._run.model_info(), others={name: _info_of(settings) for name, settings in tasks.items()})

    def _read(self) -> Iterator[InputRow]:
        read = read_rows(self._sources, self._settings, output=self._output, is_own=self._notes.may_have_written)
        return split_rows(read, self._settings, self._notes, shard=self._shard)

    def _item(self) -> InputRow | None:
        """The next row, or None after the last one. It stays the next one until `_result` has completed it."""
        if not self._next:
            self._next = peek(self._pulled()) if self._layout is None else list(itertools.islice(self._pulled(), 1))
        if not self._next:
            return None
        if self._layout is None:
            self._layout = choose_layout([item.row for item in self._next], self._settings)
        return self._next[0]

    def _pulled(self) -> Iterator[InputRow]:
        """The following rows, up to the first one that needs something that the ledger does not have yet."""
        try:
            for item in self._rows:  # "yield from" would close `self._rows` when this generator is closed
                self._read_so_far += 1
                yield item
        except _NotKnownError:  # a generator that raised is finished: start a new one at the same row
            self._rows = itertools.islice(self._read(), self._read_so_far, None)

    def _result(self, item: InputRow, ledger: Ledger) -> RowResult | None:
        """The result of the next row; None if the row belongs to another shard.

        Raises:
            _NotKnownError: an outcome of the row is not in the ledger yet.
        """
        assert self._layout
        plan = plan_row(item, self._layout, self._settings)
        result = None
        if self._shard is None or self._shard.holds(plan.shard_hash):
            entry = RowEntry(item, plan, ledger.look_up)
            entry.next_works()
            if not entry.is_whole():
                raise _NotKnownError
            result = entry.result(self._layout, self._settings)
        del self._next[0]
        return result


def _sources_of(run: Run) -> list[Source]:
    """The inputs of a run. Relative paths start from the run's working directory, not from this process's."""
    return find_sources([named if is_url(named) else os.path.join(run.folder, named) for named in run.inputs])  # noqa: PTH118


def _info_of(settings: Settings) -> ModelInfo:
    """Engine and model of a task. The revision is the commit in the local cache, for a model from the hub."""
    cached = None if settings.engine in ("openai", "fake") else in_cache(settings.model, settings.revision)
    return ModelInfo(
        engine=settings.engine,
        model=settings.model,
        revision=cached.name if cached else settings.revision,
        limits=VisionLimits(),
    )
