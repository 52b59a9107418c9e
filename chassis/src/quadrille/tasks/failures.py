"""Failures of the outside, as they are kept with their task: what went wrong and where, never a secret."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime

from quadrille.gateway.breaker import CircuitOpenError
from quadrille.gateway.http_client import NoResponseError
from quadrille.intents import TransientError

OURS = (TransientError, NoResponseError, CircuitOpenError)  # their texts are phrases made for people
PHRASE_MOST = 200


def failure_of(trouble: BaseException) -> dict[str, str]:
    """Return the last failure of a call outside: its kind, the address that was called, a phrase, the time."""
    chain = [*_chain(trouble)]
    root = chain[-1]
    address = next((text for one in chain if (text := str(getattr(one, "address", "")))), "")
    phrase = _system_phrase(root) or next((str(one) for one in chain if isinstance(one, OURS)), type(root).__name__)
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"kind": type(root).__name__, "address": address, "phrase": phrase[:PHRASE_MOST], "at": at}


def _chain(trouble: BaseException) -> Iterator[BaseException]:
    one: BaseException | None = trouble
    while one is not None:
        yield one
        one = one.__cause__


def _system_phrase(root: BaseException) -> str:
    """Return what the system calls it: no text of the other side's."""
    if isinstance(root, socket.gaierror):
        return "its name is not known"
    if isinstance(root, TimeoutError):
        return "no answer in time"
    if isinstance(root, OSError) and root.errno:
        return os.strerror(root.errno).lower()
    return ""
