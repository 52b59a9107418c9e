"""Statements, calls outside and calls of the registry are children of what they are made for; unsampled, nothing is."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Decoded

from quadrille.avro.codec import Codec
from quadrille.avro.registry import Cache, Registry, RegistryUnavailableError, SchemaIds
from quadrille.consumer.deserializer import RecordDeserializer
from quadrille.db.statements import taken, timed
from quadrille.gateway.http_client import HttpClient, NoResponseError
from quadrille.ids import uuid7
from quadrille.observability.trace_context import Context, new_trace
from quadrille.observability.tracing import Spans, inside
from quadrille.processing.envelope import Envelope, LeasedIntent, Outcome, Record
from quadrille.processing.telemetry import Telemetry
from quadrille.tasks.executor import IntentExecutor
from quadrille.tasks.leases import Rescheduled
from tests.chassis.support.database import Database, envelope_of
from tests.chassis.support.otlp_receiver import Sink, attributes
from tests.chassis.support.records import record_headers
from tests.chassis.support.sample_gateway import kitchen_with
from tests.chassis.support.sample_messages import BakeCake, BreadOrdered, CakeBaked

UNSAMPLED = Context("a" * 32, "b" * 16, sampled=False)
PROTOBUF = {"Content-Type": "application/x-protobuf"}


def sent(spans: Spans, sink: Sink) -> dict[str, Decoded]:
    """Return what was recorded until now, by name."""
    spans.stop(60)
    return {span.name: span for span in sink.spans()}


def commit(spans: Spans, db: Database, *traces: Context) -> list[Envelope]:
    """Commit one batch with an input of each trace, and note it as a worker does."""
    inputs = [envelope_of(BreadOrdered(f"o-{n}"), trace=trace) for n, trace in enumerate(traces)]
    began = time.time_ns()
    outcomes: Sequence[Outcome] = db.commit(*inputs)
    Telemetry(spans).handled(list(zip(inputs, outcomes, strict=True)), began)
    return inputs


def test_a_batch_has_its_statements_once(recorded: Spans, sink: Sink, db: Database) -> None:
    """Reads and writes are a client's spans below the first sampled input's; they link to the others that are."""
    db.fill(rye=10)
    first, second, third = commit(recorded, db, UNSAMPLED, new_trace(), new_trace())
    found = sent(recorded, sink)

    assert sorted(found) == ["INSERT outbox", "SELECT inbox", "process bread.ordered"]
    for name in ("SELECT inbox", "INSERT outbox"):
        span = found[name]
        assert (span.kind, span.trace_id.hex()) == (Decoded.SPAN_KIND_CLIENT, second.trace.trace_id)
        assert span.parent_span_id.hex() == second.span_id
        assert [link.span_id.hex() for link in span.links] == [third.span_id]
        told = attributes(span)
        assert (told["db.system.name"], told["db.namespace"]) == ("postgresql", "pantry")
        assert (told["db.operation.name"], told["db.query.summary"]) == ("BATCH", name)
        assert {"server.address", "server.port"} <= set(told)
    read, written = found["SELECT inbox"], found["INSERT outbox"]
    process = next(span for span in sink.spans() if span.span_id.hex() == second.span_id)
    times = [process.start_time_unix_nano, read.start_time_unix_nano, read.end_time_unix_nano]
    times += [written.start_time_unix_nano, written.end_time_unix_nano, process.end_time_unix_nano]
    assert times == sorted(times)
    assert first.trace is UNSAMPLED


def test_an_unsampled_batch_has_no_statements(recorded: Spans, sink: Sink, db: Database) -> None:
    """Nothing is timed, nothing is sent."""
    db.fill(rye=10)
    began = time.time_ns()
    db.commit(envelope_of(BreadOrdered("o-0"), trace=UNSAMPLED))
    assert taken(began) == []
    commit(recorded, db, UNSAMPLED)
    assert sent(recorded, sink) == {}


@pytest.mark.usefixtures("recorded")
def test_what_failed_or_is_nobodys_has_no_statements(db: Database) -> None:
    """A transaction that was rolled back wrote nothing; groups from before a batch are not its own."""
    began = time.time_ns()
    with db.connect() as tx:
        with suppress(RuntimeError), timed(tx, [new_trace()]) as statements:
            statements.begin("INSERT outbox")
            raise RuntimeError
        assert taken(began) == []
        with timed(tx, [new_trace()]) as statements:
            statements.begin("SELECT inbox")
    assert taken(time.time_ns()) == []
    assert taken(began) == []


@dataclass
class _Bakery:
    """The outside of the pantry, over HTTP."""

    peer: HttpClient

    def bake(self, order_id: str) -> CakeBaked:
        self.peer.call("POST", "/v1/traces", PROTOBUF, b"")
        return CakeBaked(order_id, raw=False, odd=False)


def test_a_call_outside_hangs_below_its_errand(recorded: Spans, sink: Sink) -> None:
    """The HTTP call is a child of the intent's span, and tells the other side so."""
    back: queue.SimpleQueue[Envelope | Rescheduled] = queue.SimpleQueue()
    entry = LeasedIntent(uuid7(), "o-1", BakeCake("o-1"), 1, time.monotonic() + 30, new_trace())
    with Sink() as outside, closing(HttpClient(f"{outside.url}/base", 5)) as peer:
        executor = IntentExecutor(kitchen_with(), Telemetry(recorded), _Bakery(peer), back.put)
        executor.take([entry])
        assert isinstance(back.get(timeout=60), Envelope)
        executor.end()
        outside.shutdown()
    found = sent(recorded, sink)
    policy, call = found[BakeCake.type], found["POST"]

    assert (policy.parent_span_id.hex(), policy.span_id.hex()) == (entry.trace.span_id, entry.span_id)
    assert (call.parent_span_id, call.kind) == (policy.span_id, Decoded.SPAN_KIND_CLIENT)
    assert attributes(call) == {
        "http.request.method": "POST", "http.response.status_code": 200, "server.address": "127.0.0.1",
        "server.port": outside.server_port, "url.full": f"{outside.url}/base/v1/traces",
    }  # fmt: skip
    assert outside.headers[0]["traceparent"] == f"00-{entry.trace.trace_id}-{call.span_id.hex()}-01"


def test_a_call_that_fails_says_how(recorded: Spans, sink: Sink) -> None:
    """A status from 400 on, and no answer at all, are errors of their span; without a current span there is none."""
    with Sink(status=503) as outside, closing(HttpClient(outside.url, 5)) as peer:
        peer.call("POST", "/v1/traces", PROTOBUF, b"")
        with inside(new_trace()):
            peer.call("POST", "/v1/traces", PROTOBUF, b"")
        outside.shutdown()
    with inside(new_trace()), pytest.raises(NoResponseError), closing(HttpClient("http://127.0.0.1:1", 5)) as peer:
        peer.call("GET", "/x", {})
    recorded.stop(60)
    assert [(span.name, span.status.code, attributes(span)["error.type"]) for span in sink.spans()] == [
        ("POST", 2, "503"), ("GET", 2, "NoResponseError"),
    ]  # fmt: skip


def test_the_registry_is_called_for_a_record(recorded: Spans, sink: Sink, tmp_path: Path) -> None:
    """An id nobody knows yet is looked up below the record's sending; a call for no record is no span."""
    registry = Registry("http://127.0.0.1:1", timeout=1)
    ids = SchemaIds(registry, Cache(tmp_path))
    reader = RecordDeserializer({BreadOrdered.type: BreadOrdered}, Codec((), ids))
    sending, made = new_trace(), record_headers(uuid7(), BreadOrdered.type)
    with pytest.raises(RegistryUnavailableError):
        registry.text_of(7)
    with pytest.raises(RegistryUnavailableError):
        reader.read(Record(b"\0\0\0\0\7", (*made[:-1], ("traceparent", sending.traceparent.encode()))), b"o-1", None, 0)
    span = sent(recorded, sink)["GET /schemas/ids/{id}"]
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (sending.trace_id, sending.span_id)
    assert attributes(span) == {
        "http.request.method": "GET", "url.template": "/schemas/ids/{id}", "server.address": "127.0.0.1",
        "server.port": 1, "error.type": "RegistryUnavailableError",
    }  # fmt: skip
