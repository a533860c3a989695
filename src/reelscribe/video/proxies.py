"""Finds the proxy for a URL in the environment or the system's settings."""

import ipaddress
import urllib.request
from contextlib import suppress
from importlib.util import find_spec

import httpcore2
from httpx2 import URL, InvalidURL


def proxy_of(url: URL) -> str | None:
    """The proxy that the environment or the system names for a URL; None for a direct connection.

    A proxy that is named without a scheme gets `http://`. It may have no port.
    """
    proxies = urllib.request.getproxies()
    named = (proxies.get(url.scheme) or proxies.get("all") or "").strip()
    if not named or _goes_direct(url, proxies.get("no", "")):
        return None
    return named if "://" in named else f"http://{named}"


def _goes_direct(url: URL, no_proxy: str) -> bool:
    """Whether a host is reached without a proxy, because `no_proxy` has its name, its domain or its network."""
    port = url.port or {"http": 80, "https": 443}[url.scheme]
    if urllib.request.proxy_bypass(url.host) or urllib.request.proxy_bypass(f"{url.host}:{port}"):
        return True
    for name in (each.strip() for each in no_proxy.split(",")):
        if name.startswith("*.") and f".{url.host}".endswith(name[1:].lower()):
            return True
        with suppress(ValueError):
            if ipaddress.ip_address(url.host) in ipaddress.ip_network(name.strip("[]"), strict=False):
                return True
    return False


def as_proxy(named: str) -> httpcore2.Proxy:
    """A named proxy as httpcore2 takes it.

    Raises:
        ProxyError: the name is invalid, or SOCKS support is not installed.
    """
    try:
        url = URL(named)
    except (InvalidURL, UnicodeError):
        url = URL("")
    if url.scheme not in ("http", "https", "socks5", "socks5h") or not url.host:
        raise httpcore2.ProxyError("the environment must name one as http://host:port (https, socks5 and socks5h too)")
    if url.scheme.startswith("socks") and find_spec("socksio") is None:
        raise httpcore2.ProxyError("one that speaks SOCKS needs socksio: pip install socksio")
    port = url.port or (1080 if url.scheme.startswith("socks") else None)
    login = (url.username.encode(), url.password.encode()) if url.userinfo else None
    return httpcore2.Proxy(
        httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=port, target=b"/"),
        auth=login,
    )
