"""Days past their time go and nothing that is owed goes with them; who commits meanwhile does not notice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from structlog.testing import capture_logs

from quadrille.consumer import worker
from quadrille.consumer.deserializer import RecordDeserializer
from quadrille.db import schema
from quadrille.db.retention import Retention
from quadrille.ids import floor_of, milliseconds, uuid7
from quadrille.messages import Event
from quadrille.processing.envelope import Duplicate, Envelope, Handled, Parked
from quadrille.testing.in_memory import PlainCodec
from tests.chassis.support.database import Database, envelope_of, wait_until
from tests.chassis.support.kafka_harness import Kitchen, running
from tests.chassis.support.records import record_headers
from tests.chassis.support.sample_messages import BreadOrdered

NOW = datetime.now(UTC).replace(hour=12)  # of the day the tests began on: midnight is far
DAY = timedelta(days=1)
RETENTION = Retention()
KEYS = """
INSERT INTO idempotency_key SELECT 'c', 'POST /x', hours, '', '', '', now() - make_interval(hours => hours)
  FROM unnest(%s::int[]) hours"""
OLD = (11, 10, 9, 8)
THERE = "SELECT relname FROM pg_class WHERE relname ~ %s ORDER BY 1"
PROGRESS = "INSERT INTO relay_progress VALUES (true, 1, 1, 'FFFFFFFF/0', %s, 'p', %s)"
FACT = """
INSERT INTO outbox SELECT gen_random_uuid(), 'order.events', 'o-1', 'bread.ordered', 1, '', gen_random_uuid(), '', NULL,
                          at, at::date FROM (SELECT %s::timestamptz AT TIME ZONE 'UTC' AS at) one"""
LIVED = "INSERT INTO inbox VALUES (%s)"
HERE = "UPDATE relay_progress SET commit_lsn = pg_current_wal_insert_lsn()"
GONE = "SELECT day FROM inbox_gone WHERE day >= current_date - 12 ORDER BY 1"
WAITS = "SELECT 1 FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
TASK = "INSERT INTO task (id, key, type, body, due, traceparent) VALUES (%s, 'o-1', 'bake', '{}', now(), '')"
PARKED = """
INSERT INTO parked (id, line, state, topic, raw, error_class, error, attempts)
VALUES (%s, 'o-1', %s, 't', '', %s, '', 1)"""
PROVEN = "AND outbox_published(oldest)"


def ago(days: float) -> datetime:
    return NOW - days * DAY


def named(parent: str, days: int) -> str:
    return f"{parent}_{ago(days):%Y%m%d}"


@pytest.fixture
def aged(db: Database) -> Iterator[Database]:
    """A database that has run for longer than days are kept: it has their partitions."""
    made = []
    with psycopg.connect(db.url("owner"), autocommit=True) as owner:
        for days in OLD:
            low, high = ago(days).date(), (ago(days) + DAY).date()
            for parent, bounds in (("inbox", "id_floor(%s), id_floor(%s)"), ("outbox", "%s::date, %s::date")):
                row = owner.execute(f"SELECT {bounds}".encode(), [low, high]).fetchone()
                assert row
                part = f"PARTITION OF {parent} FOR VALUES FROM ('{row[0]}') TO ('{row[1]}')"
                owner.execute(f"CREATE TABLE {named(parent, days)} {part}".encode())
                made.append(named(parent, days))
    yield db
    db.rows(f"DROP TABLE IF EXISTS {', '.join(made)}")
    db.rows("TRUNCATE outbox_sealed")
    db.rows("DELETE FROM inbox_gone WHERE day >= current_date - 12")
    db.rows("SELECT ensure_partitions(7, 3)")


def left(db: Database, parent: str) -> list[int]:
    """Return how many days ago the partitions are from that are older than a week."""
    names = {name for (name,) in db.rows(THERE, f"^{parent}_[0-9]{{8}}$")}
    return [days for days in OLD if named(parent, days) in names]


def clear(db: Database) -> None:
    """Do a worker's retention."""
    with db.connect() as tx:
        RETENTION.prepare(tx, RecordDeserializer({}, PlainCodec()))
        RETENTION.clear(tx)


def horizon(db: Database) -> int:
    """Return how many days ago the floor is."""
    with db.connect() as tx:
        found = datetime.fromtimestamp(RETENTION.horizon(tx) / 1000, UTC)
    return (NOW.date() - found.date()).days


def test_days_past_their_time_go(aged: Database) -> None:
    """Of the outbox what is published, of the inbox what is a day below the floor; each is a line in the log."""
    aged.rows(PROGRESS, NOW, None)
    for days in OLD:
        aged.rows(FACT, ago(days))
    with capture_logs() as told:
        clear(aged)

    assert (left(aged, "outbox"), left(aged, "inbox"), horizon(aged)) == ([], [8], 7)
    assert [line["reason"] for line in told] == [
        *(named("outbox", days) for days in OLD), *(named("inbox", days) for days in OLD[:-1]),
    ]  # fmt: skip
    week = {named("inbox", days) for days in range(schema.INBOX_DAYS + 1)}
    assert week <= {name for (name,) in aged.rows(THERE, "^inbox_[0-9]{8}$")}


def test_a_day_that_was_not_relayed_stays(aged: Database) -> None:
    """What a recovery would scan from the stored position stays, with all that is younger; so does all, before one."""
    for days in OLD:
        aged.rows(FACT, ago(days))
    clear(aged)
    assert left(aged, "outbox") == list(OLD)

    aged.rows(PROGRESS, ago(9) + timedelta(minutes=5), "restored")
    clear(aged)
    assert left(aged, "outbox") == list(OLD)

    aged.rows("UPDATE relay_progress SET stopped = NULL")
    clear(aged)
    assert left(aged, "outbox") == [9, 8]

    aged.rows("UPDATE relay_progress SET committed_at = committed_at + interval '6 min'")
    clear(aged)
    assert left(aged, "outbox") == [8]


def test_without_the_proof_an_unpublished_day_would_go(aged: Database) -> None:
    """Planted: a function that does not ask whether a day's rows were published drops them."""
    aged.rows(PROGRESS, ago(12), None)
    aged.rows(FACT, ago(11))
    with psycopg.connect(aged.url("owner")) as owner:
        made = schema.OLD_DAYS.partition("FUNCTION drop_old_day")[2].partition("END $$;")[0] + "END $$"
        assert PROVEN in made
        owner.execute(("CREATE OR REPLACE FUNCTION drop_old_day" + made.replace(PROVEN, "")).encode())
        assert owner.execute("SELECT drop_old_day(7)").fetchone() == (named("outbox", 11),)
        owner.rollback()


@pytest.mark.parametrize("state", ["OPEN", "DEAD"])
@pytest.mark.parametrize("days", [11, 10, 9])
def test_a_parked_record_keeps_its_own_day(aged: Database, state: str, days: int) -> None:
    """It stays until somebody has ended the record; the days before and since go, and the floor moves on."""
    aged.rows(PARKED, uuid7(milliseconds(ago(days))), state, "HANDLER")
    clear(aged)
    assert (left(aged, "inbox"), horizon(aged)) == ([days, 8], 7)

    aged.rows("UPDATE parked SET state = 'DISCARDED'")
    clear(aged)
    assert (left(aged, "inbox"), horizon(aged)) == ([8], 7)


def test_a_record_below_the_floor_holds_no_day(aged: Database) -> None:
    """It is not handled anyhow, or its day is gone: days do not pile up behind it."""
    aged.rows(PARKED, uuid7(milliseconds(ago(9))), "OPEN", "BELOW_FLOOR")
    aged.rows(PARKED, uuid7(milliseconds(ago(3000))), "OPEN", "UNDECODABLE")
    clear(aged)

    assert (left(aged, "inbox"), horizon(aged)) == ([8], 7)


def test_a_day_that_an_intent_needs_stays(aged: Database) -> None:
    """The answer to an intent that is tried for long has the intent's time: it finds its place."""
    aged.rows(TASK, uuid7(milliseconds(ago(9))))
    aged.rows(TASK, uuid7(milliseconds(NOW + DAY)))
    clear(aged)
    assert (left(aged, "inbox"), horizon(aged)) == ([9, 8], 7)

    aged.rows("DELETE FROM task")
    clear(aged)
    assert (left(aged, "inbox"), horizon(aged)) == ([8], 7)


def test_what_went_is_not_handled_twice(aged: Database) -> None:
    """An event handled on a day that is gone is parked as too old; by who missed it, as refused: no effect."""
    aged.fill(rye=100)
    body = BreadOrdered("o-1")
    old = envelope_of(body, uuid7(milliseconds(ago(10))))
    aged.commit(old)
    assert len(aged.emitted()) == 1
    live_on(aged)
    clear(aged)
    assert left(aged, "inbox") == [8]
    reader = reader_of(aged)

    assert [type(one) for one in aged.commit(again(reader, old, body))] == [Parked]
    assert aged.parked("error_class") == [("BELOW_FLOOR",)]
    other = envelope_of(BreadOrdered("o-2"), old.id)
    assert aged.commit(other) == [Parked("BELOW_FLOOR", "the event is older than the inbox can tell")]
    assert (len(aged.emitted()), aged.one("SELECT available FROM level")) == (1, 99)


def live_on(db: Database, days: int = 8) -> None:
    """Let something have been handled on each of so many days up to today."""
    for day in range(days):
        db.rows(LIVED, uuid7(milliseconds(ago(day))))


def reader_of(db: Database) -> RecordDeserializer:
    """Return a worker's reader, as its retention leaves it."""
    reader = RecordDeserializer({BreadOrdered.type: BreadOrdered}, PlainCodec())
    with db.connect() as tx:
        RETENTION.prepare(tx, reader)
    return reader


def test_ids_of_a_kept_day_are_compared(aged: Database) -> None:
    """Of a parked record's day what was handled is Seen, what was not is handled; days between are too old."""
    aged.fill(rye=100)
    bodies = {days: BreadOrdered(f"o-{days}") for days in (11, 10, 9)}
    were = {days: envelope_of(body, uuid7(milliseconds(ago(days)))) for days, body in bodies.items()}
    aged.commit(were[10], were[9])
    live_on(aged)
    stuck = uuid7(milliseconds(ago(10)))
    aged.rows(PARKED, stuck, "OPEN", "HANDLER")
    clear(aged)
    assert left(aged, "inbox") == [10, 8]
    reader = reader_of(aged)

    assert aged.commit(again(reader, were[10], bodies[10])) == [Duplicate()]
    new = BreadOrdered("o-new")
    late = again(reader, envelope_of(new, uuid7(milliseconds(ago(10)))), new)
    assert [type(one) for one in aged.commit(late, late)] == [Handled, Duplicate]
    assert [type(one) for one in aged.commit(again(reader, were[9], bodies[9]))] == [Parked]
    assert [type(one) for one in aged.commit(again(reader, were[11], bodies[11]))] == [Parked]
    assert sorted(aged.emitted("aggregateid")) == [("o-10",), ("o-9",), ("o-new",)]
    assert aged.parked("line", "error_class") == [
        ("o-1", "HANDLER"), ("o-11", "BELOW_FLOOR"), ("o-9", "BELOW_FLOOR"),
    ]  # fmt: skip


def test_days_lived_are_counted_not_measured(aged: Database) -> None:
    """A clock that jumped ahead by weeks makes all days old: those that were lived last are told all the same."""
    aged.fill(rye=100)
    bodies = {days: BreadOrdered(f"o-{days}") for days in (11, 10, 9)}
    were = {days: envelope_of(body, uuid7(milliseconds(ago(days)))) for days, body in bodies.items() if days != 10}
    aged.commit(*were.values())
    clear(aged)
    assert (left(aged, "inbox"), horizon(aged)) == ([11, 9, 8], 7)
    reader = reader_of(aged)
    assert aged.commit(*(again(reader, were[days], bodies[days]) for days in were)) == [Duplicate(), Duplicate()]

    live_on(aged, 7)
    clear(aged)
    assert left(aged, "inbox") == [9, 8]
    live_on(aged, 8)
    clear(aged)
    assert left(aged, "inbox") == [8]
    assert aged.rows(GONE) == [(ago(11).date(),), (ago(9).date(),)]


def test_a_forgotten_day_has_no_place_again(aged: Database) -> None:
    """A clock goes back to a day whose ids were forgotten: its inputs are parked, other days' are handled."""
    aged.rows("INSERT INTO inbox_gone VALUES (%s)", NOW.date())
    aged.rows(f"DROP TABLE {named('inbox', 0)}, {named('outbox', 0)}")
    aged.fill(rye=5)
    assert aged.commit(
        envelope_of(BreadOrdered("o-1"), uuid7(milliseconds(NOW.replace(hour=0, minute=0, second=0))))
    ) == [Parked("BELOW_FLOOR", "the event is older than the inbox can tell")]
    assert [type(one) for one in aged.commit(envelope_of(BreadOrdered("o-2"), uuid7(milliseconds(ago(1)))))] == [
        Handled
    ]
    assert aged.emitted() == [("loaves.held", "o-2")]


def test_what_comes_while_a_day_is_about_to_go_keeps_it(aged: Database) -> None:
    """Judged old and needless, the day waits for an open batch; what that leaves behind needs it: it stays."""
    with psycopg.connect(aged.url("owner"), autocommit=True) as owner, ThreadPoolExecutor(1) as pool:
        owner.execute("ALTER FUNCTION drop_old_day SET lock_timeout = '60s'")
        try:
            with aged.connect() as batch:
                with batch.transaction():
                    batch.execute("INSERT INTO inbox VALUES (%b)", [uuid7(milliseconds(ago(11)))])
                    batch.execute(TASK.encode(), [uuid7(milliseconds(ago(11)))])
                    going = pool.submit(aged.rows, "SELECT drop_old_day(7)")
                    wait_until(lambda: owner.execute(WAITS).fetchall())
                going.result()
        finally:
            owner.execute("ALTER FUNCTION drop_old_day SET lock_timeout = '50ms'")
    assert left(aged, "inbox") == [11, 9, 8]


def test_what_was_said_before_a_restore_goes_with_the_day_of_its_cause(aged: Database) -> None:
    """It is known as long as its cause may be handled once more: a cause of a day without a place is parked."""
    for days in (12, 1):
        at = milliseconds(ago(days))
        aged.rows("INSERT INTO said_before VALUES (%s, %s, 'loaves.held', 1, true)", uuid7(at), uuid7(at))

    with aged.connect() as tx:
        RETENTION.clear(tx)

    assert aged.one("SELECT array_agg(id_day(id)) FROM said_before") == [ago(1).date()]


def test_a_clock_proves_nothing_published(aged: Database) -> None:
    """Rows that came after what the relay has read stay, however late its last transaction says that it was."""
    aged.rows(PROGRESS, NOW + 20 * DAY, None)
    aged.rows(HERE)
    aged.rows(FACT, ago(11))
    clear(aged)
    assert left(aged, "outbox") == list(OLD)

    aged.rows(HERE)
    aged.rows(FACT, ago(11))
    clear(aged)
    assert left(aged, "outbox") == list(OLD), "a row has come since"

    aged.rows("INSERT INTO topic VALUES ('something', 'else', 1)")
    aged.rows(HERE)
    clear(aged)
    assert left(aged, "outbox") == [10, 9, 8]


def again(reader: RecordDeserializer, was: Envelope, body: Event) -> Envelope:
    """Return the same record as a worker reads it now."""
    assert was.record
    record = type(was.record)(was.record.raw, record_headers(was.id, body.type))
    return reader.read(record, was.key.encode(), None, milliseconds(NOW))


def test_a_commit_that_is_open_is_not_disturbed(aged: Database) -> None:
    """The day is left for the next time after 50 ms; the open batch and those beside it go on."""
    assert "lock_timeout=50ms" in aged.one("SELECT proconfig FROM pg_proc WHERE proname = 'drop_old_day'")
    aged.fill(rye=1000)
    aged.rows(PROGRESS, NOW, None)
    with aged.connect() as slow, slow.transaction():
        slow.execute("SELECT count(*) FROM inbox WHERE event_id = %b", [uuid7()])
        slow.execute("SELECT count(*) FROM outbox")
        with capture_logs() as told:
            clear(aged)
        aged.commit(envelope_of(BreadOrdered("o-1")))
        slow.execute("INSERT INTO inbox VALUES (%b)", [uuid7()])
    assert [line["event"] for line in told] == ["old day is left for the next time: its table is busy"]
    assert left(aged, "outbox") == list(OLD)

    clear(aged)
    assert (left(aged, "outbox"), left(aged, "inbox")) == ([], [8])


def test_days_go_once_by_many_and_under_load(aged: Database) -> None:
    """Four workers do their retention at once while others commit: nobody fails, and the days are gone."""
    aged.fill(rye=100_000)
    aged.rows(PROGRESS, NOW, None)
    stop, numbers = threading.Event(), iter(range(1_000_000))

    def commits() -> int:
        done = 0
        while not stop.is_set():
            aged.commit(*(envelope_of(BreadOrdered(f"o-{next(numbers)}")) for _ in range(5)))
            done += 5
        return done

    def tidied() -> bool:
        clear(aged)
        return (left(aged, "outbox"), left(aged, "inbox")) == ([], [8])

    def tidy(_: int) -> None:
        wait_until(tidied)

    with ThreadPoolExecutor(6) as pool:
        load = [pool.submit(commits) for _ in range(2)]
        try:
            list(pool.map(tidy, range(4)))
        finally:
            stop.set()
        committed = sum(one.result() for one in load)

    assert committed == len(aged.emitted()) > 0


def test_a_worker_keeps_its_house(kitchen: Kitchen, aged: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside its inputs a worker moves the floor, drops what is past its time and forgets old idempotency keys."""
    monkeypatch.setattr(worker, "WATCH_SECONDS", 0.05)
    kitchen.start_here()
    aged.rows(KEYS, [1, 200])
    live_on(aged, 3)
    made = kitchen.worker()
    with running(made):
        wait_until(lambda: left(aged, "inbox") == [8])
        wait_until(lambda: aged.rows("SELECT key FROM idempotency_key") == [("1",)])

    week = (NOW - schema.INBOX_DAYS * DAY).replace(hour=0, minute=0, second=0, microsecond=0)
    assert made.reader.horizon_ms == milliseconds(week)
    assert floor_of(made.reader.horizon_ms) <= uuid7(milliseconds(ago(7)))


def test_days_are_told_whatever_plan_the_database_makes(db: Database) -> None:
    """No name of another table is taken for a day, also where the database looks at every table first."""
    with db.connect() as tx:
        for way in ("nestloop", "indexscan", "bitmapscan", "mergejoin"):
            tx.execute(f"SET enable_{way} = off".encode())
        tx.execute("SET plan_cache_mode = force_custom_plan")
        tx.execute("SELECT ensure_partitions(0, 3)")
        tx.execute("SELECT inbox_floor(7), array(SELECT inbox_kept(7))")
        tx.execute("SELECT lived_since(1)")
