"""What a run on Ray has on the cluster: the feed of chunks, their reader, and the actors that make outcomes.

An actor whose engine breaks ends itself, and Ray starts another and gives it the same chunks again. A request may be
what breaks the engine: so a chunk that was begun too often goes through one request at a time, and a request at which
the actor ends each time is given up. The feed, which outlives the actors, keeps count.
"""

import asyncio
import contextlib
import logging
import os
import pickle
import threading
from collections.abc import Iterator
from typing import Any, Final, Literal

from reelscribe.config import Settings
from reelscribe.engines import load_engine
from reelscribe.engines.base import ModelInfo
from reelscribe.engines.planning import MEMORY_SHARE, longest_tokens, plan
from reelscribe.engines.prospects import look_at_model, visible_gpus
from reelscribe.errors import EngineError, MissingExtraError, ReelscribeError
from reelscribe.pipeline import caption
from reelscribe.prompts import Outcome
from reelscribe.runners.stream import SharedStream
from reelscribe.schema import Caption, CaptionRequest, Failure
from reelscribe.video.sampling import FrameBudget

try:
    import pyarrow as pa
    import ray
    from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
    from ray.data.block import BlockMetadata
except ModuleNotFoundError as exc:
    raise MissingExtraError(f"a run on Ray needs {exc.name}: pip install 'reelscribe[ray]'") from exc

logger = logging.getLogger(__name__)

CHUNKS_AT_ONCE: Final = 4
"""That an actor works on, as one stream."""
_WHOLE_TRIES: Final = 2
"""Of a chunk as one, before its requests are tried one at a time."""
_ALONE_TRIES: Final = 2
"""Of such a request. One time may be chance: a node that goes."""
_NO_WORD: Final = "it left no word; see Ray's logs"
_MOST_BREAKS: Final = 8
"""One after the other with nothing made between: then it is no clip's doing."""


class Feed:
    """Chunks by number, until they are answered. An actor beside the run, whose methods are called from threads.

    Args:
        actors: at most.
    """

    def __init__(self, actors: int) -> None:
        self._changed = threading.Condition()
        self._chunks: dict[int, bytes] = {}
        self._places: list[int] = []
        """Numbers of chunks, in the order in which they are read."""
        self._closed = self._dropped = False
        self._tries: dict[int, int] = {}
        self._alone: dict[int, dict[str | None, int]] = {}
        """Tries of single requests, by chunk and key."""
        self._most_starts = actors + _MOST_BREAKS
        self._starts = 0
        """Since an engine last made something."""
        self._words: dict[int, str] = {}
        """Last words of engines, by the chunk that they were at."""
        self._last_words = _NO_WORD

    def put(self, number: int, chunk: bytes) -> None:
        """Take the next chunk."""
        with self._changed:
            self._chunks[number] = chunk
            self._places.append(number)
            self._changed.notify_all()

    def offer_again(self) -> int:
        """Let what is not answered be read once more. Returns: the place where it begins."""
        with self._changed:
            first = len(self._places)
            self._places += sorted(self._chunks)
            self._changed.notify_all()
            return first

    def answered(self, number: int) -> None:
        """Forget a chunk."""
        with self._changed:
            self._chunks.pop(number, None)
            self._tries.pop(number, None)
            self._alone.pop(number, None)
            self._words.pop(number, None)

    def close(self, *, drop: bool = False) -> None:
        """No more will come; with `drop`, not even what is here."""
        with self._changed:
            self._closed, self._dropped = True, drop
            self._changed.notify_all()

    def get(self, place: int) -> tuple[int, bytes] | None:
        """Number and content of a chunk, once it is there: empty if it is answered, None after the last one."""
        with self._changed:
            self._changed.wait_for(lambda: place < len(self._places) or self._closed)
            if self._dropped or place >= len(self._places):
                return None
            number = self._places[place]
            return number, self._chunks.get(number, b"")

    def started(self) -> str | None:
        """Take note of an engine that was loaded. Returns: why the run should rather end, if so."""
        with self._changed:
            self._starts += 1
            if self._starts <= self._most_starts:
                return None
            return f"engines on the Ray cluster died {_MOST_BREAKS} times in a row; the last one: {self._last_words}"

    def broke(self, number: int, why: str) -> None:
        """Keep the last words of an engine."""
        with self._changed:
            self._words[number] = self._last_words = why

    def begun(self, number: int) -> Literal["as one", "one at a time", "answered"]:
        """Take note of another try of a chunk. Returns: how its requests are to be tried."""
        with self._changed:
            if number not in self._chunks:
                return "answered"
            self._tries[number] = self._tries.get(number, 0) + 1
            return "as one" if self._tries[number] <= _WHOLE_TRIES else "one at a time"

    def begun_alone(self, number: int, key: str) -> str | None:
        """Take note of another try of a single request. Returns: why it is to be given up, if so."""
        with self._changed:
            tries = self._alone.setdefault(number, {})
            tries[key] = tries.get(key, 0) + 1
            return self._words.get(number, _NO_WORD) if tries[key] > _ALONE_TRIES else None

    def went_through(self, number: int, key: str | None, *, captions: bool) -> None:
        """Take note that a chunk, or a single request of it, did not end the actor, and whether captions came of it."""
        with self._changed:
            self._alone.get(number, {}).pop(key, None)
            if captions:
                self._starts = 0


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


def _read(feed: Any, place: int) -> Iterator[pa.Table]:
    while (found := ray.get(feed.get.remote(place))) is not None:
        number, chunk = found
        yield pa.table({"number": [number], "requests": pa.array([chunk], pa.binary())})
        place += 1


class MakeOutcomes:
    """Makes outcomes of chunks of requests; what Ray Data makes an actor of.

    Args:
        settings: of the engine.
        folder: that relative paths start from.
        feed: that keeps count of the tries; a handle of a `Feed`.
    """

    def __init__(self, settings: Settings, folder: str, feed: Any) -> None:
        _enter(folder)
        engine = load_engine(settings)
        self._feed = feed
        self._given_up: str | None = ray.get(feed.started.remote())
        self._places = threading.Semaphore(CHUNKS_AT_ONCE)
        self._one_alone = threading.Lock()
        self._stream: SharedStream[CaptionRequest, Outcome] = SharedStream(
            lambda requests: caption(requests, settings, engine)
        )

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Make the outcomes of a chunk, while others are on their way."""
        return await asyncio.to_thread(self.make, batch)

    def make(self, batch: pa.Table) -> pa.Table:
        """The same, in any thread."""
        numbers = batch["number"].to_pylist()
        chunks = [pickle.loads(chunk) if chunk else [] for chunk in batch["requests"].to_pylist()]
        outcomes = [pickle.dumps(self._outcomes(*asked)) for asked in zip(numbers, chunks, strict=True)]
        return pa.table({"number": batch["number"], "outcomes": pa.array(outcomes, pa.binary())})

    def _outcomes(self, number: int, chunk: list[CaptionRequest]) -> list[Outcome] | ReelscribeError:
        """What is to end the run is an answer, too: Ray hands errors on as text."""
        if self._given_up:
            return EngineError(self._given_up)
        try:
            with self._places:
                how = ray.get(self._feed.begun.remote(number))
                if how == "answered":
                    return []
                if how == "as one":
                    outcomes = self._stream.send(chunk)
                    self._went_through(number, None, outcomes)
                    return outcomes
            with self._all_places():
                return [self._outcome(number, request) for request in chunk]
        except EngineError as exc:
            ray.get(self._feed.broke.remote(number, str(exc)))
            logger.warning("%s", exc)
            os._exit(1)  # Ray starts another, with an engine that is whole
        except ReelscribeError as exc:
            return exc

    def _outcome(self, number: int, request: CaptionRequest) -> Outcome:
        """That of a request which is tried alone."""
        if why := ray.get(self._feed.begun_alone.remote(number, request.key)):
            message = f"the engine died {_ALONE_TRIES} times with this clip alone; its last word: {why}"
            return Failure.of(request, message)
        [outcome] = self._stream.send([request])
        self._went_through(number, request.key, [outcome])
        return outcome

    def _went_through(self, number: int, key: str | None, outcomes: list[Outcome]) -> None:
        captions = any(isinstance(outcome, Caption) for outcome in outcomes)  # else the engine may have had no part
        self._feed.went_through.remote(number, key, captions=captions)

    @contextlib.contextmanager
    def _all_places(self) -> Iterator[None]:
        """Have the engine for oneself, so that its end is nobody else's doing."""
        with self._one_alone:
            for _ in range(CHUNKS_AT_ONCE):
                self._places.acquire()
            try:
                yield
            finally:
                self._places.release(CHUNKS_AT_ONCE)


def look(settings: Settings, folder: str) -> ModelInfo | ReelscribeError:
    """Load an engine, and say what it is, or why it cannot be loaded."""
    try:
        _enter(folder)
        return load_engine(settings).info
    except ReelscribeError as exc:
        return exc


def planned_tp(settings: Settings, folder: str, gpus: int) -> int | ReelscribeError:
    """GPUs that a replica of the model takes; to be called where one can be seen.

    Args:
        settings: of the engine.
        folder: that relative paths start from.
        gpus: of a node.
    """
    try:
        _enter(folder)
        prospect = look_at_model(settings)
        if prospect.size is None:
            return 1
        [(_, gpu_bytes), *_] = visible_gpus() or [("none", 0)]
        return plan(
            prospect.size,
            [gpu_bytes] * gpus if gpu_bytes else [],
            longest_tokens=longest_tokens(FrameBudget.of(settings, prospect.limits)),
            memory_share=settings.model_params.get("gpu_memory_utilization") or MEMORY_SHARE,
        ).tp
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
        first: place of the chunk to begin with.
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
        fn_constructor_kwargs={"settings": settings, "folder": folder, "feed": feed},
        batch_format="pyarrow",
        batch_size=1,
        compute=ActorPoolStrategy(min_size=fewest, max_size=most, max_concurrent_calls_per_actor=CHUNKS_AT_ONCE),
        **resources,
    )
