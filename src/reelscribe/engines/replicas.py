"""Replicas of an engine, each in a process of its own, so that each also has a Python process to prepare its clips.

A replica's engine pulls a work when it has room for one, and asks for it over a pipe. So works go to the replicas that
have room. Arrays are passed in memory that both processes map. Answers come back one by one as they are ready.

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
"""How often to check that a process is alive while it sends nothing."""
_SECONDS_TO_STOP: Final = 60.0
"""The time for a replica to end by itself, vLLM's processes included, before it is killed."""
_ALIGNMENT: Final = 64
"""The alignment of arrays in shared memory, in bytes: a cache line."""

_BEGIN, _NO_MORE, _BREAK_OFF = "begin", "no more", "break off"
"""Messages to a replica, besides works: begin to answer a stream of works; the stream has no more works; give up all
work of the stream."""
_WANTS_WORK, _ENDED = "wants work", "ended"
"""Messages from a replica, besides answers: it has room for one more work; the stream is answered, sent as a tuple with
an error or None."""


class Replicas:
    """Several replicas of one engine as one engine.

    Args:
        load: loads the engine in a replica's process. It must be a function of a module, since it is pickled.
        settings: for each replica.
        environments: for each replica, environment variables that override those of this process.

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
        """Answer works. Each goes to the replica that is waiting for the most works."""
        yield from in_lanes(works, self._replicas, lambda work, lanes: max(lanes, key=lambda lane: lane.lacks))

    def close(self) -> None:
        """End all processes. This also happens when the engine is garbage-collected or the program ends."""
        close_all(self._replicas)


class Replica:
    """An engine in another process, which starts and begins to load at once.

    Args:
        load: loads the engine.
        settings: of the engine.
        environment: environment variables that override those of this process.
        name: the name of the replica in errors.
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
        """The exception that sending a work raised in this process."""
        self._stream = 0
        """The number of the present stream. A pull for an earlier stream may be done late, and is not sent."""
        # Not `weakref.finalize`, which may run too late: at exit, multiprocessing first waits for the child process.
        self._finalizer = Finalize(self, _end, (self._pipe, self._process, guard), exitpriority=1)

    def wait_until_loaded(self) -> ModelInfo:
        """Wait for the engine to load. Returns what it runs.

        Raises:
            ReelscribeError: it cannot be loaded.
        """
        found = self._receive()
        if isinstance(found, BaseException):
            raise found
        self.info = found
        return self.info

    def generate(self, works: Iterator[Work]) -> Iterator[Generation | Failure]:
        """Answer works as the replica's engine does."""
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
        """End the process and the processes that it has started. It gets time to end by itself."""
        self._finalizer()

    def kill(self) -> None:
        """Kill the process at once, then end the processes that it has started."""
        self._process.kill()
        self.close()

    def _break_off(self) -> None:
        """Let the replica give up the present stream, and wait until it has."""
        with suppress(EngineError):  # the process is dead
            self._send(_BREAK_OFF)
            while not isinstance(self._receive(), tuple):
                pass

    def _give(self, stream: int, pull: "Future[Work | None]") -> None:
        """Send a work that was pulled, or that there are no more. Runs in the feed's thread.

        An exception in that thread would be lost. So it is kept, and the process is killed, which `_receive` notices.
        """
        try:
            self._send(pull.result() or _NO_MORE, stream)
        except EngineError:
            pass  # the process is dead, which `_receive` notices
        except BaseException as exc:  # `_receive` raises an EngineError that names it
            self._fault = exc
            self._process.kill()

    def _send(self, told: str | Work, stream: int | None = None) -> None:
        """Send a message or a work, unless it is for an earlier stream."""
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
            # A dead process does not always close the pipe: a child of its own may hold it open.
            while not self._pipe.poll(_SECONDS_BETWEEN_LOOKS):
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
    """Send a work to another process. Its arrays are written to a nameless file in memory, whose handle is sent too.

    Args:
        pipe: to the other process.
        work: the work.
        pid: of the other process.

    Raises:
        OSError: there is not enough memory, or the other process is gone.
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
    """Receive a work that `send_work` sends. Its arrays are not copied, and are writable.

    Args:
        pipe: to the other process.
        told: the first message of `send_work`: the pickled work, the start and end of each array in the file, and the
            size of the file in bytes.
    """
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
    """Run an engine in this process for its parent, until the parent closes its end of the pipe."""
    leave_group()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(environment)  # before any library looks for GPUs
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
    """The replica's side of the pipe: one thread listens for messages, the main thread runs the engine."""

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
    """An error that can be raised again in another process. Those of other libraries may not survive pickling."""
    return error if isinstance(error, ReelscribeError) else EngineError(f"{type(error).__name__}: {error}")


def _end(pipe: Connection, process: BaseProcess, guard: Guard) -> None:
    """End a replica's process: closing the pipe asks it to end, and after `_SECONDS_TO_STOP` it is killed."""
    pipe.close()
    process.join(_SECONDS_TO_STOP)
    if process.is_alive():
        process.kill()
        process.join()
    guard.close()
