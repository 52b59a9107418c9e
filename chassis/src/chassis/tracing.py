"""Our own hot spans: recorded in a microsecond, packed and sent in batches beside the work; nothing ever waits."""

from __future__ import annotations

import http.client
import threading
import time
import urllib.parse
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TypedDict, Unpack

from chassis import otlp
from chassis.metrics import SPANS_DROPPED, SPANS_SENT
from chassis.otlp import CLIENT, CONSUMER, INTERNAL, PRODUCER, SERVER, Span, Value
from chassis.trace import Context, new_span_id, new_trace

__all__ = ["CLIENT", "CONSUMER", "INTERNAL", "PRODUCER", "SERVER", "Context", "Span", "Spans"]
QUEUE = 20_000
BATCH = 512
GATHER_SECONDS = 0.2
TIMEOUT_SECONDS = 2.0
BACK_OFF_SECONDS = 5.0
_RATIO = 1 << 64


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
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            body = otlp.request(self._resource, batch)
            for endpoint in self._endpoints:
                (SPANS_SENT if endpoint.send(body) else SPANS_DROPPED).inc(len(batch))


class _Endpoint:
    """One receiver with its kept-open connection; after a failure it is left alone for a while."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)
        self._path = parts.path.rstrip("/") + "/v1/traces"
        self._rest_until = 0.0

    def send(self, body: bytes) -> bool:
        """Post one request; False if it was not taken."""
        if time.monotonic() < self._rest_until:
            return False
        for _ in range(2):  # a kept-open connection may have been closed by the other side meanwhile
            fresh = self._connection.sock is None
            try:
                return self._post(body)
            except (OSError, http.client.HTTPException):
                self.close()
                if fresh:
                    break
        self._rest_until = time.monotonic() + BACK_OFF_SECONDS
        return False

    def close(self) -> None:
        """Close the connection; the next request opens it again."""
        self._connection.close()

    def _post(self, body: bytes) -> bool:
        self._connection.request("POST", self._path, body, {"Content-Type": "application/x-protobuf"})
        response = self._connection.getresponse()
        response.read()
        return response.status < http.HTTPStatus.MULTIPLE_CHOICES


def _resource(service: str, role: str) -> dict[str, Value]:
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - 7 MB that an untraced process need not carry

    own = {"service.name": service, "service.instance.id": str(uuid.uuid4()), "quadrille.role": role}
    attributes = Resource.create(own).attributes
    return {key: value for key, value in attributes.items() if isinstance(value, str | int | float | bool)}
