"""A trace as a document: its spans in the order of the waterfall, each with what it is a part of and its waits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from console.waterfall import nested, part_of, waits
from quadrille.web import Document

SPANS_MAX = 2000
ORDER, TRACE_ID = "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1", "04a75036e9d520bb983c5ed03b8d0182"
TRACE = {
    "trace_id": TRACE_ID, "order": {"order_id": ORDER, "status": "CONFIRMED", "final": True}, "complete": True,
    "missing": [], "took_ms": 12, "spans": [{
        "span_id": "53995c3f42cd8ad8", "parent_id": None, "service": "order", "role": "api", "name": "POST /v1/orders",
        "kind": 2, "began_unix_nano": "1763716443120000000", "ended_unix_nano": "1763716443132000000", "error": None,
        "attributes": {"http.route": "/v1/orders"}, "depth": 0, "part": "request", "waits": [],
    }],
}  # fmt: skip


class WaitDocument(Document):
    """What a span has waited for before it began."""

    name: str = Field(description="outbox, relay, queue, retry or parked.")
    began_unix_nano: str
    ended_unix_nano: str


class SpanDocument(Document):
    """A span as it was exported, with its place in the waterfall."""

    span_id: str
    parent_id: str | None
    service: str
    role: str
    name: str
    kind: int = Field(description="As in OTLP: 1 internal, 2 server, 3 client, 4 producer, 5 consumer.")
    began_unix_nano: str
    ended_unix_nano: str
    error: str | None
    attributes: dict[str, Any]
    depth: int
    part: str = Field(description="request, handler, broker, call, connection or database.")
    waits: list[WaitDocument]


class OfOrder(Document):
    """The order a trace is of."""

    order_id: str
    status: str
    final: bool


class TraceDocument(Document):
    """A trace; ``missing`` says what is not here yet, or any more."""

    trace_id: str
    order: OfOrder | None
    complete: bool
    missing: list[str]
    took_ms: int
    spans: list[SpanDocument]


def trace_document(trace_id: str, spans: Sequence[Mapping[str, Any]], kept: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trace that has spans; ``kept`` is its order, if any was heard of."""
    waited = waits(spans)
    began, ended = min(s["began_ns"] for s in spans), max(s["ended_ns"] for s in spans)
    of = {name: kept[name] for name in ("order_id", "status", "final")} if kept["order_id"] else None
    missing = list(_missing(spans, of))
    return {
        "trace_id": trace_id, "order": of, "complete": not missing, "missing": missing,
        "took_ms": (ended - began) // 1_000_000,
        "spans": [_span(span, depth, waited[span["span_id"]]) for span, depth in nested(spans)],
    }  # fmt: skip


def _missing(spans: Sequence[Mapping[str, Any]], of: Mapping[str, Any] | None) -> list[str]:
    known = {span["span_id"] for span in spans}
    lost = len({span["parent_id"] for span in spans if span["parent_id"]} - known)
    found = [f"the order is {of['status']}: more is to come"] if of and not of["final"] else []
    if lost:
        found.append(f"{lost} spans that others came of have not come: they are on their way, or were dropped")
    if len(spans) >= SPANS_MAX:
        found.append(f"only the first {SPANS_MAX} spans are told")
    return found


def _span(span: Mapping[str, Any], depth: int, waited: Sequence[Any]) -> dict[str, Any]:
    names = ("span_id", "service", "role", "name", "kind", "error")
    return {name: span[name] for name in names} | {
        "parent_id": span["parent_id"] or None, "began_unix_nano": str(span["began_ns"]),
        "ended_unix_nano": str(span["ended_ns"]), "attributes": span["attributes"] or {}, "depth": depth,
        "part": part_of(span),
        "waits": [
            {"name": one.name, "began_unix_nano": str(one.began_ns), "ended_unix_nano": str(one.ended_ns)}
            for one in waited
        ],
    }  # fmt: skip
