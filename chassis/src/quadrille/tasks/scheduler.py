"""Task scheduler: leases intents and timers that are due, carries them out, and brings results into ``process_batch``.

Every effect outside was first committed as an intent with its stable key (law L10), and no transaction is open while
it is carried out; a lease that runs out, a killed or frozen worker, only means that another one does the same again
under the same key.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

import structlog
from pydantic import ValidationError

from quadrille.db.connection import Session, pipelined
from quadrille.gateway.breaker import LEVELS, Guarded, State
from quadrille.ids import lock_key
from quadrille.intents import Decision
from quadrille.messages import Intent, Message, Timer, from_json, stamp
from quadrille.observability import metrics
from quadrille.observability.linger import Linger
from quadrille.observability.logs import ThrottledLog
from quadrille.processing import compensation, outbox, unit_of_work
from quadrille.processing.batch import LEASE, OUTAGE, is_outage, process_batch
from quadrille.processing.envelope import DEADLY, Envelope, Handled, LeasedIntent, Record, Unreadable, due_of
from quadrille.processing.suspects import Suspects
from quadrille.processing.telemetry import Observer
from quadrille.service import Service, Tx
from quadrille.tasks.executor import IntentExecutor
from quadrille.tasks.leases import Leased, Rescheduled, hasten, lease, reschedule, withheld

SPREAD = timedelta(seconds=4)  # and up to half a second until somebody looks
PROBE_SECONDS = 2.0
log = structlog.get_logger()


class BreakerRecovery:
    """Watches the breaker of a service's client, if it has one; ``wake`` is called when it closes, from any thread."""

    def __init__(self, service: str, client: object, types: Collection[str], wake: Callable[[], None]) -> None:
        self._service, self._types, self._wake = service, types, wake
        self._breaker = client.breaker if isinstance(client, Guarded) else None
        self._closed_at = float("-inf")
        self._opened_at: float | None = None
        self._closings = self._served = 0
        self._probe_at = 0.0
        if self._breaker:
            self._breaker.changed = self._changed
            metrics.BREAKER.labels(service).set(LEVELS[self._breaker.state])

    def look(self, connection: Callable[[], Tx]) -> bool:
        """Let waiting rows fall due if the outside is to be called; tell whether some may be due now."""
        if (closings := self._closings) != self._served:
            hasten(connection(), self._types, SPREAD)
            self._served = closings
            return True
        if self._breaker is None or time.monotonic() < self._probe_at or not self._breaker.wants_probe:
            return False
        hasten(connection(), self._types, timedelta(0), self._breaker.limits.probes)
        self._probe_at = time.monotonic() + PROBE_SECONDS
        return True

    def sooner(self, row: Rescheduled) -> Rescheduled:
        """Return a row to be put off, no longer than the spread if its call began before the breaker closed."""
        if row.began <= self._closed_at and row.wait > SPREAD:
            return replace(row, wait=SPREAD * random.random())  # noqa: S311 - jitter
        return row

    def _changed(self, state: State) -> None:
        """Note a new state of the breaker, and how long it was not closed; the thread whose call changed it calls."""
        metrics.BREAKER.labels(self._service).set(LEVELS[state])
        self._opened_at = self._opened_at or time.monotonic()
        log.warning("breaker changed", reason=state.value, seconds=round(time.monotonic() - self._opened_at, 1))
        if state is State.CLOSED:
            self._opened_at = None
            self._closed_at = time.monotonic()
            self._closings += 1
            self._wake()


NAP_SECONDS = 0.5
WAIT_SECONDS = 2.0
LOST = "LOST", "its worker was lost before it could tell"


@dataclass(frozen=True, slots=True)
class SchedulerPorts:
    """What a scheduler works with: the client of the outside, and whether timers may fire yet."""

    client: object = None
    caught_up: Callable[[], bool] = lambda: True
    batch_max: int = 100
    linger: Linger | None = None


class TaskScheduler:
    """Works off one service's tasks in one thread, with a pool for the calls outside."""

    def __init__(
        self, service: Service[Any], connect: Callable[[], Tx], watcher: Observer, ports: SchedulerPorts
    ) -> None:
        self.service = service
        self._connection = Session(connect)
        self.watcher = watcher
        self._caught_up, self._batch_max, client = ports.caught_up, ports.batch_max, ports.client
        self._linger = ports.linger
        self._intents = {cls.type: cls for cls in service.outside.policies}
        self._timers = service.on.consumes(Timer)
        self._inbox: queue.SimpleQueue[Envelope | Rescheduled | None] = queue.SimpleQueue()
        self.calls = IntentExecutor(service, watcher, client, self._inbox.put)
        self.healing = BreakerRecovery(service.name, client, self._intents, self.wake)
        self._suspects, self._lapsed = Suspects(), set[UUID]()
        self._unsettled: list[Envelope | Rescheduled] = []
        self._more = True  # something is known to be due
        self._starved = False  # something may be due, but both hands are full
        self._look_at = 0.0
        self._withheld = False  # the database may be one from a backup: nothing is done outside
        self._troubles = ThrottledLog()

    @property
    def idle(self) -> bool:
        """Whether the service has neither intents nor timers: then nothing is to be worked off."""
        return not self._intents and not self._timers

    def room(self) -> int:
        """Return how many more intents this worker may lease."""
        return 0 if self._withheld else self.calls.room()

    def look(self, tx: Tx) -> None:
        """Look whether intents may be leased at all; what is due waits while they may not."""
        if self._intents:
            self._withheld = withheld(tx)

    def accept(self, done: Handled) -> None:
        """Carry out the intents that a batch of events leased to us; the consumer loop's thread calls it."""
        self.calls.take(done.handed)
        if left_for_later(done):
            self.wake()

    def run(self, stop: threading.Event) -> None:
        """Work until told to stop; calls under way finish, their results are committed."""
        while not stop.is_set():
            try:
                self._round()
                self._troubles.over()
            except OUTAGE as trouble:
                self._troubles.warn("tasks wait", type(trouble).__name__)
                self._connection.close()
                self._withheld, self._look_at = bool(self._intents), 0.0  # who knows which database comes back
                stop.wait(NAP_SECONDS)
        self._drain()

    def wake(self) -> None:
        """End the nap: something is due now; any thread may call it."""
        self._inbox.put(None)

    def _round(self) -> None:
        if not self._unsettled:
            self._unsettled = self._gather(0.0 if self._more else max(0.0, self._look_at - time.monotonic()))
            if self._unsettled and self._linger and (wait := self._linger.seconds()):
                time.sleep(wait)
                self._unsettled += self._gather(0.0)
        self._settle()
        self._more |= self.healing.look(self._connection)
        if self._more or self._starved or time.monotonic() >= self._look_at:
            self._more = self._starved = False
            self._look_at = time.monotonic() + NAP_SECONDS
            self._lease_intents()
            self._fire_timers()

    def _gather(self, nap: float) -> list[Envelope | Rescheduled]:
        """Wait for the first thing to come back from outside, then take whatever else is there."""
        found: list[Envelope | Rescheduled] = []
        try:
            one = self._inbox.get(timeout=nap) if nap else self._inbox.get_nowait()
            while True:
                if one is None:
                    self._more = True
                else:
                    found.append(one)
                if len(found) >= self._batch_max:
                    break
                one = self._inbox.get_nowait()
        except queue.Empty:
            pass
        return found

    def _settle(self) -> None:
        """Commit what came back; after an outage it is still here, and its ids make it happen once."""
        answers = [one for one in self._unsettled if isinstance(one, Envelope)]
        if calm := [one for one in answers if one.from_task not in self._lapsed]:
            self._commit(calm)
        for one in answers:
            self._commit_carefully(one)
        if later := [one for one in self._unsettled if isinstance(one, Rescheduled)]:
            self._postpone([self.healing.sooner(one) for one in later])
        self._unsettled = []

    def _postpone(self, rows: Sequence[Rescheduled]) -> None:
        """Reschedule tasks; of a try to undo something the same transaction announces when the next one is due."""
        tx, told = self._connection(), [(row, row.tells) for row in rows if row.tells]
        if not told:
            reschedule(tx, rows)
            return
        with tx.transaction():
            outbox.lock(tx, (entry.key for _, entry in told))
            due = reschedule(tx, rows)
            for row, entry in told:
                if row.id in due:
                    self._tell(tx, entry, (row.error_class or "", row.error or ""), due[row.id])

    def _tell(self, tx: Tx, entry: LeasedIntent, error: tuple[str, str], due: datetime) -> None:
        fact = compensation.again(self.service.on, entry, error, due)
        outbox.announce(tx, self.service, entry.id, fact, ordinal=entry.attempts, trace=entry.trace)

    def _commit(self, inputs: Sequence[Envelope]) -> None:
        """Commit results or timers, and carry out the intents that they lease to us."""
        began = time.time_ns()
        outcomes = process_batch(self._connection(), self.service, inputs, self.room())
        for outcome in outcomes:
            if isinstance(outcome, Handled):
                self.calls.take(outcome.handed)
                self._more |= left_for_later(outcome)
        self.watcher.handled(list(zip(inputs, outcomes, strict=True)), began)

    def _commit_carefully(self, one: Envelope) -> None:
        """Commit what was in hand when its worker was lost: alone, written down first, and not if it killed too often.

        Anything else was committed before.
        """
        task = one.from_task
        if task is None or task not in self._lapsed:
            return
        if self._suspects.note_task(self._connection(), task):
            log.error("task quarantined", event_type=one.type, order_id=one.key)
            one = replace(one, body=Unreadable(*DEADLY))
        self._commit([one])
        self._suspects.clear_task(self._connection(), task)
        self._lapsed.discard(task)

    def _lease_intents(self) -> None:
        if not self._intents:
            return
        self.look(self._connection())
        if not (room := self.room()):
            self._starved = not self._withheld
            return
        expires = time.monotonic() + LEASE.total_seconds()
        rows = lease(self._connection(), LEASE, self._intents, room)
        entries = [entry for row in rows if (entry := self._entry(row, expires))]
        lapsed = {row.id: row.at for row in rows if row.lapsed}
        self._lapsed |= lapsed.keys()
        try:
            self._tell_lost([(entry, lapsed[entry.id]) for entry in entries if entry.id in lapsed])
            self.calls.take(self._judge(entries))
        except OUTAGE:
            self.calls.give_back(entries)
            raise
        self._more |= len(rows) == room

    def _tell_lost(self, entries: Sequence[tuple[LeasedIntent, datetime]]) -> None:
        """Tell of the tries to undo something whose lease ran out: nobody else will."""
        told = [one for one in entries if self.service.on.compensated_step(type(one[0].intent))]
        if told:
            with (tx := self._connection()).transaction():
                outbox.lock(tx, (entry.key for entry, _ in told))
                for entry, now in told:
                    self._tell(tx, replace(entry, attempts=entry.attempts - 1), LOST, now)

    def _entry(self, row: Leased, expires: float) -> LeasedIntent | None:
        cls = self._intents[row.type]
        try:
            intent = stamp(from_json(cls, row.body), row.at)
        except ValidationError as unlike:
            log.exception("intent cannot be read", event_type=row.type, order_id=row.key)
            wait = self.service.outside.policies[cls].retry.delay(row.attempts)
            self._inbox.put(Rescheduled(row.id, row.attempts, wait, False, "UNREADABLE", type(unlike).__name__))  # noqa: FBT003 - as counted
            return None
        return LeasedIntent(row.id, row.key, cast("Intent", intent), row.attempts, expires, row.trace)

    def _judge(self, entries: Sequence[LeasedIntent]) -> list[LeasedIntent]:
        """Ask each intent's precondition under the keys' locks; return those that may proceed."""
        judged = [e for e in entries if self.calls.policy(e).precondition]
        try:
            rulings = self._rulings(judged) if judged else {}
        except Exception as bug:
            if is_outage(bug):
                raise
            if len(entries) > 1:  # one of them; the others are not to wait for it
                return [entry for one in entries for entry in self._judge([one])]
            log.exception("intent cannot be judged", event_type=entries[0].intent.type, order_id=entries[0].key)
            self.calls.retry(entries[0], bug)
            return []
        for entry in judged:
            if rulings[entry.id] is Decision.DEFER:
                self._inbox.put(Rescheduled(entry.id, entry.attempts, timedelta(seconds=WAIT_SECONDS)))
            elif rulings[entry.id] is Decision.CANCEL:
                self.calls.cancel(entry)
        return [e for e in entries if rulings.get(e.id, Decision.PROCEED) is Decision.PROCEED]

    def _rulings(self, judged: Sequence[LeasedIntent]) -> dict[UUID, Decision]:
        tx = self._connection()
        with pipelined(tx):
            tx.execute(unit_of_work.LOCK_KEYS, [sorted({lock_key(e.key) for e in judged})])
            work = self.service.load(tx, [e.intent for e in judged])
            return {e.id: (self.calls.policy(e).precondition or _go)(e.intent, work) for e in judged}

    def _fire_timers(self) -> None:
        if not self._timers or not self._caught_up():
            return
        rows = lease(self._connection(), LEASE, self._timers, self._batch_max)
        self._lapsed |= {row.id for row in rows if row.lapsed}
        try:
            if calm := [self._timer(row) for row in rows if not row.lapsed]:
                self._commit(calm)
            for row in rows:
                if row.lapsed:
                    self._commit_carefully(self._timer(row))
        except OUTAGE:
            for row in rows:
                self._inbox.put(Rescheduled(row.id, row.attempts))
            raise
        self._more |= len(rows) == self._batch_max

    def _timer(self, row: Leased) -> Envelope:
        body: Message | Unreadable
        try:
            body = from_json(self._timers[row.type], row.body)
        except ValidationError:
            body = Unreadable("no handler here takes this body any more", "UNHEARD")
        record = Record(row.body.encode())
        at = due_of(body, row.id)
        return Envelope(row.id, row.key, body, at, row.type, record, from_task=row.id, trace=row.trace)

    def _drain(self) -> None:
        """Let calls under way finish and commit their answers; what nobody has begun is given back at once."""
        self.calls.end()
        try:
            self._settle()
            while found := self._gather(0.0):
                self._unsettled = found
                self._settle()
        except OUTAGE as trouble:
            log.warning("answers left to their leases", error_class=type(trouble).__name__)
        self._connection.close()


def left_for_later(outcome: Handled) -> bool:
    """Tell whether an intent was emitted that is not leased to this process."""
    return sum(isinstance(emitted, Intent) for emitted in outcome.emitted) > len(outcome.handed)


def _go(intent: Intent, work: object) -> Decision:  # noqa: ARG001 - the shape of a ruling
    return Decision.PROCEED
