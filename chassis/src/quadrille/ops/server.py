"""The ops port of every role: is it alive, ready, started; what does it count; what may an operator ask.

A small threaded server that nobody can crowd: each connection has deadlines, there are only so many, and for one more
the one that has been silent longest goes. Without keys a write is taken from this machine alone, never from a browser;
its caller is ``local``.
"""

from __future__ import annotations

import errno
import io
import ipaddress
import json
import os
import platform
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, TypeAlias

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from quadrille import file_limits
from quadrille.ids import uuid7
from quadrille.observability import degraded
from quadrille.observability.logs import release
from quadrille.observability.readiness import reason
from quadrille.observability.trace_context import Context, new_trace
from quadrille.ops.routes import READS, OpsRequest, OpsResponse, OpsRoutes, find, members
from quadrille.values import rfc3339
from quadrille.web import problems
from quadrille.web.connection_limits import Crowd
from quadrille.web.headers import Repeated, settled
from quadrille.web.problems import KINDS, Problem, refuse

Check: TypeAlias = Callable[[], object]
CHECK_SECONDS = 2.0
BODY_MAX = 65_536
BODY_SECONDS = 10.0
HEAD_SECONDS = 10.0  # from a connection's begin, or a request's first byte, until its head is whole
KEEP_ALIVE_SECONDS = 75  # longer than the pools of usual clients keep a connection they do not use
WRITE_SECONDS = 30.0
LINGER_SECONDS = 10.0  # how long, and for how many bytes, what was refused is read away so that the refusal arrives
LINGER_BYTES = 32 << 20
AT_ONCE = 8  # so many may come before those have gone whose places they took
REST_SECONDS = 0.1  # how long nobody is let in when no file is left to open
CALLER = "local"
_NO_FILE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_TOO_MUCH = {414: ("uri-too-long", 65_536), 431: ("headers-too-large", 65_536)}
_HOST = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
log = structlog.get_logger()


class OpsServer(ThreadingHTTPServer):
    """Answers /livez, /readyz, /healthz, /startupz, /metrics, /info, the routes it is given and the pages of /problems.

    A check is ready when it returns, not ready when it returns False, raises, or takes longer than two seconds.
    ``warns`` are checks of what may be degraded without the role being of no use: /healthz tells of them.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256  # who comes while the machine is busy is not cut off

    def __init__(
        self, address: tuple[str, int], info: Mapping[str, object], checks: Mapping[str, Check], routes: OpsRoutes
    ) -> None:
        super().__init__(address, _Handler)
        self.crowd = Crowd[socket.socket]("ops", file_limits.shares().ops, _end)
        self.info = {
            "started_at": rfc3339(datetime.now(UTC)),
            "pid": os.getpid(),
            "python": platform.python_version(),
            **info,
        }
        self.checks, self.started = checks, False
        self.warns: Mapping[str, Check] = {}
        self.base = f"http://{address[0]}:{self.server_port}"
        self.routes: OpsRoutes = {
            ("GET", "/livez"): lambda _: OpsResponse(200, {"alive": True}),
            ("GET", "/readyz"): self._ready,
            ("GET", "/healthz"): self._health,
            ("GET", "/startupz"): self._started,
            ("GET", "/info"): lambda _: OpsResponse(200, {**self.info, "degraded": degraded.shown()}),
            **routes,
        }

    def get_request(self) -> tuple[socket.socket, Any]:
        """Let a client in; rests for a moment when no more files can be opened, instead of asking again at once."""
        deadline = time.monotonic() + REST_SECONDS
        while self.crowd.leaving > AT_ONCE and time.monotonic() < deadline:
            time.sleep(0.001)
        try:
            return super().get_request()
        except OSError as refused:
            if refused.errno in _NO_FILE:
                self.crowd.thin()
                time.sleep(REST_SECONDS)
            raise

    def verify_request(self, request: Any, client_address: object) -> bool:  # noqa: ANN401 - socketserver's own signature
        """Take a connection in, if there is room."""
        del client_address
        return self.crowd.enter(request)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401 - as above
        """End a connection."""
        self.crowd.leave(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Log what broke a connection, without whose it was; that a caller has gone is no news."""
        del request, client_address
        if not isinstance(bug := sys.exc_info()[1], OSError):
            log.error("connection failed", error_class=type(bug).__name__, exc_info=bug)

    def ready(self) -> tuple[bool, dict[str, object]]:
        """Run every check, all at once, and tell what each found, why it is not ready and how long it took."""
        ok, found = _run_all(self.checks)
        self.started = self.started or ok
        return ok, {"ready": ok, "checks": found, "degraded": degraded.shown()}

    def _health(self, _: OpsRequest) -> OpsResponse:
        """Tell what is degraded, in the words of the draft for application/health+json: pass, warn, fail."""
        ok, found = _run_all({**self.warns, **self.checks})
        failed = {name for name, result in found.items() if not result["ok"]}
        lost = degraded.shown()
        status = "fail" if failed & self.checks.keys() else "pass" if ok and not lost else "warn"
        return OpsResponse(503 if status == "fail" else 200, {"status": status, "checks": found, "degraded": lost})

    def _ready(self, _: OpsRequest) -> OpsResponse:
        ok, found = self.ready()
        return OpsResponse(200 if ok else 503, found)

    def _started(self, _: OpsRequest) -> OpsResponse:
        started = self.started or self.ready()[0]
        return OpsResponse(200 if started else 503, {"started": started})


@contextmanager
def serve(  # noqa: PLR0913 - one of each thing a role tells about itself
    bind: str, service: str, role: str, checks: Mapping[str, Check],
    settings: Mapping[str, object] | None = None, *, routes: OpsRoutes | None = None,
    warns: Mapping[str, Check] | None = None,
) -> Iterator[OpsServer]:  # fmt: skip
    """Serve the ops port ``host:port`` while the block runs; port 0 takes a free one, see ``server_port``."""
    host, _, port = bind.rpartition(":")
    info = {"service": service, "role": role, "release": release(), "settings": settings or {}}
    server = OpsServer((host.strip("[]"), int(port)), info, checks, routes or {})
    server.warns = warns or {}
    thread = threading.Thread(target=server.serve_forever, name="ops", daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Answer(NamedTuple):
    """What goes back over the wire."""

    status: int
    media_type: str
    body: bytes
    headers: Mapping[str, str] = {}


def _end(connection: socket.socket) -> None:
    """Wake the thread of a connection, which then ends it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class _Timed(io.RawIOBase):
    """What a client sends, until the deadline; from the first byte of a head on that is the head's own."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.deadline, self.silent, self.came = time.monotonic() + HEAD_SECONDS, True, 0

    def readable(self) -> bool:
        """It is all that it is."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - io's own signature
        """Read what has come; raises TimeoutError once the deadline is over."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        count = self._connection.recv_into(buffer)
        if self.silent and count:
            self.silent, self.deadline = False, time.monotonic() + HEAD_SECONDS
        self.came += count
        return count

    def expect(self, seconds: float, *, silent: bool = False) -> None:
        """Set the deadline of what comes next."""
        self.deadline, self.silent = time.monotonic() + seconds, silent


class _Handler(BaseHTTPRequestHandler):
    """One connection: each request has an id, a place in a trace of its own, and one answer."""

    server: OpsServer
    protocol_version = "HTTP/1.1"
    request_id, call, unread = "", Context("", ""), 0
    path, command, asks_first, lasts, asked = "/", "", False, False, False

    def setup(self) -> None:
        """Read the client by its deadlines."""
        super().setup()
        self.rfile.close()
        self._timed = _Timed(self.connection)
        self.rfile = io.BufferedReader(self._timed)

    def handle_one_request(self) -> None:
        """Answer a request, or refuse its head if that does not come in time; a client that says nothing is closed."""
        self.path, self.command, self.request_id, self.asks_first, self.lasts = "/", "", "", False, False
        self.call, self.unread, self._timed.came = new_trace(), 0, 0
        try:
            if not (line := self.rfile.readline(65_537)):
                self.close_connection = True
                return
            self.raw_requestline = line
            if len(line) > 65_536:  # noqa: PLR2004 - http.client's own bound of a line
                self.requestline = self.request_version = ""
                self.send_error(414)
            elif self.parse_request():
                getattr(self, f"do_{self.command}", self._unknown)()
        except TimeoutError:
            self.close_connection = True
            if not self._timed.came:
                self.server.crowd.count("idle" if self.asked else "silent")
            else:
                self.server.crowd.tell("slow head")
                self.requestline = self.request_version = ""
                self._last(self._refusal(Problem("request-timeout", "The head of the request did not arrive in time.")))
        self.asked = True
        self.server.crowd.rests(self.connection)
        self._timed.expect(KEEP_ALIVE_SECONDS, silent=True)

    def finish(self) -> None:
        """Close once the client has had the chance to read its answer: unread bytes of its own would reset that."""
        with suppress(OSError, ValueError):
            super().finish()
        with suppress(OSError):
            if self.lasts:
                self.connection.shutdown(socket.SHUT_WR)
                self._linger()

    def _linger(self) -> None:
        deadline, size = time.monotonic() + LINGER_SECONDS, 0
        while size < LINGER_BYTES and (left := deadline - time.monotonic()) > 0:
            self.connection.settimeout(left)
            if not (chunk := self.connection.recv(65_536)):
                return
            size += len(chunk)
        self.server.crowd.tell("unread body")

    def handle_expect_100(self) -> bool:
        """Ask for the body when it is to be read, not before it is known whether it is."""
        self.asks_first = True
        return True

    def _unknown(self) -> None:
        self._answer(Problem("malformed-request", "The method is none of HTTP/1.1."))

    def do_GET(self) -> None:
        """Answer one request of any method; ``find`` knows which there are."""
        given = self.headers.get_all("X-Request-Id") or [""]
        self.request_id = given[0] if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]) else str(uuid7())
        self._answer(self._unfit())

    def _unfit(self) -> Problem | None:
        """Return why the head of a request is refused whatever it asks; headers told in parts are made whole."""
        try:
            whole = settled([(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in self.headers.items()])
        except Repeated as twice:
            return Problem("repeated-header", f"{twice.header} came with different values.", header=twice.header)
        hosts = [value.decode("latin-1") for name, value in whole if name == b"host"]
        if (not hosts and self.request_version != "HTTP/1.0") or not all(map(_HOST.fullmatch, hosts)):
            return Problem("malformed-request", "HTTP/1.1 wants one header Host: a name, with or without a port.")
        for name in {name for name, _ in whole}:
            del self.headers[name.decode("latin-1")]
        for name, value in whole:
            self.headers[name.decode("latin-1")] = value.decode("latin-1")
        return None

    def _answer(self, unfit: Problem | None) -> None:
        self.unread = self._length()
        self._timed.expect(BODY_SECONDS)
        try:
            answer = self._refusal(unfit) if unfit else self._found()
        except Problem as refused:
            answer = self._refusal(refused)
        except Exception as raised:
            log.exception("request failed", request_id=self.request_id, error_class=type(raised).__name__)
            answer = self._refusal(Problem("internal"))
        if unfit or self.unread:  # what is left of the body would be read as the next request
            self._last(answer)
        else:
            self._send(answer)

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        """Say nothing: a probe every second is no news."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what is no HTTP request we read: a line or headers too long or malformed."""
        del message, explain  # they repeat what was sent
        self.request_version = self.protocol_version  # what was read may be taken for HTTP/0.9, which has no headers
        slug, limit = _TOO_MUCH.get(code, ("malformed-request", None))
        self._last(self._refusal(Problem(slug, limit=limit) if limit else Problem(slug)))

    def _last(self, answer: _Answer) -> None:
        """Send an answer after which nothing more is read as a request."""
        self.close_connection = self.lasts = True
        self._send(answer)

    def _found(self) -> _Answer:
        path = self.path.partition("?")[0]
        if path == "/metrics" and self.command in READS:
            return _Answer(200, CONTENT_TYPE_LATEST, generate_latest())
        if path.startswith("/problems/") and (slug := path[10:]) in KINDS and self.command in READS:
            return _Answer(200, "text/html; charset=utf-8", problems.page(self.server.base, slug).encode())
        told = self._told()
        self.call = told.trace or self.call
        return _Answer(told.status, "application/json", json.dumps(told.document, default=str).encode())

    def _told(self) -> OpsResponse:
        route, path, query = find(self.server.routes, self.command, self.path)
        if self.command in READS:
            self.server.crowd.speaks(self.connection)
            return route(OpsRequest(path, query, actor=CALLER, trace=self.call))
        self._check_caller()
        body, reason = members(self._body())
        self.server.crowd.speaks(self.connection)
        return route(OpsRequest(path, query, body, CALLER, reason, self.call))

    def _check_caller(self) -> None:
        """Refuse a write from another machine, and one a web page had a browser send (browsers name its Origin)."""
        if not ipaddress.ip_address(self.client_address[0]).is_loopback:
            refuse("unauthorized", "Without keys a write is taken from this machine only: ask from there.")
        if "Origin" in self.headers:
            refuse("unauthorized", "Without keys no write is taken from a web page: use the quadrille command.")

    def _length(self) -> int:
        """Return the bytes of the body to come, -1 if they cannot be told."""
        given = self.headers.get_all("Content-Length") or ["0"]
        told = len(given) == 1 and given[0].isascii() and given[0].isdigit() and len(given[0]) < len(str(1 << 63))
        return int(given[0]) if told and "Transfer-Encoding" not in self.headers else -1

    def _body(self) -> bytes:
        """Return the body's bytes; refuses another media type, too much, too slow, and a length not told."""
        kind, _, charset = self.headers.get("Content-Type", "").lower().replace(" ", "").partition(";")
        if kind != "application/json" or charset.replace('"', "") not in ("", "charset=utf-8"):
            refuse("unsupported-media-type", accepted=["application/json"])
        if self.unread < 0:
            refuse("malformed-json", "A body is read by its Content-Length, told once.", position=None)
        if self.headers.get("Content-Encoding", "identity").lower() != "identity":
            refuse("unsupported-content-encoding", accepted=["identity"])
        if self.unread > BODY_MAX:
            refuse("body-too-large", limit=BODY_MAX)
        if self.asks_first and self.unread:
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._timed.expect(BODY_SECONDS)
        return b"".join(self._chunks())

    def _chunks(self) -> Iterator[bytes]:
        try:
            while self.unread > 0:
                if not (chunk := self.rfile.read1(min(self.unread, BODY_MAX))):
                    refuse("malformed-json", "The body ended before its Content-Length.", position=None)
                self.unread -= len(chunk)
                yield chunk
        except TimeoutError:
            self.server.crowd.tell("slow body")
            refuse("request-timeout")

    def _refusal(self, refused: Problem) -> _Answer:
        self.request_id = self.request_id or str(uuid7())
        document = refused.document(self.server.base, self.path, self.request_id, self.call.trace_id)
        body = json.dumps(document, default=str).encode()
        return _Answer(refused.status_code, problems.MEDIA_TYPE, body, refused.headers or {})

    def _send(self, answer: _Answer) -> None:
        self.connection.settimeout(WRITE_SECONDS)
        with suppress(OSError):  # the caller has gone, or reads nothing
            self._write(answer)
            return
        self.close_connection, self.lasts = True, False

    def _write(self, answer: _Answer) -> None:
        self.send_response(answer.status)
        told = {"Content-Type": answer.media_type, "Content-Length": str(len(answer.body)), "Cache-Control": "no-store"}
        if self.request_id:
            told |= {"X-Request-Id": self.request_id, "X-Trace-Id": self.call.trace_id}
        told |= {"Connection": "close"} if self.close_connection else {"Keep-Alive": f"timeout={KEEP_ALIVE_SECONDS}"}
        for name, value in {**told, **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)


def _run_all(checks: Mapping[str, Check]) -> tuple[bool, dict[str, dict[str, object]]]:
    """Run checks all at once, within their bound; return whether all are well, and what each found."""
    results: dict[str, dict[str, object]] = {}
    threads = [threading.Thread(target=_run, args=(*one, results), daemon=True) for one in checks.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + CHECK_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    late: dict[str, object] = {"ok": False, "error": "TimeoutError", "reason": f"no answer within {CHECK_SECONDS:g} s"}
    late["ms"] = CHECK_SECONDS * 1000
    found = {name: results.get(name, late) for name in checks}
    return all(one["ok"] for one in found.values()), found


def _run(name: str, check: Check, results: dict[str, dict[str, object]]) -> None:
    began = time.monotonic()
    found: dict[str, object] = {"ok": True}
    try:
        if check() is False:
            found = {"ok": False, "error": None, "reason": "not ready"}
    except Exception as raised:  # noqa: BLE001 - whatever a check raises is its answer: not ready, and why
        found = {"ok": False, "error": type(raised).__name__, "reason": reason(raised)}
    results[name] = found | {"ms": round((time.monotonic() - began) * 1000, 1)}
