"""One service in memory: the chassis' reader, inbox, lanes, ids, preconditions and retries around the real handlers.

Only SQL, Kafka and threads are left out; the time is the test's.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any, cast
from uuid import UUID

from quadrille.consumer.deserializer import RecordDeserializer
from quadrille.ids import id_time, milliseconds
from quadrille.intents import Decision
from quadrille.messages import (
    UNDATED,
    Command,
    Emitted,
    Event,
    Intent,
    Message,
    Timer,
    from_json,
    key_of,
    stamp,
    to_json,
)
from quadrille.observability.trace_context import new_trace
from quadrille.processing import batch as committing
from quadrille.processing.batch import LEASE
from quadrille.processing.envelope import Envelope, Handled, LeasedIntent, Outcome, Parked, Record, due_of
from quadrille.processing.idempotency import KeptAnswer, Name
from quadrille.processing.unit_of_work import BatchState, PendingWrites
from quadrille.processing.unit_of_work import OutboxRecord as Sent
from quadrille.service import Service, tables
from quadrille.system_messages import SystemEvent
from quadrille.tasks.executor import IntentExecutor
from quadrille.tasks.leases import Rescheduled
from quadrille.testing.in_memory import OpenRows, PlainCodec
from tests.model import laws
from tests.model.actors import State

DAY = timedelta(days=1)
WINDOW = 7 * DAY
WAIT = timedelta(seconds=2)
TOO_OLD, BEHIND = "BELOW_FLOOR", "BEHIND"


@dataclass(slots=True)
class Row:
    """A task."""

    id: UUID
    message: Intent | Timer
    due: datetime
    attempts: int = 0
    leased_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """An event as it lies on its topic."""

    fact: Sent
    at: datetime
    record: Record


def published(fact: Sent, at: datetime) -> Published:
    """Return an event as a relay publishes it."""
    name, when = str(fact.id).encode(), at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    headers = (
        ("id", name),
        ("ce_id", name),
        ("ce_specversion", b"1.0"),
        ("ce_source", b"quadrille/" + fact.topic.partition(".")[0].encode()),
        ("ce_type", fact.type.encode()),
        ("ce_time", when.encode()),
        ("ce_causationid", str(fact.cause).encode()),
        ("ce_sequence", b"1"),
        ("content-type", b"application/vnd.confluent.avro"),
        ("traceparent", fact.traceparent.encode()),
    )
    return Published(fact, at, Record(fact.payload, headers))


@dataclass(slots=True)
class Kept:
    """What a service's database holds beside its own tables."""

    inbox: set[UUID] = field(default_factory=set)
    inbox_old: set[UUID] = field(default_factory=set)
    lanes: dict[str, list[UUID]] = field(default_factory=dict)
    parked: dict[UUID, tuple[Published, str]] = field(default_factory=dict)
    tasks: dict[UUID, Row] = field(default_factory=dict)
    answers: dict[Name, KeptAnswer] = field(default_factory=dict)
    horizon: datetime = UNDATED


class Nobody:
    """Watches nothing."""

    def handled(self, *_: object) -> None:
        """Note nothing."""

    def called(self, *_: object) -> None:
        """Note nothing."""


class Room:
    """One service; ``tell`` hears what it says, ``clock`` is the test's, ``client`` its outside."""

    def __init__(self, service: Service[Any], client: object, clock: Callable[[], datetime]) -> None:
        self.service = service
        self.name = service.name
        self.clock = clock
        self.work = service.on.work(**_empty(service))
        self.kept = Kept()
        self.handled: Counter[UUID] = Counter()
        self.back: list[Envelope | Rescheduled] = []
        self.calls = IntentExecutor(service, Nobody(), client, self.back.append)
        self.calls.clock = clock
        self.calls._rng = random.Random(1)  # noqa: S311, SLF001 - a story told again is the same story
        self.topics = frozenset(service.on.topics())
        self.reader = RecordDeserializer(service.on.consumes(Event), PlainCodec())
        self.tell: Callable[[tuple[Emitted, ...], Iterable[Sent]], None] = lambda *_: None

    def hear(self, came: Published, *, dies: bool = False, old: bool = False, redriven: bool = False) -> Outcome:
        """Read a record from a topic, or again from its line, and handle it; ``old``: a person lets it in."""
        record, sent = came.record, came.fact
        self.reader.horizon_ms = 0 if old else milliseconds(self.kept.horizon)
        envelope = self.reader.read(record, sent.key.encode(), None, milliseconds(came.at))
        if old:  # what a person lets in may have been in before
            del self.handled[envelope.id]
        outcome = self.commit(replace(envelope, redriven=redriven), dies=dies)
        if isinstance(outcome, Parked) and not (redriven and outcome.error_class == BEHIND):
            self.kept.parked[envelope.id] = came, outcome.error_class
        if isinstance(outcome, Handled) and old:
            self.kept.inbox_old.add(envelope.id)
        return outcome

    def unheard(self, came: Published) -> bool:
        """Tell whether no handler is for this event."""
        return self.reader.unheard(came.record)

    def commit(self, envelope: Envelope, *, dies: bool = False) -> Outcome:
        """Handle one input as quadrille.processing.batch does; a process that dies before its COMMIT leaves nothing."""
        if isinstance(envelope.body, Message):
            stamp(envelope.body, envelope.at, envelope.attempts)
        kept, before = self.kept, self.state()
        marks = [(rows, rows.mark()) for rows in tables(self.work)]
        batch = committing._Batch(self.service, self.work, self._history(envelope), PendingWrites(), 0, None)  # noqa: SLF001 - the real one, without its SQL
        outcome = committing._handle(batch, envelope)  # noqa: SLF001 - as above
        if dies:
            for rows, mark in marks:
                rows.rewind(mark)
            return outcome
        kept.lanes = {lane: list(ids) for lane, ids in batch.history.lanes.items() if ids}
        if isinstance(outcome, Handled):
            self._ends(envelope, outcome.emitted, batch.writes, before)
        elif isinstance(outcome, Parked):
            laws.must(outcome.error_class in (TOO_OLD, BEHIND), "L11", f"{self.name}: {outcome.reason}")
        return outcome

    def state(self) -> State:
        """Return the rows of all tables."""
        named = ((f.name, getattr(self.work, f.name)) for f in fields(self.work) if f.name != "rules")
        return tuple((name, tuple(sorted(rows.items(), key=itemgetter(0)))) for name, rows in named)

    def prune(self) -> None:
        """Move the floor as days go by, and forget the ids below it."""
        midnight = self.clock().replace(hour=0, minute=0, second=0, microsecond=0)
        if midnight - WINDOW <= self.kept.horizon:
            return
        self.kept.horizon = midnight - WINDOW
        self.kept.inbox = {one for one in self.kept.inbox if id_time(one) >= self.kept.horizon}

    def due(self, kind: type[Message]) -> list[Row]:
        """Return the rows of a kind that may be leased now."""
        now = self.clock()
        rows = sorted(self.kept.tasks.values(), key=lambda row: (row.due, row.id))
        free = (r for r in rows if r.leased_until is None or r.leased_until < now)
        return [row for row in free if row.due <= now and isinstance(row.message, kind)]

    def lease(self, row: Row) -> Envelope | Decision | None:
        """Carry an intent out: the answer, what its ruling says, or None when it is to be tried again later."""
        row.attempts, row.leased_until = row.attempts + 1, self.clock() + LEASE
        intent = stamp(cast("Intent", row.message), self.clock())  # timers are not leased
        entry = LeasedIntent(row.id, key_of(intent), intent, row.attempts, time.monotonic() + 30, new_trace())
        when = self.calls.policy(entry).precondition
        ruling = when(entry.intent, self.work) if when else Decision.PROCEED
        if ruling is Decision.DEFER:
            row.due, row.leased_until, row.attempts = self.clock() + WAIT, None, row.attempts - 1
            return ruling
        if ruling is Decision.CANCEL:
            self.calls.cancel(entry)
        else:
            self.calls._in_hand[entry.id, entry.attempts] = entry  # noqa: SLF001 - in our thread, not in its pool
            self.calls._carry_out(entry)  # noqa: SLF001 - as above
        came = self.back.pop()
        if isinstance(came, Rescheduled):
            row.due, row.leased_until = self.clock() + came.wait, None
            row.attempts -= int(came.untried)
            return None
        return replace(came, at=self.clock())

    def open(self, row: Row) -> bool:
        """Tell whether an intent waits that nobody has in hand."""
        return row.id in self.kept.tasks and row.leased_until is None and isinstance(row.message, Intent)

    def fire(self, row: Row) -> Outcome:
        """Handle a due timer, whose time is when it was due."""
        record = Record(to_json(row.message))
        message, before = from_json(type(row.message), record.raw), set(self.kept.tasks)
        at = due_of(message, row.id)
        outcome = self.commit(Envelope(row.id, key_of(message), message, at, message.type, record, from_task=row.id))
        again = [one.due for name, one in self.kept.tasks.items() if name not in before]
        laws.must(all(due > row.due for due in again), "17", f"{message.type} leads to the same moment again")
        return outcome

    def _history(self, envelope: Envelope) -> BatchState:
        kept = self.kept
        lanes = {lane: list(ids) for lane, ids in kept.lanes.items()}
        types = {kept.parked[one][0].fact.type for one in kept.lanes.get(envelope.key, ())}
        return BatchState(kept.inbox | kept.inbox_old, lanes, {}, set(), {envelope.key: types}, dict(kept.answers))

    def _ends(self, envelope: Envelope, emitted: tuple[Emitted, ...], writes: PendingWrites, before: State) -> None:
        kept, now = self.kept, self.clock()
        self.handled[envelope.id] += 1
        laws.must(self.handled[envelope.id] == 1, "10", f"{self.name} handled {envelope.type} twice under one id")
        if not isinstance(envelope.body, Command):
            kept.inbox.add(envelope.id)
        kept.parked.pop(envelope.id, None)
        if envelope.from_task:
            kept.tasks.pop(envelope.from_task, None)
        kept.answers |= {answer.name: answer for answer in writes.answers}
        for task in writes.tasks:
            due = task.due or now + task.wait
            kept.tasks[task.id] = Row(task.id, task.message, due, task.tried)
        self._hurry(now)
        states = _only(envelope.key, before), _only(envelope.key, self.state())
        laws.CHECKS[self.name](cast("Message", envelope.body), *states, emitted)
        self.tell(tuple(one for one in emitted if not isinstance(one, SystemEvent)), writes.facts)

    def _hurry(self, now: datetime) -> None:
        """Let what an operator hurries fall due, as the store does."""
        hurried: Any = getattr(self.work, "hurried", ())  # payment's alone
        for key in [*hurried]:
            hurried.drop(key)
            for row in self.kept.tasks.values():
                if key_of(row.message) == key and row.leased_until is None and isinstance(row.message, Intent):
                    row.due = min(row.due, now)


def _only(name: str, state: State) -> State:
    """Return the rows with the ledger of one order alone: its laws are about one."""
    return tuple((n, tuple((k, e) for k, e in rows if n != "entries" or e.order_id == name)) for n, rows in state)


class _Table(OpenRows[Any, Any]):
    """A table of which every row is there, to be looked at as a whole."""

    __slots__ = ()

    def items(self) -> Iterable[tuple[Any, Any]]:
        """Return what the table holds."""
        return self._now.items()


def _empty(service: Service[Any]) -> Mapping[str, Any]:
    made: dict[str, Any] = {f.name: _Table((), {}) for f in fields(service.on.work) if f.name != "rules"}
    return made if service.rules is None else made | {"rules": service.rules}
