"""OTLP over HTTP: an SDK's ``SpanExporter`` that packs fast and posts as the official one does; nothing waits for it.

The official encoder takes eight times as long a span (docs/adr/0002-dependencies.md). What a receiver does not take is
told, with its address and the reason, and so is that it takes them again.
"""

from __future__ import annotations

import gzip
import http.client
import random
import socket
import ssl
import struct
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.span import DEFAULT_TRACE_STATE
from opentelemetry.trace.status import Status, StatusCode

from quadrille.observability.degraded import Degraded
from quadrille.observability.metrics import SPANS_DROPPED, SPANS_SENT
from quadrille.observability.otel import PATH, OtelSettings
from quadrille.observability.trace_context import Context

__all__ = ["FinishedSpan", "OtlpExporter", "PlainSpan", "pack", "rejected", "request"]

SCOPE = InstrumentationScope("chassis")
SAMPLED, UNSAMPLED = TraceFlags(TraceFlags.SAMPLED), TraceFlags(TraceFlags.DEFAULT)
KINDS = (SpanKind.INTERNAL, SpanKind.INTERNAL, SpanKind.SERVER, SpanKind.CLIENT, SpanKind.PRODUCER, SpanKind.CONSUMER)
UNSET = Status(StatusCode.UNSET)
_eight = struct.Struct("<Q").pack
_double = struct.Struct("<d").pack
_REMOTE = b"\x85\x01" + struct.pack("<I", 0x300)  # Span.flags: it is known whether the parent is elsewhere, and it is
REMEMBERED = 1_000  # of each kind
OF_FEW = frozenset({
    "messaging.system", "messaging.operation.type", "messaging.destination.name", "quadrille.event_type",
    "quadrille.outcome", "quadrille.type", "http.request.method", "http.route", "server.address", "db.system.name",
    "db.namespace", "db.operation.name", "db.query.summary",
})  # fmt: skip
"""Attributes whose values are few texts: packed once each."""
_KEYS: dict[str, bytes] = {}
_NAMES: dict[tuple[str, int], bytes] = {}
_PAIRS: dict[tuple[str, object], bytes] = {}


PlainSpan: TypeAlias = tuple[
    str, Context, str | None, int, int, int, Mapping[str, Any] | None, tuple[Context, ...], str | None
]
"""Name, place, parent's span id (None is a root), begin and end in Unix nanoseconds, kind, attributes, links, error."""


class FinishedSpan(ReadableSpan):
    """A span of the chassis as the SDK's, made so when somebody reads it: our own exporter packs it as it is."""

    def __init__(self, plain: PlainSpan, resource: Resource) -> None:
        self.plain, self.home = plain, resource

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any part
        """Become a whole span at the first look at a part."""
        if not name.startswith("_") or "_name" in self.__dict__:
            raise AttributeError(name)
        called, place, parent, start, end, kind, attributes, links, error = self.plain
        trace_id = int(place.trace_id, 16)
        super().__init__(
            called,
            SpanContext(trace_id, int(place.span_id, 16), is_remote=False, trace_flags=SAMPLED),
            SpanContext(trace_id, int(parent, 16), is_remote=False) if parent else None,
            self.home, attributes, (), [Link(span_context(one)) for one in links], KINDS[kind],
            status=UNSET if error is None else Status(StatusCode.ERROR, error),
            start_time=start, end_time=end, instrumentation_scope=SCOPE,
        )  # fmt: skip
        return self.__dict__[name]


def span_context(place: Context) -> SpanContext:
    """Return a place in a trace as the SDK has it."""
    flags = SAMPLED if place.sampled else UNSAMPLED
    return SpanContext(int(place.trace_id, 16), int(place.span_id, 16), is_remote=False, trace_flags=flags)


def request(spans: Sequence[ReadableSpan]) -> bytes:
    """Return one export request holding all spans, by their resource and scope."""
    scopes: dict[tuple[int, int], list[bytes]] = {}
    heads: dict[tuple[int, int], tuple[Resource, InstrumentationScope | None]] = {}
    scope: InstrumentationScope | None
    for span in spans:
        if type(span) is FinishedSpan:
            resource, scope, packed = span.home, SCOPE, pack_plain(span.plain)
        else:
            resource, scope, packed = span.resource, span.instrumentation_scope, pack(span)
        place = id(resource), id(scope)
        if place not in scopes:
            scopes[place], heads[place] = [], (resource, scope)
        scopes[place].append(_field(0x12, packed))
    return b"".join(_resource_spans(*heads[place], packed) for place, packed in scopes.items())


def _resource_spans(resource: Resource, scope: InstrumentationScope | None, packed: Sequence[bytes]) -> bytes:
    who = b"".join(_field(0x0A, _attribute(k, v)) for k, v in resource.attributes.items())
    parts = [_field(0x0A, _scope(scope)) if scope else b"", *packed]
    if scope and scope.schema_url:
        parts.append(_field(0x1A, scope.schema_url.encode()))
    body = _field(0x0A, who) + _field(0x12, b"".join(parts))
    return _field(0x0A, body + (_field(0x1A, resource.schema_url.encode()) if resource.schema_url else b""))


def _scope(scope: InstrumentationScope) -> bytes:
    version = _field(0x12, scope.version.encode()) if scope.version else b""
    more = b"".join(_field(0x1A, _attribute(k, v)) for k, v in (scope.attributes or {}).items())
    return _field(0x0A, scope.name.encode()) + version + more


def rejected(response: bytes) -> int:
    """Return how many spans an ``ExportTraceServiceResponse`` says were rejected (``partial_success``)."""
    for number, value in _read(response):
        if number == 1 and isinstance(value, bytes):
            return next((int(n) for field, n in _read(value) if field == 1 and isinstance(n, int)), 0)
    return 0


def pack(span: ReadableSpan) -> bytes:
    """Return one packed Span message."""
    name, parent, status = span.name.encode("utf-8", "replace"), span.parent, span.status
    parts = [
        _ids(span.context),
        b"\x22\x08" + parent.span_id.to_bytes(8, "big") if parent else b"",
        b"\x2a", _varint(len(name)), name, b"\x30", bytes((span.kind.value + 1,)),
        b"\x39", _eight(span.start_time or 0), b"\x41", _eight(span.end_time or 0),
    ]  # fmt: skip
    for key, value in (span.attributes or {}).items():
        attribute = _attribute(key, value)
        parts += (b"\x4a", _varint(len(attribute)), attribute)
    for event in span.events:
        head = b"\x09" + _eight(event.timestamp) + _field(0x12, event.name.encode("utf-8", "replace"))
        lost = getattr(event, "dropped_attributes", 0)
        parts.append(_field(0x5A, head + _attributes(0x1A, event.attributes) + _count(0x20, lost)))
    for link in span.links:
        more = _attributes(0x22, link.attributes) + _count(0x28, link.dropped_attributes) if link.attributes else b""
        parts.append(_field(0x6A, _ids(link.context) + more))
    for tag, lost in ((0x50, span.dropped_attributes), (0x60, span.dropped_events), (0x70, span.dropped_links)):
        if lost:
            parts.append(_count(tag, lost))
    if code := status.status_code.value:
        said = (status.description or "").encode("utf-8", "replace")
        parts.append(_field(0x7A, (_field(0x12, said) if said else b"") + bytes((0x18, code))))
    if parent and parent.is_remote:
        parts.append(_REMOTE)
    return b"".join(parts)


def pack_plain(span: PlainSpan) -> bytes:
    """Return what ``pack`` does, of a span of the chassis, in two thirds of the time."""
    name, place, parent, start, end, kind, attributes, links, error = span
    parts = [
        b"\x0a\x10", bytes.fromhex(place.trace_id), b"\x12\x08", bytes.fromhex(place.span_id),
        b"\x22\x08" + bytes.fromhex(parent) if parent else b"", _NAMES.get((name, kind)) or _named(name, kind),
        b"\x39", _eight(start), b"\x41", _eight(end),
    ]  # fmt: skip
    if attributes:
        parts += [_PAIRS.get(pair) or _paired(*pair) for pair in attributes.items()]
        if lost := getattr(attributes, "dropped", 0):
            parts.append(_count(0x50, lost))
    for link in links:
        parts += (b"\x6a\x1c\x0a\x10", bytes.fromhex(link.trace_id), b"\x12\x08", bytes.fromhex(link.span_id))
    if error is not None:
        parts.append(_field(0x7A, _field(0x12, error.encode()) + b"\x18\x02"))
    return b"".join(parts)


def _named(name: str, kind: int) -> bytes:
    """Return the fields of name and kind; few, so they are remembered."""
    packed = _field(0x2A, name.encode("utf-8", "replace")) + b"\x30" + bytes((kind,))
    if len(_NAMES) < REMEMBERED:
        _NAMES[name, kind] = packed
    return packed


def _paired(key: str, value: object) -> bytes:
    """Return the field of an attribute, remembered if its values are few."""
    packed = _field(0x4A, _attribute(key, value))
    if key in OF_FEW and isinstance(value, str) and len(_PAIRS) < REMEMBERED:
        _PAIRS[key, value] = packed
    return packed


def _ids(context: SpanContext) -> bytes:
    """Return the first three fields of a span and of a link: whose place it is, with the state of its trace."""
    trace_id, span_id, _, _, state, _ = context
    ids = b"\x0a\x10" + trace_id.to_bytes(16, "big") + b"\x12\x08" + span_id.to_bytes(8, "big")
    return ids if state is DEFAULT_TRACE_STATE or not state else ids + _field(0x1A, state.to_header().encode())


def _attributes(tag: int, attributes: Mapping[str, Any] | None) -> bytes:
    return b"".join(_field(tag, _attribute(key, value)) for key, value in (attributes or {}).items())


def _attribute(key: str, value: object) -> bytes:
    packed = _KEYS.get(key)
    if packed is None:
        packed = _field(0x0A, key.encode("utf-8", "replace"))
        if len(_KEYS) < REMEMBERED:  # names are a few dozen literals; a stranger's may be anything
            _KEYS[key] = packed
    return packed + _field(0x12, _any(value))


def _any(value: object) -> bytes:  # noqa: PLR0911 - a kind each
    if isinstance(value, str):
        return _field(0x0A, value.encode("utf-8", "replace"))
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + _varint(value & (1 << 64) - 1)
    if isinstance(value, float):
        return b"\x21" + _double(value)
    if isinstance(value, bytes):
        return _field(0x3A, value)
    if isinstance(value, Mapping):
        return _field(0x32, _attributes(0x0A, {str(key): one for key, one in value.items()}))
    if isinstance(value, Sequence):
        return _field(0x2A, b"".join(_field(0x0A, _any(one)) for one in value))
    return b""


def _count(tag: int, number: int) -> bytes:
    return bytes((tag,)) + _varint(number) if number else b""


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


BACK_OFF_SECONDS = 1.0  # before the second try; each next one waits twice as long
GRPC_PORT = 4317
ANSWER_MAX = 65_536
RETRYABLE = frozenset((429, 502, 503, 504))  # OTLP, "Retryable Response Codes"
HINTS = {
    404: "no receiver there", 405: "no receiver there",
    401: "it wants credentials", 403: "it wants credentials", 415: "it takes no protobuf over HTTP",
    429: "it is overloaded", 503: "it is overloaded",
}  # fmt: skip


class _NotTakenError(Exception):
    """A request was not taken: why, in a fixed phrase, and after how long it may be sent again; None is never."""

    def __init__(self, why: str, again: float | None) -> None:
        super().__init__(why)
        self.again = again


class OtlpExporter(SpanExporter):
    """One receiver with its kept-open connection.

    ``url`` is a base, to which the path is added, or with ``whole`` the very address. A request that may be repeated
    is, ever more seldom, until the time-out is over; after ``hurry`` it is not any more.
    """

    def __init__(self, url: str, settings: OtelSettings, *, whole: bool = False) -> None:
        parts = urllib.parse.urlsplit(url)
        self._connection = _connection(parts, settings)
        self._path = (parts.path or "/") if whole else parts.path.rstrip("/") + PATH
        self._added = not whole
        self._port, self._timeout, self._gzip = parts.port, settings.timeout, settings.gzip
        self._headers = {**settings.headers, "content-type": "application/x-protobuf"}
        if self._gzip:
            self._headers["content-encoding"] = "gzip"
        self._takes = Degraded(f"spans to {url}")
        self._hurry = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Post one request; the SDK calls this in a thread of its own."""
        body, count = request(spans), len(spans)
        if self._gzip:
            body = gzip.compress(body, 1)
        try:
            lost = min(count, self._insist(body))
        except _NotTakenError as trouble:
            lost = count
            self._takes.lost(str(trouble), count)
        else:
            self._takes.lost("it rejects some of them", lost) if lost else self._takes.back()
        SPANS_DROPPED.inc(lost)
        SPANS_SENT.inc(count - lost)
        return SpanExportResult.FAILURE if lost else SpanExportResult.SUCCESS

    def hurry(self) -> None:
        """Repeat nothing from here on: the process ends."""
        self._hurry.set()

    def shutdown(self) -> None:
        """Close the connection."""
        self._hurry.set()
        self._connection.close()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - the SDK's signature
        """Return that nothing waits here: the queue is the batches'."""
        return True

    def _insist(self, body: bytes) -> int:
        """Post until the time-out is over, and return how many spans were rejected; raises _NotTakenError."""
        until, wait = time.monotonic() + self._timeout, BACK_OFF_SECONDS
        while True:
            try:
                return self._try(body, until)
            except _NotTakenError as trouble:
                if trouble.again is None:
                    raise
                pause = max(trouble.again, wait * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
                if time.monotonic() + pause >= until or self._hurry.wait(pause):
                    raise
                wait *= 2

    def _try(self, body: bytes, until: float) -> int:
        """Post once; a kept-open connection that the other side has closed meanwhile is opened anew."""
        while True:
            fresh = self._connection.sock is None
            try:
                return self._post(body, max(0.001, until - time.monotonic()))
            except (OSError, http.client.HTTPException) as trouble:
                self._connection.close()
                if fresh:
                    certain = isinstance(trouble, ssl.SSLError)  # another try would end as this one
                    raise _NotTakenError(self._why(trouble), None if certain else 0.0) from None

    def _post(self, body: bytes, seconds: float) -> int:
        """Return how many spans were rejected of those a receiver has answered for; raises _NotTakenError."""
        self._connection.timeout = seconds
        if self._connection.sock:
            self._connection.sock.settimeout(seconds)
        self._connection.request("POST", self._path, body, self._headers)
        response = self._connection.getresponse()
        answer, kind = response.read(ANSWER_MAX), response.headers.get_content_type()
        if not response.isclosed():
            self._connection.close()
        if not http.HTTPStatus.OK <= response.status < http.HTTPStatus.MULTIPLE_CHOICES:
            hint = HINTS.get(response.status)
            if response.status == http.HTTPStatus.NOT_FOUND and self._added:
                hint = f"{hint}: leave a path out, {PATH} is added"
            message = f"it answers {response.status}" + (f": {hint}" if hint else "")
            raise _NotTakenError(message, _again(response) if response.status in RETRYABLE else None)
        if answer and kind == "text/html":
            message = "it answers with a web page: no receiver there"
            raise _NotTakenError(message, None)
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
            return f"no answer in {self._timeout:g} s"
        if isinstance(trouble, http.client.HTTPException | ConnectionResetError | BrokenPipeError):
            over = "; 4317 is the port of OTLP over gRPC, over HTTP it is 4318" if self._port == GRPC_PORT else ""
            return f"it does not answer in HTTP{over}: TLS, or another protocol"
        return trouble.strerror or type(trouble).__name__ if isinstance(trouble, OSError) else type(trouble).__name__


def _connection(parts: urllib.parse.SplitResult, settings: OtelSettings) -> http.client.HTTPConnection:
    host, port = parts.hostname or "", parts.port
    if parts.scheme == "https":
        return http.client.HTTPSConnection(host, port, timeout=settings.timeout, context=settings.tls)
    return http.client.HTTPConnection(host, port, timeout=settings.timeout)


def _again(response: http.client.HTTPResponse) -> float:
    """Return the seconds a receiver asks to wait (Retry-After); a date, or nonsense, asks for none."""
    text = response.headers.get("Retry-After", "").strip()
    return float(text) if text.isascii() and text.isdecimal() else 0.0
