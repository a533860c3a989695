"""Answers made on a Ray cluster, for a run whose reading, ledger and writing stay here.

    works -> chunks -> feed ..Ray Data.. actors, each with decoders and an engine -> answers

Ray Data deals the chunks out, adds and removes actors, and starts dead ones anew. It may also, when a node takes chunks
with it, read them again: so the feed keeps each until it is answered. And it leaves the chunks of a dead actor to that
actor, which a cluster without room may never start again: so where a node is lost, and then nothing comes any more,
what is not answered is offered again.
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
"""Most works in a chunk; fewer if they hold whole videos, or are few in all. For each chunk Ray Data takes some 6 ms of
this process, so large ones let it feed more actors (benchmarks/scale.py). But a node that is lost takes all works of
`CHUNKS_AT_ONCE` chunks of each of its actors with it."""
_CHUNKS_AHEAD: Final = 2 * CHUNKS_AT_ONCE
"""For each actor: those that it works on, and those that wait for it."""
_CHUNKS_IN_ALL: Final = 16
"""For each actor, at least, as far as there are rows: so that all end at about one time."""
_MOST_RESTARTS: Final = 3
"""Of the pipeline, one after the other without an answer between."""
_MOST_DECODERS: Final = 32
_LOOK_SECONDS: Final = 0.5
"""Between two looks at whether the run is to stop, if nothing comes."""
_QUIET_SECONDS = 30.0
"""Without an answer, before it is looked whether a node was lost."""
_END_SECONDS = 30.0


class Cluster(Maker):
    """Makes answers on a Ray cluster; a `Maker`, for as long as its context lasts.

    Where Ray has not been started in this process, it is, and ends with the context.

    Args:
        settings: of the run: address, actors, engine.
        total: rows, where their number is known; of few, a chunk holds fewer.

    Raises:
        SettingsError: the address is one for Ray's client.
        EngineError: the cluster cannot be reached, or has no room for an actor.
        ReelscribeError: the engine cannot be loaded there, as `load_engine` says.
    """

    info: ModelInfo

    def __init__(self, settings: Settings, total: int | None = None) -> None:
        self._settings, self._total = settings, total
        self._events: SimpleQueue[Any] = SimpleQueue()
        self._results: threading.Thread | None = None
        self._open: dict[int, int] = {}
        """Chunks that are not answered, by number, and how many works each has."""
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
        """Load the engine once, on the cluster: so that what is wrong with it is told before anything begins."""
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
        """About how many clips the engines work on: a batch for each. Asks nobody, so a signal handler may call it."""
        of_each = min(self._settings.batch_size, CHUNKS_AT_ONCE * self._chunk_works)
        return min(sum(list(self._open.values())), self._actors.most * of_each)

    def make(self, works: Iterator[Work], settle: Settle, drop: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Give an answer to each request of the works to `settle`; yield after each chunk of them.

        Raises:
            EngineError: an engine broke, or the cluster lost too much.
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
                elif event[1] is None:  # another call makes them
                    continue
                elif isinstance(event[1], ReelscribeError):
                    raise event[1]
                elif event[0] in self._open:  # one that comes a second time is known
                    self._answered(event[0])
                    for answer in event[1]:
                        settle(answer)
                    yield
        finally:
            ended.set()
            self._room.release()  # the feeder may be waiting for it
            feeder.join()
            self._room.acquire()

    def _drop_waiting(self) -> None:
        """Give up the chunks that no actor has begun. Actors give up what their engines have not."""
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
        """Put works into the feed, as far as there is room; in a thread of its own."""
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
        except BaseException as exc:  # which the run is to end with
            self._events.put(exc)

    def _start(self, first: int) -> None:
        """Begin the pipeline at a place in the feed."""
        self._results = threading.Thread(target=self._take, args=(first,), name="reelscribe-ray", daemon=True)
        self._results.start()

    def _take(self, first: int) -> None:
        """Take what comes out of the pipeline; in a thread of its own."""
        try:
            for batch in self._actors.pipeline(self._feed, first).iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            ):
                if self._stopping:
                    return
                for number, answers in zip(batch["number"].to_pylist(), batch["answers"].to_pylist(), strict=True):
                    self._events.put((number, pickle.loads(answers)))
            error = EngineError("the pipeline on Ray ended although there were requests left.")
        except BaseException as exc:  # which the run is to end with, or to get over
            error = exc  # type: ignore[assignment]
        if not self._stopping:
            self._events.put(error)

    def _recover(self, error: BaseException) -> None:
        """Begin the pipeline anew where the cluster lost what Ray could not make up for; else raise what is wrong."""
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
    """How many engines, and what each of them is given."""

    fewest: int
    most: int
    gpus: int
    """For each, like the others below."""
    cpus: int
    settings: Settings
    """Of an engine there."""

    @classmethod
    def of(cls, settings: Settings, resources: dict[str, float], nodes: list[dict[str, Any]]) -> "Actors":
        """As the settings say; else as many as the cluster has room for now.

        Raises:
            EngineError: it has no room for one.
        """
        all_gpus, all_cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
        told = settings.device.startswith("cuda")  # also where a cluster has none yet, and is to grow
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
        """They at work, as a data set of answers; see `answers_of`."""
        folder = str(Path.cwd())
        return answers_of(feed, first, self.settings, folder, fewest=self.fewest, most=self.most, **self.each())

    def each(self) -> dict[str, int]:
        """Resources of one, as Ray's options."""
        return {"num_gpus": self.gpus, "num_cpus": self.cpus}


def _with_tp(settings: Settings, nodes: list[dict[str, Any]]) -> Settings:
    """Settings that say how many GPUs a replica takes; where the user does not, as few as hold the model.

    Raises:
        EngineError: no GPU of the cluster can be asked for its size.
        ReelscribeError: the model cannot be read, or does not fit.
    """
    tp = settings.tp or settings.model_params.get("tensor_parallel_size")
    gpus = [int(node["Resources"]["GPU"]) for node in nodes if node["Alive"] and node["Resources"].get("GPU", 0) >= 1]
    if settings.engine != "vllm" or settings.device == "cpu" or tp or not gpus:
        return replace(settings, tp=tp)
    asked = ray.remote(num_gpus=1, num_cpus=0, max_calls=1)(planned_tp).remote(settings, str(Path.cwd()), max(gpus))
    return replace(settings, tp=_answer(asked, "the GPUs of the Ray cluster cannot be asked for their size"))


def _answer(asked: Any, trouble: str) -> Any:
    """What a task came to.

    Raises:
        EngineError: the cluster could not do it; it says what the trouble is.
        ReelscribeError: the task's own answer.
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
    """A fair share of the CPUs of a node, on any node with GPUs."""
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
    if not address and not os.environ.get("RAY_ADDRESS"):  # Ray would take any cluster that it finds here
        address, own = "local", {"include_dashboard": False}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, **own)
    except (ConnectionError, ValueError, RuntimeError) as exc:
        raise EngineError(f"the Ray cluster at {address or '$RAY_ADDRESS'} cannot be reached: {exc}") from exc
    logging.getLogger("ray.data").setLevel(logging.WARNING)
