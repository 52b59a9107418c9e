"""Spans reach every endpoint as real OTLP, and never slow or stop the work."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Decoded
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from quadrille.observability import degraded, otlp
from quadrille.observability.otel import name_unheard
from quadrille.observability.trace_context import Context, new_trace
from quadrille.observability.tracing import PRODUCER, Spans, Value
from quadrille.ops import server as ops
from tests.chassis.ops.test_server import ask
from tests.chassis.support.database import wait_until
from tests.chassis.support.otlp_receiver import Sink, attributes

NO_RECEIVER = "it answers 404: no receiver there: leave a path out, /v1/traces is added"


def dropped() -> float:
    return REGISTRY.get_sample_value("quadrille_spans_dropped_total") or 0.0


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
    """With nobody listening, recording returns at once, spans are counted as dropped and stop ends."""
    before, spans = dropped(), Spans("order", "api", ["http://127.0.0.1:1"])
    spans.record("x", new_trace(), None, 1, 2)
    spans.stop(60)

    assert dropped() == before + 1


def test_a_full_queue_drops(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """More spans than the queue holds are dropped, counted and told, not kept; the same once there is room again."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")
    sink.goes_on.clear()
    before, spans = dropped(), Spans("order", "api", [sink.url])
    for _ in range(2):
        spans.record("first", new_trace(), None, 1, 2)
    assert sink.came.wait(60)  # the first two are on their way, and held
    for _ in range(8 + 5):
        spans.record("x", new_trace(), None, 1, 2)

    assert dropped() == before + 5
    assert degraded.shown()["spans: the queue of this process"]["lost"] == 5
    sink.goes_on.set()
    sink.wait_for(10)
    spans.record("last", new_trace(), None, 1, 2)
    assert "spans: the queue of this process" not in degraded.shown()
    spans.stop(60)
    assert sorted(span.name for span in sink.spans()) == ["first"] * 2 + ["last"] + ["x"] * 8


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


class Deaf:
    """A server that is no HTTP/1.1: it says ``hello``, as a gRPC server says its settings, and hangs up."""

    def __init__(self, hello: bytes) -> None:
        self.hello = hello
        self._consumer_loop = socket.create_server(("127.0.0.1", 0))
        self.port = self._consumer_loop.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                line = self._consumer_loop.accept()[0]
                line.recv(65_536)
                line.sendall(self.hello)
                line.close()

    def close(self) -> None:
        """Stop."""
        self._consumer_loop.close()


@pytest.fixture
def deaf() -> Iterator[Deaf]:
    made = Deaf(bytes.fromhex("00000c0400000000000004003fffff000500fffffe"))
    yield made
    made.close()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What is logged, with nobody left alone after a failure."""
    monkeypatch.setattr(otlp, "BACK_OFF_SECONDS", 0.0)
    with capture_logs() as lines:
        yield lines


def send(url: str, count: int = 1) -> None:
    """Send spans to an endpoint from a process that ends then."""
    spans = Spans("order", "api", [url])
    for _ in range(count):
        spans.record("x", new_trace(), None, 1, 2)
    spans.stop(60)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (
            "http://127.0.0.1:{port}/v1/traces",
            NO_RECEIVER,
        ),
        ("https://127.0.0.1:{port}", "it does not speak TLS: write http:// if it has none"),
        ("http://127.0.0.1:{deaf}", "it does not answer in HTTP: TLS, or another protocol"),
        ("http://127.0.0.2:1", "Connection refused"),
        ("http://nobody.invalid:4318", "its name is not known"),
    ],
)
def test_an_endpoint_that_is_none_is_named(sink: Sink, deaf: Deaf, told: list[Any], wrong: str, reason: str) -> None:
    """A path too much, TLS against none, gRPC, nobody there: told with address, reason and count; shown while it is."""
    url, before = wrong.format(port=sink.server_port, deaf=deaf.port), dropped()
    send(url, 3)
    lines = [line for line in told if line["event"] == "degraded"]
    assert [(one["dependency"], one["reason"], one["count"]) for one in lines] == [(f"spans to {url}", reason, 3)]
    assert dropped() == before + 3
    assert degraded.shown()[f"spans to {url}"]["reason"] == reason
    assert REGISTRY.get_sample_value("quadrille_degraded", {"what": f"spans to {url}"}) == 1


def test_the_port_of_grpc_is_named(deaf: Deaf, told: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What answers no HTTP on gRPC's port is told to be that, and which port is meant."""
    monkeypatch.setattr(otlp, "GRPC_PORT", deaf.port)
    send(f"http://127.0.0.1:{deaf.port}")
    assert "4317 is the port of OTLP over gRPC, over HTTP it is 4318" in told[0]["reason"]


@pytest.mark.parametrize(
    ("answered", "reason", "lost"),
    [
        ((415, "text/plain", b""), "it answers 415: it takes no protobuf over HTTP", 3),
        ((404, "text/plain", b""), NO_RECEIVER, 3),
        ((301, "text/plain", b""), "it answers 301", 3),
        ((200, "text/html", b"<html>a console</html>"), "it answers with a web page: no receiver there", 3),
        ((200, "application/x-protobuf", b"\x0a\x07\x08\x02\x12\x03odd"), "it rejects some of them", 2),
    ],
)
def test_what_an_endpoint_does_not_take_is_told_until_it_does(
    sink: Sink, told: list[Any], answered: tuple[int, str, bytes], reason: str, lost: int
) -> None:
    """Lost: once, with the reason; back again: once, with how many were lost. Both as one process sees them."""
    before, spans, url = dropped(), Spans("order", "api", [sink.url]), f"spans to {sink.url}"
    sink.status, sink.kind, sink.answer = answered
    for _ in range(3):
        spans.record("x", new_trace(), None, 1, 2)
    wait_until(lambda: url in degraded.shown())
    sink.status, sink.kind, sink.answer = 200, "application/x-protobuf", b""
    spans.record("x", new_trace(), None, 1, 2)
    wait_until(lambda: url not in degraded.shown())
    spans.stop()

    assert [(one["event"], one["reason"], one["count"]) for one in told] == [
        ("degraded", reason, lost), ("degraded no longer", reason, lost),
    ]  # fmt: skip
    assert dropped() == before + lost


def test_a_long_failure_is_told_seldom(told: list[Any]) -> None:
    """Each batch of a long failure is counted, one line is written."""
    for _ in range(4):
        telling = degraded.Degraded("spans to nowhere")
    for _ in range(100):
        telling.lost("nobody there", 5)
    assert degraded.shown()["spans to nowhere"]["lost"] == 500
    telling.back()
    telling.back()
    telling.lost("nobody there")
    telling.back()
    assert [(one["event"], one["count"]) for one in told] == [
        ("degraded", 5), ("degraded no longer", 500), ("degraded", 1), ("degraded no longer", 1),
    ]  # fmt: skip


def test_what_is_degraded_is_shown_and_ready() -> None:
    """Without its traces a process is ready: /readyz and /info tell what it does without."""
    telling = degraded.Degraded("spans to nowhere")
    telling.lost("nobody there")
    try:
        with ops.serve("127.0.0.1:0", "order", "api", {"database": lambda: True}) as server:
            (status, ready), (_, info) = ask(server, "/readyz"), ask(server, "/info")
    finally:
        telling.back()
    assert (status, ready["ready"]) == (200, True)
    for document in ready, info:
        assert document["degraded"]["spans to nowhere"]["reason"] == "nobody there"


def test_a_variable_that_is_not_heard_is_named(told: list[Any]) -> None:
    """What is no variable of traces, and what a setting of ours overrules: each is a line at the start."""
    given = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_TRACES_SAMPLER": "always_off", "HOME": "/",
        "OTEL_METRICS_EXPORTER": "otlp", "OTEL_RESOURCE_ATTRIBUTES": "team=a", "PROMETHEUS_MULTIPROC_DIR": "/nowhere",
    }  # fmt: skip
    name_unheard(given, endpoints=True, ratio=True)
    assert [(one["event"], one["setting"]) for one in told] == [
        ("setting is not heard", "PROMETHEUS_MULTIPROC_DIR"),
        ("setting is not heard", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("setting is not heard", "OTEL_METRICS_EXPORTER"),
        ("setting is not heard", "OTEL_TRACES_SAMPLER"),
    ]  # fmt: skip
    told.clear()
    name_unheard(given)
    assert [one["setting"] for one in told] == ["PROMETHEUS_MULTIPROC_DIR", "OTEL_METRICS_EXPORTER"]
