"""Our own hot spans: recorded in a microsecond, packed and sent in batches beside the work; nothing ever waits."""

from __future__ import annotations

import http.client
import socket
import ssl
import struct
import threading
import time
import urllib.parse
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias, TypedDict, Unpack

import structlog

from quadrille.observability.degraded import Degraded
from quadrille.observability.metrics import SPANS_DROPPED, SPANS_SENT
from quadrille.observability.trace_context import Context, new_span_id, new_trace

__all__ = ["CLIENT", "CONSUMER", "INTERNAL", "PRODUCER", "SERVER", "Span", "Spans"]

Value: TypeAlias = str | int | float | bool
INTERNAL, SERVER, CLIENT, PRODUCER, CONSUMER = 1, 2, 3, 4, 5  # SpanKind
_SCOPE_NAME = "chassis"
_ERROR = b"\x18\x02"  # Status.code = STATUS_CODE_ERROR
_eight = struct.Struct("<Q").pack
_double = struct.Struct("<d").pack
_KEYS: dict[str, bytes] = {}


class Span(NamedTuple):
    """One finished span; ``parent_span_id`` None is a root, times are Unix nanoseconds, ``error`` is a fixed phrase."""

    name: str
    context: Context
    parent_span_id: str | None
    start_ns: int
    end_ns: int
    kind: int = INTERNAL
    attributes: Mapping[str, Value] | None = None
    links: tuple[Context, ...] = ()
    error: str | None = None


def resource(attributes: Mapping[str, Value]) -> bytes:
    """Return the packed resource: who says the spans."""
    return _field(0x0A, b"".join(_field(0x0A, _attribute(k, v)) for k, v in attributes.items()))


def request(packed_resource: bytes, spans: Iterable[Span]) -> bytes:
    """Return one export request holding all spans of this process' resource."""
    scope = _field(0x0A, _field(0x0A, _SCOPE_NAME.encode()))
    scope_spans = scope + b"".join(_field(0x12, pack(span)) for span in spans)
    return _field(0x0A, packed_resource + _field(0x12, scope_spans))


def rejected(response: bytes) -> int:
    """Return how many spans an ``ExportTraceServiceResponse`` says were rejected (``partial_success``)."""
    for number, value in _read(response):
        if number == 1 and isinstance(value, bytes):
            return next((int(n) for field, n in _read(value) if field == 1 and isinstance(n, int)), 0)
    return 0


def pack(span: Span) -> bytes:
    """Return one packed Span message."""
    context, name = span.context, span.name.encode()
    parts = [
        b"\x0a\x10", bytes.fromhex(context.trace_id), b"\x12\x08", bytes.fromhex(context.span_id),
        b"\x22\x08" + bytes.fromhex(span.parent_span_id) if span.parent_span_id else b"",
        b"\x2a", _varint(len(name)), name, b"\x30", bytes((span.kind,)),
        b"\x39", _eight(span.start_ns), b"\x41", _eight(span.end_ns),
    ]  # fmt: skip
    for key, value in (span.attributes or {}).items():
        attribute = _attribute(key, value)
        parts += (b"\x4a", _varint(len(attribute)), attribute)
    for link in span.links:
        parts += (b"\x6a\x1c\x0a\x10", bytes.fromhex(link.trace_id), b"\x12\x08", bytes.fromhex(link.span_id))
    if span.error is not None:
        parts.append(_field(0x7A, _field(0x12, span.error.encode()) + _ERROR))
    return b"".join(parts)


def _attribute(key: str, value: Value) -> bytes:
    packed = _KEYS.get(key)
    if packed is None:  # attribute names are a few dozen literals
        packed = _KEYS[key] = _field(0x0A, key.encode())
    return packed + _field(0x12, _any(value))


def _any(value: Value) -> bytes:
    if isinstance(value, str):
        return _field(0x0A, value.encode("utf-8", "replace"))
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + _varint(value & (1 << 64) - 1)
    return b"\x21" + _double(value)


def _field(tag: int, body: bytes) -> bytes:
    size = len(body)
    if size < 0x80:  # noqa: PLR2004 - one byte holds seven bits of a varint
        return bytes((tag, size)) + body
    return bytes((tag,)) + _varint(size) + body


def _varint(number: int) -> bytes:
    if number < 0x80:  # noqa: PLR2004 - one byte holds seven bits of a varint
        return bytes((number,))
    out = bytearray()
    while number >= 0x80:  # noqa: PLR2004 - as above
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read(body: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of a message, as far as they are varints, or have a length."""
    at = 0
    while at < len(body):
        tag, at = _read_varint(body, at)
        size, at = _read_varint(body, at)
        if tag & 7 == 0:
            yield tag >> 3, size
        elif tag & 7 == 2:  # noqa: PLR2004 - as above: length and bytes
            yield tag >> 3, body[at : at + size]
            at += size
        else:
            return


def _read_varint(body: bytes, at: int) -> tuple[int, int]:
    """Return the number at a place, and the place after it; what is cut off reads as zeros."""
    number = shift = 0
    while at < len(body):
        number |= (body[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if body[at - 1] < 0x80:  # noqa: PLR2004 - as above
            break
    return number, at


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
            self._resource = resource(_resource(service, role))
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
            body = request(self._resource, batch)
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
        return rejected(answer) if kind == "application/x-protobuf" else 0

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
