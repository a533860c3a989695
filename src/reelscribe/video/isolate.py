"""Decoding in separate processes, so that a crash or a hang inside FFmpeg affects only its clip.

Starting a process takes a fifth of a second. So a process starts when a clip needs it, and stays for later clips and
runs until it has been idle for a minute.
"""

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Pipe
from multiprocessing.spawn import get_executable
from pathlib import Path
from typing import Any, Final, Literal, TypeVar
from weakref import WeakSet, ref

from reelscribe.errors import ClipError, EngineError
from reelscribe.values import Clip, Frames
from reelscribe.video.headers import Header
from reelscribe.video.sampling import FrameChoice
from reelscribe.video.scenes import Scene
from reelscribe.video.shared import SeenFrames, nameless_file, write
from reelscribe.video.worker import READY, TOO_LARGE, Answer

_T = TypeVar("_T")

AVAILABLE: Final = os.name == "posix"
"""Whether this system can pass open files to a new process."""
_START_SECONDS = 120.0
"""Maximum seconds for a process to start: Python may load from a slow network disk."""
_END_SECONDS = 10.0
"""Maximum seconds to wait for a process that was killed or has crashed."""
_PASSED_ON: Final = frozenset(
    {
        *("PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP", "VIRTUAL_ENV"),
        *("PYTHONHOME", "PYTHONPATH", "PYTHONUTF8", "PYTHONHASHSEED", "PYTHONFAULTHANDLER", "PYTHONNOUSERSITE"),
        *("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONMALLOC"),
    }
)
_PASSED_ON_PREFIXES: Final = ("LC_", "LD_", "DYLD_", "MALLOC_", "GLIBC_")
"""Prefixes of environment variables that Python, its libraries and the linker may need to start."""
_LONGEST_SECONDS = 1e6
"""The longest wait that every system accepts, in seconds."""


class DecoderPool:
    """The decoder processes of a run.

    Args:
        seconds: time limit of a clip.
        max_memory: memory limit of a decoder, in bytes.
    """

    def __init__(self, *, seconds: float, max_memory: int) -> None:
        self._seconds = min(seconds, _LONGEST_SECONDS)
        self.max_memory = max_memory
        """Memory limit of each decoder, in bytes."""
        self._busy: set[_Decoder] = set()
        self._closed = False
        self._lock = threading.Lock()

    def decode(self, clip: Clip, budget: FrameChoice, *, threads: int) -> Frames:
        """Decode a clip as `decode.decode` does. Several threads may call this at once; each call uses its own process.

        Raises:
            ClipError: a kind of `decode.decode`, or "crashed", "timeout", or "too_large" for memory.
            EngineError: a process cannot be started.
        """
        return self._with_decoder(lambda decoder: decoder.decode(clip, budget, threads, self._seconds))

    def read_header(self, clip: Clip) -> Header:
        """Read a clip's header as `headers.read_header` does. Several threads may call this at once.

        Raises:
            ClipError: a kind of `headers.read_header`, or "crashed", "timeout", or "too_large" for memory.
            EngineError: a process cannot be started.
        """
        return self._with_decoder(lambda decoder: decoder.read_header(clip, self._seconds))

    def find_scenes(self, clip: Clip, seconds: float) -> list[Scene]:
        """Find a film's scenes as `scenes.find_scenes` does. `seconds` is the time limit, in place of that of a clip.

        Raises:
            ClipError: a kind of `scenes.find_scenes`, or "crashed", "timeout", or "too_large" for memory.
            EngineError: a process cannot be started.
        """
        return self._with_decoder(lambda decoder: decoder.find_scenes(clip, min(seconds, _LONGEST_SECONDS)))

    def _with_decoder(self, work: Callable[["_Decoder"], _T]) -> _T:
        while True:
            decoder = None if self._closed else _take(self.max_memory)
            with self._lock:
                if decoder is None or self._closed:
                    _idle.extend([decoder] if decoder else [])
                    raise ClipError("crashed", "the clip was given up, as the run ended.")
                self._busy.add(decoder)
                decoder.pool, decoder.thread = ref(self), threading.get_ident()
            try:
                return work(decoder)
            except _LeftError:
                continue
            except ClipError:
                raise
            except BaseException:  # such as Ctrl-C: the unread answer would be taken for that of the next clip
                decoder.usable = False
                raise
            finally:
                with self._lock:
                    self._busy.discard(decoder)
                    if decoder.usable:
                        _idle.append(decoder)
                if not decoder.usable:
                    decoder.end()

    def close(self) -> None:
        """Kill the decoders that are decoding a clip. Idle ones stay, but return their unused memory."""
        with self._lock:
            self._closed = True
            for decoder in self._busy:
                decoder.usable = False  # even if it finishes just now, the next run must not use it: it is being killed
                decoder.process.kill()
        for _ in range(len(_idle)):
            with contextlib.suppress(IndexError):  # another run has taken it
                decoder = _idle.popleft()
                decoder.frames.trim()
                _idle.append(decoder)


class _LeftError(Exception):
    """An idle decoder process exited just before it got work."""


class _Decoder:
    """The owner's handle of a decoder process."""

    def __init__(self, max_memory: int) -> None:
        self.max_memory = max_memory
        self.usable = True
        self.thread = threading.get_ident()
        """The thread that it last worked for."""
        self.pool: Callable[[], DecoderPool | None] = lambda: None
        """Weak reference to the pool that it last worked for."""
        self._connection, theirs = Pipe()
        self._clips = nameless_file()
        self.frames = SeenFrames()
        shared = (theirs.fileno(), self._clips.fileno(), self.frames.file.fileno())
        try:
            self.process = _start(shared, max_memory)
        except OSError as exc:
            raise _cannot_start(exc.strerror or str(exc)) from exc
        finally:
            theirs.close()
        _all.add(self)
        try:
            ready = self._connection.poll(_START_SECONDS) and self._connection.recv() == READY
        except (EOFError, OSError):
            ready = False
        if not ready:
            self.end()
            raise _cannot_start("it was not ready to work; see what it printed")

    def decode(self, clip: Clip, budget: FrameChoice, threads: int, seconds: float) -> Frames:
        """Let the process decode a clip; raise what it raised."""
        frames: Frames
        pixels, frames = self._ask(clip, budget, threads, seconds)
        return replace(frames, pixels=self.frames.array(*pixels) if isinstance(pixels, tuple) else pixels)

    def read_header(self, clip: Clip, seconds: float) -> Header:
        """Let the process read a clip's header; raise what it raised."""
        header: Header = self._ask(clip, "header", 1, seconds)
        return header

    def find_scenes(self, clip: Clip, seconds: float) -> list[Scene]:
        """Let the process find a film's scenes; raise what it raised."""
        scenes: list[Scene] = self._ask(clip, "scenes", 1, seconds)
        return scenes

    def _ask(self, clip: Clip, budget: FrameChoice | Literal["header", "scenes"], threads: int, seconds: float) -> Any:
        """Ask the process, and wait for its answer. Raises what it raised."""
        size, clip_sent = None, clip
        if isinstance(clip.source, bytes):
            with contextlib.suppress(OSError):  # if the file has no room, the bytes go over the socket
                write(self._clips.fileno(), clip.source)
                size, clip_sent = len(clip.source), replace(clip, source=b"")
        elif not clip.path.is_absolute():
            clip_sent = replace(clip, root=Path.cwd() / (clip.root or ""))
        try:
            self._connection.send((clip_sent, size, budget, threads, self.frames.taken()))
            if not self._connection.poll(seconds):
                self.end()
                message = f"{clip.name} took longer than {seconds:g} seconds to decode; decode_seconds allows more."
                raise ClipError("timeout", message)
            answer: Answer = self._connection.recv()
        except (EOFError, OSError) as exc:
            raise self._ended(clip) from exc
        if isinstance(answer, ClipError):
            raise answer
        return answer

    def _ended(self, clip: Clip) -> Exception:
        """The error for a clip whose decoder process ended: by its exit code."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_END_SECONDS)
        self.end()
        code = self.process.returncode
        if code == 0:
            return _LeftError()
        if code == TOO_LARGE:
            message = f"{clip.name} takes more than {self.max_memory:,} bytes to decode; decoder_bytes allows more."
            return ClipError("too_large", message)
        how = f"exit code {code}"
        if code is not None and code < 0:
            how = signal.Signals(-code).name
        if code == -signal.SIGKILL:
            how += ", as a system short of memory does"
        return ClipError("crashed", f"{clip.name}: its decoder crashed ({how}).")

    def end(self) -> None:
        """End the process, and wait until it is gone."""
        self.usable = False
        self.process.kill()
        # A process that waits for a disk that is gone cannot be killed, so the wait has a limit.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_END_SECONDS)
        self._close()

    def forget(self) -> None:
        """Close the socket in a forked child, so that only the owner's close ends the decoder."""
        self.usable = False
        self._close()
        self.process.returncode = 0

    def _close(self) -> None:
        self._connection.close()
        self._clips.close()
        self.frames.file.close()


_idle: deque[_Decoder] = deque()
_all: WeakSet[_Decoder] = WeakSet()


def _take(max_memory: int) -> _Decoder:
    """An idle decoder with this memory limit, or a new one. Others stay idle if their run goes on, else they end.

    Decoders that this thread used last are preferred.
    """
    for decoder in tuple(_idle):
        if decoder.thread == threading.get_ident():  # it may have a film open, whose next stretch may come now
            with contextlib.suppress(ValueError):  # another thread has taken it
                _idle.remove(decoder)
                _idle.append(decoder)
    for _ in range(len(_idle)):
        try:
            decoder = _idle.pop()
        except IndexError:  # another thread has taken the last one
            break
        alive = decoder.process.poll() is None
        if alive and decoder.max_memory == max_memory:
            return decoder
        pool = decoder.pool()
        if alive and pool and not pool._closed:
            _idle.appendleft(decoder)
        else:
            decoder.end()
    return _Decoder(max_memory)


def _environment() -> dict[str, str]:
    """Environment of a decoder process, without keys, tokens or passwords, since it opens untrusted files."""
    return {
        name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
    } | {"OPENBLAS_NUM_THREADS": "1"}  # decoders need no parallel matrix products, so start no threads for them


def _start(shared: tuple[int, ...], max_memory: int) -> "subprocess.Popen[bytes]":
    told = f"*{shared}, {os.getpid()}, {max_memory}"
    path = [str(folder) for folder in sys.path]
    code = f"import sys; sys.path[:] = {path}; from reelscribe.video.worker import main; main({told})"
    return subprocess.Popen(
        [os.fsdecode(get_executable()), "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=shared,
        env=_environment(),
        start_new_session=True,  # a terminal sends Ctrl-C to the whole process group; only the owner handles it
    )


def _cannot_start(why: str) -> EngineError:
    return EngineError(
        f"a decoder's process cannot be started: {why}. With decoders=0 clips are decoded in this process."
    )


@atexit.register
def end_idle() -> None:
    """End all idle decoders."""
    with contextlib.suppress(IndexError):
        while True:
            _idle.pop().end()


def _forget_all() -> None:
    for decoder in tuple(_all):
        decoder.forget()
    _idle.clear()


if AVAILABLE:
    os.register_at_fork(after_in_child=_forget_all)
