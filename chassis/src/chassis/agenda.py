"""Intents and timers after the commit: lease, act with no transaction open, bring the answer back into ``commit``.

Every effect outside was first committed as an intent with its stable key (law L10); a lease that runs out, a killed or
frozen worker, only means that another one does the same again under the same key.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import structlog

from chassis import ledger
from chassis.commit import LEASE, OUTAGE, commit, from_json, to_json
from chassis.ids import event_id, id_time, lock_key
from chassis.inputs import Done, Entry, Input, Record
from chassis.listener import Watcher, close_quietly
from chassis.outside import Errand, Ruling, Transient
from chassis.service import Service, Tx
from chassis.trace import new_trace, parse
from chassis.words import Answer, Intent, Timer, key_of, stamp

CALLS = 10  # the bulkhead: calls outside at one time
WAITING = 40  # intents in hand, calls under way included
LEAST_LEFT = 12.0  # seconds of lease that all fast tries of one call may take
NAP_SECONDS = 0.5
WAIT_SECONDS = 2.0
LEASE_DUE = """
UPDATE agenda a SET leased_until = now() + %b::interval, attempts = attempts + 1
  FROM (SELECT id FROM agenda WHERE due <= now() AND (leased_until IS NULL OR leased_until < now())
           AND type = ANY(%b) ORDER BY due LIMIT %b FOR UPDATE SKIP LOCKED) d
 WHERE a.id = d.id RETURNING a.id, a.key, a.type, a.body::text, a.attempts, a.traceparent"""
POSTPONE = """
UPDATE agenda a SET due = now() + n.wait, leased_until = NULL, error_class = n.error_class, error = n.error
  FROM unnest(%b::uuid[], %b::interval[], %b::text[], %b::text[]) n(id, wait, error_class, error) WHERE a.id = n.id"""
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Postponed:
    """A row to look at again later."""

    id: UUID
    wait: timedelta
    error_class: str | None
    error: str | None


class Agenda:
    """Works off one service's agenda in one thread, with a pool for the calls outside.

    ``clients`` gives an errand its client of the outside; ``caught_up`` says whether timers may fire yet.
    """

    def __init__(
        self, service: Service[Any], connect: Callable[[], Tx], watcher: Watcher, client: object = None
    ) -> None:
        self.service = service
        self.connect = connect
        self.watcher = watcher
        self.client = client
        self.caught_up: Callable[[], bool] = lambda: True
        self.batch_max = 100
        self._intents = {cls.type: cls for cls in service.outside.errands}
        self._timers = service.on.hears(Timer)
        self._pool = ThreadPoolExecutor(CALLS, thread_name_prefix="outside")
        self._inbox: queue.SimpleQueue[Input | _Postponed | None] = queue.SimpleQueue()
        self._held = 0
        self._lock = threading.Lock()
        self._more = True  # something is known to be due
        self._starved = False  # something may be due, but both hands are full
        self._look_at = 0.0
        self._tx: Tx | None = None
        self._rng = random.Random()  # noqa: S311 - jitter

    @property
    def idle(self) -> bool:
        """Whether the service has neither errands nor timers: then nothing is to be worked off."""
        return not self._intents and not self._timers

    def room(self) -> int:
        """Return how many more intents this worker may take in hand."""
        return max(0, WAITING - self._held)

    def heard(self, done: Done) -> None:
        """Take in hand what a batch of facts said; the listener's thread calls it."""
        self.take(done.handed)
        if left_for_later(done):
            self.wake()

    def take(self, entries: Iterable[Entry]) -> None:
        """Carry out intents leased to this process; any thread may call it."""
        for entry in entries:
            with self._lock:
                self._held += 1
            self._pool.submit(self._carry_out, entry)

    def run(self, stop: threading.Event) -> None:
        """Work until told to stop; calls under way finish, their answers are committed."""
        while not stop.is_set():
            try:
                self._round()
            except OUTAGE as trouble:
                log.warning("agenda waits", error_class=type(trouble).__name__)
                self._close()
                stop.wait(NAP_SECONDS)
        self._drain()

    def wake(self) -> None:
        """End the nap: something is due now; any thread may call it."""
        self._inbox.put(None)

    def _round(self) -> None:
        self._settle(self._gather(0.0 if self._more else max(0.0, self._look_at - time.monotonic())))
        if self._more or self._starved or time.monotonic() >= self._look_at:
            self._more = self._starved = False
            self._look_at = time.monotonic() + NAP_SECONDS
            self._lease_intents()
            self._fire_timers()

    def _gather(self, nap: float) -> list[Input | _Postponed]:
        """Wait for the first thing to come back from outside, then take whatever else is there."""
        found: list[Input | _Postponed] = []
        try:
            one = self._inbox.get(timeout=nap) if nap else self._inbox.get_nowait()
            while True:
                if one is None:
                    self._more = True
                else:
                    found.append(one)
                if len(found) >= self.batch_max:
                    break
                one = self._inbox.get_nowait()
        except queue.Empty:
            pass
        return found

    def _settle(self, found: Sequence[Input | _Postponed]) -> None:
        if answers := [one for one in found if isinstance(one, Input)]:
            self._commit(answers)
        if later := [one for one in found if isinstance(one, _Postponed)]:
            columns = [[p.id for p in later], [p.wait for p in later], [p.error_class for p in later]]
            self._connection().execute(POSTPONE, [*columns, [p.error for p in later]])

    def _commit(self, inputs: Sequence[Input]) -> None:
        """Commit answers or timers; an outage drops them here: their leases run out and all is asked again."""
        began = time.time_ns()
        outcomes = commit(self._connection(), self.service, inputs, self.room())
        for outcome in outcomes:
            if isinstance(outcome, Done):
                self.take(outcome.handed)
                self._more |= left_for_later(outcome)
        self.watcher.handled(list(zip(inputs, outcomes, strict=True)), began)

    def _lease_intents(self) -> None:
        if not self._intents:
            return
        if not (room := self.room()):
            self._starved = True
            return
        expires = time.monotonic() + LEASE.total_seconds()
        rows = self._connection().execute(LEASE_DUE, [LEASE, list(self._intents), room]).fetchall()
        entries = [self._entry(row, expires) for row in rows]
        self.take(self._judge([entry for entry in entries if entry is not None]))
        self._more |= len(rows) == room

    def _entry(self, row: tuple[Any, ...], expires: float) -> Entry | None:
        identity, key, kind, body, attempts, traceparent = row
        intent = stamp(from_json(self._intents[kind], body), datetime.now(UTC))
        trace = parse(traceparent) or new_trace()
        return Entry(identity, key, intent, attempts, expires, trace) if isinstance(intent, Intent) else None

    def _judge(self, entries: Sequence[Entry]) -> list[Entry]:
        """Ask each errand's ``when`` under the keys' locks; give back those that may go."""
        errands = self.service.outside.errands
        judged = [e for e in entries if errands[type(e.intent)].when]
        if not judged:
            return list(entries)
        tx = self._connection()
        with tx.pipeline(), tx.transaction():
            tx.execute(ledger.LOCK_KEYS, [sorted({lock_key(e.key) for e in judged})])
            work = self.service.load(tx, [e.intent for e in judged])
            rulings = {e.id: (errands[type(e.intent)].when or _go)(e.intent, work) for e in judged}
        for entry in judged:
            if rulings[entry.id] is Ruling.WAIT:
                self._inbox.put(_Postponed(entry.id, timedelta(seconds=WAIT_SECONDS), None, None))
            elif rulings[entry.id] is Ruling.DROP:
                self._answer(entry, errands[type(entry.intent)].dropped)
        return [e for e in entries if rulings.get(e.id, Ruling.GO) is Ruling.GO]

    def _carry_out(self, entry: Entry) -> None:
        """Call the outside with no transaction open; runs in the pool."""
        errand = self.service.outside.errands[type(entry.intent)]
        try:
            if entry.expires - time.monotonic() < LEAST_LEFT:
                return  # too late to be sure of the lease: the row falls due again by itself
            began = time.time_ns()
            answer = errand.call(entry.intent, self.client)
            self.watcher.called(entry, began)
            self._inbox.put(self._input(entry, answer))
        except Transient as unknown:
            self.watcher.called(entry, began, unknown)
            self._climb(entry, errand, unknown)
        except Exception as bug:
            log.exception("errand failed", event_type=entry.intent.type, order_id=entry.key)
            self._climb(entry, errand, bug)
        finally:
            with self._lock:
                self._held -= 1

    def _climb(self, entry: Entry, errand: Errand, trouble: Exception) -> None:
        """Put the intent on the next rung of its ladder, ± 50 %; past the top it is answered as exhausted."""
        rung = entry.attempts - 1
        if rung >= len(errand.ladder) and errand.exhausted:
            self._answer(entry, errand.exhausted)
            return
        wait = errand.ladder[min(rung, len(errand.ladder) - 1)] * self._rng.uniform(0.5, 1.5)
        self._inbox.put(_Postponed(entry.id, wait, "TRANSIENT", type(trouble).__name__))

    def _answer(self, entry: Entry, make: Callable[[Any], Answer] | None) -> None:
        if make is not None:
            self._inbox.put(self._input(entry, make(entry.intent)))

    def _input(self, entry: Entry, answer: Answer) -> Input:
        identity = event_id(self.service.name, entry.id, "answer", 0)
        now = datetime.now(UTC)
        record = Record(to_json(answer))
        return Input(identity, key_of(answer), answer, now, answer.type, record, agenda=entry.id, trace=entry.trace,
                     attempts=entry.attempts)  # fmt: skip

    def _fire_timers(self) -> None:
        if not self._timers or not self.caught_up():
            return
        rows = self._connection().execute(LEASE_DUE, [LEASE, list(self._timers), self.batch_max]).fetchall()
        if rows:
            self._commit([self._timer(row) for row in rows])
        self._more |= len(rows) == self.batch_max

    def _timer(self, row: tuple[Any, ...]) -> Input:
        identity, key, kind, body, _, traceparent = row
        message = from_json(self._timers[kind], body)
        trace = parse(traceparent) or new_trace()
        record = Record(body.encode())
        return Input(identity, key, message, id_time(identity), kind, record, agenda=identity, trace=trace)

    def _drain(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        try:
            self._settle(self._gather(0.0))
        except OUTAGE as trouble:
            log.warning("answers left to their leases", error_class=type(trouble).__name__)
        self._close()

    def _connection(self) -> Tx:
        if self._tx is None:
            self._tx = self.connect()
        return self._tx

    def _close(self) -> None:
        tx, self._tx = self._tx, None
        if tx is not None:
            close_quietly(tx)


def left_for_later(outcome: Done) -> bool:
    """Tell whether an intent was said that this process has not taken in hand."""
    return sum(isinstance(said, Intent) for said in outcome.said) > len(outcome.handed)


def _go(intent: Intent, work: object) -> Ruling:  # noqa: ARG001 - the shape of a ruling
    return Ruling.GO
