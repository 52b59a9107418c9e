"""What the database refuses for its own state is nobody's fault: nothing is counted or parked, and then it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg
import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from quadrille.consumer import heartbeat
from quadrille.consumer.deserializer import KEY_MAX
from quadrille.db import sqlstate
from quadrille.handlers import HandlerRegistry
from quadrille.messages import Command
from quadrille.observability.tracing import Spans
from quadrille.processing.envelope import Handled, Parked
from quadrille.processing.outbox import tell_recoveries
from quadrille.processing.telemetry import Telemetry
from quadrille.service import Service, Tx
from quadrille.testing.in_memory import PlainCodec
from quadrille.web.api import Pool
from quadrille.web.command_batcher import CommandBatcher
from quadrille.web.problems import Problem
from tests.chassis.support import sample_service
from tests.chassis.support.database import Database, chained, envelope_of, wait_until
from tests.chassis.support.kafka_harness import Kitchen, running
from tests.chassis.support.sample_gateway import Oven, done, ordered, working
from tests.chassis.support.sample_messages import BreadOrdered, LoavesHeld, Mode, ShelfFilled

RAISING = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION USING ERRCODE = '%s'; END $$"""
REFUSED = "CREATE TRIGGER refused BEFORE INSERT ON hold EXECUTE FUNCTION refuse()"
QUIET = "DROP FUNCTION IF EXISTS refuse CASCADE"
DAYS = "SELECT count(*) FROM pg_class WHERE relname ~ '^(inbox|outbox)_[0-9]{8}$' AND right(relname, 8) >= %s"
LATER = "SELECT relname FROM pg_class WHERE relname ~ '^(inbox|outbox)_[0-9]{8}$' AND right(relname, 8) >= %s"
STATES = (
    "08006", "25006", "25P03", "28000", "2200H", "40001", "40P01", "42501", "42703", "42883", "42P01", "53000", "53100",
    "53200", "53300", "54000", "54001", "55P03", "57014", "57P01", "57P04", "58030", "F0000", "P0001", "XX000", "XX001",
    "ZZ123",
)  # fmt: skip
BEATS = "SELECT max(number) FROM canary"
VALUES = ("22001", "22003", "22021", "22P05", "23502", "23503", "23505", "23P01")


@dataclass(frozen=True, slots=True)
class OrderBread(Command):
    """Ask for a loaf."""

    order_id: str


@contextmanager
def refusing(db: Database, state: str) -> Iterator[None]:
    """Let the database refuse every hold with an error of its own while the block lasts."""
    db.rows(RAISING.replace("%s", state))
    db.rows(REFUSED)
    try:
        yield
    finally:
        db.rows(QUIET)


@contextmanager
def without_a_day(db: Database) -> Iterator[None]:
    """Let today, and the days to come, have no place: so it is found after days in which nobody made any."""
    today = f"{datetime.now(UTC):%Y%m%d}"
    for (name,) in db.rows(LATER, today):
        db.rows(f"DROP TABLE {name}")
    try:
        yield
        assert db.one(DAYS, today) == 2 * 4, "today and three days to come have their places again"
    finally:
        db.rows("SELECT ensure_partitions(7, 3)")


@contextmanager
def read_only(db: Database) -> Iterator[None]:
    """Let the database take no writes from new sessions, as a server before its promotion."""
    db.rows("SELECT 1")  # the session that turns it back is one from before
    db.rows("ALTER DATABASE pantry SET default_transaction_read_only = on")
    try:
        yield
    finally:
        db.rows("ALTER DATABASE pantry RESET default_transaction_read_only")


@contextmanager
def without_rights(db: Database) -> Iterator[None]:
    """Take away what the role may do."""
    db.rows("REVOKE INSERT ON outbox FROM app")
    try:
        yield
    finally:
        db.rows("GRANT INSERT ON outbox TO app")


@contextmanager
def without_a_table(db: Database) -> Iterator[None]:
    """Move a table away, as a migration may for a moment."""
    db.rows("ALTER TABLE hold RENAME TO held")
    try:
        yield
    finally:
        db.rows("ALTER TABLE held RENAME TO hold")


@pytest.mark.parametrize("state", STATES)
def test_the_databases_own_state_parks_nothing(db: Database, state: str) -> None:
    """Whatever it says of itself, an unknown word too: the batch is refused whole, and goes through later."""
    db.fill(rye=5)
    db.start_at()
    batch = chained([BreadOrdered("o-1"), BreadOrdered("o-2")])

    with refusing(db, state), pytest.raises(psycopg.Error):
        db.commit(*batch)
    assert (db.position(), db.emitted(), db.parked()) == (0, [], [])

    assert [type(one) for one in db.commit(*batch)] == [Handled, Handled]


@pytest.mark.parametrize("state", VALUES)
def test_what_values_cause_is_their_inputs(db: Database, state: str) -> None:
    """What a row's own values cause parks that input, and nothing stands still."""
    db.fill(rye=5)
    db.start_at()
    with refusing(db, state):
        assert [type(one) for one in db.commit(*chained([BreadOrdered("o-1")]))] == [Parked]
    assert db.position() == 1


@pytest.mark.parametrize("refusal", [read_only, without_rights, without_a_table])
def test_a_database_that_refuses_by_itself_parks_nothing(
    db: Database, refusal: Callable[[Database], AbstractContextManager[None]]
) -> None:
    """Read-only, without a right, without a table: refused whole and nothing parked, a command is told to wait."""
    db.fill(rye=5)
    db.start_at()
    batch = chained([BreadOrdered("o-1"), BreadOrdered("o-2")])
    with refusal(db), pytest.raises(psycopg.Error):
        db.commit(*batch)
    assert (db.position(), db.parked()) == (0, [])
    assert [type(one) for one in db.commit(*batch)] == [Handled, Handled]


def test_a_read_that_a_migration_disturbs_is_told_to_wait(db: Database) -> None:
    """A table is away for a moment: whoever reads is told to come again; a value that no column takes is a bug."""
    pool = Pool(db.connect)
    with without_a_table(db), pytest.raises(Problem) as refused:
        pool.read(lambda tx: tx.execute(sa.text("SELECT * FROM hold")).all())
    assert (refused.value.kind.slug, refused.value.extra["dependency"]) == ("dependency-unavailable", "database")
    with pytest.raises(sa.exc.DataError):
        pool.read(lambda tx: tx.execute(sa.text("SELECT 1 / 0")).all())
    pool.close()


def test_a_batch_makes_the_day_that_is_missing(db: Database) -> None:
    """Nobody has made today: whoever commits makes it, and the coming ones, and nothing is parked or said twice."""
    db.fill(rye=5)
    db.start_at()
    batch = chained([BreadOrdered("o-1"), BreadOrdered("o-2")])
    with without_a_day(db):
        assert [type(one) for one in db.commit(*batch)] == [Handled, Handled]
    assert (db.position(), db.emitted(), db.parked()) == (2, [("loaves.held", "o-1"), ("loaves.held", "o-2")], [])


def test_a_poison_input_is_found_on_a_day_that_is_missing(db: Database) -> None:
    """One of the batch that finds no day breaks a constraint: that one parks, the days are made."""
    db.fill(rye=5, oat=0)
    batch = [
        envelope_of(BreadOrdered("o-1")),
        envelope_of(BreadOrdered("o-2", "oat", mode=Mode.FORCED)),
        envelope_of(BreadOrdered("o-3")),
    ]
    with without_a_day(db):
        assert [type(one) for one in db.commit(*batch)] == [Handled, Parked, Handled]


def test_the_api_alone_makes_the_day_that_is_missing(db: Database) -> None:
    """A command is stored and answered although no worker was there to make its day."""

    def bake(command: OrderBread, _: sample_service.Pantry) -> tuple[ShelfFilled, LoavesHeld]:
        return ShelfFilled(command.order_id, 1), LoavesHeld(command.order_id, 1)

    on = HandlerRegistry("pantry", sample_service.Pantry)
    on.command(bake)
    service = Service(on, sample_service.PantryStore(), PlainCodec())

    async def asking() -> object:
        async with CommandBatcher(service, db.connect, Telemetry(Spans.disabled())) as intake:
            return await intake.execute(envelope_of(OrderBread("o-1")))

    with without_a_day(db):
        assert asyncio.run(asking()) == ShelfFilled("o-1", 1)
    assert db.emitted() == [("loaves.held", "o-1")]


@pytest.mark.parametrize("telling", ["beat", "recovery"])
def test_what_the_chassis_says_makes_the_day_that_is_missing(db: Database, telling: str) -> None:
    """A beat, and what a relay has noted: both find no day, and are said."""
    service = sample_service.service()
    db.rows("INSERT INTO canary VALUES (%s, 0, now() - interval '1 h', now()) ON CONFLICT DO NOTHING", service.name)
    db.rows("INSERT INTO relay_recovery (id, cause, rows, seconds) VALUES (gen_random_uuid(), 'slot lost', 1, 1)")

    def beat(tx: Tx) -> object:
        return heartbeat.beat(tx, service)

    def recovery(tx: Tx) -> object:
        return tell_recoveries(tx, service)

    with without_a_day(db), db.connect() as tx:
        assert {"beat": beat, "recovery": recovery}[telling](tx)
    assert db.one("SELECT count(*) FROM outbox") == 1
    db.rows("DELETE FROM canary")


def test_a_key_too_long_for_an_index_is_its_own_records(db: Database) -> None:
    """An index refuses a long text by a limit of the program: it is the value all the same."""
    for digits in (2_000, 70_000):  # what an index refuses, and what no index row can hold
        long = "".join(f"{n:x}" for n in range(digits))
        with db.connect() as tx, pytest.raises(psycopg.errors.ProgramLimitExceeded) as caught:
            tx.execute("INSERT INTO hold VALUES (%b, '', 0)", [long])
        assert sqlstate.blames_input(caught.value)


def test_other_troubles_are_no_values() -> None:
    """What did not come from the database at all has its own judges."""
    assert not sqlstate.blames_input(ValueError("x"))
    assert not sqlstate.blames_input(psycopg.OperationalError("the line was cut"))
    assert sqlstate.blames_input(psycopg.DataError("PostgreSQL text fields cannot contain NUL"))


def test_a_worker_begins_where_no_day_is(kitchen: Kitchen, db: Database) -> None:
    """All were away for days: a worker makes the days, tells what the relay has noted, and handles what waits."""
    db.fill(rye=5)
    kitchen.start_here()
    db.rows("INSERT INTO relay_recovery (id, cause, rows, seconds) VALUES (gen_random_uuid(), 'slot lost', 1, 1)")
    kitchen.tell(BreadOrdered("o-1"))
    kitchen.flush()
    with without_a_day(db), running(kitchen.worker(beats=True)):
        wait_until(lambda: db.emitted() and db.one("SELECT announced FROM relay_recovery"))
    assert db.parked() == []


def test_a_worker_wakes_where_no_day_is(kitchen: Kitchen, db: Database) -> None:
    """The machine was suspended for days: beats, events and retention go on, although no clock of ours has run."""
    db.rows("TRUNCATE canary")
    db.fill(rye=5)
    kitchen.start_here()
    worker = kitchen.worker(beats=True)
    with running(worker):
        wait_until(lambda: worker.consumer_loop.joined)
        wait_until(lambda: db.one(BEATS))
        with without_a_day(db):
            seen = db.one(BEATS)
            kitchen.tell(BreadOrdered("o-1"))
            kitchen.flush()
            wait_until(db.emitted)
            wait_until(lambda: db.one(BEATS) > seen)
    assert db.parked() == []


def test_an_answer_finds_its_day(db: Database) -> None:
    """The processor's answer comes when no day is there: it is recorded, not parked, and asked for once."""
    ordered(db, "o-1")
    oven = Oven()
    oven.door.clear()
    with working(db, oven):
        wait_until(lambda: oven.calls)
        with without_a_day(db):
            oven.door.set()
            done(db, 1)
    assert (set(oven.calls.values()), db.parked()) == ({1}, [])


def test_a_worker_outlives_what_is_no_inputs_fault(kitchen: Kitchen, db: Database) -> None:
    """A beat that a constraint refuses, and a timer's: no input is to blame, and no process ends for it."""
    db.rows("TRUNCATE canary")
    kitchen.start_here()
    worker = kitchen.worker(beats=True)
    with running(worker) as (run,):
        wait_until(lambda: worker.consumer_loop.joined)
        db.rows("ALTER TABLE outbox ADD CONSTRAINT odd CHECK (type <> 'canary.beat') NOT VALID")
        try:
            with capture_logs() as told:
                wait_until(lambda: [one for one in told if one["event"] == "batch not committed"])
        finally:
            db.rows("ALTER TABLE outbox DROP CONSTRAINT odd")
        seen = db.one(BEATS) or 0
        wait_until(lambda: (db.one(BEATS) or 0) > seen)
        assert run.failure is None


def test_a_record_with_a_long_key_is_parked(kitchen: Kitchen, db: Database) -> None:
    """No index would take its key: it is parked under the key's beginning, and what is behind it is handled."""
    db.fill(rye=5)
    kitchen.start_here()
    long = "".join(f"{n:x}" for n in range(70_000))
    kitchen.tell(BreadOrdered(long), 0)
    kitchen.tell(BreadOrdered("o-1"), 0)
    kitchen.flush()
    with running(kitchen.worker()):
        wait_until(db.emitted)
    assert db.parked("error_class", "length(line)") == [("UNDECODABLE", KEY_MAX)]
