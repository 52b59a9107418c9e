"""A topic that is not what it was stops the worker with the reason: nothing is ever skipped silently."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from chassis.listener import Stopped
from chassis.registry import Reactions
from chassis.service import Service
from chassis.tests import pantry
from chassis.tests.kitchen import Kitchen, Running, running
from chassis.tests.pantry import Pantry
from chassis.tests.workbench import Database, wait_until
from chassis.words import Fact

HANDLED = "SELECT count(*) FROM inbox"


def handled(db: Database, count: int) -> None:
    """Wait until so many inputs were handled."""
    wait_until(lambda: db.one(HANDLED) == count, what=f"{count} inputs handled")


@dataclass(frozen=True, slots=True)
class KilnFired(Fact, source="kiln"):
    """A fact on a topic of its own, which tests may delete."""

    order_id: str


def note(fired: KilnFired, _: Pantry) -> None:
    """Only hear it."""


@pytest.fixture
def kiln(kitchen: Kitchen) -> Service[Any]:
    """A service that hears one topic of one partition, made for one test."""
    KilnFired.topic = f"kiln.{kitchen.name}"
    on = Reactions(kitchen.name, Pantry)
    on.learns(note)
    kitchen.make(KilnFired.topic)
    return replace(pantry.service(), on=on)


def fire(kitchen: Kitchen, count: int) -> None:
    """Put so many facts on the kiln's topic."""
    for n in range(count):
        kitchen.tell(KilnFired(f"o-{n}"))
    kitchen.flush()


def stopped(running: Running) -> str:
    """Wait for the worker to stop by itself; return why."""
    running.thread.join(60)
    assert isinstance(running.failure, Stopped), running.failure
    return str(running.failure)


def test_a_new_service_hears_a_topic_from_its_beginning(kitchen: Kitchen, kiln: Service[Any], db: Database) -> None:
    """Without a position the first record there is the first one heard."""
    fire(kitchen, 3)
    with running(kitchen.worker(kiln)):
        handled(db, 3)
    assert db.position(KilnFired.topic) == 3


def test_a_topic_made_anew_stops_the_worker_that_hears_it(kitchen: Kitchen, kiln: Service[Any], db: Database) -> None:
    """Deleted and recreated within a heartbeat, with more records than before: it stops and says what to do."""
    fire(kitchen, 3)
    worker = Running(kitchen.worker(kiln).run)
    handled(db, 3)
    kitchen.drop(KilnFired.topic)
    kitchen.make(KilnFired.topic)
    fire(kitchen, 9)

    assert "delete its rows in the tables topic and position" in stopped(worker)


def test_a_topic_made_anew_stops_a_worker_that_starts(kitchen: Kitchen, kiln: Service[Any], db: Database) -> None:
    """Recreated while no worker ran: the next one refuses to start, and says found and wanted."""
    fire(kitchen, 3)
    with running(kitchen.worker(kiln)):
        handled(db, 3)
    kitchen.drop(KilnFired.topic)
    kitchen.make(KilnFired.topic)
    fire(kitchen, 9)

    assert "is not the topic first read" in stopped(Running(kitchen.worker(kiln).run))
    assert db.one(HANDLED) == 3


def test_a_position_beyond_the_end_stops_the_worker(kitchen: Kitchen, kiln: Service[Any], db: Database) -> None:
    """Nothing is there to be read from: somebody has to look."""
    fire(kitchen, 3)
    db.start_at(KilnFired.topic, 0, 4)

    assert "holds 0 to 3, the position is 4" in stopped(Running(kitchen.worker(kiln).run))


def test_retention_that_overtook_the_worker_stops_it(kitchen: Kitchen, kiln: Service[Any], db: Database) -> None:
    """The next record is gone: the worker stops instead of skipping to the first one left."""
    fire(kitchen, 5)
    db.start_at(KilnFired.topic, 0, 1)
    kitchen.cut(KilnFired.topic, 3)

    assert "holds 3 to 5, the position is 1" in stopped(Running(kitchen.worker(kiln).run))
