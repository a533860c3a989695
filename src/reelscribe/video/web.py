"""Downloads over HTTP with limits on size, time and addresses.

URLs in a data set are not trusted. So each connection, also after a redirect, goes to an address that was checked: the
name is resolved once, and the checked address is the one that is connected to. The time limit holds for the whole
download, including waits for a busy server.

Not covered: the time that the system's resolver takes; and, behind a proxy, the address to which the proxy connects.
There, names are checked as this machine resolves them.

httpcore2 implements HTTP and pools connections; their sockets come from `sockets.py`.
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
"""Seconds between tries if a busy server sends no Retry-After header."""
_KEPT_SECONDS: Final = 15.0
"""Seconds that an idle connection is kept for the next download."""
_SMALL: Final = 1 << 16
"""Maximum size of an error's or redirect's body, in bytes, that is read so that the connection can be reused."""
_SILENCE_SECONDS: Final = 30.0
"""Seconds without data after which a server counts as gone."""
_ODD: Final = re.compile(r"[\x00-\x20\x7f]|%(?![0-9A-Fa-f]{2})")
"""Matches characters that must be percent-encoded in a URL, and that httpx2 does not encode."""


class Web:
    """Downloads files over HTTP. Threads may share one instance and its connections.

    Args:
        max_bytes: maximum size of a file, in bytes.
        seconds: time limit of a download.
        allow_private: whether files may come from addresses that are not of the public internet.
        max_kept: maximum number of idle connections that are kept.
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
        """Download a whole file.

        Args:
            url: http or https URL. Special characters may be percent-encoded or not. `user:password@` is sent as basic
                authentication.
            target: file object to write to.

        Raises:
            ClipError: kind "missing", "refused", or "download" for all other failures.
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
            why = "it is no URL" if "@" in url else reason(exc)  # the reason may contain a part of the password
            raise ClipError("download", f"{url} cannot be downloaded: {why}.") from exc
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.UnsupportedProtocol) as exc:
            raise ClipError("download", f"{url} cannot be downloaded: {reason(exc)}.") from exc
        except (httpcore2.ProxyError, ImportError) as exc:
            raise ClipError("download", f"{url} cannot be downloaded by the proxy: {exc}.") from exc
        if self._sockets.closed.is_set():  # reading from a socket that was shut down looks like the end of the file
            raise ClipError("download", f"{url}: the download was given up.")

    def close(self) -> None:
        """Cancel the downloads of all threads: every wait for a socket returns."""
        self._sockets.close()
        with self._lock:
            pools = list(self._pools.values())
        for pool in pools:
            with suppress(Exception):  # connections in use are closed by their own threads
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
        """A context that gives a server's response. A busy server is asked again when it says, or after pauses."""
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
            # Make all downloads from this server wait, so that their retries do not add up.
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
            self._check_behind_proxy(download, url.raw_host.decode())  # the form in which the proxy gets the name
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
                # Else it was a kept connection that the server closed just now: try again.
            except httpcore2.ConnectError as exc:
                if proxy:
                    raise httpcore2.ProxyError(reason(exc)) from exc
                raise

    def _take(self, download: Download, response: httpcore2.Response, target: BinaryIO) -> None:
        """Write the file in a response to the target.

        Raises:
            ClipError: the response has no file, or one that is too large or incomplete.
        """
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
        """Check the host to which a proxy connects, if this machine can resolve its name."""
        if not self._allow_private:
            with suppress(OSError, ValueError):
                check_public(download.url, host, socket.getaddrinfo(host, None))


def _quoted(found: re.Match[str]) -> str:
    return quote(found[0])


def _parsed(url: str) -> URL:
    """Parse a URL, percent-encoding characters that need it.

    Raises:
        InvalidURL: it is not a URL, or names no host.
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
    """Value of the Authorization header for a URL's `user:password@`; None if it has none."""
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
    """Read a response's body if it is small, so that its connection can be reused."""
    length = _header(response, b"content-length") or ""
    if re.fullmatch(r"[0-9]+", length) and int(length) <= _SMALL:
        with suppress(httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException):  # the head counts
            for _ in response.iter_stream():
                pass


def retry_after(value: str) -> float | None:
    """Seconds to wait, from the value of a Retry-After header: a number or a date; None if it is neither."""
    if re.fullmatch(r"\d+(\.\d+)?", value):
        return float(value)
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None


def too_large(url: str, size: int | None, max_bytes: int) -> ClipError:
    """The error for a file that is larger than the limit; `size` is None if its exact size is not known."""
    got = "more" if size is None else f"{size:,}"
    message = f"{url} is too large: at most {max_bytes:,} bytes are taken (max_video_bytes); got {got}."
    return ClipError("download", message)
