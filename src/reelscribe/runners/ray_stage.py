"""What a run on Ray has on the cluster: the feed of chunks, their reader, and the actors that make outcomes."""

import asyncio
import os
import pickle
import threading
from collections.abc import Iterator
from typing import Any, Final

from reelscribe.config import Settings
from reelscribe.engines import load_engine
from reelscribe.engines.base import ModelInfo
from reelscribe.errors import EngineError, MissingExtraError, ReelscribeError
from reelscribe.pipeline import caption
from reelscribe.prompts import Outcome
from reelscribe.runners.stream import SharedStream
from reelscribe.schema import CaptionRequest

try:
    import pyarrow as pa
    import ray
    from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
    from ray.data.block import BlockMetadata
except ModuleNotFoundError as exc:
    raise MissingExtraError(f"a run on Ray needs {exc.name}: pip install 'reelscribe[ray]'") from exc

CHUNKS_AT_ONCE: Final = 4
"""That an actor works on, as one stream."""


class Feed:
    """Chunks by number, until they are answered. An actor beside the run, whose methods are called from threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._chunks: dict[int, bytes] = {}
        self._next = 0
        self._closed = False

    def put(self, number: int, chunk: bytes) -> None:
        """Take the next chunk."""
        with self._changed:
            self._chunks[number] = chunk
            self._next = number + 1
            self._changed.notify_all()

    def answered(self, number: int) -> None:
        """Forget a chunk."""
        with self._changed:
            self._chunks.pop(number, None)

    def close(self, *, drop: bool = False) -> None:
        """No more will come; with `drop`, not even what is here."""
        with self._changed:
            self._closed = True
            if drop:
                self._next = 0
            self._changed.notify_all()

    def get(self, number: int) -> bytes | None:
        """A chunk, once it is there: empty if it is answered, None after the last one."""
        with self._changed:
            self._changed.wait_for(lambda: number < self._next or self._closed)
            return self._chunks.get(number, b"") if number < self._next else None


class _FromFeed(Datasource):  # type: ignore[misc]
    """Chunks from the feed, as rows. Read again they are the same, less those that are answered."""

    def __init__(self, feed: Any, first: int) -> None:
        super().__init__()
        self._feed, self._first = feed, first

    def estimate_inmemory_data_size(self) -> int | None:
        """Nobody knows."""
        return None

    def get_read_tasks(self, *_: Any, **__: Any) -> list[Any]:
        """One, which gives a chunk at a time."""
        feed, first = self._feed, self._first
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(lambda: _read(feed, first), unknown)]


def _read(feed: Any, number: int) -> Iterator[pa.Table]:
    while (chunk := ray.get(feed.get.remote(number))) is not None:
        yield pa.table({"number": [number], "requests": pa.array([chunk], pa.binary())})
        number += 1


class MakeOutcomes:
    """Makes outcomes of chunks of requests; what Ray Data makes an actor of.

    Args:
        settings: of the engine.
        folder: that relative paths start from.
    """

    def __init__(self, settings: Settings, folder: str) -> None:
        _enter(folder)
        engine = load_engine(settings)
        self._stream: SharedStream[CaptionRequest, Outcome] = SharedStream(
            lambda requests: caption(requests, settings, engine)
        )

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Make the outcomes of a chunk, while others are on their way."""
        return await asyncio.to_thread(self.make, batch)

    def make(self, batch: pa.Table) -> pa.Table:
        """The same, in any thread."""
        chunks = [pickle.loads(chunk) if chunk else [] for chunk in batch["requests"].to_pylist()]
        outcomes = [pickle.dumps(self._outcomes(chunk)) for chunk in chunks]
        return pa.table({"number": batch["number"], "outcomes": pa.array(outcomes, pa.binary())})

    def _outcomes(self, chunk: list[CaptionRequest]) -> list[Outcome] | ReelscribeError:
        """What is to end the run is an answer, too: Ray hands errors on as text."""
        try:
            return self._stream.send(chunk)
        except ReelscribeError as exc:
            return exc


def look(settings: Settings, folder: str) -> ModelInfo | ReelscribeError:
    """Load an engine, and say what it is, or why it cannot be loaded."""
    try:
        _enter(folder)
        return load_engine(settings).info
    except ReelscribeError as exc:
        return exc


def _enter(folder: str) -> None:
    try:
        os.chdir(folder)
    except OSError as exc:
        raise EngineError(
            f"the folder {folder}, where the run was started, cannot be entered on a node of the Ray cluster: "
            f"{exc.strerror}. All nodes must see the same files."
        ) from exc


def outcomes_of(
    feed: Any, first: int, settings: Settings, folder: str, *, fewest: int, most: int, **resources: float
) -> Any:
    """The pipeline, as a data set of outcomes.

    Args:
        feed: where chunks come from; a handle of a `Feed`.
        first: number of the chunk to begin with.
        settings: of each engine.
        folder: that relative paths start from.
        fewest: actors.
        most: likewise.
        **resources: of each, as Ray's options.
    """
    context = DataContext.get_current()
    before = context.target_max_block_size, context.enable_progress_bars
    # Blocks are put together up to a size; here each chunk is to go its way at once.
    context.target_max_block_size, context.enable_progress_bars = 1, False
    try:
        chunks = ray.data.read_datasource(_FromFeed(feed, first), override_num_blocks=1, num_cpus=0)
    finally:
        context.target_max_block_size, context.enable_progress_bars = before
    return chunks.map_batches(
        MakeOutcomes,
        fn_constructor_kwargs={"settings": settings, "folder": folder},
        batch_format="pyarrow",
        batch_size=1,
        compute=ActorPoolStrategy(min_size=fewest, max_size=most, max_concurrent_calls_per_actor=CHUNKS_AT_ONCE),
        **resources,
    )
