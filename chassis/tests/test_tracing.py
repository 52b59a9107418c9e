"""Spans reach every endpoint as real OTLP, and never slow or stop the work."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Decoded
from prometheus_client import REGISTRY

from chassis.otlp import Value
from chassis.trace import Context, new_trace
from chassis.tracing import PRODUCER, QUEUE, Spans


class Sink(ThreadingHTTPServer):
    """A real OTLP receiver over HTTP, decoding with opentelemetry-proto."""

    daemon_threads = True

    def __init__(self, status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = status
        self.requests: list[ExportTraceServiceRequest] = []
        self.connections: set[tuple[str, int]] = set()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        """Its base address."""
        return f"http://127.0.0.1:{self.server_port}"

    def spans(self) -> list[Decoded]:
        """Every span received so far."""
        return [s for r in list(self.requests) for t in r.resource_spans for u in t.scope_spans for s in u.spans]

    def wait_for(self, count: int, seconds: float = 5) -> list[Decoded]:
        """Return the spans once there are so many, or what there is at the deadline."""
        end = time.monotonic() + seconds
        while len(self.spans()) < count and time.monotonic() < end:
            time.sleep(0.01)
        return self.spans()


class _Handler(BaseHTTPRequestHandler):
    server: Sink
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Take one export request."""
        assert self.path == "/v1/traces"
        assert self.headers["Content-Type"] == "application/x-protobuf"
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.connections.add(self.client_address)
        self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as server:
        yield server
        server.shutdown()


def dropped() -> float:
    return REGISTRY.get_sample_value("quadrille_spans_dropped_total") or 0.0


def attributes(span: Decoded) -> dict[str, object]:
    values = {a.key: a.value for a in span.attributes}
    return {key: getattr(value, str(value.WhichOneof("value"))) for key, value in values.items()}


def test_a_span_arrives_whole(sink: Sink) -> None:
    """Name, ids, parent, kind, times, attributes of every kind, links and error are what was recorded."""
    spans, here, elsewhere = Spans("order", "relay", [sink.url]), new_trace(), new_trace()
    given: dict[str, Value] = {
        "topic": "order.events",
        "offset": 2**40,
        "negative": -1,
        "ratio": 0.5,
        "yes": True,
        "no": False,
    }
    spans.record(
        "send order.events", here, "00f067aa0ba902b7", 1_700_000_000_000_000_000, 1_700_000_000_000_000_500,
        kind=PRODUCER, attributes=given, links=(elsewhere,), error="broker is gone",
    )  # fmt: skip
    spans.stop()

    (span,) = sink.wait_for(1)
    assert (span.name, span.kind) == ("send order.events", Decoded.SPAN_KIND_PRODUCER)
    assert (span.trace_id.hex(), span.span_id.hex()) == (here.trace_id, here.span_id)
    assert span.parent_span_id.hex() == "00f067aa0ba902b7"
    assert span.end_time_unix_nano - span.start_time_unix_nano == 500
    assert attributes(span) == given
    assert [(link.trace_id.hex(), link.span_id.hex()) for link in span.links] == [
        (elsewhere.trace_id, elsewhere.span_id)
    ]
    assert (span.status.code, span.status.message) == (2, "broker is gone")


def test_the_resource_names_the_process(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """The resource says service, instance and role, and hears the SDK's own variable."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    spans = Spans("payment", "worker", [sink.url])
    spans.record("x", new_trace(), None, 1, 2)
    spans.stop()
    sink.wait_for(1)

    found = {a.key: a.value.string_value for a in sink.requests[0].resource_spans[0].resource.attributes}
    assert (found["service.name"], found["quadrille.role"]) == ("payment", "worker")
    assert found["service.instance.id"]
    assert found["deployment.environment"] == "test"


def test_two_endpoints_are_independent(sink: Sink) -> None:
    """One endpoint that refuses does not keep a span from the other."""
    spans = Spans("order", "api", ["http://127.0.0.1:1", sink.url])
    spans.record("x", new_trace(), None, 1, 2)
    spans.stop()

    assert len(sink.wait_for(1)) == 1


def test_one_connection_stays_open(sink: Sink) -> None:
    """Batches go down one kept-open connection, at most 512 spans in each."""
    spans = Spans("order", "api", [sink.url])
    for _ in range(1200):
        spans.record("x", new_trace(), None, 1, 2)
    spans.stop()

    assert len(sink.wait_for(1200)) == 1200
    assert len(sink.connections) == 1
    assert len(sink.requests) >= 3


def test_a_failing_endpoint_drops_and_counts() -> None:
    """With nobody listening, recording returns at once, spans are counted as dropped and stop ends within a second."""
    before, spans = dropped(), Spans("order", "api", ["http://127.0.0.1:1"])
    spans.record("x", new_trace(), None, 1, 2)
    began = time.monotonic()
    spans.stop()

    assert time.monotonic() - began < 1.5
    assert dropped() == before + 1


def test_a_full_queue_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    """More spans than the queue holds are dropped and counted, not kept."""
    monkeypatch.setattr("chassis.tracing.GATHER_SECONDS", 60)
    before, spans = dropped(), Spans("order", "api", ["http://127.0.0.1:1"])
    for _ in range(QUEUE + 5):
        spans.record("x", new_trace(), None, 1, 2)

    assert dropped() == before + 5
    spans.stop()


def test_unsampled_costs_nothing_but_keeps_errors(sink: Sink) -> None:
    """A span of an unsampled trace is not sent, unless it failed."""
    spans, unsampled = Spans("order", "api", [sink.url], ratio=0), Context("a" * 32, "b" * 16, sampled=False)
    assert not spans.root().sampled
    spans.record("quiet", unsampled, None, 1, 2)
    spans.record("loud", unsampled, None, 1, 2, error="it broke")
    spans.stop()

    assert [span.name for span in sink.wait_for(1)] == ["loud"]


def test_the_ratio_is_kept() -> None:
    """A ratio of a quarter keeps about a quarter of new traces; no endpoint keeps none."""
    spans = Spans("order", "api", ["http://127.0.0.1:1"], ratio=0.25)
    kept = sum(spans.root().sampled for _ in range(4000))
    spans.stop()

    assert 850 < kept < 1150
    assert not Spans.disabled().root().sampled
