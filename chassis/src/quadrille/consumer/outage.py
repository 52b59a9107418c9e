"""Outage policy: what becomes of sagas that wait for a service whose heartbeat is gone.

``wait``: nothing, it catches up when it is back, or the saga's own deadline ends it. ``fail_fast``: as long as it is
silent, whatever waits for it is given up, each by a command through ``process_batch`` like any other. Nothing is given
up on doubt: who is called silent may be back by now, so all that lies on its topic must have been read first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import structlog

from quadrille.consumer.assignment import Assignment
from quadrille.consumer.heartbeat import HeartbeatMonitor
from quadrille.ids import uuid7
from quadrille.messages import Command
from quadrille.observability.tracing import Spans
from quadrille.processing.batch import process_batch
from quadrille.processing.envelope import Envelope, Handled
from quadrille.processing.telemetry import Observer
from quadrille.service import Outages, Service, Tx, WaitingSaga

AT_ONCE = 100
LOOK_SECONDS = 0.5
Clock = Callable[[], float]
log = structlog.get_logger()


class OutageGuard:
    """Gives up what waits for who is silent; used by the consumer loop's thread alone."""

    def __init__(  # noqa: PLR0913, PLR0917 - one of each thing it works with
        self,
        service: Service[Any],
        outages: Outages,
        heartbeat: HeartbeatMonitor,
        spans: Spans,
        watcher: Observer,
        clock: Clock = time.monotonic,
    ) -> None:
        if unheard := sorted(outages.fail_fast - {topic.removesuffix(".events") for topic in service.on.subscribed()}):
            message = f"{service.name} hears no heartbeat of {', '.join(unheard)}: it cannot fail fast for its outage"
            raise TypeError(message)
        self.service, self._outages, self._heartbeat = service, outages, heartbeat
        self._spans, self._watcher, self._clock = spans, watcher, clock
        self._look_at = 0.0

    def poll(self, tx: Tx, assignment: Assignment) -> None:
        """Give up some of what waits for each service that is silent; the rest in the next rounds."""
        if self._clock() < self._look_at:
            return
        self._look_at = self._clock() + LOOK_SECONDS
        for source in self._heartbeat.silent(tx, assignment, self._outages.fail_fast):
            found = self._outages.waiting(tx, source, AT_ONCE)
            if found and self._heartbeat.still_silent(tx, assignment, source):
                self._give_up(tx, source, found)
                if len(found) == AT_ONCE:
                    self._look_at = 0.0

    def _give_up(self, tx: Tx, source: str, found: Sequence[WaitingSaga]) -> None:
        began, now = time.time_ns(), datetime.now(UTC)
        inputs = [self._input(saga, self._outages.give_up(saga.key, source), now) for saga in found]
        outcomes = process_batch(tx, self.service, inputs)
        self._watcher.handled(list(zip(inputs, outcomes, strict=True)), began)
        done = sum(isinstance(outcome, Handled) and bool(outcome.emitted) for outcome in outcomes)
        log.warning("sagas given up", topic=f"{source}.events", count=done)

    def _input(self, saga: WaitingSaga, command: Command, now: datetime) -> Envelope:
        return Envelope(uuid7(), saga.key, command, now, command.type, trace=self._spans.within(saga.trace_id))
