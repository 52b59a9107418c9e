"""Sending: one POST to an address that was looked at, bounded as a whole; no redirect is ever followed.

A webhook's address is somebody's word: its name is resolved once, every address it has must be a public one, and the
connection goes to the very address that was judged. Loopback is for trying it out, by a setting.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
from contextlib import suppress
from typing import TypeAlias
from urllib.parse import urlsplit

SECONDS = 10.0
CONNECT_SECONDS = 3.0
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


class NotAllowedError(Exception):
    """The target's address is none that may be called; the text is a fixed phrase."""


class NoAnswerError(Exception):
    """The target could not be reached, or did not answer in time; the text is a fixed phrase."""


def post(url: str, headers: dict[str, str], body: bytes, *, loopback: bool = False, seconds: float = SECONDS) -> int:
    """Post a body and return the answer's status; raises NotAllowedError or NoAnswerError.

    Within ``seconds`` in all, however slowly the target drips.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    address = judged(host, port, loopback=loopback)
    connection = http.client.HTTPConnection(parts.netloc.rpartition("@")[2], timeout=CONNECT_SECONDS)
    try:
        connection.sock = _connected(address, port, host if parts.scheme == "https" else "", seconds)
        deadline = threading.Timer(seconds, _end, [connection.sock])
        deadline.start()
        try:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("POST", target, body, {**headers, "Connection": "close"})
            return connection.getresponse().status
        finally:
            deadline.cancel()
    except (OSError, http.client.HTTPException) as trouble:
        message = f"no answer: {type(trouble).__name__}"
        raise NoAnswerError(message) from trouble
    finally:
        connection.close()


def judged(host: str, port: int, *, loopback: bool) -> Address:
    """Return the address of a host that is to be called; raises NotAllowedError if any that it has is not public."""
    try:
        found = {
            ipaddress.ip_address(str(one[4][0])) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        }
    except (OSError, UnicodeError, ValueError) as trouble:
        message = f"its name leads nowhere: {type(trouble).__name__}"
        raise NoAnswerError(message) from trouble
    if not all(is_allowed(one, loopback=loopback) for one in found):
        message = "its address is not a public one"
        raise NotAllowedError(message)
    return min(found, key=lambda one: (one.version, int(one)))


def is_allowed(address: Address, *, loopback: bool) -> bool:
    """Tell whether an address may be called: public, and so whatever is wrapped in it; or loopback, where allowed."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is None and address in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_allowed(inner, loopback=loopback)
    if address.is_loopback:
        return loopback
    return address.is_global and not address.is_multicast


def _connected(address: Address, port: int, name: str, seconds: float) -> socket.socket:
    """Return a connection to the address itself; over TLS it must prove to be ``name``."""
    plain = socket.create_connection((str(address), port), CONNECT_SECONDS)
    plain.settimeout(seconds)
    if not name:
        return plain
    try:
        return ssl.create_default_context().wrap_socket(plain, server_hostname=name)
    except BaseException:
        plain.close()
        raise


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
