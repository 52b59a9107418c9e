"""OTLP in: the spans of an export request, read from its protobuf bytes by the wire format alone, each bounded.

What is not known of a message is stepped over, as protobuf asks; what is cut short or too deep is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, TypeAlias

from console.domain import Span
from console.reading import text

VARINT, EIGHT, LENGTH, FOUR = 0, 1, 2, 5
DEPTH_MAX = 8
SPANS_MAX = 10_000
VALUE_MAX = 2_000
INT64 = 1 << 63
Field: TypeAlias = tuple[int, int | bytes]


class NoSpansError(ValueError):
    """The bytes are no export request of traces."""


def spans_of(body: bytes) -> list[Span]:
    """Return the spans of an ExportTraceServiceRequest; raises NoSpansError."""
    found: list[Span] = []
    for resource_spans in _messages(body, 1):
        resource: dict[str, Any] = {}
        for one in _messages(resource_spans, 1):
            resource |= _attributes(one, 1)
        for scope in _messages(resource_spans, 2):
            for span in _messages(scope, 2):
                found.append(_span(span, resource))
                if len(found) > SPANS_MAX:
                    raise NoSpansError
    return found


def _span(raw: bytes, resource: dict[str, Any]) -> Span:
    kept = {number: value for number, value in _fields(raw) if number != ATTRIBUTES}
    attributes = _attributes(raw, ATTRIBUTES)
    trace_id, span_id, parent = (_bytes(kept.get(number)).hex() for number in (1, 2, 4))
    if len(trace_id) != 32 or len(span_id) != 16:  # noqa: PLR2004 - hexadecimal digits of 16 and 8 bytes
        raise NoSpansError
    status = dict(_fields(_bytes(kept.get(15))))
    failed = status.get(3) == 2  # noqa: PLR2004 - STATUS_CODE_ERROR
    error = (_text(_bytes(status.get(2))) or "error") if failed else None
    return Span(
        trace_id, span_id, parent, str(resource.get("service.name", "")), str(resource.get("quadrille.role", "")),
        _text(_bytes(kept.get(5))), _int(kept.get(6)), _int(kept.get(7)), _int(kept.get(8)), error, attributes,
    )  # fmt: skip


ATTRIBUTES = 9


def _attributes(raw: bytes, number: int) -> dict[str, Any]:
    """Return the attributes of a message, which has them under this number."""
    found: dict[str, Any] = {}
    for pair in _messages(raw, number):
        parts = dict(_fields(pair))
        found[_text(_bytes(parts.get(1)))] = _value(_bytes(parts.get(2)))
    return found


def _value(raw: bytes, depth: int = 0) -> Any:  # noqa: ANN401, PLR0911 - an AnyValue, a return a kind
    if depth > DEPTH_MAX:
        raise NoSpansError
    for number, value in _fields(raw):
        match number, value:
            case 1, bytes(said):
                return _text(said)
            case 2, int(flag):
                return bool(flag)
            case 3, int(whole):
                return whole - 2 * INT64 if whole >= INT64 else whole
            case 4, int(bits):
                return repr(struct.unpack("<d", bits.to_bytes(8, "little"))[0])
            case 5, bytes(many):
                return [_value(one, depth + 1) for one in _messages(many, 1)]
            case 7, bytes(blob):
                return blob[:VALUE_MAX].hex()
            case _:
                continue
    return None


def _messages(raw: bytes, number: int) -> Iterator[bytes]:
    for found, value in _fields(raw):
        if found == number:
            yield _bytes(value)


def _fields(raw: bytes) -> Iterator[Field]:
    """Yield the fields of a message: numbers as they are on the wire, everything else as bytes."""
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, at = _varint(raw, at)
            yield number, value
            continue
        if kind == LENGTH:
            size, at = _varint(raw, at)
        elif kind in (EIGHT, FOUR):
            size = 8 if kind == EIGHT else 4
        else:
            raise NoSpansError
        if at + size > len(raw):
            raise NoSpansError
        part = raw[at : at + size]
        at += size
        yield number, part if kind == LENGTH else int.from_bytes(part, "little")


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(raw) or shift > 63:  # noqa: PLR2004 - a varint has ten bytes at most
            raise NoSpansError
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the last byte has no continuation bit
            return value & (2 * INT64 - 1), at
        shift += 7


def _bytes(value: int | bytes | None) -> bytes:
    if isinstance(value, int):
        raise NoSpansError
    return value or b""


def _int(value: int | bytes | None) -> int:
    return min(value, INT64 - 1) if isinstance(value, int) else 0


def _text(raw: bytes) -> str:
    return text(raw.decode("utf-8", "replace"))[:VALUE_MAX]
