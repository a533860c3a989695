"""Replicas of an engine, each in a process of its own: what prepares clips in Python then does so for one replica.

A replica's engine pulls a work when it has room for one, and that goes over a pipe: so works go to where there is room.
Arrays go through memory that both processes map. Answers come back as they are made.

If a replica dies or raises, the run stops, as it does if an engine in this process breaks.
"""

import mmap
import os
import pickle
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import recv_handle, send_handle
from multiprocessing.util import Finalize
from typing import Any, Final

from reelscribe.config import Settings
from reelscribe.engines.base import Engine, ModelInfo
from reelscribe.engines.feed import Feed, answers_to, feeding
from reelscribe.engines.guard import Guard, leave_group
from reelscribe.engines.several import close_all, in_lanes
from reelscribe.errors import EngineError, ReelscribeError
from reelscribe.values import Failure, Generation, Work
from reelscribe.video.shared import nameless_file, write

_SECONDS_BETWEEN_LOOKS: Final = 5.0
"""How often to see whether a process is still alive while nothing comes out of it."""
_SECONDS_TO_STOP: Final = 60.0
"""For a replica to end by itself, vLLM's processes included, before it is killed."""
_ALIGNMENT: Final = 64
"""Bytes at whose multiples arrays begin in shared memory: a cache line."""

_BEGIN, _NO_MORE, _BREAK_OFF = "begin", "no more", "break off"
"""What a replica is sent beside works: answer a stream; there are no more works; give up what is under way."""
_WANTS_WORK, _ENDED = "wants work", "ended"
"""What comes back beside answers."""


class Replicas:
    """Several replicas of one engine as one engine.

    Args:
        load: of the engine, in the process of a replica; a function of a module.
        settings: for each replica.
        environments: variables for each replica's process, which win over those that are set here.

    Raises:
        ReelscribeError: a replica cannot be loaded.
    """

    def __init__(
        self, load: Callable[[Settings], Engine], settings: Settings, environments: Sequence[Mapping[str, str]]
    ) -> None:
        count = len(environments)
        self._replicas = [
            Replica(load, settings, each, f"replica {number} of {count}")
            for number, each in enumerate(environments, start=1)
        ]
        try:
            infos = [replica.wait_until_loaded() for replica in self._replicas]
        except BaseException:
            for replica in self._replicas:
                replica.kill()
            raise
        self.info = replace(infos[0], gpus=sum(info.gpus for info in infos))

    def generate(self, works: Iterator[Work]) -> Iterator[Generation | Failure]:
        """Answer works, each in the replica that has room for most."""
        yield from in_lanes(works, self._replicas, lambda work, lanes: max(lanes, key=lambda lane: lane.lacks))

    def close(self) -> None:
        """End all processes. Happens by itself when the engine is collected, or the program ends."""
        close_all(self._replicas)


class Replica:
    """An engine in another process. It begins to load at once.

    Args:
        load: of the engine.
        settings: for it.
        environment: variables for the process, which win over those that are set here.
        name: what it is called in errors.
    """

    info: ModelInfo

    def __init__(
        self, load: Callable[[Settings], Engine], settings: Settings, environment: Mapping[str, str], name: str
    ) -> None:
        self._name = name
        guard = Guard()
        self._pipe, theirs = get_context("spawn").Pipe()
        self._process = get_context("spawn").Process(
            target=_serve, args=(theirs, load, settings, dict(environment)), name=f"reelscribe-{name}"
        )
        with guard.starting({}):
            self._process.start()
        theirs.close()  # so that reading ends if the process does
        self._sending = threading.Lock()
        self._generating = threading.Lock()
        self._fault: BaseException | None = None
        """What went wrong here while a work was sent."""
        self._stream = 0
        """The number of the stream that is answered: a pull of an earlier one may come late."""
        # Not one of `weakref`, which may come too late: at its exit, multiprocessing waits for this process.
        self._finalizer = Finalize(self, _end, (self._pipe, self._process, guard), exitpriority=1)

    def wait_until_loaded(self) -> ModelInfo:
        """What it runs.

        Raises:
            ReelscribeError: it cannot be loaded.
        """
        found = self._receive()
        if isinstance(found, BaseException):
            raise found
        self.info = found
        return self.info

    def generate(self, works: Iterator[Work]) -> Iterator[Generation | Failure]:
        """Answer works as the engine does."""
        with self._generating, feeding(works) as feed:
            ended = False
            with self._sending:
                self._stream += 1
            give = partial(self._give, self._stream)
            self._send(_BEGIN)
            try:
                while True:
                    told = self._receive()
                    if told == _WANTS_WORK:
                        feed.pull().add_done_callback(give)
                    elif isinstance(told, tuple):
                        ended, (_, error) = True, told
                        if error:
                            raise error
                        return
                    else:
                        yield told
            finally:
                if not ended:
                    self._break_off()

    def close(self) -> None:
        """End the process, and those that it has started."""
        self._finalizer()

    def kill(self) -> None:
        """The same at once, whatever it is doing."""
        self._process.kill()
        self.close()

    def _break_off(self) -> None:
        """Let the replica give up what it has, and wait until it has."""
        with suppress(EngineError):  # it is dead
            self._send(_BREAK_OFF)
            while not isinstance(self._receive(), tuple):
                pass

    def _give(self, stream: int, pull: "Future[Work | None]") -> None:
        """Send what was pulled; in the feed's thread. An error there would be lost."""
        try:
            self._send(pull.result() or _NO_MORE, stream)
        except EngineError:
            pass  # it is dead, which is seen where answers are waited for
        except BaseException as exc:  # raised again where answers are waited for
            self._fault = exc
            self._process.kill()

    def _send(self, told: str | Work, stream: int | None = None) -> None:
        """Send it, unless it is for an earlier stream."""
        try:
            with self._sending:
                if stream not in (None, self._stream):
                    return
                if isinstance(told, str):
                    self._pipe.send(told)
                else:
                    send_work(self._pipe, told, self._process.pid or 0)
        except (BrokenPipeError, ConnectionError) as exc:
            raise self._died() from exc

    def _receive(self) -> Any:
        try:
            while not self._pipe.poll(_SECONDS_BETWEEN_LOOKS):  # a child of its own may hold the pipe open
                if not self._process.is_alive():
                    raise self._died()
            return self._pipe.recv()
        except (EOFError, OSError) as exc:
            raise self._died() from exc

    def _died(self) -> EngineError:
        if self._fault:
            return EngineError(f"a clip could not be handed to {self._name}: {self._fault}")
        return EngineError(
            f"The process of {self._name} died. Most often memory ran out: lower gpu_memory_utilization or "
            "max_num_seqs in model_params, or prefetch_bytes, of which each replica takes its own."
        )


def send_work(pipe: Connection, work: Work, pid: int) -> None:
    """Send a work: its arrays lie in a nameless file in memory, which goes along.

    Args:
        pipe: to the other process.
        work: to send.
        pid: of that process.

    Raises:
        OSError: there is no room in memory, or the other side is gone.
    """
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(work, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    spans, at = [], 0
    for view in views:
        spans.append((at, at + view.nbytes))
        at = -(-(at + view.nbytes) // _ALIGNMENT) * _ALIGNMENT
    with nameless_file() as file:
        os.ftruncate(file.fileno(), at)
        for view, (start, _) in zip(views, spans, strict=True):
            write(file.fileno(), view, at=start)
        pipe.send((head, spans, at))
        if at:
            send_handle(pipe, file.fileno(), pid)


def receive_work(pipe: Connection, told: tuple[bytes, list[tuple[int, int]], int]) -> Work:
    """The work of which `send_work` has sent this much: the arrays stay where they are, and can be written to."""
    head, spans, size = told
    memory = memoryview(b"")
    if size:
        file = recv_handle(pipe)
        memory = memoryview(mmap.mmap(file, size))
        os.close(file)
    work: Work = pickle.loads(head, buffers=[memory[start:end] for start, end in spans])
    return work


def _serve(
    pipe: Connection, load: Callable[[Settings], Engine], settings: Settings, environment: Mapping[str, str]
) -> None:
    """Run an engine for another process, until that closes its end of the pipe."""
    leave_group()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(environment)  # before anything looks for GPUs
    try:
        engine = load(settings)
    except BaseException as exc:  # a model's code may raise anything
        pipe.send(_portable(exc))
        return
    try:
        pipe.send(engine.info)
        _Server(pipe, engine).run()
    finally:
        close_all([engine])


class _Server:
    """The replica's side of the pipe."""

    def __init__(self, pipe: Connection, engine: Engine) -> None:
        self._pipe, self._engine = pipe, engine
        self._sending = threading.Lock()
        self._works: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._begun: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._is_broken_off = False

    def run(self) -> None:
        threading.Thread(target=self._listen, name="reelscribe-replica", daemon=True).start()
        while self._begun.get():
            error = None
            try:
                self._answer()
            except BaseException as exc:  # raised again in the other process
                error = _portable(exc)
            with suppress(OSError):  # nobody is there any more
                self._send((_ENDED, error))

    def _answer(self) -> None:
        owed = 0

        def wanted() -> Iterator[Work]:
            nonlocal owed
            while not self._is_broken_off:
                self._send(_WANTS_WORK)
                work = self._works.get()
                if work is None:
                    return
                owed += len(work.requests)
                yield work

        with (
            Feed(wanted(), owes=lambda: owed > 0, cancel=lambda: self._works.put(None)) as feed,
            closing(answers_to(self._engine, feed)) as answers,
        ):
            for answer in answers:
                owed -= 1
                self._send(answer)
                if self._is_broken_off:
                    return

    def _send(self, told: Any) -> None:
        with self._sending:
            self._pipe.send(told)

    def _listen(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                told = self._pipe.recv()
                if told == _BEGIN:
                    self._works, self._is_broken_off = queue.SimpleQueue(), False
                    self._begun.put(True)
                elif told == _BREAK_OFF:
                    self._is_broken_off = True
                    self._works.put(None)
                elif told == _NO_MORE:
                    self._works.put(None)
                else:
                    self._works.put(receive_work(self._pipe, told))
        self._is_broken_off = True
        self._works.put(None)
        self._begun.put(False)


def _portable(error: BaseException) -> ReelscribeError:
    """What can be raised again in another process: errors of libraries may not be pickled."""
    return error if isinstance(error, ReelscribeError) else EngineError(f"{type(error).__name__}: {error}")


def _end(pipe: Connection, process: BaseProcess, guard: Guard) -> None:
    pipe.close()
    process.join(_SECONDS_TO_STOP)
    if process.is_alive():
        process.kill()
        process.join()
    guard.close()
