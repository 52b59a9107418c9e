"""The outermost layer of an API: every request has an id, a trace of its own, a bound, a span and one answer."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import structlog
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from chassis import metrics
from chassis.ids import uuid7
from chassis.otlp import Value
from chassis.problems import MEDIA_TYPE, Problem
from chassis.trace import Context, parse
from chassis.tracing import SERVER, Spans

Message: TypeAlias = MutableMapping[str, Any]
HEADERS_MAX = 16_384
IN_FLIGHT_MAX = 200
RESTING_MAX = 1000  # those who wait for news cost little; each is a socket and some kilobytes
SERVER_ERROR = 500
CALL = "quadrille.call"
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
log = structlog.get_logger()


@dataclass(slots=True)
class Call:
    """One request: its id, its place in a trace, who asks, and whose trace it was called from."""

    request_id: str
    trace: Context
    caller: str
    edge: Edge
    from_outside: Context | None = None
    order_id: str | None = None
    status: int = 0

    def join(self, trace_id: str) -> None:
        """Go on in the trace of what is asked about, so that what comes of it is told there; before anything is."""
        self.trace = self.edge.spans.within(trace_id)

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Do not count as work in flight while waiting for news."""
        self.edge.in_flight -= 1
        self.edge.resting += 1
        try:
            yield
        finally:
            self.edge.resting -= 1
            self.edge.in_flight += 1

    @property
    def may_rest(self) -> bool:
        """Whether one more may wait for news."""
        return self.edge.resting < RESTING_MAX


class Edge:
    """Wraps an ASGI app; whatever happens inside, the client gets one answer, without our values."""

    def __init__(self, app: ASGIApp, spans: Spans, base: str) -> None:
        self.app, self.spans, self.base = app, spans, base
        self.in_flight = self.resting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass on what is none (the lifespan)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        call, began_ns, began, method = self._begin(scope), time.time_ns(), time.perf_counter(), scope["method"]
        if method == "HEAD":  # answered as GET is, without the body (RFC 9110, 9.3.2)
            scope = {**scope, "method": "GET"}
        self.in_flight += 1
        metrics.IN_FLIGHT.inc()
        error = None
        try:
            await self._answer(scope, receive, _sender(send, call, head=method == "HEAD"))
        except Exception as raised:
            error = type(raised).__name__
            log.exception("request failed", request_id=call.request_id, trace_id=call.trace.trace_id, method=method)
        finally:
            self.in_flight -= 1
            metrics.IN_FLIGHT.dec()
        self._end(scope, method, began_ns, time.perf_counter() - began, error)

    def _begin(self, scope: Scope) -> Call:
        headers = {name: value for name, value in scope["headers"] if name in (b"x-request-id", b"traceparent")}
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode("ascii") if _REQUEST_ID.fullmatch(given) else str(uuid7())
        outside = parse(headers[b"traceparent"].decode("latin-1")) if b"traceparent" in headers else None
        call = scope[CALL] = Call(request_id, self.spans.root(), "local", self, outside)
        return call

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > HEADERS_MAX:
            await respond(scope, Problem("headers-too-large", limit=HEADERS_MAX))(scope, receive, send)
        elif self.in_flight > IN_FLIGHT_MAX:
            await respond(scope, Problem("overloaded", cause="POOL_EXHAUSTED", retry_after=1))(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _end(self, scope: Scope, method: str, began_ns: int, seconds: float, error: str | None) -> None:
        call: Call = scope[CALL]
        route = str(getattr(scope.get("route"), "path", "unmatched"))
        method = method if method in _METHODS else "OTHER"
        metrics.REQUESTS.labels(method, route, call.status).inc()
        metrics.REQUEST.labels(route).observe(seconds)
        attributes: dict[str, Value] = {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": call.status,
            "quadrille.request_id": call.request_id,
        }
        if call.order_id:
            attributes["quadrille.order_id"] = call.order_id
        self.spans.record(
            f"{method} {route}",
            call.trace,
            None,
            began_ns,
            began_ns + int(seconds * 1e9),
            kind=SERVER,
            attributes=attributes,
            links=(call.from_outside,) if call.from_outside else (),
            error=error or (f"status {call.status}" if call.status >= SERVER_ERROR else None),
        )


def respond(scope: Scope, problem: Problem) -> JSONResponse:
    """Return the response of a problem, with what every problem tells."""
    call: Call = scope[CALL]
    document = problem.document(call.edge.base, scope["path"], call.request_id, call.trace.trace_id)
    headers = {"Cache-Control": "no-store", **(problem.headers or {})}
    return JSONResponse(document, problem.status_code, headers, MEDIA_TYPE)


def _sender(send: Send, call: Call, *, head: bool) -> Callable[[Message], Awaitable[None]]:
    """Put our headers on the answer, note its status, and leave out the body of a HEAD."""
    ours = [(b"x-request-id", call.request_id.encode()), (b"x-content-type-options", b"nosniff")]
    ended = False

    async def sending(message: Message) -> None:
        nonlocal ended
        if message["type"] == "http.response.start":
            call.status = message["status"]
            trace = b"x-trace-id", call.trace.trace_id.encode()
            message["headers"] = [*message.get("headers", ()), *ours, trace]
        elif head and message["type"] == "http.response.body":
            message = {**message, "body": b"", "more_body": False}
        if not ended:
            ended = head and message["type"] == "http.response.body"
            await send(message)

    return sending
