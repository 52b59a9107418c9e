"""What a call may be answered with: now, later, piece by piece, or never."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that is ready."""

    status: int
    content: bytes
    kind: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Later:
    """An answer that is made after some seconds, whether or not the caller is still there."""

    seconds: float
    finish: Callable[[], Answer]


@dataclass(frozen=True, slots=True)
class Lost:
    """No answer: the connection is held until the caller gives up."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """An answer of any length, sent in pieces at the reader's pace."""

    kind: str
    pieces: Iterator[bytes]


Answer: TypeAlias = Reply | Later | Lost | Streamed


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request; header names are in lower case."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


def reply(status: int, document: object, *headers: tuple[str, str]) -> Reply:
    """Return a JSON answer."""
    return Reply(status, json.dumps(document, separators=(",", ":")).encode(), JSON, headers)


def refusal(status: int, error: str, detail: str, *headers: tuple[str, str]) -> Reply:
    """Return an error of the processor: nothing was stored, nothing was moved."""
    return reply(status, {"error": error, "detail": detail}, *headers)
