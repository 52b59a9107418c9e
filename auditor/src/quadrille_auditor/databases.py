"""Databases: each is read in one snapshot that can write nothing, through any role that may read its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg

from quadrille_auditor.evidence import (
    AuditRow,
    Database,
    Hold,
    Key,
    Level,
    Money,
    Notice,
    Order,
    OutboxRow,
    ParkedRow,
    Payment,
    Place,
    Task,
)
from quadrille_auditor.sources import UnreadableError

READ_ONLY = "-c default_transaction_read_only=on -c default_transaction_isolation=repeatable\\ read"
MOMENT = "SELECT pg_current_wal_insert_lsn()::text, now()"
PASSED = "SELECT commit_lsn >= %s::pg_lsn, commit_lsn::text FROM relay_progress"
IDS = "SELECT id::text, aggregateid FROM outbox"
SINCE = "SELECT id::text, aggregateid FROM outbox WHERE occurred_at >= %s - interval '10 min'"
POSITIONS = "SELECT topic, partition, next_offset FROM position"
OUTBOX = """
SELECT id::text, aggregatetype, aggregateid, type, sequence, payload, causationid::text, traceparent, occurred_at
  FROM outbox ORDER BY occurred_at, id"""
INBOX = "SELECT event_id::text FROM inbox UNION ALL SELECT event_id::text FROM inbox_old"
FLOOR = """
SELECT min(to_date(right(relname, 8), 'YYYYMMDD'))::timestamp AT TIME ZONE 'UTC'
  FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid WHERE inhparent = %s::regclass"""
TASKS = "SELECT id::text, key, type, due, attempts FROM task ORDER BY id"
PARKED = """
SELECT id::text, line, state, coalesce(type, ''), coalesce(topic, ''), coalesce(partition, -1),
       coalesce("offset", -1), coalesce(ended_by, ''), coalesce(reason, '') FROM parked ORDER BY id"""
BURIED = "SELECT id::text FROM relay_held WHERE state = 'BURIED'"
BURIALS = "SELECT detail FROM relay_notice WHERE kind = 'BURIED' AND NOT announced"
# What the hash is made over is made here by the database, for it alone knows how it writes jsonb; the hash is not.
AUDIT = """
SELECT number, actor, action, subject, reason, coalesce(after->>'outcome', ''),
       jsonb_build_array(number, (extract(epoch FROM at) * 1000000)::bigint, actor, action, subject, reason, before,
                         after)::text, previous, hash FROM audit ORDER BY number"""
ORDERS = """
SELECT order_id::text, status, coalesce(reason, ''), amount_minor, currency, placed_at, deadline_at, cancellable_until,
       trace_id, history FROM orders ORDER BY order_id"""
KEYS = "SELECT caller, route, key, subject, answer, at FROM idempotency_key ORDER BY caller, route, key"
HOLDS = "SELECT order_id, state, skus, quantities FROM hold ORDER BY order_id"
LEVELS = "SELECT sku, available, held, committed, received FROM level ORDER BY sku"
PAYMENTS = "SELECT order_id, state, permitted, began_at, coalesce(how, '') FROM payment ORDER BY order_id"
ENTRIES = "SELECT key, order_id, kind, amount_minor, currency FROM entry ORDER BY key"
NOTICES = "SELECT order_id, kind, state FROM notice ORDER BY order_id, kind"
ADDRESSES = "SELECT address FROM contact"
LONG_AGO = datetime.fromtimestamp(0, UTC)


@dataclass
class Told:
    """What the services' own tables held, as it is read one database after the other."""

    orders: dict[str, Order] = field(default_factory=dict)
    keys: tuple[Key, ...] = ()
    holds: dict[str, Hold] = field(default_factory=dict)
    levels: tuple[Level, ...] = ()
    payments: dict[str, Payment] = field(default_factory=dict)
    entries: tuple[Money, ...] = ()
    notices: tuple[Notice, ...] = ()
    addresses: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Moment:
    """An outbox as reading began: its ids, where the log stood, and the database's time."""

    ids: frozenset[str]
    lsn: str
    at: datetime


@contextmanager
def snapshot(service: str, url: str) -> Iterator[psycopg.Connection[Any]]:
    """Yield a database in one snapshot; raises UnreadableError, naming it, where that cannot be had."""
    try:
        with psycopg.connect(url, options=READ_ONLY, connect_timeout=10, application_name="quadrille-audit") as db:
            yield db
    except psycopg.Error as refused:
        told = str(refused).strip().splitlines() or [type(refused).__name__]
        raise UnreadableError(source=f"database {service}", why=told[0]) from refused


def begin(service: str, url: str) -> Moment:
    """Read which events an outbox holds now, and where its log stands."""
    with snapshot(service, url) as db:
        ids = frozenset(row[0] for row in db.execute(IDS))
        lsn, at = _one(db, MOMENT)
        return Moment(ids, str(lsn), at)


def passed(service: str, url: str, lsn: str) -> tuple[bool, str]:
    """Tell whether a service's relay has published all that was committed up to a place in the log, and where it is."""
    with snapshot(service, url) as db:
        row = db.execute(PASSED, [lsn]).fetchone()
        return (bool(row[0]), str(row[1])) if row else (False, "nowhere")


def positions(service: str, url: str) -> dict[Place, int]:
    """Read how far a service has handled each partition."""
    with snapshot(service, url) as db:
        return {(topic, partition): offset for topic, partition, offset in db.execute(POSITIONS)}


def moved(service: str, url: str, began: Moment) -> frozenset[str]:
    """Return the keys of which a service has said something since reading began."""
    with snapshot(service, url) as db:
        return frozenset(key for id_, key in db.execute(SINCE, [began.at]) if id_ not in began.ids)


def read(service: str, url: str, told: Told) -> Database:
    """Read one database in one snapshot; what its service keeps of its own goes into ``told``."""
    with snapshot(service, url) as db:
        OWN[service](db, told)
        return Database(
            service=service,
            outbox=tuple(OutboxRow(*row) for row in db.execute(OUTBOX)),
            inbox=frozenset(row[0] for row in db.execute(INBOX)),
            outbox_floor=_one(db, FLOOR, "outbox")[0] or LONG_AGO,
            inbox_floor=_one(db, FLOOR, "inbox")[0] or LONG_AGO,
            positions={(topic, partition): offset for topic, partition, offset in db.execute(POSITIONS)},
            tasks=tuple(Task(*row) for row in db.execute(TASKS)),
            parked=tuple(ParkedRow(*row) for row in db.execute(PARKED)),
            audit=tuple(AuditRow(*row) for row in db.execute(AUDIT)),
            buried=frozenset(row[0] for row in db.execute(BURIED)),
            burials=tuple(row[0] for row in db.execute(BURIALS)),
        )


def _order(db: psycopg.Connection[Any], told: Told) -> None:
    for *row, history in db.execute(ORDERS):
        passed_through = tuple((e["sequence"], e["status"], datetime.fromisoformat(e["at"])) for e in history)
        order = Order(*[*row, passed_through])
        told.orders[order.id] = order
    told.keys = tuple(Key(*row) for row in db.execute(KEYS))


def _inventory(db: psycopg.Connection[Any], told: Told) -> None:
    told.holds = {
        order: Hold(order, state, tuple(zip(skus, quantities, strict=True)))
        for order, state, skus, quantities in db.execute(HOLDS)
    }
    told.levels = tuple(Level(*row) for row in db.execute(LEVELS))


def _payment(db: psycopg.Connection[Any], told: Told) -> None:
    told.payments = {row[0]: Payment(*row) for row in db.execute(PAYMENTS)}
    told.entries = tuple(Money(*row) for row in db.execute(ENTRIES))


def _notification(db: psycopg.Connection[Any], told: Told) -> None:
    told.notices = tuple(Notice(*row) for row in db.execute(NOTICES))
    told.addresses = frozenset(row[0] for row in db.execute(ADDRESSES))


OWN: Mapping[str, Callable[[psycopg.Connection[Any], Told], None]] = {
    "order": _order, "inventory": _inventory, "payment": _payment, "notification": _notification,
}  # fmt: skip


def _one(db: psycopg.Connection[Any], statement: str, *parameters: object) -> tuple[Any, ...]:
    row = db.execute(statement.encode(), parameters or None).fetchone()
    assert row is not None  # noqa: S101 - each of these gives exactly one row
    return tuple(row)
