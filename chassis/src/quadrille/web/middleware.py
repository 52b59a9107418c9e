"""The outermost layer of an API: every request has an id, a trace of its own, a bound, a span and one answer."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quadrille import file_limits
from quadrille.ids import uuid7
from quadrille.keys import ANONYMOUS, Keyring, Principal
from quadrille.observability import metrics
from quadrille.observability.trace_context import Context
from quadrille.observability.tracing import SERVER, Spans, Value
from quadrille.web.authentication import CALL, authenticate
from quadrille.web.headers import RepeatedHeaderError, settled
from quadrille.web.problems import MEDIA_TYPE, Problem, refuse

HEADERS_MAX = URL_MAX = 16_384
IN_FLIGHT_MAX = 600
RESTING_MAX = 1000  # those who wait for news cost little; each is a socket and some kilobytes
SERVER_ERROR = 500
UNREAD = "quadrille.unread"  # in the scope of a request that could not be read: the Problem to answer it with
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_LAST = {"Connection": "close"}
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
log = structlog.get_logger()


@dataclass(slots=True)
class RequestIdentity:
    """What every answer tells of its request: its id and its place in a trace; ``base`` is where problems are told.

    ``principal`` is who asks, ``quota`` the headers that tell what he has left.
    """

    request_id: str
    trace: Context
    base: str
    status: int = field(default=0, kw_only=True)
    principal: Principal = field(default=ANONYMOUS, kw_only=True)
    quota: Mapping[str, str] = field(default_factory=dict, kw_only=True)


@dataclass(slots=True)
class RequestContext(RequestIdentity):
    """One request of an API: who asks, and whose trace it was called from."""

    edge: RequestMiddleware
    from_outside: Context | None = None
    order_id: str | None = None
    shed: bool = False

    @property
    def caller(self) -> str:
        """Whose the things are that this request makes and sees: the owner of its key."""
        return self.principal.owner

    @property
    def welcome(self) -> bool:
        """Whether the key it came with, if any, would let it in now."""
        return self.edge.keys is None or self.principal is ANONYMOUS or self.edge.keys.still(self.principal)

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
        return self.edge.resting < min(RESTING_MAX, self.edge.connections // 2)


class RequestMiddleware:
    """Wraps an ASGI app; whatever happens inside, the client gets one answer, without our values."""

    def __init__(
        self, app: ASGIApp, spans: Spans, base: str, keys: Keyring | None, full: Callable[[], bool] = lambda: False
    ) -> None:
        self.app, self.spans, self.base, self.keys, self._full = app, spans, base, keys, full
        self.in_flight = self.resting = 0
        self.connections = (
            file_limits.shares().api
        )  # of which those who wait for news may take half, work in flight a quarter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass on what is none (the lifespan)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began_ns, began, method = time.time_ns(), time.perf_counter(), scope["method"]
        scope = {**scope, CALL: self._begin(scope)}
        self.in_flight += 1
        metrics.IN_FLIGHT.inc()
        try:
            error = await answer_once(self._answer, scope, receive, send)
        finally:
            self.in_flight -= 1
            metrics.IN_FLIGHT.dec()
        self._end(scope, method, began_ns, time.perf_counter() - began, error)

    def _begin(self, scope: Scope) -> RequestContext:
        outside = self.spans.caller(scope["headers"])
        return RequestContext(request_id_of(scope), self.spans.root(), self.base, self, outside)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(scope)
            call: RequestContext = scope[CALL]
            call.principal, call.quota = authenticate(scope, self.keys)
        except Problem as problem:
            scope[CALL].shed = problem.kind.slug == "overloaded"
            await respond(scope, problem)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        check_head(scope)
        crowded = self.in_flight > min(IN_FLIGHT_MAX, self.connections // 4)
        if crowded or (scope["method"] not in SAFE and self._full()):  # before its body is read
            refuse("overloaded", cause="POOL_EXHAUSTED", retry_after=1)

    def _end(self, scope: Scope, method: str, began_ns: int, seconds: float, error: str | None) -> None:
        call: RequestContext = scope[CALL]
        route = str(getattr(scope.get("route"), "path", "unmatched"))
        method = method if method in _METHODS else "OTHER"
        metrics.REQUESTS.labels(method, route, call.status).inc()
        metrics.REQUEST.labels(route).observe(seconds)
        if call.shed:  # counted; a span each would load whoever is too slow already
            return
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


def request_id_of(scope: Scope) -> str:
    """Return the id a client gave its request, a new one if it gave none that is fit."""
    named = [value for name, value in scope["headers"] if name == b"x-request-id"]
    known = len(named) == 1 and _REQUEST_ID.fullmatch(named[0])
    return named[0].decode("ascii") if known else str(uuid7())


def check_head(scope: Scope) -> None:
    """Refuse what is refused whatever is asked, and make headers told in parts whole; raises Problem."""
    if unread := scope.get(UNREAD):
        raise unread
    if sum(len(name) + len(value) for name, value in scope["headers"]) > HEADERS_MAX:
        refuse("headers-too-large", limit=HEADERS_MAX)
    try:
        scope["headers"] = settled(scope["headers"])
    except RepeatedHeaderError as twice:
        detail = f"{twice.header} came more than once, with different values."
        refuse("repeated-header", detail, header=twice.header, headers=_LAST)
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    if (not hosts and scope.get("http_version") != "1.0") or not all(map(_HOST.fullmatch, hosts)):
        detail = "HTTP/1.1 wants one header Host: a name, with or without a port."
        refuse("malformed-request", detail, headers=_LAST)
    if b"%2f" in scope.get("raw_path", b"").lower():  # decoded it would lead to another path
        refuse("not-found", "No path of this API has a slash within a segment.")


async def answer_once(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> str | None:
    """Answer a request whatever happens inside: HEAD as GET, without the body; return the class of a bug of ours."""
    call: RequestIdentity = scope[CALL]
    method = scope["method"]
    if method == "HEAD":  # RFC 9110, 9.3.2
        scope["method"] = "GET"
    try:
        await app(scope, receive, _sender(send, call, head=method == "HEAD"))
    except Exception as raised:
        log.exception("request failed", request_id=call.request_id, trace_id=call.trace.trace_id, method=method)
        return type(raised).__name__
    return None


def respond(scope: Scope, problem: Problem) -> JSONResponse:
    """Return the response of a problem, with what every problem tells."""
    call: RequestIdentity = scope[CALL]
    document = problem.document(call.base, scope["path"], call.request_id, call.trace.trace_id)
    headers = {"Cache-Control": "no-store", **(problem.headers or {})}
    return JSONResponse(document, problem.status_code, headers, MEDIA_TYPE)


def _sender(send: Send, call: RequestIdentity, *, head: bool) -> Callable[[Message], Awaitable[None]]:
    """Put our headers on the answer, note its status, and leave out the body of a HEAD."""
    ours = [(b"x-request-id", call.request_id.encode()), (b"x-content-type-options", b"nosniff")]
    ended = False

    async def sending(message: Message) -> None:
        nonlocal ended
        if message["type"] == "http.response.start":
            call.status = message["status"]
            trace = b"x-trace-id", call.trace.trace_id.encode()
            quota = [(name.lower().encode(), value.encode()) for name, value in call.quota.items()]
            message["headers"] = [*message.get("headers", ()), *ours, trace, *quota]
        elif head and message["type"] == "http.response.body":
            message = {**message, "body": b"", "more_body": False}
        if not ended:
            ended = head and message["type"] == "http.response.body"
            await send(message)

    return sending
