"""Parked inputs, the dead letters of other systems: read back with their bytes, and redriven through their handler.

A parked input is not given up: it and what follows of its key wait in the key's lane, and go on in sequence. The head
of a lane is tried again by itself, in ever longer steps (``quadrille.processing.parked_retry``); then it is dead, and
its lane waits for a person.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import structlog
from pydantic import ValidationError

from quadrille.consumer.deserializer import RecordDeserializer
from quadrille.db.connection import Session
from quadrille.ids import lock_key
from quadrille.messages import Message, Result, Timer, from_json
from quadrille.observability.logs import ThrottledLog
from quadrille.observability.trace_context import new_trace, parse
from quadrille.processing import compensation
from quadrille.processing.batch import OUTAGE, process_batch
from quadrille.processing.envelope import DEADLY, Duplicate, Envelope, Handled, Outcome, Record, Unreadable, due_of
from quadrille.processing.suspects import DEATHS, Suspects
from quadrille.service import Service, Tx

# A result's or timer's lane is the id of its task row.
COLUMNS = """
SELECT p.id, p.line, p.type, p.topic, p.partition, p."offset", p.headers, p.raw, p.parked_at, a.key, a.attempts,
       a.traceparent, a.type, p.retry_at > now()
  FROM parked p LEFT JOIN task a ON p.topic IS NULL AND a.id::text = p.line"""
# A lane whose head is dead waits for a person.
OPEN_ROWS = f"""{COLUMNS}
 WHERE p.state = 'OPEN'
   AND NOT EXISTS (SELECT FROM parked d WHERE d.line = p.line AND d.state = 'DEAD' AND d.place < p.place)
 ORDER BY p.line, p.place"""
LANE_ROWS = f"{COLUMNS} WHERE p.line = %b AND p.state = 'OPEN' ORDER BY p.place"
DUE_LANES = """
SELECT line FROM parked p
 WHERE state = 'OPEN' AND (retry_at IS NULL OR retry_at <= now())
   AND NOT EXISTS (SELECT FROM parked h WHERE h.line = p.line AND h.state IN ('OPEN', 'DEAD') AND h.place < p.place)
 ORDER BY place LIMIT 100"""
ONE_WORKER = "SELECT pg_try_advisory_lock(%b)"
LOOK_SECONDS = 0.5
NAP_SECONDS = 0.5
log = structlog.get_logger()


class ParkedInput(NamedTuple):
    """A row of ``parked`` with what its task says of it; ``early`` says that its next try is still to come."""

    id: UUID
    lane: str
    type: str
    topic: str | None
    partition: int | None
    offset: int | None
    headers: bytes
    raw: bytes
    parked_at: datetime
    key: str | None
    tries: int | None
    traceparent: str | None
    intent: str | None
    early: bool | None

    @property
    def order_id(self) -> str:
        """The key it waits for: its lane's, or its task's."""
        return self.key or self.lane


def redrive_open(
    tx: Tx, service: Service[Any], reader: RecordDeserializer, suspects: Suspects | None = None
) -> Iterator[Outcome]:
    """Redrive every open lane from its head until one fails again; what waits behind a failed head stays in place.

    What joins a lane meanwhile is redriven too: its head may be gone by then, and nobody else would look at it. After
    a death, with ``suspects``, each is written down first: one that kills would kill at every start.
    """
    tried: set[UUID] = set()
    stuck: set[str] = set()
    while rows := [r for r in _rows(tx, OPEN_ROWS) if r.id not in tried and r.lane not in stuck]:
        for lane, waiting in itertools.groupby(rows, key=lambda row: row.lane):
            for row in waiting:
                tried.add(row.id)
                envelope = envelope_of(service, reader, row)
                if suspects and suspects.note_parked(tx, row.id) >= DEATHS:
                    envelope = quarantined(envelope)
                outcome = process_batch(tx, service, [envelope])[0]
                if suspects:
                    suspects.clear_parked(tx, row.id)
                yield outcome
                if not isinstance(outcome, Handled | Duplicate):
                    stuck.add(lane)
                    break


def quarantined(envelope: Envelope) -> Envelope:
    """Return an input that kills the process as nobody opens it: it is dead at once, and waits for a person."""
    log.error("parked input quarantined", event_type=envelope.type, order_id=envelope.key)
    return replace(envelope, body=Unreadable(*DEADLY), early=False)


@dataclass(frozen=True, slots=True)
class LaneFeeder:
    """Feeds lanes through their handlers in sequence; ``take`` gets what was handled, for its intents."""

    service: Service[Any]
    reader: RecordDeserializer
    take: Callable[[Handled], None] = lambda _: None

    def feed(self, tx: Tx, lane: str) -> list[tuple[Envelope, Outcome]]:
        """Redrive a lane from its head until one fails, or nothing open is left; what joins meanwhile goes too."""
        done: list[tuple[Envelope, Outcome]] = []
        while rows := _rows(tx, LANE_ROWS, lane):
            envelope = envelope_of(self.service, self.reader, rows[0])
            outcome = self.handle(tx, envelope)
            done.append((envelope, outcome))
            if not isinstance(outcome, Handled | Duplicate):
                break
        return done

    def handle(self, tx: Tx, envelope: Envelope) -> Outcome:
        """Give one input to its handler once more."""
        outcome = process_batch(tx, self.service, [envelope])[0]
        if isinstance(outcome, Handled) and outcome.emitted:
            self.take(outcome)
        return outcome


class Retrier:
    """Tries the heads of lanes again when they are due, in a thread of its own; one worker of a service at a time."""

    def __init__(self, feeder: LaneFeeder, connect: Callable[[], Tx], told: Callable[..., None]) -> None:
        self._feeder, self._connection, self._told = feeder, Session(connect), told
        self._troubles = ThrottledLog()
        self._mine = False

    def run(self, stop: threading.Event) -> None:
        """Look twice a second what is due, until told to stop."""
        while not stop.wait(LOOK_SECONDS):
            try:
                self._round(stop)
                self._troubles.over()
            except OUTAGE as trouble:
                self._troubles.warn("parked inputs wait", type(trouble).__name__)
                self._connection.close()
                self._mine = False
                stop.wait(NAP_SECONDS)
        self.close()

    def close(self) -> None:
        """Let the connection go."""
        self._connection.close()

    def _round(self, stop: threading.Event) -> None:
        tx = self._connection()
        self._mine = self._mine or bool((tx.execute(ONE_WORKER, [lock_key("parked retries")]).fetchone() or [False])[0])
        for (lane,) in tx.execute(DUE_LANES).fetchall() if self._mine else ():
            if stop.is_set():
                return
            self._told(self._feeder.feed(tx, lane))


def find_rows(tx: Tx, identities: Iterable[UUID]) -> list[ParkedInput]:
    """Return parked rows by their ids, whatever their state, in the order of their places."""
    return _rows(tx, f"{COLUMNS} WHERE p.id = ANY(%b) ORDER BY p.place", [*identities])


def envelope_of(service: Service[Any], reader: RecordDeserializer, row: ParkedInput, *, old: bool = False) -> Envelope:
    """Return the input of a parked row; ``old`` reads one that is older than the inbox can tell."""
    if row.topic is None:
        return _from_inside(service, row)
    record = Record(bytes(row.raw), tuple((k, bytes.fromhex(v)) for k, v in json.loads(bytes(row.headers))))
    read = reader.read(record, row.lane.encode(), None, int(row.parked_at.timestamp() * 1000), old=old)
    place = f"{row.topic}[{row.partition}]@{row.offset}"
    return Envelope(row.id, row.lane, read.body, read.at, row.type, record, redriven=True, early=bool(row.early),
                    place=place, trace=read.trace)  # fmt: skip


def _rows(tx: Tx, sql: str, *values: object) -> list[ParkedInput]:
    return [ParkedInput(*row) for row in tx.execute(sql.encode(), values or None).fetchall()]


def _from_inside(service: Service[Any], row: ParkedInput) -> Envelope:
    """Return the envelope of a result or timer: its key, attempts and place in a trace are its task row's."""
    classes: dict[str, type[Message]] = {**service.on.consumes(Result), **service.on.consumes(Timer)}
    body: Message | Unreadable
    try:
        body = from_json(classes[row.type], bytes(row.raw))
    except (KeyError, ValidationError):
        body = Unreadable("no handler here takes this body any more", "UNHEARD")
    at = due_of(body, row.id) if isinstance(body, Timer) else datetime.now(UTC)
    record, trace = Record(bytes(row.raw)), parse(row.traceparent) or new_trace()
    made = Envelope(row.id, row.key or row.lane, body, at, row.type, record, None, UUID(row.lane), redriven=True,
                 early=bool(row.early), attempts=row.tries or 1, trace=trace)  # fmt: skip
    return replace(made, compensates=_undoes(service, row.intent, body))


def _undoes(service: Service[Any], asked: str | None, body: Message | Unreadable) -> str | None:
    """Return the step that a result compensates; ``asked`` is the type of its task row."""
    intent = next((cls for cls in service.outside.policies if cls.type == asked), None)
    return compensation.step_of(service.on, intent, type(body)) if intent and isinstance(body, Result) else None
