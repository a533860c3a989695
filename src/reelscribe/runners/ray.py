"""A `Maker` on a Ray cluster. Reading, the ledger and writing stay in this process.

    works -> chunks -> feed ..Ray Data.. actors, each with decoders and an engine -> answers

A chunk is a list of works. Ray Data distributes the chunks, adds and removes actors, and restarts dead ones. Two of its
properties shape this module:

- If a node is lost with its chunks, Ray Data may read them again. So the feed keeps each chunk until it is answered.
- It keeps the chunks of a dead actor for that actor, which a cluster without room may never restart. So if a node was
  lost and no more answers arrive, the feed offers all unanswered chunks again.
"""

import contextlib
import logging
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Final, Self

from reelscribe.config import Settings
from reelscribe.engines.base import ModelInfo
from reelscribe.errors import EngineError, MissingExtraError, ReelscribeError, SettingsError
from reelscribe.pipeline import Maker, Settle
from reelscribe.runners.ray_feed import Feed
from reelscribe.runners.ray_stage import CHUNKS_AT_ONCE, answers_of, look, planned_tp
from reelscribe.values import Work

try:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ModuleNotFoundError as exc:
    raise MissingExtraError("a run on Ray needs ray: pip install 'reelscribe[ray]'") from exc

logger = logging.getLogger(__name__)

_CHUNK_WORKS, _CHUNK_BYTES = 128, 1 << 23
"""Maximum number of works in a chunk, and of bytes of the videos that they hold. Ray Data takes about 6 ms of this
process for each chunk, so large chunks let it feed more actors (benchmarks/scale.py). But a lost node loses all works
of `CHUNKS_AT_ONCE` chunks for each of its actors."""
_CHUNKS_AHEAD: Final = 2 * CHUNKS_AT_ONCE
"""Maximum number of unanswered chunks per actor: those that it works on, and as many that wait for it."""
_CHUNKS_IN_ALL: Final = 16
"""Minimum number of chunks per actor in the whole run, if there are enough rows, so that all actors end at about the
same time."""
_MOST_RESTARTS: Final = 3
"""Maximum number of restarts of the pipeline without an answer in between."""
_MOST_DECODERS: Final = 32
"""Maximum number of CPUs, and so of decoders, for each engine with GPUs, if the settings name none."""
_LOOK_SECONDS: Final = 0.5
"""Seconds to wait for an event before checking again whether the run is stopping."""
_QUIET_SECONDS = 30.0
"""Seconds without an event before checking whether a node was lost."""
_END_SECONDS = 30.0
"""Maximum seconds to wait for the pipeline to end when the context ends."""


class Cluster(Maker):
    """Makes answers on a Ray cluster within its context.

    If Ray is not initialized in this process, the context initializes it, and shuts it down at the end.

    Args:
        settings: the run's settings: address, actors, engine.
        total: number of rows, if known. If there are few, chunks are smaller.

    Raises:
        SettingsError: the address is one of Ray Client (`ray://`).
        EngineError: the cluster cannot be reached, or has no room for an actor.
        ReelscribeError: the engine cannot be loaded on the cluster; see `load_engine`.
    """

    info: ModelInfo

    def __init__(self, settings: Settings, total: int | None = None) -> None:
        self._settings, self._total = settings, total
        self._events: SimpleQueue[Any] = SimpleQueue()
        self._results: threading.Thread | None = None
        self._open: dict[int, int] = {}
        """Number of works in each unanswered chunk, by the chunk's number."""
        self._chunks = self._restarts = self._lost_nodes = 0
        self._stopping = False

    def __enter__(self) -> Self:
        self._began = not ray.is_initialized()
        if self._began:
            _connect(self._settings.address)
        try:
            nodes = ray.nodes()
            self._lost_nodes = _lost(nodes)
            self._actors = Actors.of(_with_tp(self._settings, nodes), ray.cluster_resources(), nodes)
            logger.info("%s", self._actors)
            self.info = replace(self._look(), gpus=max(self._actors.gpus, 1) * self._actors.most)
        except BaseException:
            self._shut_down()
            raise
        chunk = _CHUNK_WORKS
        if self._total is not None:
            chunk = min(max(self._total // (self._actors.most * _CHUNKS_IN_ALL), 1), chunk)
        self._chunk_works = chunk
        ahead = self._actors.most * _CHUNKS_AHEAD
        self._room = threading.Semaphore(ahead)
        self.waiting_rows = max(3 * ahead * chunk, 4096)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        feed = ray.remote(num_cpus=0, max_concurrency=16, scheduling_strategy=here)(Feed)
        self._feed = feed.remote()
        return self

    def _look(self) -> ModelInfo:
        """Load the engine once on the cluster, so that its errors are raised before the run begins."""
        looked = ray.remote(max_calls=1, max_retries=2, **self._actors.each())(look)
        asked = looked.remote(self._actors.settings, str(Path.cwd()))
        found: ModelInfo = _answer(asked, "the engine cannot be loaded on the Ray cluster")
        return found

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping = True
        if self._results is not None and (error is None or not self._began):  # else all ends at once
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(self._feed.close.remote(drop=True))
            self._results.join(_END_SECONDS)
        ray.kill(self._feed)
        self._shut_down()

    def _shut_down(self) -> None:
        if self._began:
            ray.shutdown()

    @property
    def clips_begun(self) -> int:
        """Estimated number of clips that the engines work on: up to a batch for each actor.

        It makes no remote call, so that a signal handler may call it.
        """
        of_each = min(self._settings.batch_size, CHUNKS_AT_ONCE * self._chunk_works)
        return min(sum(list(self._open.values())), self._actors.most * of_each)

    def make(self, works: Iterator[Work], settle: Settle, drop: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Call `settle` with the answer to each request of the works; yield after each chunk.

        Raises:
            EngineError: an engine broke, or the pipeline failed too often in a row.
        """
        ended = threading.Event()
        feeder = threading.Thread(target=self._feed_all, args=(works, ended, drop), name="reelscribe-feed")
        feeder.start()
        fed = dropped = False
        heard = time.monotonic()
        try:
            while not fed or self._open:
                if drop() and not dropped:
                    dropped = True
                    self._drop_waiting()
                    continue
                try:
                    event = self._events.get(timeout=min(_LOOK_SECONDS, _QUIET_SECONDS))
                except Empty:
                    if time.monotonic() - heard > _QUIET_SECONDS:
                        self._look_for_lost_nodes()
                        heard = time.monotonic()
                    continue
                heard = time.monotonic()
                if event is ended:
                    fed = True
                elif isinstance(event, BaseException):
                    self._recover(event)
                elif event[1] is None:  # another actor, or another call of this one, makes these answers
                    continue
                elif isinstance(event[1], ReelscribeError):
                    raise event[1]
                elif event[0] in self._open:  # a chunk may be answered twice; the second time is ignored
                    self._answered(event[0])
                    for answer in event[1]:
                        settle(answer)
                    yield
        finally:
            ended.set()
            self._room.release()  # wake the feeder if it waits for room; it gives the room back
            feeder.join()
            self._room.acquire()

    def _drop_waiting(self) -> None:
        """Give up the chunks that no actor has begun. Each actor itself gives up what its engine has not begun."""
        for number in ray.get(self._feed.stop.remote()):
            if self._open.pop(number, None) is not None:
                self._room.release()

    def _look_for_lost_nodes(self) -> None:
        lost = _lost(ray.nodes())
        if lost > self._lost_nodes and self._open:
            logger.warning("A node of the Ray cluster is gone; what it had is given to others.")
            ray.get(self._feed.offer_again.remote())
        self._lost_nodes = lost

    def _answered(self, number: int) -> None:
        del self._open[number]
        self._restarts = 0
        self._room.release()
        self._feed.answered.remote(number)

    def _feed_all(self, works: Iterator[Work], ended: threading.Event, drop: Callable[[], bool]) -> None:
        """Put all works into the feed, in chunks, waiting for room. Runs in its own thread."""
        try:
            for chunk in _chunks(works, self._chunk_works):
                self._room.acquire()
                if ended.is_set() or drop():
                    self._room.release()
                    break
                self._open[self._chunks] = len(chunk)
                ray.get(self._feed.put.remote(self._chunks, pickle.dumps(chunk)))
                self._chunks += 1
                if self._results is None:
                    self._start(0)
            self._events.put(ended)
        except BaseException as exc:  # `make` raises it
            self._events.put(exc)

    def _start(self, first: int) -> None:
        """Start the pipeline at a place in the feed, with a thread that collects its answers."""
        self._results = threading.Thread(target=self._take, args=(first,), name="reelscribe-ray", daemon=True)
        self._results.start()

    def _take(self, first: int) -> None:
        """Collect the pipeline's answers as events. Runs in its own thread."""
        try:
            for batch in self._actors.pipeline(self._feed, first).iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            ):
                if self._stopping:
                    return
                for number, answers in zip(batch["number"].to_pylist(), batch["answers"].to_pylist(), strict=True):
                    self._events.put((number, pickle.loads(answers)))
            error = EngineError("the pipeline on Ray ended although there were requests left.")
        except BaseException as exc:  # `make` raises it, or restarts the pipeline
            error = exc  # type: ignore[assignment]
        if not self._stopping:
            self._events.put(error)

    def _recover(self, error: BaseException) -> None:
        """Restart the pipeline after a failure of the cluster that Ray did not recover from. Raise any other error."""
        if isinstance(error, ray.exceptions.RayTaskError):
            raise EngineError(f"an engine on the Ray cluster broke: {error}") from error
        if not isinstance(error, ray.exceptions.RayError):
            raise error
        self._restarts += 1
        if self._restarts > _MOST_RESTARTS:
            told = f"the Ray cluster lost what it worked on {_MOST_RESTARTS} times in a row: {error}"
            raise EngineError(told) from error
        logger.warning("The Ray cluster lost what it worked on; once more from there: %s", error)
        self._start(ray.get(self._feed.offer_again.remote()))


@dataclass(frozen=True, kw_only=True)
class Actors:
    """Number of engine actors, and the resources of each."""

    fewest: int
    most: int
    gpus: int
    """GPUs for each actor."""
    cpus: int
    """CPUs for each actor."""
    settings: Settings
    """Settings of each actor's engine."""

    @classmethod
    def of(cls, settings: Settings, resources: dict[str, float], nodes: list[dict[str, Any]]) -> "Actors":
        """Plan the actors: as many as the settings say, else as many as the cluster has room for now.

        Raises:
            EngineError: the cluster has no room for one actor.
        """
        all_gpus, all_cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
        told = settings.device.startswith("cuda")  # an autoscaling cluster may have no GPU yet
        needs_gpu = settings.engine in ("transformers", "vllm") and settings.device != "cpu" and (all_gpus or told)
        gpus = (settings.tp or 1) * (settings.dp or 1) if needs_gpu else 0
        cpus = settings.decoders or (_cpus_beside(gpus, nodes) if gpus else 1)
        room = min(all_cpus // max(cpus, 1), all_gpus // gpus if gpus else all_cpus)
        fewest, most = settings.actor_range() or (1, room)
        if most < 1:
            raise EngineError(
                f"the Ray cluster has {all_gpus} GPUs and {all_cpus} CPUs, and an engine takes {gpus} and {cpus}; set "
                "tp or decoders, or say with actors how many the cluster is to grow to."
            )
        decoders = cpus if settings.decoders is None else settings.decoders
        return cls(fewest=fewest, most=most, gpus=gpus, cpus=cpus, settings=replace(settings, decoders=decoders))

    def __str__(self) -> str:
        return f"{self.fewest} to {self.most} engines on Ray, with {self.gpus} GPUs and {self.cpus} CPUs for each"

    def pipeline(self, feed: Any, first: int) -> Any:
        """The pipeline of these actors, as a data set of answers; see `answers_of`."""
        folder = str(Path.cwd())
        return answers_of(feed, first, self.settings, folder, fewest=self.fewest, most=self.most, **self.each())

    def each(self) -> dict[str, int]:
        """Resources of one actor, as Ray's options."""
        return {"num_gpus": self.gpus, "num_cpus": self.cpus}


def _with_tp(settings: Settings, nodes: list[dict[str, Any]]) -> Settings:
    """Settings with `tp`, the number of GPUs of a replica. If the user sets none, it is the fewest that hold the model.

    Raises:
        EngineError: no task could run on a GPU of the cluster to read its memory size.
        ReelscribeError: the model cannot be read, or does not fit.
    """
    tp = settings.tp or settings.model_params.get("tensor_parallel_size")
    gpus = [int(node["Resources"]["GPU"]) for node in nodes if node["Alive"] and node["Resources"].get("GPU", 0) >= 1]
    if settings.engine != "vllm" or settings.device == "cpu" or tp or not gpus:
        return replace(settings, tp=tp)
    asked = ray.remote(num_gpus=1, num_cpus=0, max_calls=1)(planned_tp).remote(settings, str(Path.cwd()), max(gpus))
    return replace(settings, tp=_answer(asked, "the GPUs of the Ray cluster cannot be asked for their size"))


def _answer(asked: Any, trouble: str) -> Any:
    """Wait for the result of a Ray task.

    Args:
        asked: object reference of the result.
        trouble: beginning of the error message if the cluster cannot run the task.

    Raises:
        EngineError: the cluster could not run the task.
        ReelscribeError: the task returned this error as its result.
    """
    try:
        found = ray.get(asked)
    except ray.exceptions.RayError as exc:
        raise EngineError(f"{trouble}: {exc}") from exc
    if isinstance(found, ReelscribeError):
        raise found
    return found


def _lost(nodes: list[dict[str, Any]]) -> int:
    return sum(not node["Alive"] for node in nodes)


def _cpus_beside(gpus: int, nodes: list[dict[str, Any]]) -> int:
    """CPUs for an actor with this many GPUs: its proportional share, on the node with GPUs where that is smallest."""
    alive = [node["Resources"] for node in nodes if node["Alive"] and node["Resources"].get("GPU")]
    shares = [int(node.get("CPU", 0) * gpus / node["GPU"]) for node in alive]
    return min(max(min(shares, default=1), 1), _MOST_DECODERS)


def _chunks(works: Iterator[Work], most: int) -> Iterator[list[Work]]:
    chunk: list[Work] = []
    size = 0
    for work in works:
        chunk.append(work)
        size += len(work.clip.source) if isinstance(work.clip.source, bytes) else 0
        if len(chunk) >= most or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _connect(address: str | None) -> None:
    if address and address.startswith("ray://"):
        raise SettingsError(
            f"address must be that of a cluster which this machine is part of, as auto or host:6379; got {address!r}. "
            "From elsewhere, submit the command as a job: ray job submit -- reelscribe caption ..."
        )
    own: dict[str, Any] = {}
    if not address and not os.environ.get("RAY_ADDRESS"):  # without an address Ray joins any cluster on this machine
        address, own = "local", {"include_dashboard": False}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, **own)
    except (ConnectionError, ValueError, RuntimeError) as exc:
        raise EngineError(f"the Ray cluster at {address or '$RAY_ADDRESS'} cannot be reached: {exc}") from exc
    logging.getLogger("ray.data").setLevel(logging.WARNING)
