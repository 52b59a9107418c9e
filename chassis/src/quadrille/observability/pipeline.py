"""OpenTelemetry's SDK in a traced process: provider, sampler, propagators, and a queue for each exporter.

The one module that imports the SDK, with ``otlp``; ``tracing`` imports it when there is somewhere to export to.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context as OtelContext
from opentelemetry.context import attach, detach
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SynchronousMultiSpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    Decision,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import NonRecordingSpan, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from quadrille.observability.degraded import Degraded
from quadrille.observability.metrics import SPANS_DROPPED
from quadrille.observability.otel import EXPORTERS, PROPAGATION, SAMPLING, OtelSettings, load
from quadrille.observability.otlp import FinishedSpan, OtlpExporter, PlainSpan, span_context
from quadrille.observability.trace_context import Context

QUEUE = 8_192  # spans; about a kilobyte each
BATCH = 512
GATHER_SECONDS = 2.0  # a request costs sender and receiver more than its spans
_NOBODY = OtelContext()
_W3C = {"tracecontext": TraceContextTextMapPropagator, "baggage": W3CBaggagePropagator}
_FEW = 12  # attributes: no span of the chassis has more


class Batches(BatchSpanProcessor):
    """The queue of one exporter: what finds it full is dropped, counted and told."""

    def __init__(self, exporter: SpanExporter, said: OtelSettings) -> None:
        queue, batch, delay = said.queue or QUEUE, said.batch or BATCH, said.delay or GATHER_SECONDS
        super().__init__(exporter, queue, delay * 1000, min(batch, queue))
        self._waiting = self._batch_processor._queue  # noqa: SLF001 - how full it is, the SDK tells its own metrics only
        self._most, self._full = queue, False
        self._overflow = Degraded("spans: the queue of this process")

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a finished span."""
        if len(self._waiting) >= self._most:
            self._full = True
            SPANS_DROPPED.inc()
            self._overflow.lost("full: the endpoints are slower than the work")
            return
        if self._full and len(self._waiting) < self._most // 2:
            self._full = False
            self._overflow.back()
        if type(span) is FinishedSpan:  # whoever recorded it has asked whether it is sampled
            self._batch_processor.emit(span)
        else:
            super().on_end(span)


class Pipeline:
    """From a finished span to every exporter; ``targets`` are names of exporters with an address, if they have one."""

    def __init__(
        self,
        said: OtelSettings,
        resource: Mapping[str, str],
        targets: Iterable[tuple[str, str]],
        ratio: float | None,
    ) -> None:
        exporters = [_exporter(name, url, said) for name, url in targets]
        self._sampler, self._processors = _sampler(said, ratio), SynchronousMultiSpanProcessor()  # type: ignore[no-untyped-call]
        self.parent_based = isinstance(self._sampler, ParentBased)
        self.resource, self._limits = _resource(resource), SpanLimits()
        self.provider = TracerProvider(
            self._sampler, self.resource, shutdown_on_exit=False, active_span_processor=self._processors,
            span_limits=self._limits,
        )  # fmt: skip
        for exporter in exporters:
            self.provider.add_span_processor(Batches(exporter, said))
        self._hurries = [exporter.hurry for exporter in exporters if isinstance(exporter, OtlpExporter)]
        count, length = self._limits.max_span_attributes, self._limits.max_span_attribute_length
        self._bounded = length is not None or (count is not None and count < _FEW)
        self._most_links = sys.maxsize if self._limits.max_links is None else self._limits.max_links
        made = {name: _W3C.get(name) or load(PROPAGATION, name, "OTEL_PROPAGATORS") for name in said.propagators}
        self._propagator = CompositePropagator([one() for one in made.values()])
        self.others = [one() for name, one in made.items() if name not in _W3C]

    def install(self) -> None:
        """Make it what OpenTelemetry's API uses in this process."""
        trace.set_tracer_provider(self.provider)
        propagate.set_global_textmap(self._propagator)

    def keeps(self, trace_id: str) -> bool:
        """Ask the sampler whether a trace of ours is kept."""
        found = self._sampler.should_sample(_NOBODY, int(trace_id, 16), "", SpanKind.SERVER)
        return found.decision is Decision.RECORD_AND_SAMPLE

    def finish(self, plain: PlainSpan) -> None:
        """Give a finished span to the processors; whoever calls this has decided that it is kept."""
        if self._bounded or len(plain[7]) > self._most_links:
            plain = self._cut(*plain)
        self._processors.on_end(FinishedSpan(plain, self.resource))

    def _cut(self, *plain: Any) -> PlainSpan:  # noqa: ANN401 - a plain span's parts
        """Return a span with no more of attributes and links than the limits say."""
        *head, attributes, links, error = plain
        most, longest = self._limits.max_span_attributes, self._limits.max_span_attribute_length
        return (*head, BoundedAttributes(most, attributes, max_value_len=longest), links[: self._most_links], error)

    def caller(self, carrier: Mapping[str, list[str]]) -> Context | None:
        """Return whose call headers are of, by the propagators beside W3C's; the last that knows has it."""
        found = None
        for propagator in self.others:
            found = current(propagator.extract(carrier, _NOBODY)) or found
        return found

    def carried(self, headers: Mapping[str, str], place: Context) -> dict[str, str]:
        """Return headers with what the propagators add."""
        carrier = dict(headers)
        self._propagator.inject(carrier, trace.set_span_in_context(NonRecordingSpan(span_context(place))))
        return carrier

    def stop(self, seconds: float) -> None:
        """Send what is queued, each batch once, and end; gives up after ``seconds``."""
        for hurry in self._hurries:
            hurry()
        ending = threading.Thread(target=self.provider.shutdown, name="spans end", daemon=True)
        ending.start()
        ending.join(seconds)


def current(context: OtelContext | None = None) -> Context | None:
    """Return the place of the span that is current for OpenTelemetry's API, if there is one."""
    found = trace.get_current_span(context).get_span_context()
    if not found.is_valid:
        return None
    return Context(f"{found.trace_id:032x}", f"{found.span_id:016x}", found.trace_flags.sampled)


def entered(place: Context) -> Callable[[], None]:
    """Make a place the current one for OpenTelemetry's API; returns what ends that."""
    token = attach(trace.set_span_in_context(NonRecordingSpan(span_context(place))))
    return lambda: detach(token)


def _resource(own: Mapping[str, str]) -> Resource:
    """Return who says the spans; a name in the environment goes before the service's own."""
    said = OTELResourceDetector().detect().attributes
    return Resource.create({**own, **{name: said[name] for name in own if name in said}})


def _exporter(name: str, url: str, said: OtelSettings) -> SpanExporter:
    if name == "otlp":
        return OtlpExporter(url, said, whole=url == said.endpoint)
    if name == "console":
        return ConsoleSpanExporter(formatter=lambda span: span.to_json(indent=None) + os.linesep)
    exporter: SpanExporter = load(EXPORTERS, name, "OTEL_TRACES_EXPORTER")()
    return exporter


def _sampler(said: OtelSettings, ratio: float | None) -> Sampler:
    """Return the sampler: by our own ratio where it is given, else by its name."""
    if ratio is not None:
        return ParentBasedTraceIdRatio(ratio)
    name, argument = said.sampler or ("parentbased_always_on", "")
    known: dict[str, Callable[[], Sampler]] = {
        "always_on": lambda: ALWAYS_ON, "always_off": lambda: ALWAYS_OFF,
        "parentbased_always_on": lambda: DEFAULT_ON, "parentbased_always_off": lambda: DEFAULT_OFF,
        "traceidratio": lambda: TraceIdRatioBased(float(argument or 1)),
        "parentbased_traceidratio": lambda: ParentBasedTraceIdRatio(float(argument or 1)),
    }  # fmt: skip
    if name in known:
        return known[name]()
    sampler: Sampler = load(SAMPLING, name, "OTEL_TRACES_SAMPLER")(argument)
    return sampler
