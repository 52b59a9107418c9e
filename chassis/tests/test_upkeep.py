"""Days past their time go and nothing that is owed goes with them; who commits meanwhile does not notice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from structlog.testing import capture_logs

from chassis import tables, worker
from chassis.ids import floor_of, milliseconds, uuid7
from chassis.inputs import Input, Parked
from chassis.reading import Reader
from chassis.testing import PlainCodec
from chassis.tests.kitchen import Kitchen, running
from chassis.tests.pantry_words import BreadOrdered
from chassis.tests.records import envelope
from chassis.tests.workbench import Database, heard, wait_until
from chassis.upkeep import Upkeep
from chassis.words import Fact

NOW = datetime.now(UTC).replace(hour=12)  # of the day the tests began on: midnight is far
DAY = timedelta(days=1)
UPKEEP = Upkeep()
OLD = (11, 10, 9, 8)
THERE = "SELECT relname FROM pg_class WHERE relname ~ %s ORDER BY 1"
PROGRESS = "INSERT INTO relay_progress VALUES (true, 1, 1, '0/1', %s, 'p', %s)"
FACT = """
INSERT INTO outbox SELECT gen_random_uuid(), 'order.events', 'o-1', 'bread.ordered', 1, '', gen_random_uuid(), '', NULL,
                          at, at::date FROM (SELECT %s::timestamptz AT TIME ZONE 'UTC' AS at) one"""
AGENDA = "INSERT INTO agenda (id, key, type, body, due, traceparent) VALUES (%s, 'o-1', 'bake', '{}', now(), '')"
PARKED = """
INSERT INTO parked (id, line, state, topic, raw, error_class, error, attempts)
VALUES (%s, 'o-1', %s, 't', '', %s, '', 1)"""
PROVEN = "IF NOT unproven THEN"


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


def left(db: Database, parent: str) -> list[int]:
    """Return how many days ago the partitions are from that are older than a week."""
    names = {name for (name,) in db.rows(THERE, f"^{parent}_[0-9]{{8}}$")}
    return [days for days in OLD if named(parent, days) in names]


def clear(db: Database) -> None:
    """Do a worker's upkeep."""
    with db.connect() as tx:
        UPKEEP.prepare(tx)
        UPKEEP.clear(tx)


def floor(db: Database) -> int:
    """Return how many days ago the floor is."""
    with db.connect() as tx:
        found = datetime.fromtimestamp(UPKEEP.floor(tx) / 1000, UTC)
    return (NOW.date() - found.date()).days


def test_days_past_their_time_go(aged: Database) -> None:
    """Of the outbox what is published, of the inbox what is a day below the floor; each is a line in the log."""
    aged.rows(PROGRESS, NOW, None)
    for days in OLD:
        aged.rows(FACT, ago(days))
    with capture_logs() as told:
        clear(aged)

    assert (left(aged, "outbox"), left(aged, "inbox"), floor(aged)) == ([], [8], 7)
    assert [line["reason"] for line in told] == [
        *(named("outbox", days) for days in OLD), *(named("inbox", days) for days in OLD[:-1]),
    ]  # fmt: skip
    week = {named("inbox", days) for days in range(tables.INBOX_DAYS + 1)}
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
        made = tables.RETENTION.partition("CREATE FUNCTION drop_old_day")[2].partition("END $$;")[0] + "END $$"
        assert PROVEN in made
        owner.execute(("CREATE OR REPLACE FUNCTION drop_old_day" + made.replace(PROVEN, "IF true THEN")).encode())
        assert owner.execute("SELECT drop_old_day(7)").fetchone() == (named("outbox", 11),)
        owner.rollback()


@pytest.mark.parametrize("state", ["OPEN", "DEAD"])
def test_a_day_that_a_parked_record_needs_stays(aged: Database, state: str) -> None:
    """Until it is ended by somebody the floor waits for it; then the days go."""
    aged.rows(PARKED, uuid7(milliseconds(ago(9))), state, "HANDLER")
    clear(aged)
    assert (left(aged, "inbox"), floor(aged)) == ([10, 9, 8], 9)

    aged.rows("UPDATE parked SET state = 'DISCARDED'")
    clear(aged)
    assert (left(aged, "inbox"), floor(aged)) == ([8], 7)


def test_a_record_below_the_floor_holds_no_day(aged: Database) -> None:
    """It is not handled anyhow, or its day is gone: days do not pile up behind it."""
    aged.rows(PARKED, uuid7(milliseconds(ago(9))), "OPEN", "BELOW_FLOOR")
    aged.rows(PARKED, uuid7(milliseconds(ago(3000))), "OPEN", "UNDECODABLE")
    clear(aged)

    assert (left(aged, "inbox"), floor(aged)) == ([8], 7)


def test_a_day_that_an_intent_needs_stays(aged: Database) -> None:
    """The answer to an intent that is tried for long has the intent's time: it finds its place."""
    aged.rows(AGENDA, uuid7(milliseconds(ago(9))))
    aged.rows(AGENDA, uuid7(milliseconds(NOW + DAY)))
    clear(aged)
    assert (left(aged, "inbox"), floor(aged)) == ([10, 9, 8], 9)

    aged.rows("DELETE FROM agenda")
    clear(aged)
    assert (left(aged, "inbox"), floor(aged)) == ([8], 7)


def test_what_went_is_not_handled_twice(aged: Database) -> None:
    """A fact handled on a day that is gone is parked as too old; by a worker that missed it, as refused: no effect."""
    aged.fill(rye=100)
    body = BreadOrdered("o-1")
    old = heard(body, uuid7(milliseconds(ago(10))))
    aged.commit(old)
    assert len(aged.said()) == 1
    clear(aged)
    reader = Reader({body.type: type(body)}, PlainCodec())
    with aged.connect() as tx:
        reader.floor_ms = UPKEEP.floor(tx)

    assert [type(one) for one in aged.commit(again(reader, old, body))] == [Parked]
    assert aged.parked("error_class") == [("BELOW_FLOOR",)]
    other = heard(BreadOrdered("o-2"), old.id)
    assert [type(one) for one in aged.commit(other)] == [Parked]
    assert (len(aged.said()), aged.one("SELECT available FROM level")) == (1, 99)


def again(reader: Reader, was: Input, body: Fact) -> Input:
    """Return the same record as a worker reads it now."""
    assert was.record
    record = type(was.record)(was.record.raw, envelope(was.id, body.type))
    return reader.read(record, was.key.encode(), None, milliseconds(NOW))


def test_a_commit_that_is_open_is_not_disturbed(aged: Database) -> None:
    """The day is left for the next time, at once; the open batch and those beside it go on."""
    aged.fill(rye=1000)
    aged.rows(PROGRESS, NOW, None)
    with aged.connect() as slow, slow.transaction():
        slow.execute("SELECT count(*) FROM inbox WHERE event_id = %b", [uuid7()])
        slow.execute("SELECT count(*) FROM outbox")
        began = time.monotonic()
        with capture_logs() as told:
            clear(aged)
        aged.commit(heard(BreadOrdered("o-1")))
        assert time.monotonic() - began < 2
        slow.execute("INSERT INTO inbox VALUES (%b)", [uuid7()])
    assert [line["event"] for line in told] == ["old day is left for the next time: its table is busy"]
    assert left(aged, "outbox") == list(OLD)

    clear(aged)
    assert (left(aged, "outbox"), left(aged, "inbox")) == ([], [8])


def test_days_go_once_by_many_and_under_load(aged: Database) -> None:
    """Four workers do their upkeep at once while others commit: nobody fails, and the days are gone."""
    aged.fill(rye=100_000)
    aged.rows(PROGRESS, NOW, None)
    stop, numbers = threading.Event(), iter(range(1_000_000))

    def commits() -> int:
        done = 0
        while not stop.is_set():
            aged.commit(*(heard(BreadOrdered(f"o-{next(numbers)}")) for _ in range(5)))
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

    assert committed == len(aged.said()) > 0


def test_a_worker_keeps_its_house(kitchen: Kitchen, aged: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside its inputs a worker moves the floor, drops what is past its time and lets the service forget."""
    monkeypatch.setattr(worker, "WATCH_SECONDS", 0.05)
    kitchen.start_here()
    rows = [2, 3]
    made = kitchen.worker(upkeep=Upkeep(forget=lambda _: rows.pop() if rows else 0))
    with running(made):
        wait_until(lambda: left(aged, "inbox") == [8])
        wait_until(lambda: not rows)

    week = (NOW - tables.INBOX_DAYS * DAY).replace(hour=0, minute=0, second=0, microsecond=0)
    assert made.reader.floor_ms == milliseconds(week)
    assert floor_of(made.reader.floor_ms) <= uuid7(milliseconds(ago(7)))
