"""HTTP connections of an API: each has its deadlines, and whatever is refused is refused by a document that arrives.

uvicorn parses and writes; what it leaves open is closed here: a client that says nothing, or a byte a second, or reads
nothing; a refusal that a reset would overtake; a request the parser cannot read; trailers taken for headers.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

import httptools
import structlog
from starlette.types import Message
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from quadrille.web.connection_limits import Crowd
from quadrille.web.middleware import HEADERS_MAX, UNREAD, URL_MAX
from quadrille.web.problems import Problem

HEAD_SECONDS = 10.0  # from a connection's begin, or a request's first byte, until its head is whole
BODY_SECONDS = 15.0  # more than the route's own patience, which answers first where it reads the body
KEEP_ALIVE_SECONDS = 75  # longer than the pools of usual clients keep a connection they do not use
READ_SECONDS = 60.0  # until what is written has been read
LINGER_SECONDS = 10.0  # how long, and for how many bytes, what was refused is read away so that the refusal arrives
LINGER_BYTES = 32 << 20
log = structlog.get_logger()
_HEAD_MAX = HEADERS_MAX + URL_MAX
_KEEP_ALIVE = b"keep-alive", b"timeout=%d" % KEEP_ALIVE_SECONDS


class Cycle(RequestResponseCycle):
    """One request and its answer."""

    unreadable: Problem | None = None

    def spoil(self, problem: Problem) -> None:
        """Let who reads the body meet the problem instead of its rest."""
        self.unreadable, self.keep_alive = problem, False
        self.message_event.set()

    async def receive(self) -> Any:  # noqa: ANN401 - uvicorn's own type of it is a union of its private ones
        """Return the next part of the body; raises Problem for one that cannot be read."""
        message = await super().receive()
        if self.unreadable and message["type"] == "http.request":
            raise self.unreadable
        return message

    async def send(self, message: Any) -> None:  # noqa: ANN401 - as above
        """Write a part of the answer; its head says how long the connection is kept."""
        if message["type"] == "http.response.start" and self.keep_alive:
            if self.waiting_for_100_continue:  # whether the body still comes is the client's to choose
                self.keep_alive = False
            elif not _closes(message):
                message = {**message, "headers": [*message.get("headers", ()), _KEEP_ALIVE]}
        await super().send(message)


class _Transport:
    """What a cycle writes to: closing it lets the answer arrive first."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.write, self.is_closing = connection.transport.write, connection.transport.is_closing

    def close(self) -> None:
        self._connection.finish()


class Connection(HttpToolsProtocol):
    """One client's connection; ``look`` is to be called about once a second."""

    cycle: Cycle

    def __init__(self, config: Config, state: ServerState, app_state: dict[str, Any], crowd: Crowd[Connection]) -> None:
        super().__init__(config, state, app_state, asyncio.get_running_loop())
        self._crowd = crowd
        self._answering: Cycle | None = None
        self._in_head, self._whole = False, True  # whether a head is being read, and a whole request has been
        self._head = self._drained = 0
        self._deaf = self._finishing = self._ended = self._resumed = self._asked = False
        self._speak_by, self._read_by = self.loop.time() + HEAD_SECONDS, math.inf  # when the client must have

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own says so
        """Take the client in, if there is room."""
        super().connection_made(transport)
        if not self._crowd.enter(self):
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell all who answer that the client has gone."""
        self._crowd.leave(self)
        if self._answering:
            self._answering.disconnected = True
            self._answering.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def look(self, now: float) -> None:
        """Close or refuse a client whose time is over."""
        if now >= self._read_by:
            self._cut("unread")
        elif now >= self._speak_by:
            self._overdue(now)

    def _overdue(self, now: float) -> None:
        if self._finishing:
            self._cut("lingering")
        elif self.flow.read_paused:  # it is we who do not read
            self._speak_by = now + BODY_SECONDS
        elif self._in_head:
            self._crowd.tell("slow head")
            self._refuse(Problem("request-timeout", "The head of the request did not arrive within 10 seconds."))
        elif self._whole:
            self._crowd.count("idle" if self._asked else "silent")
            self.finish()
        else:
            self._crowd.tell("slow body")
            self._refuse(Problem("request-timeout"))

    def data_received(self, data: bytes) -> None:
        """Read what has come; what comes after a refusal is thrown away, bounded."""
        if self._deaf:
            self._drain(len(data))
            return
        self._unset_keepalive_if_required()
        self._head += len(data) if self._in_head else 0
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            self._refuse(self._unread(error))
        else:
            if self._in_head and self._head > _HEAD_MAX:
                self._refuse(_too_large(self.headers))

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:  # to which protocol whatever: we stay with this one
            self._resume()
            if rest := data[upgrade.args[0] :]:
                self._feed(rest)

    def _resume(self) -> None:
        """Have the parser read a request's body although its client would speak another protocol from there on."""
        lengths = [
            b"%s: %s" % header for header in self.headers if header[0] in (b"content-length", b"transfer-encoding")
        ]
        if lengths and not self._whole:
            self._resumed = True
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%s\r\n\r\n" % b"\r\n".join(lengths))
            self._resumed = False

    def _unread(self, error: httptools.HttpParserError) -> Problem:
        """Return what to say of what the parser could not read."""
        if isinstance(cause := error.__context__, Problem):
            return cause
        if cause:
            log.error("connection failed", error_class=type(cause).__name__, exc_info=cause)
            return Problem("internal")
        return Problem("malformed-request", f"{error}.")

    def on_message_begin(self) -> None:
        """Begin a request."""
        if not self._resumed:
            super().on_message_begin()
            self._in_head, self._whole, self._head = True, False, 0
            self._speak_by = self.loop.time() + HEAD_SECONDS

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""
        if not self._resumed:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; a trailer, which comes after the body, is none."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin the answer, or queue the request behind the one that is being answered."""
        if self._resumed:
            return
        version, method = self.parser.get_http_version(), self.parser.get_method().decode("ascii")
        self.scope |= {"method": method, "http_version": version, **_target(self.url)}  # type: ignore[typeddict-item]  # a version is one
        self._in_head, self._speak_by = False, self.loop.time() + BODY_SECONDS
        self._enqueue(keep_alive=version != "1.0" and self.parser.should_keep_alive())

    def _enqueue(self, *, keep_alive: bool) -> None:
        self.cycle = cycle = Cycle(
            scope=self.scope,
            transport=_Transport(self),  # type: ignore[arg-type]  # as much of one as a cycle uses
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=keep_alive,
            on_response=self.on_response_complete,
        )
        self._asked = True
        self._crowd.speaks(self)
        if self._answering is None:
            self._start_asgi_task(cycle, self.app)
        else:
            self.pipeline.appendleft((cycle, self.app))
            if not self._deaf:
                self.flow.pause_reading()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle  # type: ignore[assignment]  # all are Cycles here
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body; of one that nobody reads any more only so much."""
        super().on_body(body)
        if self.cycle.response_complete:
            self._drain(len(body))

    def on_message_complete(self) -> None:
        """Note that the client owes nothing more, unless the parser believes so for an upgrade's sake alone."""
        if self.parser.should_upgrade() and any(_is_length(*header) for header in self.headers):
            return
        super().on_message_complete()
        self._whole = True
        self._speak_by = self.loop.time() + KEEP_ALIVE_SECONDS if self.cycle.response_complete else math.inf

    def on_response_complete(self) -> None:
        """Go on with the next request, or wait for it."""
        self._answering = None
        if self._finishing:
            self.server_state.total_requests += 1
            return
        super().on_response_complete()
        if self.transport.is_closing():
            return
        now = self.loop.time()
        if self._answering is None:
            self._crowd.rests(self)
            self._speak_by = now + (KEEP_ALIVE_SECONDS if self._whole else LINGER_SECONDS)
        elif not self._whole:
            self._speak_by = now + (HEAD_SECONDS if self._in_head else BODY_SECONDS)

    def pause_writing(self) -> None:
        """The client reads more slowly than we write."""
        self._read_by = self.loop.time() + READ_SECONDS
        super().pause_writing()

    def resume_writing(self) -> None:
        """The client has read."""
        self._read_by = math.inf
        super().resume_writing()

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn never keeps one open
        """Keep a client that has said all it wants, and waits for the answer."""
        self._ended = True
        waits = self._answering is not None and not self.cycle.response_started and (self._whole or self._deaf)
        if waits and not self._finishing:
            self.cycle.keep_alive = False
            return True
        return False

    def shutdown(self) -> None:
        """Close when what is asked is answered; called when the server is to end."""
        if self._answering is None:
            self.transport.close()
        else:
            self.cycle.keep_alive = False

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that nobody uses."""
        self._crowd.count("idle")
        self.finish()

    def finish(self) -> None:
        """Close once the client has had the chance to read its answer: unread bytes of its own would reset that."""
        if self._finishing or self.transport.is_closing():
            return
        self._finishing = True
        self._unset_keepalive_if_required()
        self._crowd.rests(self)
        self._speak_by = self.loop.time() + (READ_SECONDS if self.transport.get_write_buffer_size() else LINGER_SECONDS)
        if self._ended or (self._whole and not self._deaf):
            self.transport.close()
            return
        self._deaf = True
        self.transport.write_eof()
        self.flow.resume_reading()

    def _refuse(self, problem: Problem) -> None:
        """Answer what cannot be read in its turn, by the app like anything else, and read no further request."""
        self._deaf, self._speak_by = True, math.inf
        begun = not self._in_head and not self._whole
        if begun and self.cycle.response_complete:
            self._cut("unread body")
        elif begun:
            self.cycle.spoil(problem)
        else:
            self._in_head = self._whole = False
            self.scope = {**(self.scope or {"type": "http", "headers": []}), **self._known(), UNREAD: problem}  # type: ignore[typeddict-item]  # a key of ours
            self._enqueue(keep_alive=False)

    def _known(self) -> dict[str, Any]:
        """Return what is known of a request whose head is not whole: each part only if it could be read."""
        found = {"method": self.parser.get_method().decode("ascii") if self.url else "", "http_version": "1.1"}
        try:
            return found | _target(self.url)
        except Problem:
            return found | {"path": "/", "raw_path": b"/", "query_string": b""}

    def _drain(self, size: int) -> None:
        self._drained += size
        if self._drained > LINGER_BYTES:
            self._cut("unread body")

    def _cut(self, cause: str) -> None:
        self._crowd.tell(cause)
        self.transport.abort()


def expel(connection: Connection) -> None:
    """End a connection; from any thread."""
    with suppress(RuntimeError):  # the loop has ended, and everyone with it
        connection.loop.call_soon_threadsafe(connection.transport.abort)


def _closes(message: Message) -> bool:
    return any(name.lower() == b"connection" and b"close" in value for name, value in message.get("headers", ()))


def _is_length(name: bytes, value: bytes) -> bool:
    return name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0 ") != b"")


def _too_large(headers: list[tuple[bytes, bytes]]) -> Problem:
    """Return what a head that is longer than any that is read is refused with: before its headers it is the target."""
    if headers:
        return Problem("headers-too-large", limit=HEADERS_MAX)
    return Problem("uri-too-long", limit=URL_MAX)


def _target(url: bytes) -> dict[str, Any]:
    """Return what a request's target says: path and query; raises Problem for one that names no path."""
    if len(url) > URL_MAX:
        raise Problem(slug="uri-too-long", limit=URL_MAX)
    try:
        parsed = httptools.parse_url(url)
        raw, query = parsed.path or b"/", parsed.query or b""
        path = unquote(raw.decode("ascii"))
    except (httptools.HttpParserError, UnicodeDecodeError):
        raise Problem(slug="malformed-request", detail="The target of the request is no path.") from None
    return {"path": path, "raw_path": raw, "query_string": query}
