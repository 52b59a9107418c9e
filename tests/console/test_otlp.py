"""Spans as any exporter sends them are read; what is no export request is refused, whatever it is."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from console.otlp import NoSpansError, parts_of, spans_of

TRACE, SPAN, PARENT = b"\x04" * 16, b"\x05" * 8, b"\x06" * 8


def request() -> ExportTraceServiceRequest:
    """One span with everything that is kept of it."""
    made = ExportTraceServiceRequest()
    resource = made.resource_spans.add()
    for key, value in (("service.name", "payment"), ("quadrille.role", "worker")):
        resource.resource.attributes.add(key=key).value.string_value = value
    span = resource.scope_spans.add().spans.add(
        trace_id=TRACE, span_id=SPAN, parent_span_id=PARENT, name="process payment.events", kind=5,
        start_time_unix_nano=1_700_000_000_000_000_000, end_time_unix_nano=1_700_000_000_002_500_000,
    )  # fmt: skip
    span.attributes.add(key="quadrille.attempt").value.int_value = 3
    span.attributes.add(key="less").value.int_value = -1
    span.attributes.add(key="yes").value.bool_value = True
    span.attributes.add(key="ratio").value.double_value = 0.5
    span.attributes.add(key="many").value.array_value.values.add().string_value = "a\0b"
    span.status.code, span.status.message = 2, "status 503"
    span.links.add(trace_id=TRACE, span_id=PARENT)
    return made


def test_a_span_is_read_whole() -> None:
    """Ids, names, times to the nanosecond, attributes of every kind, the error; links are stepped over."""
    [span] = spans_of(request().SerializeToString())

    assert (span.trace_id, span.span_id, span.parent_id) == (TRACE.hex(), SPAN.hex(), PARENT.hex())
    assert (span.service, span.role, span.name, span.kind) == ("payment", "worker", "process payment.events", 5)
    assert span.ended_ns - span.began_ns == 2_500_000
    assert span.error == "status 503"
    assert span.attributes == {
        "quadrille.attempt": 3, "less": -1, "yes": True, "ratio": "0.5", "many": ["a\ufffdb"],
    }  # fmt: skip


def test_a_request_is_taken_apart_by_trace() -> None:
    """Each part is a request of its own: its trace's spans as they came, below their resource and scope."""
    made = request()
    scope = made.resource_spans[0].scope_spans[0]
    scope.scope.name = "s" * 300
    other = made.resource_spans.add()
    other.resource.attributes.add(key="service.name").value.string_value = "order"
    for number in range(3):
        other.scope_spans.add().spans.add(trace_id=TRACE, span_id=bytes([number]) * 8, name="n")
        scope.spans.add(trace_id=b"\x09" * 16, span_id=bytes([number]) * 8)

    parts = parts_of(made.SerializeToString())

    whole = spans_of(made.SerializeToString())
    for trace_id, raw in parts.items():
        assert spans_of(raw) == [span for span in whole if span.trace_id == trace_id]
    assert sorted(parts) == [TRACE.hex(), "09" * 16]
    again = ExportTraceServiceRequest.FromString(parts["09" * 16])
    assert [one.scope.name for one in again.resource_spans[0].scope_spans] == ["s" * 300]


def test_a_span_without_its_trace_is_refused() -> None:
    """Whose it is cannot be told."""
    made = request()
    made.resource_spans[0].scope_spans[0].spans.add(span_id=SPAN)
    with pytest.raises(NoSpansError):
        parts_of(made.SerializeToString())


def test_an_empty_request_has_no_spans() -> None:
    """Nothing is no error: exporters probe with it."""
    assert spans_of(b"") == []
    assert parts_of(b"") == {}


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    """No bytes raise anything but the refusal."""
    for read in (spans_of, parts_of):
        with suppress(NoSpansError):
            read(raw)


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_request_is_read_or_refused(place: int, byte: int) -> None:
    """One byte of a good request changed: spans, or the refusal."""
    raw = bytearray(request().SerializeToString())
    raw[place % len(raw)] = byte
    for read in (spans_of, parts_of):
        with suppress(NoSpansError):
            read(bytes(raw))


def test_a_request_cut_short_is_refused() -> None:
    """Its last byte is missing."""
    with pytest.raises(NoSpansError):
        spans_of(request().SerializeToString()[:-1])
    with pytest.raises(NoSpansError):
        parts_of(request().SerializeToString()[:-1])
