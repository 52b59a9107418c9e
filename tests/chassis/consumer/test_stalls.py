"""No worker stops hearing for ever: what a client was told of an old assignment does not hold for a new one."""

from __future__ import annotations

import json
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import TopicPartition
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from quadrille.consumer.worker import Worker
from quadrille.observability.progress import Patience
from quadrille.observability.readiness import NotReadyError
from quadrille.service import Tx
from tests.chassis.support.database import Database, wait_until
from tests.chassis.support.kafka_harness import HASTY, Alone, Kitchen, running
from tests.chassis.support.sample_messages import BreadOrdered

if TYPE_CHECKING:
    from quadrille_cli.stack import Stack

HANDLED = "SELECT count(*) FROM inbox"
TOLD = "SELECT type, payload FROM outbox WHERE type LIKE 'progress.%%' ORDER BY ctid"


def told(db: Database) -> list[str]:
    """Return what was announced of stalls."""
    return [kind for kind, _ in db.rows(TOLD)]


def body(payload: bytes) -> dict[str, Any]:
    """Return an event as the plain codec has written it."""
    return dict(json.loads(payload[5:]))


def value(metric: str, **labels: str) -> float:
    """Return what a metric says now."""
    found = REGISTRY.get_sample_value(metric, labels)
    assert found is not None, metric
    return found


class Counted:
    """A way to the database that counts how often it was tried."""

    def __init__(self, db: Database) -> None:
        self.db, self.tries = db, 0

    def connect(self) -> Tx:
        """Connect."""
        self.tries += 1
        return self.db.connect()


def load(kitchen: Kitchen, name: str) -> None:
    """Put an order on every partition."""
    for partition in range(12):
        kitchen.tell(BreadOrdered(f"{name}-{partition}"), partition)
    kitchen.flush()


def keep_back(worker: Worker, topic: str, partition: int) -> None:
    """Let a worker's client bring nothing more of a partition: paused in its own thread, as librdkafka wants it."""
    assignment, done = worker.consumer_loop.assignment, threading.Event()
    look = assignment.look

    def pause_and_look() -> None:
        if not done.is_set():
            worker.consumer_loop.consumer.pause([TopicPartition(topic, partition)])
            done.set()
        look()

    assignment.look = pause_and_look  # type: ignore[method-assign] # the fault
    wait_until(done.is_set, "it is kept back")


def over(worker: Worker) -> bool:
    """Tell whether a worker calls nothing stalled any more."""
    return not worker.progress.reason


def frozen_while_the_database_is_dead(kitchen: Kitchen, db: Database, stack: Stack, worker: Alone) -> None:
    """Kill the database, freeze the worker until its group has given it up, let both come back; orders meanwhile."""
    server, known = stack.process("postgres:inventory"), db.one(HANDLED)
    worker.has_partitions()
    load(kitchen, f"before-{known}")
    wait_until(lambda: db.one(HANDLED) == known + 12, "12 handled")
    server.kill()
    try:
        load(kitchen, f"meanwhile-{known}")
        worker.says("batch not committed")
        worker.freeze()
        wait_until(lambda: not kitchen.members(), "the frozen worker is no member any more")
        worker.thaw()
        worker.says("partitions revoked")
    finally:
        server.start()
    load(kitchen, f"after-{known}")


@pytest.mark.timeout(900)  # of what happens, not of seconds: a session ends, a watchdog waits
def test_a_worker_frozen_while_its_database_is_dead_hears_again(
    kitchen: Kitchen, db: Database, pantry_stack: Stack
) -> None:
    """Its partitions are revoked and assigned again during the outage: everything is handled, no client made anew."""
    db.fill(rye=1000)
    kitchen.start_here()
    with kitchen.process() as worker:
        frozen_while_the_database_is_dead(kitchen, db, pantry_stack, worker)
        wait_until(lambda: db.one(HANDLED) == 36, "36 handled")
        wait_until(kitchen.caught_up)
    assert told(db) == []


@pytest.mark.timeout(900)  # of what happens, not of seconds: a session ends, a watchdog waits
def test_a_worker_that_hears_no_more_is_noticed_and_made_to(
    kitchen: Kitchen, db: Database, pantry_stack: Stack
) -> None:
    """With the old fault planted it is deaf after the same: the watchdog tells it, and a new client hears it all.

    The fault lies in wait for a revocation that comes while it rests: another worker is tried when it came elsewhere.
    """
    db.fill(rye=1000)
    kitchen.start_here()
    for _ in range(5):
        all_of_it = db.one(HANDLED) + 36
        with kitchen.process(plant="pause") as worker:
            frozen_while_the_database_is_dead(kitchen, db, pantry_stack, worker)
            wait_until(partial(lambda wanted: told(db) or db.one(HANDLED) == wanted, all_of_it), "it is deaf, or not")
            if told(db):
                worker.says("client made anew")
                wait_until(partial(lambda wanted: db.one(HANDLED) == wanted, all_of_it), "all is handled")
                wait_until(lambda: told(db) == ["progress.stalled", "progress.resumed"], "both edges told")
                return
    pytest.fail("the fault that is planted made no worker deaf")


def test_a_stall_is_told_in_every_place_and_once(kitchen: Kitchen, db: Database) -> None:
    """A partition that its client keeps back: log, metric, not ready, one event of two workers; then a new client."""
    db.fill(rye=1000)
    kitchen.start_here()
    workers = [kitchen.worker(patience=HASTY) for _ in range(2)]
    with capture_logs() as lines, running(*workers):
        wait_until(lambda: all(one.consumer_loop.assignment.next for one in workers), "both hold partitions")
        wait_until(lambda: sum(len(one.consumer_loop.assignment.next) for one in workers) == 24)
        mine = next(one for one in workers if ("order.events", 3) in one.consumer_loop.assignment.next)
        keep_back(mine, "order.events", 3)
        load(kitchen, "o")
        wait_until(lambda: db.one(HANDLED) == 11, "11 handled")
        for one in workers:
            wait_until(partial(getattr, one.progress, "reason"), "it is told")
            with pytest.raises(NotReadyError, match=r"^nothing handled for \d+ s: order.events\[3\] at \d+ of \d+$"):
                one.progress.ready()
        assert value("quadrille_consumer_lag_records", topic="order.events", partition="3") == 1
        assert value("quadrille_consumer_lag_records", topic="order.events", partition="4") == 0
        assert value("quadrille_stalled_seconds", role="worker") >= HASTY.stalled_after
        wait_until(lambda: db.one(HANDLED) == 12, "12 handled")
        wait_until(lambda: told(db) == ["progress.stalled", "progress.resumed"], "both edges told")
        for one in workers:
            wait_until(partial(over, one), "it is over")
            one.progress.ready()

    assert [line["event"] for line in lines].count("client made anew") >= 1
    assert [line["event"] for line in lines].count("progress stalled") >= 2
    (_, stalled), (_, resumed) = db.rows(TOLD)
    begun, ended = body(stalled), body(resumed)
    assert (begun["service"], begun["role"]) == (kitchen.name, "worker")
    assert "order.events[3] at" in begun["detail"]
    assert ended["since_at"] == begun["since_at"]
    assert ended["took_ms"] >= HASTY.stalled_after * 1000


def test_a_partition_in_nobodys_hands_is_noticed(kitchen: Kitchen, db: Database) -> None:
    """Another member holds half of the partitions and hears nothing: the worker that hears tells of it."""
    db.fill(rye=1000)
    kitchen.start_here()
    deaf = kitchen.consumer()
    deaf.subscribe(["order.events"])
    wait_until(lambda: (deaf.poll(0.05), deaf.assignment())[1])
    worker = kitchen.worker(patience=HASTY)
    try:
        with running(worker):

            def shared() -> bool:
                deaf.poll(0.05)
                return (
                    len(worker.consumer_loop.assignment.next) + len(deaf.assignment())
                    == 24
                    > len(deaf.assignment())
                    > 0
                )

            wait_until(shared, "the partitions are shared")
            held = len(deaf.assignment())
            load(kitchen, "o")
            wait_until(lambda: (deaf.poll(0.05), told(db) == ["progress.stalled"])[1], "the stall is told")
            with pytest.raises(NotReadyError, match=r"^nothing handled for \d+ s: order.events"):
                worker.progress.ready()
            assert db.one(HANDLED) == 12 - held
            deaf.close()
            wait_until(lambda: db.one(HANDLED) == 12, "12 handled")
            wait_until(lambda: told(db) == ["progress.stalled", "progress.resumed"], "both edges told")
    finally:
        deaf.close()


def test_an_outage_is_no_stall_and_no_reason_for_a_new_client(
    kitchen: Kitchen, db: Database, pantry_stack: Stack
) -> None:
    """The database away for several times the patience, with orders waiting: not ready, never called a stall."""
    db.fill(rye=1000)
    kitchen.start_here()
    server = pantry_stack.process("postgres:inventory")
    counted = Counted(db)
    worker = kitchen.worker(patience=Patience(1, 1), connect=counted.connect)
    with capture_logs() as lines, running(worker):
        wait_until(lambda: len(worker.consumer_loop.assignment.next) == 24)
        server.kill()
        try:
            load(kitchen, "o")
            wait_until(lambda: worker.consumer_loop.waits, "it waits")
            with pytest.raises(NotReadyError, match="waits to be committed: the database: OperationalError"):
                worker.consumer_loop.ready()
            before = counted.tries
            wait_until(lambda: counted.tries > before + 40, "forty tries in vain")
        finally:
            server.start()
        wait_until(lambda: db.one(HANDLED) == 12, "12 handled")
        worker.consumer_loop.ready()

    assert not {"progress stalled", "client made anew"} & {line["event"] for line in lines}
    assert told(db) == []
