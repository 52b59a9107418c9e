"""The chassis' tables: days of partitions made ahead, by several at once and under load, and rights kept narrow."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from quadrille.db import schema
from quadrille.ids import floor_of, milliseconds, uuid7
from tests.chassis.support.database import Database, Migration, envelope_of
from tests.chassis.support.sample_messages import BreadOrdered

PARTITIONS = "SELECT relname FROM pg_class WHERE relname ~ '^(inbox|outbox)_[0-9]{8}$'"
DROP_AHEAD = "SELECT format('DROP TABLE %%I', relname) FROM pg_class WHERE relname ~ %s AND right(relname, 8) > %s"
NEWEST = max(schema.VERSIONS)
BOUND = "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = %s"


def ahead_of(db: Database, days: int) -> int:
    """Drop the partitions that lie more than so many days ahead; return how many are left."""
    last = f"{datetime.now(UTC) + timedelta(days=days):%Y%m%d}"
    for (drop,) in db.rows(DROP_AHEAD, "^(inbox|outbox)_[0-9]{8}$", last):
        db.rows(drop)
    return len(db.rows(PARTITIONS))


def test_the_days_around_today_have_their_partitions(db: Database) -> None:
    """A fresh database takes ids of the last week and of three days ahead, and events of today and three days ahead."""
    ahead_of(db, schema.AHEAD_DAYS)
    now = datetime.now(UTC)
    names = {name for (name,) in db.rows(PARTITIONS)}

    wanted = {f"inbox_{now + timedelta(days=d):%Y%m%d}" for d in range(-schema.INBOX_DAYS, schema.AHEAD_DAYS + 1)}
    wanted |= {f"outbox_{now + timedelta(days=d):%Y%m%d}" for d in range(schema.AHEAD_DAYS + 1)}
    assert names == wanted


def test_a_day_of_the_inbox_is_a_range_of_ids(db: Database) -> None:
    """A partition begins at the smallest id of its midnight and ends before the next one's."""
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    low, high = (str(floor_of(milliseconds(midnight + timedelta(days=d)))) for d in (0, 1))

    assert db.one(BOUND, f"inbox_{midnight:%Y%m%d}") == f"FOR VALUES FROM ('{low}') TO ('{high}')"


def test_no_partition_takes_whatever_comes(db: Database) -> None:
    """There is no default partition: what has no day is refused, not hidden."""
    with pytest.raises(psycopg.errors.CheckViolation):
        db.rows("INSERT INTO inbox VALUES (%s)", floor_of(milliseconds(datetime.now(UTC) + timedelta(days=30))))


def test_partitions_are_made_once_by_many_and_under_load(db: Database) -> None:
    """Six workers make the coming days at once while batches commit: no error, no deadlock, each day once."""
    assert ahead_of(db, 0) == schema.INBOX_DAYS + 2
    db.fill(rye=1000)
    stop, committed = threading.Event(), 0

    def work(_: int) -> int:
        with db.connect() as tx:
            row = tx.execute("SELECT ensure_partitions(0, 9)").fetchone()
            return int(row[0]) if row else -1

    def commits() -> None:
        nonlocal committed
        while not stop.is_set():
            db.commit(envelope_of(BreadOrdered(f"o-{committed}")))
            committed += 1

    with ThreadPoolExecutor(8) as pool:
        load = pool.submit(commits)
        try:
            made = list(pool.map(work, range(6)))
        finally:
            stop.set()
        load.result()

    assert sorted(made) == [0, 0, 0, 0, 0, 18]
    assert committed == len(db.emitted()) > 0
    ahead_of(db, schema.AHEAD_DAYS)


def test_days_spent_off_leave_no_hole(db: Database) -> None:
    """A service that was off for longer than partitions are made ahead still takes the ids of every day since."""
    for days in range(-3, schema.AHEAD_DAYS + 1):
        db.rows(f"DROP TABLE IF EXISTS inbox_{datetime.now(UTC) + timedelta(days=days):%Y%m%d}")
        db.rows(f"DROP TABLE IF EXISTS outbox_{datetime.now(UTC) + timedelta(days=days):%Y%m%d}")
    try:
        assert db.one("SELECT ensure_partitions(0, 3)") == 7 + 4
        yesterday = milliseconds(datetime.now(UTC) - timedelta(days=1))
        db.rows("INSERT INTO inbox VALUES (%s)", uuid7(yesterday))
        floor = f"inbox_{datetime.now(UTC) - timedelta(days=schema.INBOX_DAYS):%Y%m%d}"
        assert db.one("SELECT min(relname) FROM pg_class WHERE relname ~ '^inbox_[0-9]{8}$'") == floor
    finally:
        db.rows("SELECT ensure_partitions(7, 3)")


def test_new_partitions_do_not_wait_for_an_open_batch(db: Database) -> None:
    """A batch that is open for long, and a reader of the outbox, hold up no new day: nor do they wait for it."""
    ahead_of(db, 0)
    with db.connect() as slow, slow.transaction(), db.connect() as tx:
        slow.execute("INSERT INTO inbox VALUES (%s)", [uuid7()])
        slow.execute("SELECT count(*) FROM outbox")
        tx.execute("SET lock_timeout = '1s'")
        row = tx.execute("SELECT ensure_partitions(0, 3)").fetchone()
        assert row == (6,)


def test_a_new_day_has_everything_the_table_has(db: Database) -> None:
    """A partition made later has the key, the checks, the defaults and the publication of the first ones."""
    ahead_of(db, 0)
    db.rows("SELECT ensure_partitions(0, 3)")
    day = f"{datetime.now(UTC) + timedelta(days=3):%Y%m%d}"

    keys = "SELECT contype FROM pg_constraint WHERE conrelid = %s::regclass AND contype IN ('p', 'c') ORDER BY 1"
    assert db.rows(keys, f"inbox_{day}") == [("p",)]
    assert db.rows(keys, f"outbox_{day}") == [("c",)]
    defaults = "SELECT count(*) FROM pg_attrdef WHERE adrelid = %s::regclass"
    assert db.one(defaults, f"outbox_{day}") == db.one(defaults, "outbox") == 2
    indexes = (
        "SELECT count(*) FROM pg_index JOIN pg_inherits i ON i.inhrelid = indexrelid WHERE indrelid = %s::regclass"
    )
    assert (db.one(indexes, f"outbox_{day}"), db.one(indexes, f"inbox_{day}")) == (1, 1)
    assert db.one("SELECT count(*) FROM pg_publication_tables WHERE tablename = 'outbox'") == 1


@pytest.mark.parametrize(
    "forbidden",
    [
        "UPDATE outbox SET sequence = 0",
        "DELETE FROM outbox",
        "DELETE FROM inbox",
        "CREATE TABLE sneaked ()",
        "TRUNCATE parked",
        "UPDATE relay_progress SET timeline = 2",
    ],
)
def test_the_app_cannot_unsay_anything(db: Database, forbidden: str) -> None:
    """The role of api and worker only adds to outbox and inbox, and makes no tables."""
    with db.connect() as tx, pytest.raises(psycopg.errors.InsufficientPrivilege):
        tx.execute(forbidden.encode())


def test_the_relay_cannot_say_anything(db: Database) -> None:
    """The relay reads the outbox and keeps its own progress; it cannot add an event."""
    with psycopg.connect(db.url("relay"), autocommit=True) as tx:
        tx.execute("SELECT count(*) FROM outbox")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            tx.execute("INSERT INTO outbox (id) VALUES (gen_random_uuid())")


def test_a_version_of_the_tables_that_does_not_exist_is_refused(db: Database) -> None:
    """A migration that asks for tables nobody knows is refused by name."""
    with db.connect() as tx, pytest.raises(ValueError, match=f"version {NEWEST + 1}"):
        schema.upgrade(Migration(tx), NEWEST + 1)
