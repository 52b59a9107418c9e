"""Traces with OpenTelemetry's SDK: hot spans are recorded finished, in microseconds; nothing ever waits for them.

The SDK (``pipeline``) is imported by a process that has somewhere to export to, and by no other. Which variables are
heard, and what wins: docs/settings.md.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias

from quadrille.observability import otel
from quadrille.observability.trace_context import Context, new_span_id, new_trace, parse

if TYPE_CHECKING:
    from quadrille.observability.pipeline import Pipeline

__all__ = [
    "CLIENT", "CONSUMER", "INTERNAL", "PRODUCER", "SERVER", "ClientSpan", "Spans", "Value", "inside", "reading",
    "recorder", "use",
]  # fmt: skip

Value: TypeAlias = str | int | float | bool
INTERNAL, SERVER, CLIENT, PRODUCER, CONSUMER = 1, 2, 3, 4, 5  # as OTLP counts them


class Spans:
    """The spans of one process, on their way to every exporter.

    ``endpoints`` and ``ratio`` are our own settings: where they are given they win over ``OTEL_*``. The ratio is the
    share of new traces that are kept; a trace from elsewhere keeps its own flag. Raises OtelError for a wrong variable.
    """

    def __init__(
        self,
        service: str,
        role: str,
        endpoints: Sequence[str] = (),
        ratio: float | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        said = otel.read(environ)
        self._strict = "tracecontext" in said.propagators
        self._pipeline: Pipeline | None = None
        if targets := [] if said.disabled else _targets(said, endpoints):
            from quadrille.observability.pipeline import Pipeline  # noqa: PLC0415 - 4 MB that others need not carry

            own = {"service.name": service, "service.instance.id": str(uuid.uuid4()), "quadrille.role": role}
            self._pipeline = Pipeline(said, own, targets, ratio)
        self.on = self._pipeline is not None

    @classmethod
    def disabled(cls) -> Spans:
        """Return spans that go nowhere, at the cost of one flag test."""
        return cls("", "", environ={"OTEL_SDK_DISABLED": "true"})

    def install(self) -> Self:
        """Make these the spans of the process: of the chassis' own calls, and of OpenTelemetry's API."""
        use(self)
        if self._pipeline:
            self._pipeline.install()
        return self

    def root(self) -> Context:
        """Return the place of a new trace, kept or not as the sampler says."""
        return self.within(new_trace().trace_id)

    def within(self, trace_id: str) -> Context:
        """Return another place in a trace of ours, kept or not as all of it is."""
        kept = self._pipeline is not None and self.on and self._pipeline.keeps(trace_id)
        return Context(trace_id, new_span_id(), kept)

    def joined(self, place: Context) -> Context:
        """Return a place in a trace from elsewhere: with its own flag, unless the sampler asks no parent."""
        if self._pipeline is None or self._pipeline.parent_based:
            return place
        return Context(place.trace_id, place.span_id, self._pipeline.keeps(place.trace_id))

    def caller(self, headers: Iterable[tuple[bytes, bytes]]) -> Context | None:
        """Return whose request it is, by the propagators; of two traceparents, neither."""
        found = None
        if self._strict:
            parents = [value for name, value in headers if name == b"traceparent"]
            found = parse(parents[0].decode("latin-1")) if len(parents) == 1 else None
        if self._pipeline and self._pipeline.others:
            carrier = {name.decode("latin-1"): [value.decode("latin-1")] for name, value in headers}
            found = self._pipeline.caller(carrier) or found
        return found

    def carried(self, headers: Mapping[str, str], place: Context) -> Mapping[str, str]:
        """Return the headers of a call with what the propagators add: whose child the other side is."""
        return self._pipeline.carried(headers, place) if self._pipeline else headers

    def record(  # noqa: PLR0913 - a span's parts; gathered in a dict they would cost as much as the span
        self,
        name: str,
        context: Context,
        parent_span_id: str | None,
        start_ns: int,
        end_ns: int,
        *,
        kind: int = INTERNAL,
        attributes: Mapping[str, Value] | None = None,
        links: tuple[Context, ...] = (),
        error: str | None = None,
    ) -> None:
        """Queue a finished span; one of an unsampled trace is kept only if it has an ``error``, a fixed phrase."""
        if self.on and (context.sampled or error) and self._pipeline:
            self._pipeline.finish((name, context, parent_span_id, start_ns, end_ns, kind, attributes, links, error))

    def stop(self, seconds: float = 1.0) -> None:
        """Send what is queued and end; gives up after ``seconds``."""
        if self.on and self._pipeline:
            self.on = False
            self._pipeline.stop(seconds)


def _targets(said: otel.OtelSettings, endpoints: Sequence[str]) -> list[tuple[str, str]]:
    """Return which exporters there are, and where to: our endpoints, else the variable's, else where OTLP listens.

    Nothing is sent before somebody says so: the specification's own default would look for a receiver on this machine.
    """
    names = said.exporters or (("otlp",) if said.endpoint else ())
    others = [(name, "") for name in names if name not in ("otlp", "none")]
    if endpoints:
        return [*(("otlp", url) for url in endpoints), *others]
    return [*([("otlp", said.endpoint or otel.LOCAL)] if "otlp" in names else ()), *others]


_recorder = Spans.disabled()
_place: ContextVar[Context | None] = ContextVar("place", default=None)


def recorder() -> Spans:
    """Return the spans of this process."""
    return _recorder


def use(spans: Spans) -> None:
    """Let the chassis' own calls be recorded with these spans."""
    global _recorder  # noqa: PLW0603 - one a process, as OpenTelemetry has it
    _recorder = spans


class reading:  # noqa: N801 - used as a function is; a generator would cost each record a microsecond
    """Let what reading a record leads to, such as a call of the registry, be a child of the record's sending."""

    __slots__ = ("_place", "_token")

    def __init__(self, place: Context) -> None:
        self._place = place

    def __enter__(self) -> None:
        self._token = _place.set(self._place)

    def __exit__(self, *_: object) -> None:
        _place.reset(self._token)


@contextmanager
def inside(place: Context) -> Iterator[None]:
    """Let what is called in the block be a child of a place: our own calls, and spans of OpenTelemetry's API."""
    if not _recorder.on:
        yield
        return
    from quadrille.observability.pipeline import entered  # noqa: PLC0415 - a traced process alone

    leave = entered(place)
    try:
        yield
    finally:
        leave()


class ClientSpan:
    """A call of another system as a child of the current span: nothing where there is none, or it is not sampled.

    ``with ClientSpan("GET", {...}) as span``: the name is of few kinds, the attributes are OpenTelemetry's conventions.
    """

    def __init__(self, name: str, attributes: Mapping[str, Value]) -> None:
        self._spans, self._name, self._attributes = _recorder, name, attributes
        self._parent = _current() if _recorder.on else None
        self._place = self._parent.child() if self._parent else None
        self._error: str | None = None

    def __enter__(self) -> Self:
        self._began = time.time_ns()
        return self

    def carried(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Return the call's headers with those that tell the other side whose child it is."""
        return self._spans.carried(headers, self._place) if self._place else headers

    def answered(self, status: int) -> None:
        """Note the status of an HTTP answer; from 400 on it is an error, as the conventions have it for a client."""
        if self._place:
            self._attributes = {**self._attributes, "http.response.status_code": status}
            self._error = str(status) if status >= 400 else None  # noqa: PLR2004 - HTTP

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._parent is None or self._place is None or not self._place.sampled:
            return
        trouble = kind.__name__ if kind else self._error
        attributes = {**self._attributes, "error.type": trouble} if trouble else self._attributes
        self._spans.record(
            self._name, self._place, self._parent.span_id, self._began, time.time_ns(), kind=CLIENT,
            attributes=attributes, error=trouble,
        )  # fmt: skip


def _current() -> Context | None:
    from quadrille.observability.pipeline import current  # noqa: PLC0415 - a traced process alone

    return current() or _place.get()
