"""Telemetry of batches, after the commit; and how sagas end, counted where it is decided, for admission control.

A saga that fails twice, by its deadline and then in its undo, is one that failed: its key is written down with it. A
count may be lost with the process that held it; nothing but admission control rests on it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Protocol, Self, TypeAlias

import psycopg
import structlog

from quadrille.db.connection import Session
from quadrille.db.statements import taken
from quadrille.messages import Emitted, Event, key_of
from quadrille.observability import metrics, tracing
from quadrille.observability.logs import ThrottledLog, event_lines
from quadrille.observability.tracing import CLIENT, CONSUMER, INTERNAL, Spans
from quadrille.processing.envelope import Envelope, Handled, LeasedIntent, Outcome, Parked
from quadrille.service import Tx

log = structlog.get_logger()

SECONDS = 1.0
KEPT = "2 days"  # longer than an undo is tried: who failed by a deadline is still known when it fails for good
WRITE = """
INSERT INTO tally (ended, failed, key) SELECT * FROM unnest(%b::int[], %b::int[], %b::text[]) ON CONFLICT DO NOTHING"""
FORGET = f"DELETE FROM tally WHERE at < now() - interval '{KEPT}'"  # noqa: S608 - a constant of this file
FORGET_EVERY = 1000
HANDLED = "order_id", "event_id", "event_type", "topic", "partition", "offset", "trace_id", "outcome", "ms"
SagaOutcome: TypeAlias = Callable[[Emitted], tuple[int, int]]
"""How many sagas are ended by what was emitted, and whether the one it is about is known as failed now: 0 or 1 each."""

Meter: TypeAlias = Callable[[Emitted], None]
"""Counts for a service what its handlers made it say; called after the commit, so it tells only what is true."""


class SagaOutcomes:
    """A process's own count, written down while it is open as a context; ``add`` may be called by any thread."""

    def __init__(self, connect: Callable[[], Tx], outcome: SagaOutcome) -> None:
        self._connection, self._outcome = Session(connect), outcome
        self._lock = threading.Lock()
        self._ended = self._written = 0
        self._failed: set[str] = set()
        self._troubles, self._end = ThrottledLog(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="tally", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def add(self, emitted: Iterable[Emitted]) -> None:
        """Count what one input made a handler say."""
        for one in emitted:
            ended, failed = self._outcome(one)
            if ended or failed:
                with self._lock:
                    self._ended += ended
                    self._failed |= {key_of(one)} if failed else set()

    def _run(self) -> None:
        """Write the count down each second to the end, and once more then."""
        ended = False
        while not ended:
            ended = self._end.wait(SECONDS)
            try:
                self.write()
                self._troubles.over()
            except psycopg.Error as trouble:
                self._troubles.warn("tally waits", type(trouble).__name__)
                self._connection.close()
        self._connection.close()

    def write(self) -> None:
        """Write down what was counted since; a count that is refused is kept for the next time."""
        with self._lock:
            ended, failed = self._ended, sorted(self._failed)
        if not ended and not failed:
            return
        none, ones = [0] * len(failed), [1] * len(failed)
        self._connection().execute(WRITE, [[ended, *none], [0, *ones], [None, *failed]])
        with self._lock:
            self._ended -= ended
            self._failed -= set(failed)
        if self._written % FORGET_EVERY == 0:
            self._connection().execute(FORGET)
        self._written += 1


class Telemetry:
    """Spans, counters and log lines of what a worker did; after the commit, so that they tell only what is true."""

    def __init__(self, spans: Spans, tally: SagaOutcomes | None = None, meter: Meter | None = None) -> None:
        self.spans, self.tally, self.meter = spans, tally, meter

    def handled(self, batch: Sequence[tuple[Envelope, Outcome]], began_ns: int) -> None:
        """Note a committed batch."""
        ended_ns = time.time_ns()
        metrics.BATCH.observe(len(batch))
        metrics.COMMIT.observe((ended_ns - began_ns) / 1e9)
        if event_lines.on:
            event_lines.write("input handled", HANDLED, _lines(batch, round((ended_ns - began_ns) / 1e6, 1)))
        if self.spans.on:
            statement_spans(self.spans, [envelope for envelope, _ in batch], began_ns)
        for envelope, outcome in batch:
            metrics.count_outcome(envelope.type, outcome)
            if self.spans.on:
                self._span(envelope, outcome, began_ns, ended_ns)
            if isinstance(outcome, Parked):
                self._parked(envelope, outcome)
            elif isinstance(outcome, Handled) and outcome.emitted:
                self._said(outcome.emitted)

    def _said(self, emitted: Sequence[Emitted]) -> None:
        for one in emitted:
            if isinstance(one, Event):
                metrics.EVENTS.labels(one.type).inc()
            if self.meter:
                self.meter(one)
        if self.tally:
            self.tally.add(emitted)

    def retried(self, lane: Sequence[tuple[Envelope, Outcome]]) -> None:
        """Note what became of parked inputs that were tried again, in sequence."""
        for envelope, outcome in lane:
            self.handled([(envelope, outcome)], time.time_ns())
            if isinstance(outcome, Handled):
                log.info(
                    "parked input went on", order_id=envelope.key, event_id=str(envelope.id), event_type=envelope.type,
                    trace_id=envelope.trace.trace_id,
                )  # fmt: skip

    def called(self, entry: LeasedIntent, began_ns: int, trouble: Exception | None = None) -> None:
        """Note a call outside that has ended."""
        ended_ns, kind = time.time_ns(), entry.intent.type
        metrics.CALLS.labels(kind, type(trouble).__name__ if trouble else "answered").inc()
        metrics.CALL.labels(kind).observe((ended_ns - began_ns) / 1e9)
        attributes: dict[str, tracing.Value] = {"quadrille.order_id": entry.key, "quadrille.attempt": entry.attempts}
        error = type(trouble).__name__ if trouble else None
        self.spans.record(
            kind, entry.inside, entry.trace.span_id, began_ns, ended_ns, kind=CLIENT, attributes=attributes,
            error=error,
        )  # fmt: skip

    def _span(self, envelope: Envelope, outcome: Outcome, began_ns: int, ended_ns: int) -> None:
        attributes: dict[str, tracing.Value] = {
            "quadrille.order_id": envelope.key,
            "quadrille.event_type": envelope.type,
            "quadrille.outcome": type(outcome).__name__.lower(),
        }
        name = f"process {envelope.type}"
        if envelope.origin:
            name = f"process {envelope.origin.topic}"
            attributes |= {
                "messaging.system": "kafka",
                "messaging.operation.type": "process",
                "messaging.destination.name": envelope.origin.topic,
                "messaging.message.id": str(envelope.id),
            }
        self.spans.record(
            name, envelope.inside, envelope.trace.span_id, began_ns, ended_ns,
            kind=CONSUMER if envelope.origin else INTERNAL,
            attributes=attributes,
            links=(envelope.trace,) if envelope.origin else (),
            error=outcome.error_class if isinstance(outcome, Parked) else None,
        )  # fmt: skip

    def _parked(self, envelope: Envelope, outcome: Parked) -> None:
        place = envelope.origin
        log.error(
            "input parked",
            order_id=envelope.key, event_id=str(envelope.id), event_type=envelope.type, error_class=outcome.error_class,
            topic=place and place.topic, partition=place and place.partition, offset=place and place.next - 1,
            trace_id=envelope.trace.trace_id, reason=outcome.reason,
        )  # fmt: skip


def _lines(batch: Sequence[tuple[Envelope, Outcome]], ms: float) -> Iterator[tuple[object, ...]]:
    """Yield the values of each input's line; one that is parked has a line of its own, at another level."""
    for envelope, outcome in batch:
        if not isinstance(outcome, Parked):
            place, kind = envelope.origin, type(outcome).__name__.lower()
            where = (place.topic, place.partition, place.next - 1) if place else (None, None, None)
            yield (
                envelope.key, str(envelope.id), envelope.type, *where, envelope.trace.trace_id, kind, ms,
            )  # fmt: skip


def statement_spans(spans: Spans, inputs: Sequence[Envelope], began_ns: int) -> None:
    """Record the statement groups of a batch: one transaction, so a span each, below the first input that is sampled.

    It links to the other ones' spans, as it is theirs too.
    """
    groups, sampled = taken(began_ns), [envelope.inside for envelope in inputs if envelope.trace.sampled]
    for group in groups if sampled else ():
        spans.record(
            group.summary, sampled[0].child(), sampled[0].span_id, group.began_ns, group.ended_ns, kind=CLIENT,
            attributes=group.attributes, links=tuple(sampled[1:]),
        )  # fmt: skip


class Observer(Protocol):
    """Is told what became of every batch: spans, metrics and logs hang here."""

    def handled(self, batch: Sequence[tuple[Envelope, Outcome]], began_ns: int) -> None:
        """Note a committed batch."""
        ...

    def called(self, entry: LeasedIntent, began_ns: int, trouble: Exception | None = None) -> None:
        """Note a call outside that has ended."""
        ...
