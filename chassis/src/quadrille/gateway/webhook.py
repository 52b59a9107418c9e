"""Webhooks: one POST to an address that was looked at, bounded as a whole; no redirect is ever followed.

A webhook's address is somebody's word: its name is resolved once, every address it has must be a public one, and the
connection goes to the very address that was judged. Loopback is for trying it out, by a setting. A body is signed as
the Standard Webhooks specification has it, so that any of its libraries verifies it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import ipaddress
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TypeAlias
from urllib.parse import urlsplit

from quadrille.gateway.http_client import NoResponseError

SECONDS = 10.0
CONNECT_SECONDS = 3.0
SECRET_BYTES = 32
_PREFIX = "whsec_"
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


class NotAllowedError(Exception):
    """The target's address is none that may be called; the text is a fixed phrase."""


def new_secret() -> str:
    """Return a secret to sign with, as the specification writes it."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def sign(keys: Sequence[str], identity: str, at: int, body: bytes) -> dict[str, str]:
    """Return the headers of a delivery: its id, the same each time, its time in seconds, a signature by each secret."""
    signed = f"{identity}.{at}.".encode() + body
    made = [hmac.digest(base64.b64decode(key.removeprefix(_PREFIX)), signed, hashlib.sha256) for key in keys]
    signatures = " ".join(f"v1,{base64.b64encode(one).decode()}" for one in made)
    return {"webhook-id": identity, "webhook-timestamp": str(at), "webhook-signature": signatures}


def send_webhook(  # noqa: PLR0913 - one of each thing a delivery has
    url: str, keys: Sequence[str], identity: str, body: bytes, *, loopback: bool = False, seconds: float = SECONDS
) -> int:
    """Post a signed JSON body and return the answer's status; raises what ``post`` raises."""
    headers = {"Content-Type": "application/json", "User-Agent": "quadrille"}
    return post(url, headers | sign(keys, identity, int(time.time()), body), body, loopback=loopback, seconds=seconds)


def post(url: str, headers: dict[str, str], body: bytes, *, loopback: bool = False, seconds: float = SECONDS) -> int:
    """Post a body and return the answer's status; raises NotAllowedError or NoResponseError.

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
        raise NoResponseError(message, sent=True, address=f"{host}:{port}") from trouble
    finally:
        connection.close()


def judged(host: str, port: int, *, loopback: bool) -> Address:
    """Return the address of a host that is to be called; raises NotAllowedError if any it has is not public."""
    try:
        found = {
            ipaddress.ip_address(str(one[4][0])) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        }
    except (OSError, UnicodeError, ValueError) as trouble:
        message = f"its name leads nowhere: {type(trouble).__name__}"
        raise NoResponseError(message, sent=False, address=f"{host}:{port}") from trouble
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
