"""HTTP/1.1 as the sandbox needs it: answers that come late, in pieces, or never, and no work between calls.

A connection has deadlines, there are only so many, and what is refused is read away so that the refusal arrives.
"""

from __future__ import annotations

import asyncio
import json
import resource
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TypeAlias, cast
from urllib.parse import parse_qsl, unquote

import httptools

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


HELD_SECONDS = 30.0  # a lost answer's connection, unless the caller gives up first
REQUEST_LIMIT = 64 * 1024 + 16 * 1024  # body and headers
PIECE = 64 * 1024
REQUEST_SECONDS = 30.0  # from a connection's begin, or a request's first byte, until the request is whole
KEEP_ALIVE_SECONDS = 75.0
READ_SECONDS = 60.0  # until what is written has been read
LINGER_SECONDS, LINGER_BYTES = 10.0, 32 << 20
MOST, ROOM = 1000, 100  # connections at once; files for all else
ONCE = frozenset({"host", "idempotency-key", "content-type", "content-length"})
_STATUS = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}
_NO_HEADERS: dict[str, str] = {}


def places() -> int:
    """Raise this process's limit of open files as far as it may itself; return how many connections that allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft not in (hard, resource.RLIM_INFINITY):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return MOST if soft == resource.RLIM_INFINITY else max(8, min(MOST, soft - ROOM))


class Connection(asyncio.Protocol):
    """One client's connection: requests are answered in the order they came."""

    def __init__(self, handle: Callable[[Request], Answer], connections: set[Connection], most: int = MOST) -> None:
        """Answer requests with ``handle``; ``connections`` holds all that are open, ``most`` at once."""
        self._handle = handle
        self._connections, self._most = connections, most
        self._parser = httptools.HttpRequestParser(self)
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Request | Reply] = deque()
        self._busy = False
        self._last = False  # the client wants the connection closed after this answer
        self._size = 0
        self._pieces: Iterator[bytes] | None = None
        self._writable = True
        self._deaf, self._asking, self._in_head = (
            False,
            False,
            False,
        )  # refused; a request has begun, and is in its head
        self.silent_since = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def silent(self) -> bool:
        """Whether nothing is being answered."""
        return self._deaf or not (self._busy or self._waiting)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the connection, so that a stop can end it."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has the methods, not the base class
        if len(self._connections) >= self._most:
            others = [one for one in self._connections if one.silent]
            min(others, key=lambda one: one.silent_since, default=self).abort()
        self._connections.add(self)
        self._arm(REQUEST_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection; what was begun for it goes on."""
        del exc
        self._connections.discard(self)
        self._pieces = None
        self._disarm()

    def abort(self) -> None:
        """End the connection at once, without an answer."""
        self._connections.discard(self)
        self._transport.abort()

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = self._loop.call_later(seconds, self._overdue)

    def _disarm(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _overdue(self) -> None:
        if self._asking and not (self._deaf or self._busy):
            self._refuse(refusal(408, "too_slow", "the request did not arrive in time"))
        else:
            self.abort()

    def data_received(self, data: bytes) -> None:
        """Take what arrived and answer each request it completes."""
        if self._transport.is_closing():
            return
        self._size += len(data)
        if self._deaf:
            if self._size > LINGER_BYTES:
                self.abort()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse(refusal(400, "malformed", "this is not HTTP/1.1"))
        if self._size > REQUEST_LIMIT and not self._deaf:
            self._refuse(refusal(413, "too_large", f"at most {REQUEST_LIMIT} bytes"))
        self._next()

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body = b""
        self._asking = self._in_head = True
        self._twice = ""
        if not self._busy:
            self._arm(REQUEST_SECONDS)

    def on_headers_complete(self) -> None:
        """Note that what may still come of headers are trailers, which say nothing here."""
        self._in_head = False

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header; of one value it has no second."""
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip()
        if self._in_head and key in ONCE and self._headers.get(key, text) != text:
            self._twice = key
        if self._in_head:
            self._headers[key] = text

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._body += body

    def on_message_complete(self) -> None:
        """Queue the request: it is answered after those before it."""
        self._size = 0
        self._asking = False
        if not self._busy:
            self._disarm()
        if len(self._body) > REQUEST_LIMIT:
            self._waiting.append(refusal(413, "too_large", f"at most {REQUEST_LIMIT} bytes"))
            return
        if self._twice:
            self._waiting.append(refusal(400, "malformed", f"{self._twice} came with two different values"))
            return
        self._last = not self._parser.should_keep_alive()
        path, _, query = self._url.decode("latin-1").partition("?")
        asked = dict(parse_qsl(query)) if query else _NO_HEADERS
        method = self._parser.get_method().decode()
        self._waiting.append(Request(method, unquote(path), asked, self._headers, self._body))

    def pause_writing(self) -> None:
        """Stop a stream: the reader is slower than we are."""
        self._writable = False
        self._arm(READ_SECONDS)

    def resume_writing(self) -> None:
        """Go on with a stream."""
        self._writable = True
        self._disarm()
        if self._pieces:
            self._stream()

    def _next(self) -> None:
        while self._waiting and not self._busy:
            self._busy = True
            asked = self._waiting.popleft()
            self._begin(asked if isinstance(asked, Reply) else self._handle(asked))

    def _begin(self, answer: Answer) -> None:
        match answer:
            case Reply():
                self._send(answer)
            case Later(seconds, finish):
                self._loop.call_later(seconds, self._finish, finish)
            case Lost():
                self._loop.call_later(HELD_SECONDS, self.abort)
            case Streamed(kind, pieces):
                head = f"Content-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
                self._transport.write(_STATUS[200] + head.encode())
                self._pieces = pieces
                self._stream()

    def _finish(self, finish: Callable[[], Answer]) -> None:
        made = finish()  # also when the caller has gone: a slow charge is a charge
        if isinstance(made, Later) or not (self._deaf or self._transport.is_closing()):
            self._begin(made)
            self._next()

    def _send(self, made: Reply) -> None:
        extra = "".join(f"{name}: {value}\r\n" for name, value in made.headers)
        head = f"Content-Type: {made.kind}\r\nContent-Length: {len(made.content)}\r\n{extra}\r\n"
        self._transport.write(_STATUS[made.status] + head.encode() + made.content)
        self._done()

    def _stream(self) -> None:
        """Send one piece and leave the loop to others before the next."""
        if not self._pieces or not self._writable:
            return
        piece = next(self._pieces, b"")
        self._transport.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        if piece:
            self._loop.call_soon(self._stream)
        else:
            self._pieces = None
            self._done()
            self._next()

    def _done(self) -> None:
        self._busy = False
        self.silent_since = self._loop.time()
        if self._deaf:
            self._transport.write_eof()
            self._arm(LINGER_SECONDS)
        elif self._last and not self._waiting:
            self._transport.close()
            self._arm(READ_SECONDS)
        elif self._writable and not self._waiting:
            self._arm(REQUEST_SECONDS if self._asking else KEEP_ALIVE_SECONDS)

    def _refuse(self, refused: Reply) -> None:
        """Answer at once, and read nothing more as a request."""
        self._waiting.clear()
        self._deaf, self._size, self._pieces = True, 0, None
        self._send(refused)


def pieces(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Join lines into pieces worth a write."""
    gathered = bytearray()
    for line in lines:
        gathered += line
        if len(gathered) >= PIECE:
            yield bytes(gathered)
            gathered.clear()
    if gathered:
        yield bytes(gathered)
