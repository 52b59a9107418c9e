"""A receiver of spans, and the spans of this process on their way to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from quadrille.observability.tracing import Spans, recorder, use
from tests.chassis.support.otlp_receiver import Sink


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as server:
        yield server
        server.goes_on.set()
        server.shutdown()


@pytest.fixture
def recorded(request: pytest.FixtureRequest, sink: Sink) -> Iterator[Spans]:
    """The spans of this process; a parameter says which propagators there are."""
    spans = Spans("order", "worker", [sink.url], environ={"OTEL_PROPAGATORS": getattr(request, "param", "")})
    before = recorder()
    use(spans)
    yield spans
    use(before)
    spans.stop(60)
