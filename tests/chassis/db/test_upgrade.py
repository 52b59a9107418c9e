"""A database of an older version: brought up to date with its rows, which are then worked off."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from quadrille.consumer.deserializer import RecordDeserializer
from quadrille.consumer.parking import DUE_LANES, LaneFeeder
from quadrille.db import schema
from quadrille.ids import milliseconds, uuid7
from quadrille.messages import Event, Intent, Timer, key_of, to_json
from quadrille.testing.in_memory import PlainCodec
from tests.chassis.support import sample_service
from tests.chassis.support.database import Database, wait_until
from tests.chassis.support.records import record_headers
from tests.chassis.support.sample_gateway import Oven, working
from tests.chassis.support.sample_messages import BakeCake, BeginTasting, OrderDropped

AGENDA = """
INSERT INTO agenda (id, key, type, body, due, leased_until, attempts, traceparent)
VALUES (%s, %s, %s, %s, now() + %s, now() + %s, %s, '')"""
PARKED = """
INSERT INTO parked (id, line, state, type, topic, partition, "offset", headers, raw, error_class, error, attempts)
VALUES (%s, 'o-1', 'OPEN', %s, 'order.events', 0, 7, %s, %s, 'HANDLER', 'Unlucky while handling order.dropped', 1)"""
NAMED = """
SELECT relname FROM pg_class WHERE relname LIKE '%agenda%'
UNION ALL SELECT conname FROM pg_constraint WHERE conname LIKE '%agenda%'
UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosrc LIKE '%agenda%'"""
NOW = timedelta()
LONG = timedelta(hours=1)


def old_row(db: Database, what: Intent | Timer, due: timedelta = NOW, leased: timedelta | None = None) -> None:
    """Write what the program of version 4 had still to do."""
    identity = uuid7(milliseconds(datetime.now(UTC) + due))
    tries = int(leased is not None)
    db.rows(AGENDA, identity, key_of(what), what.type, to_json(what).decode(), due, leased, tries)


def test_what_was_due_before_the_upgrade_is_done_after_it(old_database: Database) -> None:
    """Intents, one of a worker that is gone, a timer and what is not due yet outlive `agenda`, and are worked off."""
    db = old_database
    old_row(db, BakeCake("o-free"))
    old_row(db, BakeCake("o-lapsed"), leased=-timedelta(minutes=1))
    old_row(db, BeginTasting("o-timer", datetime.now(UTC)))
    old_row(db, BakeCake("o-leased"), leased=LONG)
    old_row(db, BakeCake("o-later"), due=LONG)
    before = db.rows("SELECT * FROM agenda ORDER BY key")

    db.migrate(5)

    assert db.rows("SELECT * FROM task ORDER BY key") == before
    for version in range(6, max(schema.VERSIONS) + 1):
        db.migrate(version)
    oven = Oven()
    with working(db, oven):
        wait_until(lambda: db.one("SELECT count(*) FROM task") == 2)
    assert db.rows("SELECT key FROM task ORDER BY key") == [("o-later",), ("o-leased",)]
    assert oven.calls == {"o-free": 1, "o-lapsed": 1}
    assert sorted(db.emitted()) == [("cake.ready", "o-free"), ("cake.ready", "o-lapsed"), ("tasting.begun", "o-timer")]


def test_nothing_is_named_after_the_old_table(old_database: Database) -> None:
    """Indexes, constraints and functions take the new name with the table; a database made today has the same."""
    assert len(old_database.rows(NAMED)) > len(schema.VERSIONS)

    old_database.migrate(5)

    assert old_database.rows(NAMED) == []
    assert old_database.one("SELECT ensure_partitions(0, 5)") == 4
    assert old_database.rows("SELECT inbox_kept(7)") == []


def test_what_was_parked_before_the_upgrade_is_tried_after_it(old_database: Database) -> None:
    """An input parked by the program of version 5 has no cause and no next try: it is due at once, and goes through."""
    db = old_database
    db.migrate(5)
    identity, body = uuid7(), OrderDropped("o-1")
    headers = json.dumps([(name, value.hex()) for name, value in record_headers(identity, body.type)]).encode()
    db.rows(PARKED, identity, body.type, headers, PlainCodec().encode(body))

    db.migrate(6)

    assert db.rows("SELECT exception, frames, fingerprint, retries, retry_at FROM parked") == [(None,) * 3 + (0, None)]
    db.migrate(*range(7, max(schema.VERSIONS) + 1))
    wired = sample_service.service()
    with db.connect() as tx:
        assert tx.execute(DUE_LANES.encode()).fetchall() == [("o-1",)]
        LaneFeeder(wired, RecordDeserializer(wired.on.consumes(Event), PlainCodec())).feed(tx, "o-1")
    assert db.emitted() == [("loaves.returned", "o-1")]


@pytest.mark.parametrize("statement", ["INSERT INTO task (key) SELECT key FROM task", "DELETE FROM task"])
def test_the_app_keeps_its_rights(old_database: Database, statement: str) -> None:
    """API and worker may write and end tasks as before."""
    old_database.migrate(5)

    with old_database.connect() as tx:
        tx.execute(statement.encode())
