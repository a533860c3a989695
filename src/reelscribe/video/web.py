"""Downloads over HTTP within limits of size, time and reach.

A URL in a data set is written by whoever wrote the data set. So each connection is made to an address that was checked
first, redirects included: the name is resolved once, and what was checked is what is connected to. The time limit holds
for the whole download, waiting for a busy server included. Not covered: the time that the system's resolver takes, and,
behind a proxy, where the proxy itself connects to; there, names are checked as this machine resolves them.

httpcore2 speaks HTTP and keeps connections; their sockets are ours.
"""

import base64
import email.utils
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import BinaryIO, Final
from urllib.parse import quote

import httpcore2
from httpx2 import URL, InvalidURL

from reelscribe.errors import ClipError, FailureKind
from reelscribe.video.addresses import check_public
from reelscribe.video.proxies import as_proxy, proxy_of
from reelscribe.video.sockets import Download, Sockets, reason

_AGENT: Final = b"reelscribe"
_GONE: Final = (404, 410)
_MOVED: Final = (301, 302, 303, 307, 308)
_BUSY: Final = (429, 503)
_MOST_REDIRECTS: Final = 10
_PAUSES: Final = (1.0, 2.0, 4.0, 8.0)
"""Seconds between tries, if a busy server does not say when to come back."""
_KEPT_SECONDS: Final = 15.0
"""That a connection may wait for its next download."""
_SMALL: Final = 1 << 16
"""Bytes of an answer without a file that are read, so that its connection can be kept."""
_SILENCE_SECONDS: Final = 30.0
"""A server that says nothing for this long has gone."""
_ODD: Final = re.compile(r"[\x00-\x20\x7f]|%(?![0-9A-Fa-f]{2})")
"""Characters that a URL holds only if they are quoted, and that httpx2 does not quote."""


class Web:
    """Fetches files. Threads may share one, and with it the connections that are kept.

    Args:
        max_bytes: most that a file may hold.
        seconds: longest that a download may take.
        allow_private: whether files may come from addresses that are not of the public internet.
        max_kept: connections that are kept while no download needs them.
    """

    def __init__(self, *, max_bytes: int, seconds: float, allow_private: bool, max_kept: int = 1) -> None:
        self._max_bytes, self._seconds, self._allow_private, self._max_kept = (
            max_bytes,
            seconds,
            allow_private,
            max_kept,
        )
        self._pools: dict[str | None, httpcore2.ConnectionPool] = {}
        self._busy_until: dict[tuple[str, str, int | None], float] = {}
        self._sockets = Sockets()
        self._lock = threading.Lock()

    def download(self, url: str, target: BinaryIO) -> None:
        """Fetch a whole file.

        Args:
            url: http or https; what has to be quoted in it may be, or not. `user:password@` is used.
            target: to write to.

        Raises:
            ClipError: kind "missing", "refused", or "download" for all else that goes wrong on the way.
            OSError: the target cannot be written to.
        """
        download = Download(url, self._seconds)
        self._sockets.begin(download)
        try:
            self._follow(download, _parsed(url), target)
        except httpcore2.TimeoutException as exc:
            silent = f": the server said nothing for {_SILENCE_SECONDS:g} s."
            took = f": the download took longer than {self._seconds:g} s (download_seconds)."
            raise ClipError("download", url + (silent if download.left() > 0 else took)) from exc
        except InvalidURL as exc:
            why = "it is no URL" if "@" in url else reason(exc)  # which may hold a part of a password
            raise ClipError("download", f"{url} cannot be downloaded: {why}.") from exc
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.UnsupportedProtocol) as exc:
            raise ClipError("download", f"{url} cannot be downloaded: {reason(exc)}.") from exc
        except (httpcore2.ProxyError, ImportError) as exc:
            raise ClipError("download", f"{url} cannot be downloaded by the proxy: {exc}.") from exc
        if self._sockets.closed.is_set():  # a socket that was shut down reads as one that came to its end
            raise ClipError("download", f"{url}: the download was given up.")

    def close(self) -> None:
        """Give up what is under way, in other threads: what waits for a socket returns."""
        self._sockets.close()
        with self._lock:
            pools = list(self._pools.values())
        for pool in pools:
            with suppress(Exception):  # connections in use are their own threads' to close
                pool.close()

    def _follow(self, download: Download, url: URL, target: BinaryIO) -> None:
        login = _login(url)
        for _ in range(_MOST_REDIRECTS + 1):
            with self._answer(download, url, login) as response:
                location = _header(response, b"location") if response.status in _MOVED else None
                if location is None:
                    self._take(download, response, target)
                    return
                _drain(response)
            moved = url.join(_ODD.sub(_quoted, location.strip()))
            if moved.scheme not in ("http", "https"):
                raise ClipError("download", f"{download.url} leads on to a URL that is not of http or https.")
            login = _login(moved) or (login if _origin(moved) == _origin(url) else None)
            url = moved
        raise ClipError("download", f"{download.url} leads on to another URL more than {_MOST_REDIRECTS} times.")

    @contextmanager
    def _answer(self, download: Download, url: URL, login: bytes | None) -> Iterator[httpcore2.Response]:
        """A server's answer; one that is too busy is asked again when it says, or after some pauses."""
        pauses = iter(_PAUSES)
        while True:
            self._wait_for(download, url)
            response = self._ask(download, url, login)
            if response.status not in _BUSY:
                break
            asked = retry_after(_header(response, b"retry-after") or "")
            pause = asked if asked is not None else next(pauses, _PAUSES[-1] if response.status == 429 else None)
            if pause is None:
                break
            if pause > download.left():
                response.close()
                message = f"{download.url} was not given in time: the server said {_status(response)}"
                raise ClipError("download", f"{message}, and to ask again in {pause:,.0f} s.")
            _drain(response)
            response.close()
            # For all downloads from there, so that their retries do not add up.
            self._busy_until[_origin(url)] = max(time.monotonic() + pause, self._busy_until.get(_origin(url), 0.0))
        try:
            yield response
        finally:
            response.close()

    def _wait_for(self, download: Download, url: URL) -> None:
        while (pause := self._busy_until.get(_origin(url), 0.0) - time.monotonic()) > 0:
            if self._sockets.closed.wait(min(pause, max(download.left(), 0))) or download.left() <= 0:
                raise httpcore2.ReadTimeout("the server is busy")

    def _ask(self, download: Download, url: URL, login: bytes | None) -> httpcore2.Response:
        proxy = proxy_of(url)
        if proxy:
            self._check_behind_proxy(download, url.raw_host.decode())  # as the proxy is told it
        headers = [
            (b"Host", url.netloc),
            (b"User-Agent", _AGENT),
            (b"Accept", b"*/*"),
            (b"Accept-Encoding", b"identity"),
        ]
        request = httpcore2.Request(
            b"GET",
            httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=headers + ([(b"Authorization", login)] if login else []),
            extensions={"timeout": dict.fromkeys(("connect", "read", "write"), _SILENCE_SECONDS)},
        )
        while True:
            download.has_connected = False
            try:
                return self._pool(proxy).handle_request(request)
            except (httpcore2.ReadError, httpcore2.WriteError, httpcore2.RemoteProtocolError):
                if download.has_connected:
                    raise
                # else a kept connection, which the server ended just now: that says nothing of this file
            except httpcore2.ConnectError as exc:
                if proxy:
                    raise httpcore2.ProxyError(reason(exc)) from exc
                raise

    def _take(self, download: Download, response: httpcore2.Response, target: BinaryIO) -> None:
        """Write the file that an answer holds."""
        url = download.url
        if response.status != 200:
            kind: FailureKind = "missing" if response.status in _GONE else "download"
            _drain(response)
            raise ClipError(kind, f"{url} was not given; the server said {_status(response)}.")
        length = _header(response, b"content-length") or ""
        stated, received = int(length) if re.fullmatch(r"[0-9]+", length) else None, 0
        if stated is not None and stated > self._max_bytes:
            raise too_large(url, stated, self._max_bytes)
        try:
            for chunk in response.iter_stream():
                received += len(chunk)
                if received > self._max_bytes:
                    raise too_large(url, stated, self._max_bytes)
                target.write(chunk)
        except httpcore2.RemoteProtocolError as exc:
            if stated is None:
                raise
            message = f"{url} cannot be downloaded: it broke off after {received:,} of {stated:,} bytes."
            raise ClipError("download", message) from exc

    def _pool(self, proxy: str | None) -> httpcore2.ConnectionPool:
        with self._lock:
            if proxy not in self._pools:
                self._pools[proxy] = httpcore2.ConnectionPool(
                    ssl_context=self._ssl_context,
                    proxy=as_proxy(proxy) if proxy else None,
                    max_connections=None,
                    max_keepalive_connections=self._max_kept,
                    keepalive_expiry=_KEPT_SECONDS,
                    network_backend=self._sockets.backend(check=not (self._allow_private or proxy)),
                )
            return self._pools[proxy]

    @cached_property
    def _ssl_context(self) -> ssl.SSLContext:
        return httpcore2.default_ssl_context()

    def _check_behind_proxy(self, download: Download, host: str) -> None:
        """Check a host that a proxy is to connect to, as far as this machine knows its address."""
        if not self._allow_private:
            with suppress(OSError, ValueError):
                check_public(download.url, host, socket.getaddrinfo(host, None))


def _quoted(found: re.Match[str]) -> str:
    return quote(found[0])


def _parsed(url: str) -> URL:
    """A URL whose blanks, letters and control characters are quoted where they are not.

    Raises:
        InvalidURL: it is none.
    """
    scheme, _, rest = url.strip().partition("://")
    try:
        parsed = URL(f"{scheme}://{_ODD.sub(_quoted, rest)}")
    except UnicodeError as exc:
        raise InvalidURL("it holds half a surrogate pair") from exc
    if not parsed.host:
        raise InvalidURL("it names no host")
    return parsed


def _origin(url: URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _login(url: URL) -> bytes | None:
    """What a URL's `user:password@` is in a request's header."""
    if not url.userinfo:
        return None
    return b"Basic " + base64.b64encode(f"{url.username}:{url.password}".encode())


def _header(response: httpcore2.Response, name: bytes) -> str | None:
    found = next((value for key, value in response.headers if key.lower() == name), None)
    return None if found is None else found.decode("utf-8", "replace").strip()


def _status(response: httpcore2.Response) -> str:
    reason: bytes = response.extensions.get("reason_phrase", b"")
    return f"{response.status} {reason.decode('ascii', 'replace')}".strip()


def _drain(response: httpcore2.Response) -> None:
    """Read what an answer says beside its head, if that is little: else its connection is of no more use."""
    length = _header(response, b"content-length") or ""
    if re.fullmatch(r"[0-9]+", length) and int(length) <= _SMALL:
        with suppress(httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException):  # the head counts
            for _ in response.iter_stream():
                pass


def retry_after(value: str) -> float | None:
    """Seconds that a server asks to wait, in a header that holds seconds or a date; None if it holds neither."""
    if re.fullmatch(r"\d+(\.\d+)?", value):
        return float(value)
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None


def too_large(url: str, size: int | None, max_bytes: int) -> ClipError:
    """The failure of a file that is larger than the limit; `size` is None if only that is known."""
    got = "more" if size is None else f"{size:,}"
    message = f"{url} is too large: at most {max_bytes:,} bytes are taken (max_video_bytes); got {got}."
    return ClipError("download", message)
