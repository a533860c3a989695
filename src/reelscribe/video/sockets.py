"""Sockets for downloads: each connects to a checked address, keeps a deadline, and can be shut down by any thread."""

import logging
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final
from weakref import WeakSet

import httpcore2

from reelscribe.errors import without_passwords
from reelscribe.video.addresses import check_public

_LOGS: Final = tuple(f"httpcore2.{part}" for part in ("connection", "http11", "proxy", "socks"))
"""Loggers to which httpcore2 writes requests and responses, at level DEBUG."""
_LEAST_SECONDS: Final = 0.001
"""Minimum timeout of a connection attempt, in seconds. A timeout of 0 would make the socket non-blocking."""


class _WithoutPasswords(logging.Filter):
    """Removes passwords from logged URLs, such as that of a redirect."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = without_passwords(record.getMessage()), ()
        return True


for _name in _LOGS:
    logging.getLogger(_name).addFilter(_WithoutPasswords())


class Download:
    """One download under way."""

    def __init__(self, url: str, seconds: float) -> None:
        self.url = url
        self.deadline = time.monotonic() + seconds
        self.has_connected = False
        """Whether the current request needed a new connection."""

    def left(self, seconds: float | None = None) -> float:
        """Seconds until the deadline, but at most `seconds`."""
        left = self.deadline - time.monotonic()
        return left if seconds is None else min(left, seconds)


class Sockets:
    """The sockets of a run. Each thread uses its sockets for one download at a time."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        self._open: WeakSet[socket.socket] = WeakSet()
        self._lock = threading.Lock()
        self._local = threading.local()

    def begin(self, download: Download) -> None:
        """Set the download for which this thread uses sockets from now on."""
        self._local.download = download

    def close(self) -> None:
        """Shut down all sockets, so that waits in all threads return. No further socket is opened."""
        self.closed.set()
        with self._lock:
            sockets = list(self._open)
        for opened in sockets:
            with suppress(OSError):
                socket.socket.shutdown(opened, socket.SHUT_RDWR)  # not SSLSocket's own method, which drops TLS state

    def backend(self, *, check: bool) -> httpcore2.NetworkBackend:
        """The network backend for a connection pool; with `check` it connects to public addresses only."""
        return _Backend(self, check=check)

    def connect(self, host: str, port: int, timeout: float | None, *, check: bool) -> socket.socket:
        """Connect to the first address of a host that accepts. With `check`, all its addresses are checked before.

        Raises:
            ClipError: kind "refused", if an address is not public.
            httpcore2.ConnectError, httpcore2.ConnectTimeout: no address accepts.
        """
        download: Download = self._local.download
        download.has_connected = True
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, ValueError, OverflowError) as exc:
            raise httpcore2.ConnectError(reason(exc)) from exc
        if check:
            check_public(download.url, host, found)
        trouble: OSError = OSError("it has no address")
        for family, kind, protocol, _name, where in found:
            opened = socket.socket(family, kind, protocol)
            try:
                self.watch(opened)
                opened.settimeout(max(download.left(timeout), _LEAST_SECONDS))
                opened.connect(where)
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as exc:
                opened.close()
                trouble = exc
            else:
                return opened
        error = httpcore2.ConnectTimeout if isinstance(trouble, TimeoutError) else httpcore2.ConnectError
        raise error(reason(trouble)) from trouble

    def watch(self, opened: socket.socket) -> None:
        """Register a socket, so that `close` shuts it down.

        Raises:
            OSError: `close` was called already.
        """
        with self._lock:
            self._open.add(opened)
        if self.closed.is_set():
            raise OSError("the download was given up")

    def left(self, timeout: float | None) -> float:
        """Seconds that this thread's download may wait for a socket, at most `timeout`.

        Raises:
            TimeoutError: no time is left.
        """
        left = float(self._local.download.left(timeout))
        if left <= 0:
            raise TimeoutError("timed out")
        return left


class _Backend(httpcore2.NetworkBackend):
    """Makes the connections of a pool."""

    def __init__(self, sockets: Sockets, *, check: bool) -> None:
        self._sockets, self._check = sockets, check

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, *_: Any, **__: Any) -> "_Stream":
        return _Stream(self._sockets, self._sockets.connect(host, port, timeout, check=self._check))


class _Stream(httpcore2.NetworkStream):
    """A connection. Each of its waits ends at the deadline of the download that uses it."""

    def __init__(self, sockets: Sockets, opened: socket.socket) -> None:
        self._sockets, self._socket = sockets, opened

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _translated(httpcore2.ReadTimeout, httpcore2.ReadError):
            self._socket.settimeout(self._sockets.left(timeout))
            return self._socket.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _translated(httpcore2.WriteTimeout, httpcore2.WriteError):
            self._socket.settimeout(self._sockets.left(timeout))
            self._socket.sendall(buffer)

    def close(self) -> None:
        self._socket.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> "_Stream":
        with _translated(httpcore2.ConnectTimeout, httpcore2.ConnectError):
            if isinstance(self._socket, ssl.SSLSocket):
                raise OSError("a proxy that is itself asked by https cannot be used for https; name it as http://...")
            self._socket.settimeout(self._sockets.left(timeout))
            wrapped = ssl_context.wrap_socket(self._socket, server_hostname=server_hostname)
            self._sockets.watch(wrapped)  # it replaces the plain socket, which wrap_socket has detached
        return _Stream(self._sockets, wrapped)

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            return self._socket if isinstance(self._socket, ssl.SSLSocket) else None
        return _is_readable(self._socket) if info == "is_readable" else None


def reason(exc: Exception) -> str:
    """The reason of an error: the system's message if there is one."""
    return str(getattr(exc, "strerror", None) or exc or type(exc).__name__).rstrip(".")


@contextmanager
def _translated(over: type[Exception], broken: type[Exception]) -> Iterator[None]:
    try:
        yield
    except TimeoutError as exc:
        raise over(str(exc)) from exc
    except (OSError, ValueError) as exc:  # ValueError: a host name that TLS does not accept
        raise broken(reason(exc)) from exc


def _is_readable(opened: socket.socket) -> bool:
    """Whether a socket is readable. For an idle connection this means that the server has closed it."""
    with selectors.DefaultSelector() as selector:
        try:
            selector.register(opened, selectors.EVENT_READ)
        except ValueError:  # closed
            return True
        return bool(selector.select(0))
