"""OTLP in: an export request taken apart by trace as it came, and its spans read when somebody looks at them.

Both work on the wire format alone. What is not known of a message is stepped over, as protobuf asks; what is cut short
or too deep is refused. Nearly all spans are let go unseen, so that taking a request apart reads no more of a span than
whose it is.
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


def parts_of(body: bytes) -> dict[str, bytes]:
    """Return the export requests a request is made of, one a trace, by trace id; raises NoSpansError.

    Each has the spans of one trace, byte for byte, below their resource and scope.
    """
    parts: dict[str, bytes] = {}
    many = 0
    for resource_spans in _messages(body, 1):
        resource, scopes = _apart(resource_spans, 2)
        found: dict[bytes, bytes] = {}
        for scope_spans in scopes:
            scope, spans = _apart(scope_spans, 2)
            many += len(spans)
            if many > SPANS_MAX:
                raise NoSpansError
            for trace_id, own in _by_trace(spans).items():
                found[trace_id] = found.get(trace_id, b"") + _message(2, scope + own)
        for trace_id, own in found.items():
            parts[trace_id.hex()] = parts.get(trace_id.hex(), b"") + _message(1, resource + own)
    return parts


def _by_trace(spans: list[bytes]) -> dict[bytes, bytes]:
    """Return spans as fields of a scope's message, by their trace."""
    found: dict[bytes, list[bytes]] = {}
    for span in spans:
        # A trace id is a span's first field wherever fields are written in their order.
        trace_id = span[2:18] if span[:2] == b"\x0a\x10" else next(_messages(span, 1), b"")
        if len(trace_id) != 16:  # noqa: PLR2004 - bytes of a trace id
            raise NoSpansError
        found.setdefault(trace_id, []).append(_message(2, span))
    return {trace_id: b"".join(own) for trace_id, own in found.items()}


def _apart(raw: bytes, number: int) -> tuple[bytes, list[bytes]]:
    """Return a message without the messages it has under a number, and those."""
    apart: list[bytes] = []
    rest, at = b"", 0
    for found, value, end in _walk(raw):
        if found == number:
            apart.append(_bytes(value))
        else:
            rest += raw[at:end]
        at = end
    return rest, apart


def _message(number: int, raw: bytes) -> bytes:
    """Return a message as a field of another."""
    size, length = len(raw), bytearray([number << 3 | LENGTH])
    while size > 0x7F:  # noqa: PLR2004 - seven bits a byte
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes(length) + raw


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
    kept: dict[int, int | bytes] = {}
    attributes: dict[str, Any] = {}
    for number, value in _fields(raw):
        if number == ATTRIBUTES:
            _note(_bytes(value), attributes)
        else:
            kept[number] = value
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
        _note(pair, found)
    return found


def _note(pair: bytes, found: dict[str, Any]) -> None:
    """Note a KeyValue among attributes."""
    parts = dict(_fields(pair))
    found[_text(_bytes(parts.get(1)))] = _value(_bytes(parts.get(2)))


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
    for number, value, _ in _walk(raw):
        yield number, value


def _walk(raw: bytes) -> Iterator[tuple[int, int | bytes, int]]:
    """Yield the fields of a message, each with where it ends."""
    at = 0
    end = len(raw)
    while at < end:
        tag = raw[at]
        if tag < 0x80:  # noqa: PLR2004 - a tag of one byte, as nearly all are
            at += 1
        else:
            tag, at = _varint(raw, at)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, at = _varint(raw, at)
            yield number, value, at
            continue
        if kind == LENGTH:
            size, at = _varint(raw, at)
        elif kind in (EIGHT, FOUR):
            size = 8 if kind == EIGHT else 4
        else:
            raise NoSpansError
        if at + size > end:
            raise NoSpansError
        part = raw[at : at + size]
        at += size
        yield number, part if kind == LENGTH else int.from_bytes(part, "little"), at


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
