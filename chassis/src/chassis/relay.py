"""The relay: outbox rows from the write-ahead log to Kafka, one process at a time per database.

Guarantee: every committed row is delivered at least once, each key's first copies in commit order, aborted rows never.
A position is stored when every record before it has a delivery report, and only then is the slot answered with it.
"""

from __future__ import annotations

import threading
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta

import psycopg
import structlog
from confluent_kafka import KafkaException
from psycopg import pq

from chassis.pgoutput import StreamError
from chassis.relay_keeper import Cluster, Keeper, NotReady, Progress
from chassis.relay_metrics import FAILURES, RECOVERIES, STREAMING
from chassis.relay_outlet import Outlet
from chassis.relay_pump import Halted, Pump
from chassis.relay_recovery import Recovery, cause
from chassis.relay_window import DeliveryFailed, Position
from chassis.replication import Stream, command, connect
from chassis.tracing import Spans

REBUILD_SECONDS = 10.0
"""A producer that failed is built anew at most this often."""
_STANDBY_SECONDS = 0.3
_BEAT_SECONDS = 1.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a relay is to do: ``topics`` are those its outbox may name, ``window`` the age its hearers still accept."""

    service: str
    dsn: str
    bootstrap: str
    topics: tuple[str, ...]
    window: timedelta = timedelta(days=7)

    @property
    def slot(self) -> str:
        """The replication slot's name: fixed, so that there is one."""
        return f"quadrille_{self.service.replace('-', '_')}"


def topics_of(service: str) -> tuple[str, ...]:
    """Return the topics a service's relay writes: its own two, and the two all services share."""
    return f"{service}.events", f"{service}.dead-letters", "saga.audit", "ops.events"


class Relay:
    """One relay; ``run`` returns when told to stop, whatever happens to PostgreSQL or Kafka meanwhile."""

    def __init__(self, plan: Plan, spans: Spans | None = None) -> None:
        if pq.__impl__ == "python":
            message = "psycopg runs in pure Python: install psycopg[binary], it takes 2.5 times less"
            raise RuntimeError(message)
        self._plan = plan
        self._spans = spans or Spans.disabled()
        self._outlet: Outlet | None = None
        self._build_at = 0.0
        self._known: Progress | None = None
        self.state = "starting"
        """`streaming`, `standby`, `recovering`, `waiting` (for what ``trouble`` says) or `stopped`."""
        self.trouble: str | None = "starting"

    def ready(self) -> None:
        """Raise NotReady with one line of reason unless this relay streams or stands by."""
        if self.trouble is not None:
            raise NotReady(self.trouble)

    def run(self, stop: threading.Event) -> None:
        """Relay until told to stop."""
        while not stop.is_set():
            try:
                self._serve(stop)
            except Halted:
                break
            except (NotReady, StreamError) as reason:
                self._enter("waiting", str(reason))
            except (DeliveryFailed, KafkaException) as refused:
                FAILURES.inc()
                self._enter("waiting", f"Kafka refused a record: {refused}")
                self._discard()
            except psycopg.Error as lost:
                self._enter("waiting", f"PostgreSQL: {(str(lost) or type(lost).__name__).splitlines()[0]}")
            stop.wait(_STANDBY_SECONDS)
        self._discard()
        self._enter("stopped", "stopped")

    def _serve(self, stop: threading.Event) -> None:
        """Stand by until the lock is ours, then stream; whatever ends it, know how far the deliveries came."""
        pump = None
        try:
            with closing(Keeper(self._plan.dsn, self._plan.slot)) as keeper:
                while not keeper.try_lock():
                    self._enter("standby")
                    _rest(stop, _STANDBY_SECONDS)
                outlet = self._reliable_outlet(keeper, stop)
                with closing(connect(self._plan.dsn)) as walsender:
                    pump = self._pump(keeper, walsender, outlet, stop)
                    self._enter("streaming")
                    pump.run()
        finally:  # with both sessions closed: neither a stand-by nor the server's shutdown waits for Kafka
            if pump is not None:
                self._known, clean = pump.drain()
                if not clean:
                    self._discard()

    def _pump(self, keeper: Keeper, walsender: psycopg.Connection, outlet: Outlet, stop: threading.Event) -> Pump:
        """Start the stream where it has to go on."""
        system, timeline, *_ = command(walsender, "IDENTIFY_SYSTEM")
        start = self._start(keeper, outlet, Cluster(int(system), int(timeline)), stop)
        keeper.free_slot()
        stream = Stream(walsender, self._plan.slot, start.position.lsn)
        stream.watch(keeper.connection.fileno())
        return Pump(keeper, stream, outlet, start, stop)

    def _reliable_outlet(self, keeper: Keeper, stop: threading.Event) -> Outlet:
        """Return a producer, once its topics were seen to be right."""
        while self._outlet is None:
            if time.monotonic() >= self._build_at:
                source = f"quadrille/{self._plan.service}"
                self._outlet = Outlet(self._plan.bootstrap, source, self._plan.topics, self._spans)
                self._build_at = time.monotonic() + REBUILD_SECONDS
            else:
                keeper.beat()
                _rest(stop, _STANDBY_SECONDS)
        patience = time.monotonic() + _BEAT_SECONDS
        while self._outlet.trouble is not None:
            if time.monotonic() > patience:
                self._enter("waiting", self._outlet.trouble)
            keeper.beat()
            _rest(stop, 0.1)
        return self._outlet

    def _start(self, keeper: Keeper, outlet: Outlet, cluster: Cluster, stop: threading.Event) -> Progress:
        """Return the position to go on from, after a recovery if there must be one."""
        identity, stored, known = keeper.publication(), keeper.progress(), self._known
        reason = cause(stored, cluster, identity, keeper.slot())
        if stored is None or reason is not None:
            recovery = Recovery(self._plan.dsn, self._plan.slot, self._plan.window, reason or "", stored)
            self._enter("recovering", f"scanning the outbox: {reason}")
            RECOVERIES.labels(reason).inc()
            found = Progress(cluster, Position(0, 0), identity)
            return recovery.run(keeper, outlet, found, lambda: _alive(keeper, outlet, stop))
        if known is None or (known.cluster, known.publication) != (cluster, identity):
            return stored
        if known.position <= stored.position:
            return stored
        keeper.store(known.position)  # delivered before the connection was lost: not sent again
        return known

    def _enter(self, state: str, trouble: str | None = None) -> None:
        """Note what the relay does now, and log it when it changes."""
        if (state, trouble) != (self.state, self.trouble):
            (log.warning if state == "waiting" else log.info)(f"relay.{state}", slot=self._plan.slot, reason=trouble)
        self.state, self.trouble = state, trouble
        STREAMING.set(state == "streaming")

    def _discard(self) -> None:
        if self._outlet is not None:
            self._outlet.discard()
            self._outlet = None


def _rest(stop: threading.Event, seconds: float) -> None:
    if stop.wait(seconds):
        raise Halted


def _alive(keeper: Keeper, outlet: Outlet, stop: threading.Event) -> None:
    """Keep the lease while a recovery takes its time; raises when it is to end."""
    outlet.check()
    if stop.is_set():
        raise Halted
    if time.monotonic() - keeper.heard > _BEAT_SECONDS:
        keeper.beat()
