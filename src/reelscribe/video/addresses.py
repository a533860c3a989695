"""Checks that URLs in a data set lead to addresses of the public internet."""

import ipaddress
import socket
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

from reelscribe.errors import ClipError

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


def check_public(url: str, host: str, found: list[Any]) -> None:
    """Raise ClipError, kind "refused", if one of a host's addresses is not public."""
    for *_, where in found:
        if not is_public(where[0]):
            message = f"{url} leads to {host} ({where[0]}), which is no public address; such URLs need "
            raise ClipError("refused", message + "allow_private_urls.")


def check_address(url: str) -> None:
    """Raise ClipError, kind "refused", if a URL's host resolves to an address that is not public.

    If this machine cannot resolve the host, nothing is raised.
    """
    with suppress(OSError, ValueError):
        host = urlsplit(url).hostname or ""
        check_public(url, host, socket.getaddrinfo(host, None))


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet: not loopback, private, link-local, shared or reserved."""
    ip: Any = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 6:  # if it embeds an IPv4 address, that one is checked
        embedded = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        if ip in _NAT64:
            embedded = ipaddress.ip_address(int(ip) & 0xFFFFFFFF)
        ip = embedded or ip
    if ip.version == 6 and (ip.is_reserved or ip.is_site_local):  # this includes other embeddings of IPv4 addresses
        return False
    return bool(ip.is_global and not ip.is_multicast)
