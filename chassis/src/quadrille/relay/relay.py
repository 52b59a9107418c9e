"""Relay: outbox rows from the write-ahead log to Kafka, one process at a time per database.

Every committed row is delivered at least once, each key's first copies in commit order, aborted rows never. A position
is stored when every record before it has a delivery report, and only then is the slot answered with it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial

import psycopg
import structlog
from confluent_kafka import KafkaException
from psycopg import pq

from quadrille.observability.linger import Linger
from quadrille.observability.logs import ThrottledLog
from quadrille.observability.progress import Change, Patience, ProgressWatchdog
from quadrille.observability.readiness import NotReadyError
from quadrille.observability.tracing import Spans
from quadrille.relay.held import HeldRows, Lane
from quadrille.relay.publisher import (
    Care,
    DeliveryFailedError,
    ElsewhereError,
    Publisher,
    RefusedRowError,
    Transaction,
    UnprovenError,
)
from quadrille.relay.recovery import FAILOVER_SLOTS, Recovery, admit, cause
from quadrille.relay.replication import Position, Stream, StreamError, command, connect
from quadrille.relay.republish import Republish
from quadrille.relay.restore import RestoreCheck, RestoredError
from quadrille.relay.session import LEASE_SECONDS, Cluster, Progress, RelaySession
from quadrille.relay.streaming import (
    FAILURES,
    RECOVERIES,
    REFUSED,
    STALLED,
    STREAMING,
    Halted,
    HeldDueError,
    Sight,
    Streamer,
)

REBUILD_SECONDS = 10.0
"""A producer that failed is built anew at most this often."""
SILENT_SECONDS = 2.0 * LEASE_SECONDS
"""A database that has not answered for so long may have given the lock to another relay: this one is not ready."""
_STANDBY_SECONDS = 0.3
_BEAT_SECONDS = 1.0
_LOOK_SECONDS = 0.02
_ANOTHER = "Kafka is not the one that it was a moment ago"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RelayConfig:
    """What a relay is to do: ``topics`` are those its outbox may name, ``window`` the age its hearers still accept."""

    service: str
    dsn: str
    bootstrap: str
    topics: tuple[str, ...]
    window: timedelta = timedelta(days=7)
    accepted: str = ""
    """The id of the Kafka cluster that is ours, where a person has said it."""
    patience: Patience = field(default_factory=Patience)
    linger: float = 0.0
    """How long a full machine may make it wait for more rows, in seconds."""
    producer_linger: float = 0.0
    """How long its producer gathers for each request while it is behind, in seconds."""

    @property
    def slot(self) -> str:
        """The replication slot's name: fixed, so that there is one."""
        return f"quadrille_{self.service.replace('-', '_')}"


def topics_of(service: str) -> tuple[str, ...]:
    """Return the topics a service's relay writes: its own two, and the two all services share."""
    return f"{service}.events", f"{service}.dead-letters", "saga.audit", "ops.events"


class HeldError(NotReadyError):
    """A row was refused and is written down as held: all else goes on without it."""


class StalledError(NotReadyError):
    """Nothing has been delivered for long: sessions and producer are made anew."""


class Relay:
    """One relay; ``run`` returns when told to stop, whatever happens to PostgreSQL or Kafka meanwhile."""

    def __init__(self, plan: RelayConfig, spans: Spans | None = None) -> None:
        if pq.__impl__ == "python":
            message = "psycopg runs in pure Python: install psycopg[binary], it takes 2.5 times less"
            raise RuntimeError(message)
        self._plan = plan
        self._spans = spans or Spans.disabled()
        self._keeper: RelaySession | None = None
        self._outlet: Publisher | None = None
        self._build_at = 0.0
        self._known: Progress | None = None
        self._care = Care()
        self.held = HeldRows(lambda: REBUILD_SECONDS)
        """Rows that are refused, and what waits behind them."""
        self._handed = 1
        """Rows that a recovery has handed on: so many are to be watched if one is refused."""
        self._dog = ProgressWatchdog(plan.patience)
        self._best = (0, 0, 0), 0
        self._stall: str | None = None
        self._seldom = ThrottledLog()
        self._waits_since: float | None = None
        self._told_at = 0.0
        self.state = "starting"
        """`streaming`, `standby`, `recovering`, `waiting` (for what ``trouble`` says), `restored` or `stopped`."""
        self.trouble: str | None = "starting"

    def ready(self) -> None:
        """Raise NotReadyError with one line of reason unless this relay delivers or stands by."""
        keeper, outlet = self._keeper, self._outlet
        if keeper is not None and (silent := time.monotonic() - keeper.heard) > SILENT_SECONDS:
            message = f"PostgreSQL has not answered for {silent:.0f} s"
            raise NotReadyError(message)
        away = outlet.away if outlet is not None and self.state != "standby" else None
        refused = self._care.reason or self.held.reason
        trouble = refused if self.state == "streaming" else refused or self.trouble
        if reason := trouble or away or self._stall:
            raise NotReadyError(reason)

    def run(self, stop: threading.Event) -> None:
        """Relay until told to stop."""
        while not stop.is_set():
            try:
                self._serve(stop)
            except Halted:
                break
            except (ElsewhereError, StalledError) as reason:
                self._enter("waiting", str(reason))
                self._discard()
            except HeldError:
                FAILURES.inc()
                self._discard()
            except HeldDueError:
                self._enter("waiting", self.held.reason)
                continue
            except RestoredError as reason:
                self._known = None
                self.held.passed = {}
                self._enter("restored", str(reason))
            except (NotReadyError, StreamError) as reason:
                self._enter("waiting", str(reason))
            except (DeliveryFailedError, KafkaException) as failed:
                FAILURES.inc()
                self._enter("waiting", self._care.reason or f"sent again: {failed}")
                self._discard()
            except psycopg.Error as lost:
                self._dog.suspend()
                self._enter("waiting", f"PostgreSQL: {(str(lost) or type(lost).__name__).splitlines()[0]}")
            stop.wait(_STANDBY_SECONDS)
        self._discard()
        self._enter("stopped", "stopped")

    def _serve(self, stop: threading.Event) -> None:
        """Stand by until the lock is ours, then stream; whatever ends it, know how far the deliveries came."""
        pump = None
        try:
            with closing(RelaySession(self._plan.dsn, self._plan.slot)) as keeper, ExitStack() as opened:
                self._keeper = keeper
                while not keeper.try_lock():
                    self._enter("standby")
                    self._watch(keeper, Sight(ahead=False, delivered=(0, 0, 0), end=0, words=""))
                    _rest(stop, _STANDBY_SECONDS)
                try:
                    with keeper.beating():
                        self.held.load(keeper)
                        outlet = self._reliable_outlet(keeper, stop)
                        walsender = opened.enter_context(closing(connect(self._plan.dsn)))
                        pump = self._pump(keeper, walsender, outlet, stop)
                    self._enter("streaming", self._care.reason or self.held.reason)
                    pump.run()
                except RefusedRowError as refused:
                    if self.held.take(keeper, refused):
                        self._care.forget()
                        self._build_at = 0.0  # the next one need not wait: it does not meet this row
                        self._enter("waiting", self.held.reason)
                        raise HeldError(refused) from None
                    raise
        except DeliveryFailedError as failed:
            if not isinstance(failed, UnprovenError):
                self._care.refused(failed, pump.unsettled if pump is not None else self._handed)
            raise
        finally:  # with both sessions closed: neither a stand-by nor the server's shutdown waits for Kafka
            if pump is not None:
                self._known, clean = pump.drain()
                if not clean:
                    self._discard()

    def _pump(
        self, keeper: RelaySession, walsender: psycopg.Connection, outlet: Publisher, stop: threading.Event
    ) -> Streamer:
        """Start the stream where it has to go on."""
        system, timeline, *_ = command(walsender, "IDENTIFY_SYSTEM")
        self._handed = 1
        alive = partial(self._go_on, keeper, outlet, stop)
        check = RestoreCheck(self._plan.service, self._plan.dsn, self._plan.bootstrap, self._plan.topics)
        looked_for = check.look(keeper, outlet.target, alive)
        start = self._start(keeper, outlet, Cluster(int(system), int(timeline)), stop)
        check.looked(keeper, looked_for)
        while (lane := self.held.due()) is not None:
            self._try_held(keeper, outlet, lane, alive)
        while (asked := Republish.next(keeper)) is not None:
            self._enter("recovering", asked.cause)
            asked.run(keeper, outlet, self._plan.dsn, self.held, partial(self._republishing, keeper, alive, asked))
        keeper.free_slot()
        if walsender.info.server_version >= FAILOVER_SLOTS and not keeper.kept_at_failover():
            command(walsender, f'ALTER_REPLICATION_SLOT "{self._plan.slot}" (FAILOVER)')
        stream = Stream(walsender, self._plan.slot, start.position.lsn)
        stream.watch(keeper.connection.fileno())
        linger = Linger("relay", self._plan.linger)
        return Streamer(
            keeper, stream, outlet, start, stop, watch=partial(self._watch, keeper), linger=linger, held=self.held
        )

    def _go_on(self, keeper: RelaySession, outlet: Publisher, stop: threading.Event) -> None:
        """Keep the lease while something takes its time; raises when it is to end."""
        outlet.check()
        if stop.is_set():
            raise Halted
        keeper.beat_seldom()

    def _republishing(self, keeper: RelaySession, alive: Callable[[], None], asked: Republish, rows: int) -> None:
        """Show how far it is."""
        alive()
        if time.monotonic() < self._told_at:
            return
        self._told_at = time.monotonic() + _BEAT_SECONDS
        self.trouble = f"{asked.cause}: {rows} rows delivered so far"
        self._watch(keeper, Sight(ahead=True, delivered=(0, rows, 0), end=0, words=self.trouble))

    def _try_held(self, keeper: RelaySession, outlet: Publisher, lane: Lane, alive: Callable[[], None]) -> None:
        """Send what is held by a producer of its own: what is refused to that one ends no other's work."""
        own = self._publisher(lane.care)
        try:
            look = own.look()
            while not own.seen(look):
                own.check()
                alive()
                time.sleep(_LOOK_SECONDS)
            if own.target != outlet.target:
                raise ElsewhereError(_ANOTHER)
            self.held.go_on(keeper, lane, own, self._plan.dsn, alive)
        except DeliveryFailedError as failed:
            FAILURES.inc()
            if self._seldom.met(str(lane.id)):
                log.warning("relay.refused_again", event_id=str(lane.id), reason=str(failed))
        finally:
            own.discard()

    def _publisher(self, care: Care) -> Publisher:
        return Publisher(
            self._plan.bootstrap, self._plan.service, self._plan.topics, self._spans, care, self._plan.producer_linger
        )

    def _reliable_outlet(self, keeper: RelaySession, stop: threading.Event) -> Publisher:
        """Return a producer, once its topics were seen to be right."""
        while self._outlet is None:
            if time.monotonic() >= self._build_at:
                self._outlet = self._publisher(self._care)
                self._build_at = time.monotonic() + REBUILD_SECONDS
            else:
                self._wait_refused(keeper, stop, _STANDBY_SECONDS)
        look, patience = self._outlet.look(), time.monotonic() + _BEAT_SECONDS
        while not self._outlet.seen(look):
            self._outlet.check()
            if time.monotonic() > patience and (reason := self._outlet.away or self._outlet.trouble):
                self._enter("waiting", reason)
            self._wait_refused(keeper, stop, 0.02)
        self._outlet.check()
        return self._outlet

    def _wait_refused(self, keeper: RelaySession, stop: threading.Event, seconds: float) -> None:
        """Keep the lease for a moment; while a row is refused, others wait behind it."""
        keeper.beat_seldom()
        if self._care.reason is not None:
            self._watch(keeper, Sight(ahead=True, delivered=(0, 0, 0), end=0, words=self._care.reason))
        _rest(stop, seconds)

    def _start(self, keeper: RelaySession, outlet: Publisher, cluster: Cluster, stop: threading.Event) -> Progress:
        """Return the position to go on from, after a recovery if there must be one."""
        stored, known, target = keeper.progress(), self._known, outlet.target
        found = Progress(cluster, Position(0, 0), keeper.publication(), target)
        admit(stored, target, self._plan.accepted)
        reason = cause(stored, found, keeper.slot())
        if stored is None or reason is not None:
            self.held.begin_anew()
            recovery = Recovery(self._plan.dsn, self._plan.slot, self._plan.window, reason or "", stored, self.held)
            self._enter("recovering", f"scanning the outbox: {reason}")
            RECOVERIES.labels((reason or "").partition(":")[0]).inc()
            progress = recovery.run(keeper, outlet, found, partial(self._alive, keeper, outlet, stop, reason))
            self._care.forget()
            return progress
        if stored.target is None or stored.target.topics != target.topics:
            topics = {**(stored.target.topics if stored.target else {}), **target.topics}
            keeper.adopt(replace(target, topics=topics))
        same = (cluster, found.publication, target)
        if known is None or (known.cluster, known.publication, known.target) != same:
            return replace(stored, target=target)
        if known.position <= stored.position:
            return replace(stored, target=target)
        keeper.store(known.position)  # delivered before the connection was lost: not sent again
        return known

    def _alive(
        self, keeper: RelaySession, outlet: Publisher, stop: threading.Event, reason: str | None, sent: Transaction
    ) -> None:
        """Keep the lease while a recovery takes its time, and show how far it is; raises when it is to end."""
        outlet.check()
        self._handed = max(sent.handed, 1)
        if stop.is_set():
            raise Halted
        if time.monotonic() - keeper.heard > _BEAT_SECONDS:
            keeper.beat()
            scanning = f"scanning the outbox: {reason}: {sent.delivered} rows delivered so far"
            self.trouble = outlet.trouble or scanning  # topics that are wrong by now hold up the proof
            if self._seldom.met("recovering"):
                log.info("relay.recovering", cause=reason, rows=sent.delivered)
            waiting = sent.handed > sent.delivered
            words = f"{sent.handed - sent.delivered} rows of a recovery wait: {outlet.away or 'none is acknowledged'}"
            self._watch(keeper, Sight(ahead=waiting, delivered=(0, sent.delivered, 0), end=0, words=words))

    def _watch(self, keeper: RelaySession, sight: Sight) -> None:
        """Judge whether anything moves; a stall is told in the log, by readiness, and through the worker to all."""
        delivered, end = self._best
        self._best = max(delivered, sight.delivered), max(end, sight.end)
        dog = self._dog
        change = dog.look(ahead=sight.ahead, handled=self._best)
        STALLED.set(dog.seconds if dog.stalled else 0)
        REFUSED.set((self._care.reason or self.held.reason) is not None)
        self._stall = f"nothing delivered for {dog.seconds:.0f} s: {sight.words}" if dog.stalled else None
        if change is Change.STALLED:
            log.error("relay.stalled", slot=self._plan.slot, seconds=round(dog.seconds), reason=sight.words)
            keeper.note("STALLED", sight.words[:500], datetime.now(UTC) - timedelta(seconds=dog.seconds))
        elif change is Change.RESUMED:
            log.error("relay.resumed", slot=self._plan.slot, seconds=round(dog.lasted))
            since = datetime.now(UTC) - timedelta(seconds=dog.lasted)
            keeper.note("RESUMED", "", since, round(dog.lasted * 1000))
        refused = self._care.reason or self.held.reason
        if dog.renewal_due() and self._outlet is not None and self._outlet.away is None and not refused:
            raise StalledError(self._stall or "stalled")

    def _enter(self, state: str, trouble: str | None = None) -> None:
        """Note what the relay does now, and log it when it changes; that it waits no longer as loud as that it does."""
        if (state, trouble) != (self.state, self.trouble):
            waited = None if self._waits_since is None else round(time.monotonic() - self._waits_since, 1)
            loud = state in ("waiting", "restored") or (state == "streaming" and waited is not None)
            (log.warning if loud else log.info)(f"relay.{state}", slot=self._plan.slot, reason=trouble, seconds=waited)
        if state == "waiting" and self._waits_since is None:
            self._waits_since = time.monotonic()
        elif state == "streaming":
            self._waits_since = None
        self.state, self.trouble = state, trouble
        STREAMING.set(state == "streaming")

    def _discard(self) -> None:
        if self._outlet is not None:
            self._outlet.discard()
            self._outlet = None


def _rest(stop: threading.Event, seconds: float) -> None:
    if stop.wait(seconds):
        raise Halted
