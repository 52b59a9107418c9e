"""The ops port of every role: is it alive, ready, started; what does it count; what may an operator ask.

A small threaded server. Without keys a write is taken from this machine alone, never from a browser; its caller is
``local``.
"""

from __future__ import annotations

import collections
import ipaddress
import json
import os
import platform
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple, TypeAlias

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from chassis import degraded, problems
from chassis.documents import rfc3339
from chassis.health import reason
from chassis.ids import uuid7
from chassis.logs import release
from chassis.ops_routes import READS, Asked, Routes, Told, find, members
from chassis.problem_types import KINDS
from chassis.problems import Problem, refuse
from chassis.trace import Context, new_trace

Check: TypeAlias = Callable[[], object]
CHECK_SECONDS = 2.0
BODY_MAX = 65_536
BODY_SECONDS = 10.0
LEFT_MAX = 1 << 20  # of a refused body this much is read away, so that the refusal is read before the line is cut
CALLER = "local"
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
log = structlog.get_logger()


class Ops(ThreadingHTTPServer):
    """Answers /livez, /readyz, /healthz, /startupz, /metrics, /info, the routes it is given and the pages of /problems.

    A check is ready when it returns, not ready when it returns False, raises, or takes longer than two seconds.
    ``warns`` are checks of what may be degraded without the role being of no use: /healthz tells of them.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128  # who comes while the machine is busy is not cut off

    def __init__(
        self, address: tuple[str, int], info: Mapping[str, object], checks: Mapping[str, Check], routes: Routes
    ) -> None:
        super().__init__(address, _Handler)
        self.info = {
            "started_at": rfc3339(datetime.now(UTC)),
            "pid": os.getpid(),
            "python": platform.python_version(),
            **info,
        }
        self.checks, self.started = checks, False
        self.warns: Mapping[str, Check] = {}
        self.base = f"http://{address[0]}:{self.server_port}"
        self.routes: Routes = {
            ("GET", "/livez"): lambda _: Told(200, {"alive": True}),
            ("GET", "/readyz"): self._ready,
            ("GET", "/healthz"): self._health,
            ("GET", "/startupz"): self._started,
            ("GET", "/info"): lambda _: Told(200, {**self.info, "degraded": degraded.shown()}),
            **routes,
        }

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

    def _health(self, _: Asked) -> Told:
        """Tell what is degraded, in the words of the draft for application/health+json: pass, warn, fail."""
        ok, found = _run_all({**self.warns, **self.checks})
        failed = {name for name, result in found.items() if not result["ok"]}
        lost = degraded.shown()
        status = "fail" if failed & self.checks.keys() else "pass" if ok and not lost else "warn"
        return Told(503 if status == "fail" else 200, {"status": status, "checks": found, "degraded": lost})

    def _ready(self, _: Asked) -> Told:
        ok, found = self.ready()
        return Told(200 if ok else 503, found)

    def _started(self, _: Asked) -> Told:
        started = self.started or self.ready()[0]
        return Told(200 if started else 503, {"started": started})


@contextmanager
def serve(  # noqa: PLR0913 - one of each thing a role tells about itself
    bind: str, service: str, role: str, checks: Mapping[str, Check],
    settings: Mapping[str, object] | None = None, *, routes: Routes | None = None,
    warns: Mapping[str, Check] | None = None,
) -> Iterator[Ops]:  # fmt: skip
    """Serve the ops port ``host:port`` while the block runs; port 0 takes a free one, see ``server_port``."""
    host, _, port = bind.rpartition(":")
    info = {"service": service, "role": role, "release": release(), "settings": settings or {}}
    server = Ops((host.strip("[]"), int(port)), info, checks, routes or {})
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


class _Handler(BaseHTTPRequestHandler):
    """One connection: each request has an id, a place in a trace of its own, and one answer."""

    server: Ops
    protocol_version = "HTTP/1.1"
    timeout = 30
    request_id, call, unread = "", Context("", ""), 0

    def do_GET(self) -> None:
        """Answer one request of any method; ``find`` knows which there are."""
        given = self.headers.get("X-Request-Id", "")
        self.request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid7())
        self.call, self.unread = new_trace(), self._length()
        try:
            answer = self._found()
        except Problem as refused:
            answer = self._refusal(refused)
        except Exception as raised:
            log.exception("request failed", request_id=self.request_id, error_class=type(raised).__name__)
            answer = self._refusal(Problem("internal"))
        with suppress(OSError, Problem):  # the caller has gone, or does not send what it announced
            self._send(answer)
            collections.deque(self._chunks(1.0) if self.unread <= LEFT_MAX else (), 0)

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        """Say nothing: a probe every second is no news."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is no HTTP request we read: a line or headers too long or malformed, a method nobody knows."""
        del message, explain  # they repeat what was sent
        told = {"type": "about:blank", "title": HTTPStatus(code).phrase, "status": code, "retryable": False}
        self._send(_Answer(code, problems.MEDIA_TYPE, json.dumps(told).encode(), {"Connection": "close"}))

    def _found(self) -> _Answer:
        path = self.path.partition("?")[0]
        if path == "/metrics" and self.command in READS:
            return _Answer(200, CONTENT_TYPE_LATEST, generate_latest())
        if path.startswith("/problems/") and (slug := path[10:]) in KINDS and self.command in READS:
            return _Answer(200, "text/html; charset=utf-8", problems.page(self.server.base, slug).encode())
        told = self._told()
        self.call = told.trace or self.call
        return _Answer(told.status, "application/json", json.dumps(told.document, default=str).encode())

    def _told(self) -> Told:
        route, path, query = find(self.server.routes, self.command, self.path)
        if self.command in READS:
            return route(Asked(path, query, actor=CALLER, trace=self.call))
        self._check_caller()
        body, reason = members(self._body())
        return route(Asked(path, query, body, CALLER, reason, self.call))

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
        if self.unread > BODY_MAX:
            refuse("body-too-large", limit=BODY_MAX)
        return b"".join(self._chunks(BODY_SECONDS))

    def _chunks(self, seconds: float) -> Iterator[bytes]:
        deadline = time.monotonic() + seconds
        try:
            while self.unread > 0:
                self.connection.settimeout(max(0.001, deadline - time.monotonic()))
                if not (chunk := self.rfile.read1(min(self.unread, BODY_MAX))):
                    refuse("malformed-json", "The body ended before its Content-Length.", position=None)
                self.unread -= len(chunk)
                yield chunk
        except TimeoutError:
            refuse("request-timeout")
        finally:
            self.connection.settimeout(self.timeout)

    def _refusal(self, refused: Problem) -> _Answer:
        document = refused.document(self.server.base, self.path, self.request_id, self.call.trace_id)
        body = json.dumps(document, default=str).encode()
        return _Answer(refused.status_code, problems.MEDIA_TYPE, body, refused.headers or {})

    def _send(self, answer: _Answer) -> None:
        self.send_response(answer.status)
        told = {"Content-Type": answer.media_type, "Content-Length": str(len(answer.body)), "Cache-Control": "no-store"}
        if self.request_id:
            told |= {"X-Request-Id": self.request_id, "X-Trace-Id": self.call.trace_id}
        if self.unread:  # what is left of the body would be read as the next request
            told["Connection"] = "close"
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
