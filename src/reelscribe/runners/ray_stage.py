"""The parts of a run on Ray that run on the cluster: the reader of chunks, and the actors that make answers.

An actor whose engine breaks ends itself. Ray restarts it and gives it the same chunks again. The cause may be one work
or the machine:

- After a few tries (see `ray_feed.py`) a chunk goes through one work at a time, the least tried works first. A work at
  which the actor ends each time becomes a failure.
- If no other work succeeded meanwhile, the machine may be at fault: then the work gets more tries.
- An actor that ends again and again, without an answer in between, ends the run.

The feed counts tries and deaths, since it outlives the actors.
"""

import asyncio
import contextlib
import itertools
import os
import pickle
import threading
import time
from collections.abc import Iterator
from typing import Any, Final, NoReturn

from reelscribe.config import Settings
from reelscribe.engines import load_engine
from reelscribe.engines.base import ModelInfo
from reelscribe.engines.planning import MEMORY_SHARE, longest_tokens, plan
from reelscribe.engines.prospects import look_at_model, visible_gpus
from reelscribe.errors import EngineError, MissingExtraError, ReelscribeError
from reelscribe.pipeline import Answers, answers_in_order
from reelscribe.runners.ray_feed import Alone
from reelscribe.runners.stream import SharedStream
from reelscribe.values import Answer, Failure, RequestId, Work
from reelscribe.video.sampling import FrameBudget

try:
    import pyarrow as pa
    import ray
    from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
    from ray.data.block import BlockMetadata
except ModuleNotFoundError as exc:
    raise MissingExtraError(f"a run on Ray needs {exc.name}: pip install 'reelscribe[ray]'") from exc

CHUNKS_AT_ONCE: Final = 3
"""Number of chunks that an actor works on at once, as one stream. While one chunk waits for its last caption, the other
two keep the engine busy."""
_STOP_SECONDS: Final = 2.0
"""Seconds between an actor's checks whether the run is stopping."""
_HEAD_START_SECONDS: Final = 2.0
"""Seconds that a chunk with a suspect work waits for other chunks: if these succeed, the machine is not at fault."""
_SECONDS_TO_LOAD_AGAIN: Final = 5.0
"""Seconds to wait before an actor ends whose engine could not be loaded: the engine before it may still hold memory."""


class _FromFeed(Datasource):  # type: ignore[misc]
    """A Ray Data source that reads chunks from the feed, one per row. If read again, answered chunks are empty."""

    def __init__(self, feed: Any, first: int) -> None:
        super().__init__()
        self._feed, self._first = feed, first

    def estimate_inmemory_data_size(self) -> int | None:
        """None: the size is not known."""
        return None

    def get_read_tasks(self, *_: Any, **__: Any) -> list[Any]:
        """A single task, which yields one chunk at a time."""
        feed, first = self._feed, self._first
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(lambda: _read(feed, first), unknown)]


def _read(feed: Any, place: int) -> Iterator[pa.Table]:
    while (found := ray.get(feed.get.remote(place))) is not None:
        number, chunk = found
        yield pa.table({"number": [number], "works": pa.array([chunk], pa.binary())})
        place += 1


class MakeAnswers:
    """Makes answers to chunks of works. Ray Data creates one instance in each actor.

    Args:
        settings: settings of the engine.
        folder: working directory of the run, from which relative paths start.
        feed: Ray handle of the `Feed`, which counts the tries.
    """

    def __init__(self, settings: Settings, folder: str, feed: Any) -> None:
        _enter(folder)
        self._feed, self._name = feed, str(ray.get_runtime_context().get_actor_id())
        self._places = threading.Semaphore(CHUNKS_AT_ONCE)
        self._one_alone = threading.Lock()
        self._given_up: str | None = ray.get(feed.started.remote(self._name))
        if self._given_up:
            return
        try:
            engine = load_engine(settings)
        except ReelscribeError as exc:
            self._end(exc, after=_SECONDS_TO_LOAD_AGAIN)
        self._stopping = threading.Event()
        threading.Thread(target=self._look_for_stop, name="reelscribe-stop", daemon=True).start()
        self._stream: SharedStream[Work, Answers] = SharedStream(
            lambda works: answers_in_order(works, settings, engine, self._stopping.is_set)
        )

    def _look_for_stop(self) -> None:
        with contextlib.suppress(ray.exceptions.RayError):  # the feed is gone, and so is the run
            while not ray.get(self._feed.is_stopping.remote()):
                time.sleep(_STOP_SECONDS)
            self._stopping.set()

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Make the answers of a chunk. Up to `CHUNKS_AT_ONCE` calls run at the same time."""
        return await asyncio.to_thread(self.make, batch)

    def make(self, batch: pa.Table) -> pa.Table:
        """Make the answers of a chunk, in the calling thread.

        Args:
            batch: table with the columns `number` and `works` (pickled).

        Returns:
            A table with the columns `number` and `answers` (pickled); see `_answers`.
        """
        numbers = batch["number"].to_pylist()
        chunks = [pickle.loads(chunk) if chunk else [] for chunk in batch["works"].to_pylist()]
        answers = [pickle.dumps(self._answers(*asked)) for asked in zip(numbers, chunks, strict=True)]
        return pa.table({"number": batch["number"], "answers": pa.array(answers, pa.binary())})

    def _answers(self, number: int, chunk: list[Work]) -> Answers | ReelscribeError | None:
        """The answers of a chunk; None if it is answered already or another call makes it.

        An error that must end the run is returned, not raised: Ray would pass on only the text of an exception.
        """
        if self._given_up:
            return EngineError(self._given_up)
        try:
            answers = self._tried(number, chunk)
        except ReelscribeError as exc:
            return exc
        if answers is None:
            return None
        self._feed.finished.remote(self._name, number)
        return tuple(itertools.chain.from_iterable(answers))

    def _tried(self, number: int, chunk: list[Work]) -> list[Answers] | None:
        with self._places:
            how: Alone | bool = ray.get(self._feed.begun.remote(self._name, number))
            if how is False:
                return None
            if how is True:
                return self._send(number, chunk)
        if how.tries:
            time.sleep(_HEAD_START_SECONDS)
        with self._all_places():
            done: dict[RequestId, Answers] = {name: pickle.loads(answers) for name, answers in how.done.items()}
            for work in sorted(chunk, key=lambda work: how.tries.get(_name_of(work), 0)):
                if _name_of(work) not in done:
                    done[_name_of(work)] = self._alone(number, work)
            return [done[_name_of(work)] for work in chunk]

    def _alone(self, number: int, work: Work) -> Answers:
        """The answers of a work that is tried alone: failures if it was tried too often."""
        if why := ray.get(self._feed.begun_alone.remote(self._name, number, _name_of(work))):
            failures = tuple(Failure.of(request, why) for request in work.requests)
            self._feed.went_through.remote(self._name, number, 0, {_name_of(work): pickle.dumps(failures)})
            return failures
        [answers] = self._send(number, [work], alone=True)  # an empty tuple if the run stops
        return answers

    def _send(self, number: int, works: list[Work], *, alone: bool = False) -> list[Answers]:
        try:
            answers = self._stream.send(works)
        except EngineError as exc:
            self._end(exc)
        made = sum(isinstance(answer, Answer) for one in answers for answer in one)
        done = {}
        if alone:
            done = {_name_of(work): pickle.dumps(one) for work, one in zip(works, answers, strict=True)}
        self._feed.went_through.remote(self._name, number, made, done)
        return answers

    def _end(self, why: ReelscribeError, *, after: float = 0.0) -> NoReturn:
        """Report the error, wait, and end this process. Ray starts another one, with a new engine."""
        ray.get(self._feed.broke.remote(self._name, f"{why} (on {ray.util.get_node_ip_address()})"))
        time.sleep(after)
        os._exit(1)

    @contextlib.contextmanager
    def _all_places(self) -> Iterator[None]:
        """Take the engine exclusively, so that if it ends, this chunk is the cause."""
        with self._one_alone:
            for _ in range(CHUNKS_AT_ONCE):
                self._places.acquire()
            try:
                yield
            finally:
                self._places.release(CHUNKS_AT_ONCE)


def _name_of(work: Work) -> RequestId:
    """The key of a work: the id of its first request."""
    return work.requests[0].id


def look(settings: Settings, folder: str) -> ModelInfo | ReelscribeError:
    """Load an engine and return its engine and model, or the error with which loading failed."""
    try:
        _enter(folder)
        return load_engine(settings).info
    except ReelscribeError as exc:
        return exc


def planned_tp(settings: Settings, folder: str, gpus: int) -> int | ReelscribeError:
    """Number of GPUs that a replica of the model needs. Must run where a GPU is visible.

    Args:
        settings: settings of the engine.
        folder: working directory of the run, from which relative paths start.
        gpus: number of GPUs of a node.

    Returns:
        The number, or the error with which the planning failed.
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


def answers_of(
    feed: Any, first: int, settings: Settings, folder: str, *, fewest: int, most: int, **resources: float
) -> Any:
    """The pipeline from chunks to answers, as a Ray data set.

    Args:
        feed: Ray handle of the `Feed` that holds the chunks.
        first: place in the feed of the first chunk.
        settings: settings of each engine.
        folder: working directory of the run, from which relative paths start.
        fewest: minimum number of actors.
        most: maximum number of actors.
        **resources: resources of each actor, as Ray's options.

    Returns:
        A Ray data set of tables with the columns `number` and `answers` (pickled).
    """
    context = DataContext.get_current()
    before = context.target_max_block_size, context.enable_progress_bars
    # Ray Data merges rows into blocks up to this size. With 1 byte each chunk is a block, and is passed on at once.
    context.target_max_block_size, context.enable_progress_bars = 1, False
    try:
        chunks = ray.data.read_datasource(_FromFeed(feed, first), override_num_blocks=1, num_cpus=0)
    finally:
        context.target_max_block_size, context.enable_progress_bars = before
    return chunks.map_batches(
        MakeAnswers,
        fn_constructor_kwargs={"settings": settings, "folder": folder, "feed": feed},
        batch_format="pyarrow",
        batch_size=1,
        compute=ActorPoolStrategy(min_size=fewest, max_size=most, max_concurrent_calls_per_actor=CHUNKS_AT_ONCE),
        **resources,
    )
