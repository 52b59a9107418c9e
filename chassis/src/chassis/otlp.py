"""Spans as OTLP bytes, packed by hand: exactly ``ExportTraceServiceRequest`` of OTLP 1.x, at a few µs a span.

Wire: a field is ``number << 3 | kind`` (0 varint, 1 eight bytes, 2 length and bytes), then its value. The layout
follows opentelemetry-proto's ``trace.proto``, ``common.proto`` and ``resource.proto``; a test decodes it with those.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

from chassis.trace import Context

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
