"""Our own hot spans: recorded in a microsecond, packed and sent in batches beside the work; nothing ever waits."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
import urllib.parse
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TypedDict, Unpack

import structlog

from chassis import otlp
from chassis.degraded import Degraded
from chassis.metrics import SPANS_DROPPED, SPANS_SENT
from chassis.otlp import CLIENT, CONSUMER, INTERNAL, PRODUCER, SERVER, Span, Value
from chassis.trace import Context, new_span_id, new_trace

__all__ = ["CLIENT", "CONSUMER", "INTERNAL", "PRODUCER", "SERVER", "Context", "Span", "Spans"]
QUEUE = 20_000
BATCH = 512
GATHER_SECONDS = 0.2
TIMEOUT_SECONDS = 2.0
BACK_OFF_SECONDS = 5.0
GRPC_PORT = 4317
ANSWER_MAX = 65_536
HEARD = ("OTEL_RESOURCE_ATTRIBUTES", "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS")
MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
HINTS = {
    404: "no receiver there: leave a path out, /v1/traces is added", 405: "no receiver there",
    401: "it wants credentials", 403: "it wants credentials", 415: "it takes no protobuf over HTTP",
    429: "it is overloaded", 503: "it is overloaded",
}  # fmt: skip
_RATIO = 1 << 64
log = structlog.get_logger()


class More(TypedDict, total=False):
    """What a span may have beside its name, place and times."""

    kind: int
    attributes: Mapping[str, Value] | None
    links: tuple[Context, ...]
    error: str | None


class Spans:
    """The spans of one process, on their way to every endpoint.

    ``ratio`` is the share of new traces that are kept; a trace from elsewhere keeps its own flag. Resource attributes
    come from the SDK, so ``OTEL_RESOURCE_ATTRIBUTES`` is heard.
    """

    def __init__(self, service: str, role: str, endpoints: Sequence[str], ratio: float = 1.0) -> None:
        self._limit = int(ratio * _RATIO)
        self._queue: deque[Span] = deque()
        self._overflowed, self._overflow = 0, Degraded("spans: the queue of this process")
        self._woken, self._stop, self._pending = threading.Event(), threading.Event(), False
        self._endpoints = [_Endpoint(url) for url in endpoints]
        self.on = bool(endpoints)
        if self.on:
            self._resource = otlp.resource(_resource(service, role))
            self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
            self._thread.start()

    @classmethod
    def disabled(cls) -> Spans:
        """Return spans that go nowhere, at the cost of one flag test."""
        return cls("", "", ())

    def root(self) -> Context:
        """Return the place of a new trace, kept or not by the ratio (the SDK's TraceIdRatioBased rule)."""
        return self.within(new_trace().trace_id)

    def within(self, trace_id: str) -> Context:
        """Return another place in a trace of ours, kept or not as all of it is."""
        return Context(trace_id, new_span_id(), sampled=self.on and int(trace_id[16:], 16) < self._limit)

    def record(
        self, name: str, context: Context, parent_span_id: str | None, start_ns: int, end_ns: int, **more: Unpack[More]
    ) -> None:
        """Queue a finished span; one of an unsampled trace is kept only if it has an ``error``, a fixed phrase."""
        if not self.on or not (context.sampled or more.get("error")):
            return
        if len(self._queue) >= QUEUE:
            SPANS_DROPPED.inc()
            self._overflowed += 1
            return
        self._queue.append(Span(name, context, parent_span_id, start_ns, end_ns, **more))
        if not self._pending:
            self._pending = True
            self._woken.set()

    def stop(self, seconds: float = 1.0) -> None:
        """Send what is queued and end; gives up after ``seconds``."""
        if not self.on:
            return
        self.on = False
        self._stop.set()
        self._woken.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._woken.wait()
            self._woken.clear()
            self._stop.wait(GATHER_SECONDS)
            self._pending = False  # before draining: a span recorded from here on wakes us again
            self._drain()
        self._drain()
        for endpoint in self._endpoints:
            endpoint.close()

    def _drain(self) -> None:
        overflowed, self._overflowed = self._overflowed, 0
        if overflowed:
            self._overflow.lost("full: the endpoints are slower than the work", overflowed)
        else:
            self._overflow.back()
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            body = otlp.request(self._resource, batch)
            for endpoint in self._endpoints:
                dropped = endpoint.send(body, len(batch))
                SPANS_DROPPED.inc(dropped)
                SPANS_SENT.inc(len(batch) - dropped)


class _Refused(Exception):  # noqa: N818 - the name says what is the case
    """An endpoint answered that it does not take spans; the text says why."""


class _Endpoint:
    """One receiver with its kept-open connection; after a failure it is left alone for a while.

    What it does not take is told, with its address and the reason, and so is that it takes them again.
    """

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)
        self._path = parts.path.rstrip("/") + "/v1/traces"
        self._port = parts.port
        self._takes = Degraded(f"spans to {url}")
        self._rest_until, self._reason = 0.0, ""

    def send(self, body: bytes, count: int) -> int:
        """Post one request of so many spans; return how many of them were not taken."""
        if time.monotonic() < self._rest_until:
            self._takes.lost(self._reason, count)
            return count
        for _ in range(2):  # a kept-open connection may have been closed by the other side meanwhile
            fresh = self._connection.sock is None
            try:
                rejected = min(count, self._post(body))
            except _Refused as refused:
                return self._rest(str(refused), count)
            except (OSError, http.client.HTTPException) as trouble:
                self.close()
                if fresh:
                    return self._rest(self._why(trouble), count)
            else:
                self._takes.lost("it rejects some of them", rejected) if rejected else self._takes.back()
                return rejected
        return self._rest("it cuts the line", count)

    def close(self) -> None:
        """Close the connection; the next request opens it again."""
        self._connection.close()

    def _rest(self, reason: str, count: int) -> int:
        self._reason, self._rest_until = reason, time.monotonic() + BACK_OFF_SECONDS
        self._takes.lost(reason, count)
        return count

    def _post(self, body: bytes) -> int:
        """Return how many spans were rejected of those an endpoint has answered for; raises _Refused."""
        self._connection.request("POST", self._path, body, {"Content-Type": "application/x-protobuf"})
        response = self._connection.getresponse()
        answer, kind = response.read(ANSWER_MAX), response.headers.get_content_type()
        if not response.isclosed():
            self.close()
        if not http.HTTPStatus.OK <= response.status < http.HTTPStatus.MULTIPLE_CHOICES:
            hint = HINTS.get(response.status)
            message = f"it answers {response.status}" + (f": {hint}" if hint else "")
            raise _Refused(message)
        if answer and kind == "text/html":
            message = "it answers with a web page: no receiver there"
            raise _Refused(message)
        return otlp.rejected(answer) if kind == "application/x-protobuf" else 0

    def _why(self, trouble: Exception) -> str:
        """Return why no answer came, as a fixed phrase."""
        if isinstance(trouble, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {trouble.verify_message}"
        if isinstance(trouble, ssl.SSLError):
            return "it does not speak TLS: write http:// if it has none"
        if isinstance(trouble, socket.gaierror):
            return "its name is not known"
        if isinstance(trouble, TimeoutError):
            return f"no answer in {TIMEOUT_SECONDS:g} s"
        if isinstance(trouble, http.client.HTTPException | ConnectionResetError | BrokenPipeError):
            over = "; 4317 is the port of OTLP over gRPC, over HTTP it is 4318" if self._port == GRPC_PORT else ""
            return f"it does not answer in HTTP{over}: TLS, or another protocol"
        return trouble.strerror or type(trouble).__name__ if isinstance(trouble, OSError) else type(trouble).__name__


def name_unheard(environ: Mapping[str, str]) -> None:
    """Name each variable of a library's that is not heard here, or not understood: nobody is to wait for its effect."""
    if MULTIPROCESS in environ:
        log.warning("setting is not heard", setting=MULTIPROCESS, reason="each process answers /metrics by itself")
    for name in sorted(name for name in environ if name.startswith("OTEL_") and name not in HEARD):
        log.warning("setting is not heard", setting=name, reason="spans go where QUADRILLE_OTLP_ENDPOINTS says")
    items = [item for item in environ.get(HEARD[0], "").split(",") if item.strip()]
    if any(not item.partition("=")[0].strip() or "=" not in item for item in items):
        log.warning("setting is not understood", setting=HEARD[0], reason="wanted key=value,key=value; others go")


def _resource(service: str, role: str) -> dict[str, Value]:
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - 7 MB that an untraced process need not carry

    own = {"service.name": service, "service.instance.id": str(uuid.uuid4()), "quadrille.role": role}
    attributes = Resource.create(own).attributes
    return {key: value for key, value in attributes.items() if isinstance(value, str | int | float | bool)}
