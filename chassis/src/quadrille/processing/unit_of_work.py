"""Unit of work: what one transaction reads and writes: positions, key locks, inbox, parked lanes, outbox, tasks.

It makes a batch happen once. ``begin`` queues its questions and ``BatchReads.history`` reads the answers, so that a
store can queue its own between them and the whole batch costs three round trips, whatever its size (psycopg's
pipeline).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from quadrille.ids import lock_key
from quadrille.messages import Command, Intent, Timer, key_of
from quadrille.observability.trace_context import Context
from quadrille.processing import idempotency
from quadrille.processing.envelope import Duplicate, Envelope, Handled, Outcome, Parked, Record, RedriveRequest
from quadrille.processing.idempotency import KeptAnswer, Name
from quadrille.processing.parked_retry import OPEN, ParkedRow, Setback
from quadrille.service import Tx

MOVE_POSITIONS = """
UPDATE position p SET next_offset = n.upto
  FROM unnest(%b::text[], %b::int[], %b::bigint[], %b::bigint[]) n(topic, partition, since, upto)
 WHERE (p.topic, p.partition, p.next_offset) = (n.topic, n.partition, n.since) RETURNING 1"""
LOCK_KEYS = "SELECT count(pg_advisory_xact_lock(k)) FROM unnest(%b::bigint[]) k"
TRY_REQUESTS = "SELECT pg_try_advisory_xact_lock(k) FROM unnest(%b::bigint[]) k"
SEEN_IDS = """
SELECT event_id FROM inbox WHERE event_id = ANY(%(ids)b) AND event_id BETWEEN %(low)b AND %(high)b
UNION ALL SELECT event_id FROM inbox_old WHERE event_id = ANY(%(ids)b)
UNION ALL SELECT id FROM parked WHERE id = ANY(%(ids)b) AND state = 'DISCARDED' AND topic IS NOT NULL"""
WAITING = "SELECT line, type FROM parked WHERE line = ANY(%b) AND state <> 'REDRIVEN' AND topic IS NOT NULL"
# What went before, in one question, for each statement costs both sides more than its rows: ids seen, what waits in
# the lanes, the last numbers of the streams, and what was said of these inputs before the database was restored.
PAST = f"""
SELECT 0, event_id, NULL::text, NULL::text, NULL::bigint, NULL::int, NULL::int FROM ({SEEN_IDS}) seen
UNION ALL SELECT 1, id, line, state, place, retries, attempts FROM parked
           WHERE line = ANY(%(lanes)b) AND state IN ('OPEN', 'DEAD')
UNION ALL SELECT 2, NULL, topic, key, sequence, NULL, NULL FROM stream WHERE key = ANY(%(keys)b)
UNION ALL SELECT 3, id, type, causationid::text, sequence, kept::int, NULL FROM said_before
           WHERE causationid = ANY(%(ids)b)"""  # noqa: S608 - of this file
ADD_SEEN = "INSERT INTO inbox SELECT unnest(%b::uuid[])"
ADD_EVENTS = """
INSERT INTO outbox (id, aggregatetype, aggregateid, type, sequence, payload, causationid, traceparent, parent_span)
SELECT * FROM unnest(%b::uuid[], %b::text[], %b::text[], %b::text[], %b::bigint[], %b::bytea[], %b::uuid[],
                     %b::text[], %b::bytea[])"""
ADD_STREAMS = "INSERT INTO stream SELECT * FROM unnest(%b::text[], %b::text[], %b::bigint[])"
SET_STREAMS = """
UPDATE stream s SET sequence = n.sequence FROM unnest(%b::text[], %b::text[], %b::bigint[]) n(topic, key, sequence)
 WHERE (s.topic, s.key) = (n.topic, n.key)"""
ADD_TASKS = """
INSERT INTO task (id, key, type, body, due, leased_until, attempts, traceparent)
SELECT id, key, type, body, coalesce(due, now() + wait), CASE WHEN handed THEN now() + %b::interval END,
       tried + handed::int, traceparent
  FROM unnest(%b::uuid[], %b::text[], %b::text[], %b::jsonb[], %b::timestamptz[], %b::interval[], %b::int[],
              %b::bool[], %b::text[]) n(id, key, type, body, due, wait, tried, handed, traceparent)"""
END_TASKS = "DELETE FROM task WHERE id = ANY(%b)"
HOLD_TASKS = "UPDATE task SET leased_until = 'infinity' WHERE id = ANY(%b)"
PARK = """
INSERT INTO parked (id, line, type, topic, partition, "offset", headers, raw, attempts, error_class, error, exception,
                    frames, fingerprint, state, retries, retry_at)
VALUES (%b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, now() + %b::interval)
ON CONFLICT (id) DO UPDATE SET state = excluded.state, line = excluded.line, place = DEFAULT, raw = excluded.raw,
   headers = excluded.headers, error_class = excluded.error_class, error = excluded.error,
   exception = excluded.exception, frames = excluded.frames, fingerprint = excluded.fingerprint,
   retries = excluded.retries, retry_at = excluded.retry_at, attempts = parked.attempts + excluded.attempts,
   parked_at = now(), ended_by = NULL, reason = NULL
 WHERE parked.state NOT IN ('OPEN', 'DEAD')"""
PARK_AGAIN = """
UPDATE parked SET attempts = attempts + 1, error_class = %b, error = %b, exception = %b, frames = %b, fingerprint = %b,
                  state = %b, retries = %b, retry_at = CASE WHEN %b THEN retry_at ELSE now() + %b::interval END
 WHERE id = %b"""
UNPARK = """
UPDATE parked SET state = 'REDRIVEN', retry_at = NULL, ended_by = %b, reason = %b
 WHERE id = ANY(%b) AND state IN ('OPEN', 'DEAD')"""
ACCEPT_OLD = "INSERT INTO inbox_old VALUES (%b, %b, %b)"
BY_ITSELF = RedriveRequest("worker", "handled")
BEHIND = "BEHIND"
PAYLOAD_MAX = 262_144


class FencedError(Exception):
    """A position was not where this worker left it: another one has the partition, or our COMMIT did arrive."""


class SaidBefore(NamedTuple):
    """A fact that was published of an input before the database was restored; ``kept`` if the outbox has it again."""

    id: UUID
    type: str
    sequence: int
    kept: bool


@dataclass(slots=True)
class BatchState:
    """What went before, as this batch sees it; kept up to date while the batch is handled."""

    seen: set[UUID]
    lanes: dict[str, list[UUID]]
    sequences: dict[tuple[str, str], int]
    busy: set[str]
    waiting: dict[str, set[str]] = field(default_factory=dict)
    answers: dict[Name, KeptAnswer] = field(default_factory=dict)
    parked: dict[UUID, ParkedRow] = field(default_factory=dict)
    said_before: dict[UUID, list[SaidBefore]] = field(default_factory=dict)
    known: frozenset[tuple[str, str]] = field(init=False)
    kept: frozenset[Name] = field(init=False)

    def __post_init__(self) -> None:
        self.known, self.kept = frozenset(self.sequences), frozenset(self.answers)

    def answer(self, envelope: Envelope) -> KeptAnswer | None:
        """Return the answer a command gets that was done before under its key."""
        answer = self.answers.get(envelope.request.name) if envelope.request else None
        return answer if envelope.request and envelope.request.counts(answer, envelope.at) else None

    def knows(self, envelope: Envelope) -> bool:
        """Tell whether the input needs no handling: handled, discarded, or waiting in a lane already."""
        waiting = envelope.id in self.lanes.get(envelope.lane, ())
        return envelope.id in self.seen or waiting is not envelope.redriven

    def admits(self, envelope: Envelope) -> bool:
        """Tell whether an event may be handled now: its lane is empty, or it is the lane's first."""
        lane = self.lanes.get(envelope.lane)
        return not lane or lane[0] == envelope.id

    def next_sequence(self, topic: str, key: str) -> int:
        """Number an event: 1, 2, 3 … per topic and key of this service."""
        number = self.sequences[topic, key] = self.sequences.get((topic, key), 0) + 1
        return number


@dataclass(frozen=True, slots=True)
class OutboxRecord:
    """An event ready for the outbox; ``sequence`` is the number it was published under before a restore."""

    id: UUID
    topic: str
    key: str
    type: str
    payload: bytes
    cause: UUID
    traceparent: str
    parent_span: bytes
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """An intent or timer ready to be stored; ``due`` None is after ``wait``, ``handed`` says it is leased to us.

    ``tried`` counts the tries that led to it, whose retries it goes on with.
    """

    id: UUID
    cause: UUID
    message: Intent | Timer
    body: bytes
    due: datetime | None
    trace: Context
    wait: timedelta = timedelta(0)
    tried: int = 0
    handed: bool = False


@dataclass(slots=True)
class PendingWrites:
    """Everything a batch emits, in the order of its inputs; ``ours`` are events keyed by the service itself."""

    facts: list[OutboxRecord] = field(default_factory=list)
    tasks: list[TaskRecord] = field(default_factory=list)
    ours: list[OutboxRecord] = field(default_factory=list)
    answers: list[KeptAnswer] = field(default_factory=list)

    def mark(self) -> tuple[int, int, int, int]:
        """Return a place to rewind to."""
        return len(self.facts), len(self.tasks), len(self.ours), len(self.answers)

    def rewind(self, mark: tuple[int, int, int, int]) -> None:
        """Forget what was emitted since the mark."""
        del self.facts[mark[0] :], self.tasks[mark[1] :], self.ours[mark[2] :], self.answers[mark[3] :]


@dataclass(frozen=True, slots=True)
class BatchReads:
    """The questions of a batch, sent and not yet read."""

    moved: psycopg.Cursor[tuple[Any, ...]] | None
    steps: int
    past: psycopg.Cursor[tuple[Any, ...]]
    requests: tuple[str, ...]
    granted: psycopg.Cursor[tuple[Any, ...]] | None
    answers: psycopg.Cursor[tuple[Any, ...]] | None
    waiting: psycopg.Cursor[tuple[Any, ...]] | None

    def history(self) -> BatchState:
        """Read the answers; raises FencedError if a position was not where we left it."""
        if self.moved is not None and len(self.moved.fetchall()) != self.steps:
            message = "a position was not where this worker left it"
            raise FencedError(message)
        seen: set[UUID] = set()
        lanes: dict[str, list[UUID]] = {}
        sequences: dict[tuple[str, str], int] = {}
        places: list[tuple[int, str, UUID]] = []
        parked: dict[UUID, ParkedRow] = {}
        said: dict[UUID, list[SaidBefore]] = {}
        for what, identity, lane_or_topic, key, number, retries, attempts in self.past:
            if what == 0:
                seen.add(identity)
            elif what == 1:
                places.append((number, lane_or_topic, identity))
                parked[identity] = ParkedRow(key, retries, attempts)
            elif what == 2:  # noqa: PLR2004 - as in the statement
                sequences[lane_or_topic, key] = number
            else:
                said.setdefault(UUID(key), []).append(SaidBefore(identity, lane_or_topic, number, bool(retries)))
        for _, lane, waiting in sorted(places):
            lanes.setdefault(lane, []).append(waiting)
        granted = self.granted.fetchall() if self.granted else []
        busy = {key for key, (mine,) in zip(self.requests, granted, strict=True) if not mine}
        waits: dict[str, set[str]] = {}
        for key, kind in self.waiting or ():
            waits.setdefault(key, set()).add(kind)
        return BatchState(seen, lanes, sequences, busy, waits, idempotency.found(self.answers), parked, said)


def steps_of(inputs: Sequence[Envelope]) -> list[tuple[str, int, int, int]]:
    """Chain the inputs' steps into one per partition, sorted; raises ValueError for a broken chain."""
    steps: dict[tuple[str, int], tuple[int, int]] = {}
    for origin in (i.origin for i in inputs if i.origin and i.origin.moves):
        place = origin.topic, origin.partition
        since, upto = steps.get(place, (origin.first, origin.first))
        if upto != origin.first:
            message = f"the steps on {place} do not chain: {upto} is not {origin.first}"
            raise ValueError(message)
        steps[place] = since, origin.next
    return [(topic, partition, *step) for (topic, partition), step in sorted(steps.items())]


def move(tx: Tx, steps: Sequence[tuple[str, int, int, int]]) -> psycopg.Cursor[tuple[Any, ...]]:
    """Queue the positions' compare-and-set: the zombie waits here, then finds no row."""
    return tx.execute(MOVE_POSITIONS, [list(column) for column in zip(*steps, strict=True)])


def begin(tx: Tx, inputs: Sequence[Envelope]) -> BatchReads:
    """Queue, in the global lock order: fence positions, lock keys, ask for ids seen, lanes and sequences."""
    steps = steps_of(inputs)
    moved = move(tx, steps) if steps else None
    keys = sorted({i.key for i in inputs})
    tx.execute(LOCK_KEYS, [sorted({lock_key(key) for key in keys})])
    used = [i.request for i in inputs if i.request]
    requests = tuple(sorted({key.lock for key in used}))
    granted = tx.execute(TRY_REQUESTS, [[lock_key(request) for request in requests]]) if requests else None
    answers = idempotency.read(tx, used)
    past = _past(tx, inputs, keys)
    asking = sorted({i.key for i in inputs if isinstance(i.body, Command) and i.body.asks_what_waits})
    waiting = tx.execute(WAITING, [asking]) if asking else None
    return BatchReads(moved, len(steps), past, requests, granted, answers, waiting)


def _past(tx: Tx, inputs: Sequence[Envelope], keys: list[str]) -> psycopg.Cursor[tuple[Any, ...]]:
    ids, lanes = [i.id for i in inputs], sorted({i.lane for i in inputs})
    return tx.execute(PAST, {"ids": ids, "low": min(ids), "high": max(ids), "lanes": lanes, "keys": keys})


def end(
    tx: Tx, batch: Sequence[tuple[Envelope, Outcome]], writes: PendingWrites, history: BatchState, lease: timedelta
) -> None:
    """Queue what the batch leaves behind: inbox, outbox, streams, tasks, parked."""
    done = [i for i, outcome in batch if isinstance(outcome, Handled)]
    if claims := [i.id for i in done if not (isinstance(i.body, Command) or i.accepted)]:
        tx.execute(ADD_SEEN, [claims])
    if writes.facts:
        _add_events(tx, writes.facts, history)
    if writes.tasks:
        _add_tasks(tx, writes.tasks, lease)
    if ended := [i.from_task for i, outcome in batch if i.from_task and isinstance(outcome, Handled)]:
        tx.execute(END_TASKS, [ended])
    _unpark(tx, [i for i, outcome in batch if i.redriven and isinstance(outcome, Handled | Duplicate)], done)
    idempotency.write(tx, writes.answers, history.kept)
    for envelope, outcome in batch:
        if isinstance(outcome, Parked):
            _park(tx, envelope, outcome)


def _add_events(tx: Tx, facts: Sequence[OutboxRecord], history: BatchState) -> None:
    rows = [
        (f.id, f.topic, f.key, f.type, f.sequence or history.next_sequence(f.topic, f.key), f.payload, f.cause,
         f.traceparent, f.parent_span)
        for f in facts
    ]  # fmt: skip
    tx.execute(ADD_EVENTS, [list(column) for column in zip(*rows, strict=True)])
    numbered = sorted({(f.topic, f.key) for f in facts if f.sequence is None})
    for sql, places in (
        (ADD_STREAMS, [p for p in numbered if p not in history.known]),
        (SET_STREAMS, [p for p in numbered if p in history.known]),
    ):
        if places:
            tx.execute(sql, [[t for t, _ in places], [k for _, k in places], [history.sequences[p] for p in places]])


def _add_tasks(tx: Tx, tasks: Sequence[TaskRecord], lease: timedelta) -> None:
    rows = [
        (p.id, key_of(p.message), p.message.type, Jsonb(p.body, dumps=_as_is), p.due, p.wait, p.tried, p.handed,
         p.trace.traceparent)
        for p in tasks
    ]  # fmt: skip
    tx.execute(ADD_TASKS, [lease, *(list(column) for column in zip(*rows, strict=True))])


def _as_is(body: bytes) -> bytes:
    return body


def _unpark(tx: Tx, redriven: Sequence[Envelope], done: Sequence[Envelope]) -> None:
    """Queue the end of rows that went through their handler; what a person let in is told by ``inbox_old``."""
    for asked in dict.fromkeys(i.redrive for i in redriven):
        who = asked or BY_ITSELF
        tx.execute(UNPARK, [who.actor, who.reason, [i.id for i in redriven if i.redrive == asked]])
    for accepted in done:
        if accepted.redrive and accepted.accepted:
            tx.execute(ACCEPT_OLD, [accepted.id, accepted.redrive.actor, accepted.redrive.reason])


def _park(tx: Tx, envelope: Envelope, outcome: Parked) -> None:
    cause, after = outcome.cause, outcome.setback or Setback(OPEN, 0)
    why = [
        outcome.error_class,
        outcome.reason,
        *(getattr(cause, n, None) for n in ("exception", "frames", "fingerprint")),
    ]
    if envelope.redriven:
        if outcome.error_class != BEHIND:
            tx.execute(PARK_AGAIN, [*why, after.state, after.retries, after.early, after.wait, envelope.id])
        return
    record, origin = envelope.record or Record(b""), envelope.origin
    headers = json.dumps([(k, v.hex()) for k, v in record.headers]).encode()
    place = (origin.topic, origin.partition, origin.next - 1) if origin else (None, None, None)
    attempts = 0 if outcome.error_class == BEHIND else 1
    what = envelope.id, _plain(envelope.lane), _plain(envelope.type)
    tx.execute(PARK, [*what, *place, headers, record.raw, attempts, *why, after.state, after.retries, after.wait])
    if envelope.alone:
        tx.execute(HOLD_TASKS, [[envelope.from_task]])


def _plain(text: str) -> str:
    """Replace what Postgres cannot hold in a text: NUL and lone surrogates."""
    return text.replace("\0", "�").encode("utf-8", "replace").decode()
