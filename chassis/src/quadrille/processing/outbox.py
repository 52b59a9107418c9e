"""Outbox of the chassis' own events: one is in it if and only if what it announces has happened.

It is written in the transaction of what it announces, numbered in its stream without a gap, whoever else writes there.
The events that handlers emit are written by ``unit_of_work``, by the same statements.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

from quadrille.db.retention import make_today
from quadrille.ids import event_id, lock_key
from quadrille.messages import key_of
from quadrille.observability.trace_context import Context, new_trace
from quadrille.processing.unit_of_work import LOCK_KEYS, OutboxRecord
from quadrille.service import Service, Tx
from quadrille.system_messages import (
    FindingRaised,
    ProgressResumed,
    ProgressStalled,
    RelayRecovered,
    SystemEvent,
    topic_of,
)

# One statement numbers and writes: the stream's row is its lock, the first one included, held until the transaction
# ends, so that records stand in the log in the order of their numbers.
ADD_NUMBERED = """
WITH numbered AS (
  INSERT INTO stream AS s (topic, key, sequence) VALUES (%(topic)b, %(key)b, 1)
  ON CONFLICT (key, topic) DO UPDATE SET sequence = s.sequence + 1 RETURNING s.sequence)
INSERT INTO outbox (id, aggregatetype, aggregateid, type, sequence, payload, causationid, traceparent, parent_span)
SELECT %(id)b, %(topic)b, %(key)b, %(type)b, sequence, %(payload)b, %(cause)b, %(traceparent)b, %(parent_span)b
  FROM numbered"""
UNTOLD = """
UPDATE relay_recovery r SET announced = true
  FROM (SELECT id FROM relay_recovery WHERE NOT announced ORDER BY at FOR UPDATE SKIP LOCKED) u
 WHERE r.id = u.id RETURNING r.id, r.cause, r.rows, r.seconds"""
# Who finds another at it waits: two who shared the notices would mix what stands in order.
UNTOLD_NOTICES = """
UPDATE relay_notice n SET announced = true
  FROM (SELECT id FROM relay_notice WHERE NOT announced ORDER BY at FOR UPDATE) u
 WHERE n.id = u.id RETURNING n.id, n.kind, n.detail, n.since_at, n.took_ms, n.key, n.at"""
LONGEST_KEY = 64
"""A longer one is no saga's."""
Speaker: TypeAlias = Service[Any]


def announce(
    tx: Tx, service: Speaker, cause: UUID, *facts: SystemEvent, ordinal: int = 0, trace: Context | None = None
) -> None:
    """Say events of the chassis inside the caller's transaction.

    ``cause`` is the row or input they tell of (a fresh uuid7 where there is none), ``ordinal`` the attempt or level.
    In the global lock order this comes last, for a stream keyed by the service is shared by all: change your rows
    first, and where those rows are such as ``process_batch`` touches under a saga's key, call ``lock`` before that.
    A service without a relay tells nobody: its ops port does.
    """
    if not service.relayed:
        return
    emitted = [saying(service, cause, fact, ordinal, trace) for fact in facts]
    lock(tx, (one.key for one in emitted if one.key != service.name))
    write(tx, emitted)


def lock(tx: Tx, keys: Iterable[str]) -> None:
    """Take the locks of keys until the transaction ends, in the global order: whoever commits for them waits."""
    if wanted := sorted({lock_key(key) for key in keys}):
        tx.execute(LOCK_KEYS, [wanted])


def saying(
    service: Speaker, cause: UUID, fact: SystemEvent, ordinal: int = 0, trace: Context | None = None
) -> OutboxRecord:
    """Return an event of the chassis ready to be written: its id is of now, and of its cause and ordinal."""
    inside = trace or new_trace()
    identity = event_id(service.name, cause, fact.type, ordinal, time.time_ns() // 1_000_000)
    topic = topic_of(fact, service.name)
    return OutboxRecord(
        identity, topic, key_of(fact), fact.type, service.codec.encode(fact), cause, inside.child().traceparent,
        bytes.fromhex(inside.span_id),
    )  # fmt: skip


def write(tx: Tx, facts: Sequence[OutboxRecord]) -> None:
    """Number events and put them into the outbox; the locks of keys that sagas have are held by the caller."""
    make_today(tx)
    for emitted in sorted(facts, key=lambda one: (one.topic, one.key)):  # stable: two of one stream stay in order
        row = {name: getattr(emitted, name) for name in OutboxRecord.__slots__}
        tx.execute(ADD_NUMBERED, row)


def tell_recoveries(tx: Tx, service: Speaker) -> int:
    """Announce what the relay, who may not write into the outbox, has noted: recoveries, stalls; return how many."""
    with tx.transaction():
        rows = tx.execute(UNTOLD).fetchall()
        for identity, cause, count, seconds in rows:
            announce(tx, service, identity, RelayRecovered(service.name, cause, count, round(seconds * 1000)))
        notices = tx.execute(UNTOLD_NOTICES).fetchall()
        for identity, kind, detail, since, took_ms, key, _ in sorted(notices, key=lambda row: row[-1]):
            announce(tx, service, identity, _noticed(service.name, (kind, detail, key), since, took_ms))
    return len(rows) + len(notices)


def _noticed(service: str, noted: tuple[str, str, str | None], since: datetime, took_ms: int) -> SystemEvent:
    """Return the event of a relay's notice."""
    kind, detail, key = noted
    match kind:
        case "STALLED":
            return ProgressStalled(service, "relay", detail, since)
        case "RESUMED":
            return ProgressResumed(service, "relay", since, took_ms)
        case _:
            whose = key if key and key != service and len(key) <= LONGEST_KEY else None
            return FindingRaised(service, f"relay.{kind.lower()}", detail, whose)
