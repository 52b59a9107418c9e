"""The pantry's database as tests see it, and inputs made by hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg

from quadrille.db import schema
from quadrille.db.connection import connection
from quadrille.ids import uuid7
from quadrille.messages import Event, Message, key_of, to_json
from quadrille.processing.batch import process_batch
from quadrille.processing.envelope import Envelope, OffsetRange, Outcome, Record
from quadrille.processing.idempotency import IdempotencyKey
from quadrille.service import Service, Tx
from quadrille.testing.in_memory import PlainCodec
from tests.chassis.support import sample_service
from tests.chassis.support.sample_messages import ShelfFilled

TRUNCATE = (
    "TRUNCATE outbox, inbox, inbox_old, topic, position, stream, task, parked, relay_progress, relay_recovery, stall,"
    " consumer_pause, worker_life, suspect, relay_notice, idempotency_key, said_before, hold, level, cake"
    " RESTART IDENTITY"
)
HANDLERS = "aggregatetype <> 'saga.audit' AND type NOT LIKE 'input.%%'"  # of the outbox: not the chassis' own
Row = tuple[Any, ...]
PATIENCE_SECONDS = 120.0
"""Until a test gives up: no promise, and many times what a machine with other things to do needs."""


class Migration:
    """What Alembic's ``op`` is to a migration."""

    def __init__(self, tx: Tx) -> None:
        self.tx = tx

    def execute(self, sqltext: str) -> None:
        """Run a script."""
        self.tx.execute(sqltext.encode(), prepare=False)


class Database:
    """One database with the chassis' and the pantry's tables; ``url`` gives the address by role."""

    def __init__(self, url: Callable[[str], str]) -> None:
        self.url = url
        self.connect = connection(url("app"))
        self._look: Tx | None = None

    def migrate(self, *versions: int) -> None:
        """Make every table, or bring them from version to version, as a service's own migrations do."""
        with connection(self.url("owner"))() as tx, tx.transaction():
            for version in versions or schema.VERSIONS:
                schema.upgrade(Migration(tx), version)
            if not versions or 1 in versions:
                tx.execute(sample_service.OWN_TABLES.encode(), prepare=False)

    def rows(self, sql: str, *values: object) -> list[Row]:
        """Return what a superuser's query finds, on a connection of its own, made anew when the server was away."""
        if self._look is None or self._look.closed:
            self._look = connection(self.url("postgres"))()
        try:
            found = self._look.execute(sql.encode(), values or None)
        except psycopg.OperationalError:
            self._look.close()
            self._look = connection(self.url("postgres"))()
            found = self._look.execute(sql.encode(), values or None)
        return found.fetchall() if found.description else []

    def close(self) -> None:
        """Close the superuser's connection."""
        if self._look is not None:
            self._look.close()

    def one(self, sql: str, *values: object) -> Any:  # noqa: ANN401 - whatever the column holds
        """Return the first column of the first row, or None."""
        found = self.rows(sql, *values)
        return found[0][0] if found else None

    def fill(self, **shelves: int) -> None:
        """Put loaves on shelves."""
        for sku, available in shelves.items():
            self.rows("INSERT INTO level VALUES (%s, %s)", sku, available)

    def start_at(self, topic: str = "order.events", partition: int = 0, offset: int = 0) -> None:
        """Set where a partition is to be read from."""
        self.rows("INSERT INTO position VALUES (%s, %s, %s)", topic, partition, offset)

    def position(self, topic: str = "order.events", partition: int = 0) -> int:
        """Return the position of a partition."""
        sql = "SELECT next_offset FROM position WHERE topic = %s AND partition = %s"
        return int(self.one(sql, topic, partition))

    def commit(self, *inputs: Envelope, service: Service[Any] | None = None, room: int = 0) -> list[Outcome]:
        """Commit one batch on a connection of its own."""
        with self.connect() as tx:
            return process_batch(tx, service or sample_service.service(), inputs, room)

    def emitted(self, *columns: str) -> list[Row]:
        """Return the events the handlers emitted, in the order of their writing; those of the chassis are left out."""
        wanted = ", ".join(columns or ("type", "aggregateid"))
        sql = f"SELECT {wanted} FROM outbox WHERE {HANDLERS} ORDER BY ctid"  # noqa: S608 - columns a test names
        return self.rows(sql)

    def parked(self, *columns: str) -> list[Row]:
        """Return what is parked, by lane and place."""
        wanted = ", ".join(columns or ("line", "error_class"))
        sql = f"SELECT {wanted} FROM parked WHERE state IN ('OPEN', 'DEAD') ORDER BY line, place"  # noqa: S608 - as above
        return self.rows(sql)


def envelope_of(
    body: Message,
    identity: UUID | None = None,
    origin: OffsetRange | None = None,
    **more: Any,  # noqa: ANN401 - any field of an envelope
) -> Envelope:
    """Return the envelope of a message, as the reader makes it from a record."""
    value = PlainCodec().encode(body) if isinstance(body, Event) else to_json(body)
    made = Envelope(identity or uuid7(), key_of(body), body, datetime.now(UTC), body.type, Record(value), origin)
    return replace(made, **more)


def once(key: str, fingerprint: str = "f", lives: timedelta = timedelta(hours=48)) -> IdempotencyKey:
    """Return an idempotency key whose answer is the reply as text; a reply of 0 is a refusal."""

    def render(reply: ShelfFilled) -> str | None:
        return f"{reply.sku}: {reply.available}" if reply.available else None

    return IdempotencyKey("caller", "POST /v1/shelves", key, fingerprint, render, lives)


def chained(
    bodies: Sequence[Message], partition: int = 0, since: int = 0, topic: str = "order.events"
) -> list[Envelope]:
    """Return inputs that follow one another on a partition."""
    steps = [OffsetRange(topic, partition, since + n, since + n + 1) for n in range(len(bodies))]
    return [envelope_of(body, None, step) for body, step in zip(bodies, steps, strict=True)]


def wait_until(condition: Callable[[], object], what: str = "") -> None:
    """Wait for a condition; raises AssertionError with ``what`` was wanted when it has not come for far too long."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS:.0f} s: {what or condition}"
        time.sleep(0.01)
