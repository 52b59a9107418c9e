"""A worker under load: databases and brokers restart, workers are killed, join and leave; nothing lost or doubled."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import pytest

from quadrille.ids import uuid7
from quadrille.observability.readiness import NotReadyError
from quadrille_cli.stack import Stack
from tests.chassis.support.database import Database, envelope_of, wait_until
from tests.chassis.support.kafka_harness import Kitchen, Running, running
from tests.chassis.support.sample_messages import BreadOrdered, MealOrdered, OrderDropped, TastingBooked

HANDLED = "SELECT count(*) FROM inbox"


def load(kitchen: Kitchen, orders: int, name: str = "o") -> None:
    """Put an order and its drop on the topic, twice each: a relay that was killed sends again."""
    for n in range(orders):
        order, drop = kitchen.tell(BreadOrdered(f"{name}-{n}")), kitchen.tell(OrderDropped(f"{name}-{n}"))
        kitchen.tell_again(order, BreadOrdered(f"{name}-{n}"))
        kitchen.tell_again(drop, OrderDropped(f"{name}-{n}"))
    kitchen.flush()


def all_went_well(kitchen: Kitchen, db: Database, orders: int) -> None:
    """Wait until everything is handled; then every loaf is back, each event said once and numbered, nothing parked."""
    wait_until(lambda: db.one(HANDLED) == 2 * orders, f"{2 * orders} handled, not {db.one(HANDLED)}")
    wait_until(kitchen.caught_up)
    numbers = [n for (n,) in db.emitted("sequence")]
    assert (len(numbers), max(numbers)) == (2 * orders, 2)
    assert (db.one("SELECT sum(available) FROM level"), db.parked()) == (1000, [])


def test_a_batch_may_be_a_single_record(kitchen: Kitchen, db: Database) -> None:
    """With batches of one every record is still heard, in order."""
    kitchen.start_here()
    for _ in range(5):
        kitchen.tell(MealOrdered("o-1"))
    kitchen.flush()

    with running(kitchen.worker(batch_max=1)):
        wait_until(lambda: db.one(HANDLED) == 5)

    assert db.one("SELECT max(sequence) FROM outbox WHERE aggregatetype LIKE 'pantry-%%'") == 10


def test_a_database_that_restarts_loses_and_doubles_nothing(
    kitchen: Kitchen, db: Database, pantry_stack: Stack
) -> None:
    """The database is killed under a running worker and comes back: nothing parked, everything handled once."""
    db.fill(rye=1000)
    kitchen.start_here()
    server = pantry_stack.process("postgres:inventory")
    with running(kitchen.worker(batch_max=5)):
        load(kitchen, 150)
        wait_until(lambda: db.one(HANDLED) > 20)
        server.kill()
        server.start()
        all_went_well(kitchen, db, 150)


def test_a_broker_that_restarts_loses_and_doubles_nothing(kitchen: Kitchen, db: Database, pantry_stack: Stack) -> None:
    """The broker is killed: a running worker reads on where it stood, one stops, one that starts waits."""
    db.fill(rye=1000)
    kitchen.start_here()
    broker = pantry_stack.process("kafka")
    with running(kitchen.worker(batch_max=5)):
        leaving = Running(kitchen.worker(batch_max=5).run)
        load(kitchen, 100, "before")
        wait_until(lambda: db.one(HANDLED) > 20)
        broker.kill()
        try:
            leaving.end()  # with the broker away: it does not wait for it
            coming = Running(kitchen.worker(batch_max=5).run)
        finally:
            broker.start()
        load(kitchen, 50, "after")
        all_went_well(kitchen, db, 150)
        coming.end()


@pytest.mark.proves("late.timer")
def test_a_timer_comes_after_what_was_unread_when_it_fell_due(kitchen: Kitchen, db: Database) -> None:
    """The worker was away past a timer's time: it first reads all there is, then the timer fires."""
    db.fill(rye=1000)
    kitchen.start_here()
    db.commit(envelope_of(TastingBooked("o-1", datetime.now(UTC))), service=kitchen.service())
    load(kitchen, 100, "other")
    last = [kitchen.tell(BreadOrdered("o-1"), 4), kitchen.tell(OrderDropped("o-1"), 4)][-1]
    kitchen.flush()
    assert last.offset > 0

    with running(kitchen.worker(batch_max=7)):
        wait_until(lambda: db.one("SELECT count(*) FROM task") == 0)

    told = "SELECT type FROM outbox WHERE aggregateid = 'o-1' AND aggregatetype <> 'saga.audit' ORDER BY sequence"
    assert [kind for (kind,) in db.rows(told)][-1] == "tasting.begun"


def test_workers_that_join_and_leave_under_load_handle_everything_once(kitchen: Kitchen, db: Database) -> None:
    """While records come, a second worker joins, the first leaves, a third joins: each effect once, none missing."""
    db.fill(rye=1000)
    kitchen.start_here()
    first = Running(kitchen.worker(batch_max=10).run)
    load(kitchen, 100, "a")
    second = Running(kitchen.worker(batch_max=10).run)
    load(kitchen, 100, "b")
    wait_until(lambda: db.one(HANDLED) > 100)
    first.end()
    third = Running(kitchen.worker(batch_max=10).run)
    load(kitchen, 100, "c")
    all_went_well(kitchen, db, 300)
    second.end()
    third.end()


def test_a_killed_and_a_frozen_worker_are_replaced(kitchen: Kitchen, db: Database) -> None:
    """SIGKILL to one, SIGSTOP to another: the third handles all there is, and the zombie that wakes is fenced.

    How long it takes to replace them is measured: ``bench/takeover.py``.
    """
    db.fill(rye=1000)
    kitchen.start_here()
    with running(kitchen.worker(batch_max=10)), kitchen.process() as dying, kitchen.process() as freezing:
        dying.has_partitions()
        freezing.has_partitions()
        load(kitchen, 50, "a")
        wait_until(lambda: db.one(HANDLED) == 100)
        freezing.freeze()  # with no transaction open: else its locks are its session's for as long as Postgres allows
        load(kitchen, 100, "b")
        dying.kill()
        load(kitchen, 50, "c")
        wait_until(lambda: db.one(HANDLED) == 400)
        freezing.thaw()
        load(kitchen, 50, "d")
        all_went_well(kitchen, db, 250)


def test_a_recovery_the_relay_has_noted_is_told_by_the_worker(kitchen: Kitchen, db: Database) -> None:
    """The relay may not write into the outbox: the next worker that starts, or looks, says relay.recovered."""
    kitchen.start_here()
    db.rows("INSERT INTO relay_recovery (id, cause, rows, seconds) VALUES (%s, 'slot lost', 3, 0.5)", uuid7())

    with running(kitchen.worker()):
        wait_until(lambda: db.emitted("type", "aggregatetype") == [("relay.recovered", "ops.events")])
    assert db.one("SELECT bool_and(announced) FROM relay_recovery")


def test_timers_wait_for_what_another_worker_has_still_to_handle(kitchen: Kitchen, db: Database) -> None:
    """A worker that has read its own partitions is not caught up before its colleague, or who takes over, has."""
    kitchen.start_here()
    colleague = kitchen.consumer()
    colleague.subscribe(["order.events"])
    wait_until(lambda: (colleague.poll(0.05), colleague.assignment())[1])
    for n in range(12):
        kitchen.tell(OrderDropped(f"o-{n}"), n)
    kitchen.flush()
    worker = kitchen.worker()
    assignment = worker.consumer_loop.assignment

    with running(worker):
        wait_until(lambda: (colleague.poll(0.05), assignment.ends)[1])
        wait_until(lambda: db.one(HANDLED) == sum(topic == "order.events" for topic, _ in [*assignment.ends]))
        assignment.look()
        assert not worker.consumer_loop.caught_up()
        colleague.close()
        wait_until(worker.consumer_loop.caught_up)
        assert db.one(HANDLED) == 12


def test_a_worker_says_how_much_it_has_still_to_read(kitchen: Kitchen, db: Database) -> None:
    """With a backlog before it it is not at the end, and tells how much is left; when all is handled it is."""
    kitchen.start_here()
    for number in range(300):
        kitchen.tell(OrderDropped(f"o-{number}"))
    kitchen.flush()
    worker = kitchen.worker()
    with db.connect() as tx:
        worker.topics.check(tx, list(kitchen.service().on.subscribed()))
        worker.progress.look(tx)
    with pytest.raises(NotReadyError, match="it has 300 records still to read"):
        worker.progress.at_the_end()

    with running(worker):
        wait_until(lambda: db.one("SELECT count(*) FROM inbox") == 300, "all are handled")

        def at_the_end() -> bool:
            with contextlib.suppress(NotReadyError):
                worker.progress.at_the_end()
                return True
            return False

        wait_until(at_the_end, "it has seen that it is at the end")
