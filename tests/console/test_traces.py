"""Traces come in as OTLP, are kept once each and no more than so many, and are drawn with their waits."""

from __future__ import annotations

import gzip
from dataclasses import replace

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from console.domain import Keeping, Shown
from console.waterfall import waterfall
from quadrille.testing import OnPostgres
from tests.console.conftest import served

MS = 1_000_000
BEGAN = 1_763_716_443_000 * MS
PROTOBUF = {"Content-Type": "application/x-protobuf"}


def export(trace: int, *spans: tuple[str, int, int, int, int, str]) -> bytes:
    """A request: each span is its service, number, parent's number, begin and end in ms, name; errors end in !."""
    made = ExportTraceServiceRequest()
    for service, number, parent, began, ended, name in spans:
        resource = made.resource_spans.add()
        resource.resource.attributes.add(key="service.name").value.string_value = service
        one = resource.scope_spans.add().spans.add(
            trace_id=trace.to_bytes(16), span_id=number.to_bytes(8), name=name.rstrip("!"),
            parent_span_id=parent.to_bytes(8) if parent else b"", kind=5 if "process" in name else 2,
            start_time_unix_nano=BEGAN + began * MS, end_time_unix_nano=BEGAN + ended * MS,
        )  # fmt: skip
        one.status.code = 2 if name.endswith("!") else 0
    return bytes(made.SerializeToString())


STORY = (
    ("order", 1, 0, 0, 12, "POST /v1/orders"),
    ("inventory", 2, 1, 40, 46, "process order.events"),
    ("payment", 3, 2, 80, 300, "charge_card!"),
)


def test_a_trace_is_kept_and_drawn(console: OnPostgres[Shown]) -> None:
    """Sent twice, packed or not, each span is there once; the page names the waits between them."""
    with served(console) as address, httpx.Client(base_url=address) as http:
        body = export(7, *STORY)
        assert http.post("/v1/traces", content=body, headers=PROTOBUF).status_code == 200
        packed = {**PROTOBUF, "Content-Encoding": "gzip"}
        assert http.post("/v1/traces", content=gzip.compress(body), headers=packed).status_code == 200
        page = http.get(f"/traces/{(7).to_bytes(16).hex()}").text

    assert page.count("</tr>") == len(STORY) + 1
    assert "queue 28 ms" in page
    assert "charge_card" in page


def test_no_more_traces_are_kept_than_so_many(console: OnPostgres[Shown]) -> None:
    """The oldest goes with whatever comes, and all its spans with it."""
    console.service = replace(console.service, rules=Keeping(traces=3))
    with served(console) as address, httpx.Client(base_url=address) as http:
        for trace in range(1, 7):
            assert http.post("/v1/traces", content=export(trace, *STORY), headers=PROTOBUF).is_success
        kept = console.tx.execute("SELECT trace_id FROM trace ORDER BY number").fetchall()
        parts = console.tx.execute("SELECT DISTINCT trace_id FROM trace_part ORDER BY 1").fetchall()

    assert [int(row[0], 16) for row in kept] == [4, 5, 6]
    assert parts == kept


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"\xff\xff", {}, 400),
        (b"{}", {"Content-Type": "application/json"}, 415),
        (b"not gzip", {"Content-Encoding": "gzip"}, 400),
        (gzip.compress(b"\0" * 40_000_000), {"Content-Encoding": "gzip"}, 413),
        (b"\0" * 4_000_001, {}, 413),
    ],
)
def test_what_is_no_export_is_refused(
    console: OnPostgres[Shown], body: bytes, headers: dict[str, str], status: int
) -> None:
    """Another kind, broken bytes, a bomb, too much: a problem document, and nothing is kept."""
    with served(console) as address:
        answer = httpx.post(f"{address}/v1/traces", content=body, headers=PROTOBUF | headers)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert console.tx.execute("SELECT count(*) FROM trace_part").fetchall() == [(0,)]


def test_spans_in_a_circle_are_drawn_once() -> None:
    """Two that name each other as parents are told all the same."""
    one = {"trace_id": "t", "service": "a", "role": "", "name": "x", "kind": 1, "began_ns": 1, "ended_ns": 9,
           "error": None, "attributes": {}}  # fmt: skip
    drawn = waterfall([one | {"span_id": "a", "parent_id": "b"}, one | {"span_id": "b", "parent_id": "a"}])

    assert sorted(span["span_id"] for span in drawn["spans"]) == ["a", "b"]
