"""Downloads over HTTP within limits of size, time and reach.

A URL in a data set is written by whoever wrote the data set. So each connection is made to an address that was looked
at first, redirects included: the name is resolved once, and what was checked is what is connected to. The time limit
holds for the whole download. Not covered: the time that the system's resolver takes, and, behind a proxy, where the
proxy itself connects to; there, names are checked as this machine resolves them.
"""

import http.client
import ipaddress
import socket
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from typing import Any, BinaryIO, Final
from urllib.parse import urlsplit

from reelscribe.errors import ClipError, FailureKind

_CHUNK = 1 << 20
_GONE: Final = (404, 410)
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_SILENCE_SECONDS = 30.0
"""A server that says nothing for so long has gone."""


def download(url: str, target: BinaryIO, *, max_bytes: int, seconds: float, allow_private: bool) -> None:
    """Fetch a whole file.

    Args:
        url: http or https.
        target: to write to.
        max_bytes: most that it may hold.
        seconds: longest that it may take.
        allow_private: whether it may come from an address that is not of the public internet.

    Raises:
        ClipError: kind "missing", "refused", or "download" for all else that goes wrong.
    """
    with _Guard(url, seconds, allow_private) as guard:
        try:
            with guard.opener().open(url, timeout=min(seconds, _SILENCE_SECONDS)) as response:
                _copy(response, target, url, max_bytes)
            if guard.expired.is_set():  # a socket that was shut down reads as one that came to its end
                raise TimeoutError("timed out")
        except urllib.error.HTTPError as exc:
            kind: FailureKind = "missing" if exc.code in _GONE else "download"
            raise ClipError(kind, f"{url} was not given; the server said {exc.code} {exc.reason}.") from exc
        except (OSError, http.client.HTTPException, ValueError) as exc:
            if guard.expired.is_set():
                message = f"{url}: the download took longer than {seconds:g} s (download_seconds)."
                raise ClipError("download", message) from exc
            raise ClipError("download", f"{url} cannot be downloaded: {getattr(exc, 'reason', None) or exc}.") from exc


def _copy(response: http.client.HTTPResponse, target: BinaryIO, url: str, max_bytes: int) -> None:
    stated, received = response.length, 0
    while stated is None or stated <= max_bytes:
        chunk = response.read1(_CHUNK)
        received += len(chunk)
        if received > max_bytes:
            break
        target.write(chunk)
        if not chunk:
            if stated is not None and received < stated:
                raise OSError(f"it broke off after {received:,} of {stated:,} bytes")
            return
    raise too_large(url, stated, max_bytes)


def too_large(url: str, size: int | None, max_bytes: int) -> ClipError:
    """The failure of a file that is larger than the limit; `size` is None where only that is known."""
    got = "more" if size is None else f"{size:,}"
    message = f"{url} is too large: at most {max_bytes:,} bytes are taken (max_video_bytes); got {got}."
    return ClipError("download", message)


class _Guard:
    """Watches over the connections of one download: where they lead, and that they end in time."""

    def __init__(self, url: str, seconds: float, allow_private: bool) -> None:
        self.expired = threading.Event()
        self._url = url
        self._allow_private = allow_private
        proxies = (urlsplit(proxy) for proxy in urllib.request.getproxies().values())
        self._proxies = {(proxy.hostname, proxy.port) for proxy in proxies}
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True

    def __enter__(self) -> "_Guard":
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _expire(self) -> None:
        """End what is being waited for: a read from a socket that was shut down returns."""
        self.expired.set()
        for opened in self._sockets:
            with suppress(OSError):
                socket.socket.shutdown(opened, socket.SHUT_RDWR)  # the plain one, also of a TLS socket

    def opener(self) -> urllib.request.OpenerDirector:
        """As `urllib.request` builds it, but for HTTP alone: no redirect leads to a file or to FTP."""
        opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            _Handler(self),
            urllib.request.HTTPRedirectHandler(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.UnknownHandler(),
        ):
            opener.add_handler(handler)
        return opener

    def connect(self, address: tuple[str, int], timeout: float, _: Any = None) -> socket.socket:
        """Connect to the first address of a host that answers, having checked all of them."""
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
        if address not in self._proxies:
            self._check(address[0], found)
        trouble: OSError = OSError(f"{address[0]} has no address")
        for family, kind, protocol, _name, where in found:
            opened = socket.socket(family, kind, protocol)
            try:
                opened.settimeout(timeout)
                opened.connect(where)
            except OSError as exc:
                opened.close()
                trouble = exc
            else:
                return self.watch(opened)
        raise trouble

    def watch(self, opened: socket.socket) -> socket.socket:
        """Have a socket shut down when the time is over."""
        self._sockets.append(opened)
        if self.expired.is_set():
            opened.close()
        return opened

    def check_behind_proxy(self, host: str) -> None:
        """Check a host that a proxy is to connect to, as far as this machine knows its address."""
        if self._proxies:
            with suppress(socket.gaierror):
                self._check(host, socket.getaddrinfo(host, None))

    def _check(self, host: str, found: list[Any]) -> None:
        if not self._allow_private:
            _check_public(self._url, host, found)


def _check_public(url: str, host: str, found: list[Any]) -> None:
    for *_, where in found:
        if not is_public(where[0]):
            message = f"{url} leads to {host} ({where[0]}), which is no public address; such URLs need "
            raise ClipError("refused", message + "allow_private_urls.")


def check_address(url: str) -> None:
    """Raise ClipError, kind "refused", where a URL leads to no public address, as far as this machine can tell."""
    with suppress(OSError, ValueError):
        host = urlsplit(url).hostname or ""
        _check_public(url, host, socket.getaddrinfo(host, None))


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet: not loopback, private, link-local, shared or reserved."""
    ip: Any = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 6:  # where an address of version 4 is meant, it is that one that counts
        embedded = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        if ip in _NAT64:
            embedded = ipaddress.ip_address(int(ip) & 0xFFFFFFFF)
        ip = embedded or ip
    return bool(ip.is_global and not ip.is_multicast)


class _Handler(urllib.request.HTTPSHandler, urllib.request.HTTPHandler):
    """Opens each hop with a connection that asks the guard."""

    def __init__(self, guard: _Guard) -> None:
        super().__init__()
        self._guard = guard

    def http_request(self, request: urllib.request.Request) -> urllib.request.Request:
        self._guard.check_behind_proxy(urlsplit(request.full_url).hostname or "")
        return self.do_request_(request)

    https_request = http_request

    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(self._plain, request)

    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(self._secure, request)

    def _plain(self, host: str, **options: Any) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(host, **options)
        connection._create_connection = self._guard.connect  # type: ignore[attr-defined]
        return connection

    def _secure(self, host: str, **options: Any) -> http.client.HTTPConnection:
        connection = _SecureConnection(host, **options)
        connection._create_connection = self._guard.connect  # type: ignore[attr-defined]
        connection.watch = self._guard.watch
        return connection


class _SecureConnection(http.client.HTTPSConnection):
    """TLS wraps the socket into another one, which is to be watched in its place."""

    watch: Any

    def connect(self) -> None:
        super().connect()
        self.watch(self.sock)
