"""A trace as OTLP JSON, an ExportTraceServiceRequest: what a collector, or Jaeger, takes at `/v1/traces`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

ERROR = 2
Document = Mapping[str, Any]


def otlp_json(trace: Document) -> dict[str, Any]:
    """Return a trace of the console as the request that would export it: a resource for each process."""
    spans = sorted(trace["spans"], key=_process)
    resources = [(process, list(found)) for process, found in groupby(spans, _process)]
    return {"resourceSpans": [_resource(*one, trace["trace_id"]) for one in resources]}


def _process(span: Document) -> tuple[str, str]:
    return span["service"], span["role"]


def _resource(process: tuple[str, str], spans: list[Document], trace_id: str) -> dict[str, Any]:
    named = dict(zip(("service.name", "quadrille.role"), process, strict=True))
    return {
        "resource": {"attributes": list(_attributes({name: value for name, value in named.items() if value}))},
        "scopeSpans": [{"scope": {"name": "quadrille"}, "spans": [_span(one, trace_id) for one in spans]}],
    }


def _span(span: Document, trace_id: str) -> dict[str, Any]:
    parent = {"parentSpanId": span["parent_id"]} if span["parent_id"] else {}
    return {
        "traceId": trace_id, "spanId": span["span_id"], **parent, "name": span["name"], "kind": span["kind"],
        "startTimeUnixNano": span["began_unix_nano"], "endTimeUnixNano": span["ended_unix_nano"],
        "attributes": list(_attributes(span["attributes"])),
        "status": {"code": ERROR, "message": span["error"]} if span["error"] else {},
    }  # fmt: skip


def _attributes(found: Document) -> Iterator[dict[str, Any]]:
    for name, value in found.items():
        yield {"key": name, "value": _value(value)}


def _value(value: object) -> dict[str, Any]:
    """Return an AnyValue; whole numbers are texts there, as JSON's are too short for them."""
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case list():
            return {"arrayValue": {"values": [_value(one) for one in value]}}
        case None:
            return {}
        case _:
            return {"stringValue": str(value)}
