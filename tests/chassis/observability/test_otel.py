"""OpenTelemetry's variables: each is heard, a wrong one is named at the start, and a setting of ours wins over it."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from quadrille.observability import otlp
from quadrille.observability.otel import OtelError, read
from quadrille.observability.trace_context import Context, new_trace
from quadrille.observability.tracing import SERVER, ClientSpan, Spans, inside
from tests.chassis.support.database import wait_until
from tests.chassis.support.otlp_receiver import Sink, attributes

TRACE, SPAN = "04a75036e9d520bb983c5ed03b8d0182", "00f067aa0ba902b7"
OTLP = "OTEL_EXPORTER_OTLP_"


def dropped() -> float:
    return REGISTRY.get_sample_value("quadrille_spans_dropped_total") or 0.0


def send(count: int = 1, **more: object) -> None:
    """Send spans from a process that ends then, told where by its environment alone."""
    spans = Spans("order", "api", **more)  # type: ignore[arg-type] # a test's own
    for _ in range(count):
        spans.record("x", new_trace(), None, 1, 2)
    spans.stop(60)


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("OTEL_SDK_DISABLED", "yes", "true or false"),
        ("OTEL_TRACES_EXPORTER", "oltp", "otlp, console, none, or an exporter of an installed package"),
        ("OTEL_TRACES_EXPORTER", "otlp_proto_grpc", "spans go over HTTP only, gRPC is not there"),
        ("OTEL_TRACES_EXPORTER", "none,console", "none alone"),
        (f"{OTLP}PROTOCOL", "grpc", "http/protobuf: gRPC is not there"),
        (f"{OTLP}TRACES_PROTOCOL", "http/json", "http/protobuf: JSON is not there"),
        (f"{OTLP}ENDPOINT", "collector:4318", "http://host:port"),
        (f"{OTLP}TRACES_ENDPOINT", "http://collector:99999/v1/traces", "http://host:port"),
        (f"{OTLP}TIMEOUT", "10", "milliseconds, 100 at least"),
        (f"{OTLP}TRACES_TIMEOUT", "2.5", "milliseconds, 100 at least"),
        (f"{OTLP}COMPRESSION", "brotli", "gzip or none"),
        (f"{OTLP}HEADERS", "api-key", "name=value,name=value"),
        (f"{OTLP}HEADERS", "a=b%0D%0Ac: d", "name=value,name=value"),
        (f"{OTLP}CERTIFICATE", "/no/such/file", "a file that can be read"),
        (f"{OTLP}CERTIFICATE", __file__, "a certificate in PEM"),
        (f"{OTLP}CLIENT_KEY", __file__, f"{OTLP}TRACES_CLIENT_CERTIFICATE with it"),
        ("OTEL_TRACES_SAMPLER", "sometimes", "always_on, always_off, traceidratio, parentbased_always_on"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.5", "OTEL_TRACES_SAMPLER with it"),
        ("OTEL_PROPAGATORS", "b4", "tracecontext, baggage, b3, b3multi, none"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "a whole number, 1 at least"),
        ("OTEL_BSP_SCHEDULE_DELAY", "soon", "milliseconds, 1 at least"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "-1", "a whole number, 0 at least"),
        ("OTEL_RESOURCE_ATTRIBUTES", "team=a,shop", "key=value,key=value"),
        ("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "moon", "otel, process, os, host"),
    ],
)
def test_a_wrong_value_is_named(name: str, text: str, wanted: str) -> None:
    """Name, what is wanted and how to fix it; a header's value, which may be a secret, is not shown."""
    with pytest.raises(OtelError) as refused:
        read({name: text})
    shown = "***" if name.endswith("HEADERS") else text.split(",", maxsplit=1)[0]
    assert str(refused.value).startswith(f"found {name}={shown}")
    assert wanted in str(refused.value)
    assert f"correct {name}" in str(refused.value)


@pytest.mark.parametrize(
    ("sampler", "argument"), [("traceidratio", "1.5"), ("parentbased_traceidratio", "half"), ("traceidratio", "nan")]
)
def test_a_ratio_that_is_none_is_named(sampler: str, argument: str) -> None:
    """A ratio is from 0 to 1, whoever keeps it."""
    with pytest.raises(OtelError, match=r"OTEL_TRACES_SAMPLER_ARG=.*a ratio from 0 to 1"):
        read({"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument})


def test_a_batch_larger_than_its_queue_is_named() -> None:
    """The SDK would refuse them with a traceback."""
    with pytest.raises(OtelError, match="OTEL_BSP_MAX_QUEUE_SIZE, 8, at most"):
        read({"OTEL_BSP_MAX_QUEUE_SIZE": "8", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "9"})


def test_an_empty_variable_is_not_set() -> None:
    """As the specification has it: nothing is wrong, nothing is sent."""
    names = ("OTEL_TRACES_EXPORTER", f"{OTLP}ENDPOINT", "OTEL_TRACES_SAMPLER", "OTEL_PROPAGATORS", f"{OTLP}TIMEOUT")
    found = read(dict.fromkeys(names, ""))
    assert found == read({})
    assert not Spans("order", "api", environ=dict.fromkeys(names, " ")).on


@pytest.mark.parametrize("role", ["relay", "migrate"])
def test_a_process_does_not_start_with_a_wrong_variable(role: str) -> None:
    """One line on stderr and exit code 2, before anything is opened."""
    given = {
        "PATH": os.environ["PATH"], "QUADRILLE_DATABASE_URL": "postgresql://127.0.0.1:1/x",
        "QUADRILLE_KAFKA_BOOTSTRAP": "127.0.0.1:1", "QUADRILLE_REGISTRY_URL": "http://127.0.0.1:1",
        "OTEL_TRACES_EXPORTER": "oltp",
    }  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "order", role], env=given, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("refused to start: found OTEL_TRACES_EXPORTER=oltp; wanted otlp, console, none")


def test_nothing_is_sent_before_somebody_says_so() -> None:
    """Without endpoint and exporter nothing is, nor with ``none`` or the SDK disabled."""
    assert not Spans("order", "api", environ={}).on
    assert not Spans("order", "api", environ={"OTEL_TRACES_EXPORTER": "none"}).on
    ours = ["http://127.0.0.1:1"]
    assert not Spans("order", "api", ours, environ={"OTEL_SDK_DISABLED": "TRUE"}).on


@pytest.mark.parametrize(
    ("variable", "tail", "path"),
    [
        (f"{OTLP}ENDPOINT", "", "/v1/traces"),
        (f"{OTLP}ENDPOINT", "/collector/", "/collector/v1/traces"),
        (f"{OTLP}TRACES_ENDPOINT", "/as/it/is/v1/traces", "/as/it/is/v1/traces"),
    ],
)
def test_the_endpoint_of_the_environment_is_heard(
    sink: Sink, monkeypatch: pytest.MonkeyPatch, variable: str, tail: str, path: str
) -> None:
    """A base gets the path of traces, an endpoint for traces alone is used as it is."""
    monkeypatch.setenv(variable, sink.url + tail)
    send()
    assert (len(sink.wait_for(1)), sink.paths) == (1, [path])


def test_headers_compression_name_and_attributes_are_heard(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """They go with every request; a service's name of the environment goes before our own."""
    monkeypatch.setenv(f"{OTLP}ENDPOINT", sink.url)
    monkeypatch.setenv(f"{OTLP}HEADERS", "Api-Key=se%20cret, tenant=a")
    monkeypatch.setenv(f"{OTLP}COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "the-shop")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=a%20b,service.name=not-this-one")
    send()
    sink.wait_for(1)
    assert {name: sink.headers[0][name] for name in ("api-key", "tenant", "content-encoding")} == {
        "api-key": "se cret", "tenant": "a", "content-encoding": "gzip",
    }  # fmt: skip
    found = {a.key: a.value.string_value for a in sink.requests[0].resource_spans[0].resource.attributes}
    assert (found["service.name"], found["team"], found["quadrille.role"]) == ("the-shop", "a b", "api")


def test_our_own_settings_win(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Endpoints and ratio that are given overrule the variables; those that are not leave them be."""
    monkeypatch.setenv(f"{OTLP}ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    spans = Spans("order", "api", [sink.url], 1.0)
    assert spans.root().sampled
    spans.record("x", spans.root(), None, 1, 2)
    spans.stop(60)
    assert len(sink.wait_for(1)) == 1
    spans = Spans("order", "api", [sink.url])
    assert not spans.root().sampled
    spans.stop(60)


@pytest.mark.parametrize(
    ("sampler", "argument", "root", "followed"),
    [
        ("always_on", "", True, (True, True)),
        ("always_off", "", False, (False, False)),
        ("traceidratio", "0", False, (False, False)),
        ("traceidratio", "", True, (True, True)),
        ("parentbased_always_on", "", True, (True, False)),
        ("parentbased_always_off", "", False, (True, False)),
        ("parentbased_traceidratio", "0", False, (True, False)),
        ("parentbased_traceidratio", "1.0", True, (True, False)),
    ],
)
def test_a_sampler_is_chosen_by_its_name(sampler: str, argument: str, root: bool, followed: tuple[bool, bool]) -> None:  # noqa: FBT001 - a case
    """It decides of new traces; of one from elsewhere, sampled or not, only if it is not parent-based."""
    spans = Spans(
        "order", "api", ["http://127.0.0.1:1"],
        environ={"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument},
    )  # fmt: skip
    assert spans.root().sampled is root
    assert tuple(spans.joined(Context(TRACE, SPAN, sampled)).sampled for sampled in (True, False)) == followed
    spans.stop()


def test_spans_go_to_the_console(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One line of JSON a span on stdout, and nothing anywhere else."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    program = (
        "from quadrille.observability.tracing import Spans, CLIENT\n"
        "spans = Spans('order', 'api')\n"
        "for n in range(2): spans.record(f'x{n}', spans.root(), None, 1, 2, kind=CLIENT, attributes={'n': n})\n"
        "spans.stop(60)\n"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    found = [json.loads(line) for line in told.splitlines()]
    assert [(one["name"], one["kind"], one["attributes"]) for one in found] == [
        ("x0", "SpanKind.CLIENT", {"n": 0}), ("x1", "SpanKind.CLIENT", {"n": 1}),
    ]  # fmt: skip


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_is_overloaded_is_asked_again(sink: Sink, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """A code that may be repeated is, until it is taken: nothing is lost."""
    monkeypatch.setattr(otlp, "BACK_OFF_SECONDS", 0.01)
    sink.before.extend([status, status])
    spans = Spans("order", "api", [sink.url])
    spans.record("x", new_trace(), None, 1, 2)
    assert len(sink.wait_for(1)) == 1
    assert len(sink.paths) == 3
    spans.stop(60)


@pytest.mark.parametrize("status", [400, 413, 500])
def test_what_is_refused_is_not_asked_again(sink: Sink, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """Any other code is an answer: the spans are dropped and counted."""
    monkeypatch.setattr(otlp, "BACK_OFF_SECONDS", 0.01)
    before, sink.status = dropped(), status
    spans = Spans("order", "api", [sink.url])
    spans.record("x", new_trace(), None, 1, 2)
    wait_until(lambda: dropped() == before + 1)
    assert len(sink.paths) == 1
    spans.stop(60)


def test_a_process_that_ends_sends_what_waits_and_repeats_nothing(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queued spans go out at the end, each batch once: no back-off holds the exit up."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    monkeypatch.setattr(otlp, "BACK_OFF_SECONDS", 0.01)
    send(3, endpoints=[sink.url])
    assert len(sink.spans()) == 3
    sink.status = 503
    send(3, endpoints=[sink.url])
    assert (len(sink.spans()), len(sink.paths)) == (3, 2)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that signs itself, and its key."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl here")
    folder = tmp_path_factory.mktemp("tls")
    made, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(made)],
        check=True, capture_output=True,
    )  # fmt: skip
    return made, key


def test_a_receivers_certificate_is_trusted_where_we_are_told_so(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its authority the spans arrive, without it they do not; a receiver that wants to know us does."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    tls.load_verify_locations(certificate[0])
    tls.verify_mode = ssl.CERT_REQUIRED
    with Sink(tls=tls) as sink:
        send(endpoints=[sink.url])
        assert sink.spans() == []
        monkeypatch.setenv(f"{OTLP}CERTIFICATE", str(certificate[0]))
        send(endpoints=[sink.url])
        assert sink.spans() == []
        monkeypatch.setenv(f"{OTLP}TRACES_CLIENT_CERTIFICATE", str(certificate[0]))
        monkeypatch.setenv(f"{OTLP}TRACES_CLIENT_KEY", str(certificate[1]))
        send(endpoints=[sink.url])
        assert len(sink.wait_for(1)) == 1
        sink.shutdown()


@pytest.mark.parametrize(
    ("headers", "sampled"),
    [
        ({"b3": f"{TRACE}-{SPAN}-1"}, True),
        ({"b3": f"{TRACE}-{SPAN}-0"}, False),
        ({"x-b3-traceid": TRACE, "x-b3-spanid": SPAN, "x-b3-sampled": "1"}, True),
    ],
)
def test_a_caller_may_speak_b3(headers: dict[str, str], sampled: bool) -> None:  # noqa: FBT001 - a case
    """Both of Zipkin's ways are read where ``b3`` is a propagator, and neither where it is not."""
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    spans = Spans("order", "api", ["http://127.0.0.1:1"], environ={"OTEL_PROPAGATORS": "tracecontext,b3"})
    assert spans.caller(raw) == Context(TRACE, SPAN, sampled)
    plain = Spans("order", "api", ["http://127.0.0.1:1"], environ={})
    assert plain.caller(raw) is None
    for one in (spans, plain):
        one.stop()


@pytest.mark.parametrize(
    ("recorded", "wanted"),
    [
        ("", {"traceparent": "00-{trace}-{span}-01"}),
        ("b3", {"b3": "{trace}-{span}-1"}),
        ("b3multi", {"x-b3-traceid": "{trace}", "x-b3-spanid": "{span}", "x-b3-sampled": "1"}),
        ("none", {}),
    ],
    indirect=["recorded"],
)
def test_a_call_tells_whose_child_it_is(recorded: Spans, sink: Sink, wanted: dict[str, str]) -> None:
    """The headers name the call's own span, in the words of every propagator there is."""
    place = new_trace()
    with inside(place), ClientSpan("GET", {}) as span:
        sent = span.carried({"accept": "a"})
    recorded.stop(60)
    (call,) = sink.wait_for(1)
    named = {"trace": place.trace_id, "span": call.span_id.hex()}
    assert sent == {"accept": "a", **{name: text.format(**named) for name, text in wanted.items()}}
    assert call.parent_span_id.hex() == place.span_id


def test_a_call_of_nobody_or_of_an_unsampled_trace_is_no_span(recorded: Spans, sink: Sink) -> None:
    """Without a current span a call is as it was; an unsampled one passes on that it is, and is not recorded."""
    with ClientSpan("GET", {}) as span:
        assert span.carried({}) == {}
    with inside(Context(TRACE, SPAN, sampled=False)), ClientSpan("GET", {}) as span:
        assert span.carried({})["traceparent"].startswith(f"00-{TRACE}-")
        assert span.carried({})["traceparent"].endswith("-00")
        span.answered(503)
    recorded.stop(60)
    assert sink.spans() == []


@pytest.mark.parametrize(
    ("limit", "text", "wanted"),
    [
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "1", {"b": "four"}),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "2", {"a": "th", "b": "fo"}),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "7", {"a": "three", "b": "four"}),
    ],
)
def test_limits_are_kept(
    sink: Sink, monkeypatch: pytest.MonkeyPatch, limit: str, text: str, wanted: dict[str, str]
) -> None:
    """Attributes past their number are left out, longer ones are cut, hot spans as any."""
    monkeypatch.setenv(limit, text)
    spans = Spans("order", "api", [sink.url])
    spans.record("x", new_trace(), None, 1, 2, kind=SERVER, attributes={"a": "three", "b": "four"})
    spans.stop(60)
    (span,) = sink.wait_for(1)
    assert (attributes(span), span.dropped_attributes_count) == (wanted, 2 - len(wanted))


def test_links_have_a_limit(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links past their number are left out, and attributes are not touched."""
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", "1")
    spans, first = Spans("order", "api", [sink.url]), new_trace()
    spans.record("x", new_trace(), None, 1, 2, attributes={"a": "three"}, links=(first, new_trace()))
    spans.stop(60)
    (span,) = sink.wait_for(1)
    assert [link.span_id.hex() for link in span.links] == [first.span_id]
    assert attributes(span) == {"a": "three"}


def test_a_tracer_of_opentelemetrys_api_goes_the_same_way(sink: Sink) -> None:
    """Spans of whoever uses the API: below the current one, with events, lists, state; all is packed."""
    program = f"""
from opentelemetry import baggage, trace, propagate
from quadrille.observability.trace_context import Context
from quadrille.observability.tracing import ClientSpan, Spans, inside
spans = Spans("order", "worker", ["{sink.url}"]).install()
with inside(Context("{TRACE}", "{SPAN}")):
    tracer = trace.get_tracer("mine", "1.2", attributes={{"a": 1}})
    given = {{"list": [1, 2], "raw": b"x", "deep": {{"k": [True]}}}}
    with tracer.start_as_current_span("own", attributes=given) as own:
        own.add_event("it happened", {{"n": 1}}, timestamp=5)
        own.add_link(trace.SpanContext(7, 8, True, trace_state=trace.TraceState([("k", "v")])), {{"l": "m"}})
        own.set_status(trace.StatusCode.OK)
        with ClientSpan("GET", {{}}) as call:
            pass
carrier = {{"traceparent": "00-{TRACE}-{SPAN}-01", "tracestate": "k=v"}}
with tracer.start_as_current_span("remote", context=propagate.extract(carrier)):
    pass
spans.stop(60)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    found = {span.name: span for span in sink.wait_for(3)}
    own, call, remote = found["own"], found["GET"], found["remote"]
    assert (own.trace_id.hex(), own.parent_span_id.hex(), own.status.code) == (TRACE, SPAN, 1)
    assert call.parent_span_id == own.span_id
    values = {a.key: a.value for a in own.attributes}
    assert [one.int_value for one in values["list"].array_value.values] == [1, 2]
    assert values["raw"].bytes_value == b"x"
    assert values["deep"].kvlist_value.values[0].value.array_value.values[0].bool_value is True
    (event,), (link,) = own.events, own.links
    assert (event.name, event.time_unix_nano, event.attributes[0].value.int_value) == ("it happened", 5, 1)
    assert (link.trace_state, link.attributes[0].value.string_value) == ("k=v", "m")
    assert (remote.trace_state, remote.flags & 0x300) == ("k=v", 0x300)
    scopes = {(s.scope.name, s.scope.version) for r in sink.requests for t in r.resource_spans for s in t.scope_spans}
    assert scopes == {("mine", "1.2"), ("chassis", "")}
