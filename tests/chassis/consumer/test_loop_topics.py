"""A topic that is not what it was stops the worker with the reason: nothing is ever skipped silently."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka.cimpl import NewPartitions

from quadrille.consumer.worker import WorkerRole
from quadrille.handlers import HandlerRegistry
from quadrille.kafka.requirements import OF_TOPICS, TopicSeen
from quadrille.kafka.topics import StoppedError
from quadrille.messages import Event
from quadrille.observability.readiness import NotReadyError
from quadrille.service import Service
from tests.chassis.support import sample_service
from tests.chassis.support.database import Database, wait_until
from tests.chassis.support.kafka_harness import Kitchen, Running, running
from tests.chassis.support.sample_messages import OrderDropped
from tests.chassis.support.sample_service import Pantry

if TYPE_CHECKING:
    from quadrille_cli.stack import Stack

TROUBLESHOOTING = Path(__file__).parents[3] / "docs" / "troubleshooting.md"
HANDLED = "SELECT count(*) FROM inbox"


def handled(db: Database, count: int) -> None:
    """Wait until so many inputs were handled."""
    wait_until(lambda: db.one(HANDLED) == count, what=f"{count} inputs handled")


@dataclass(frozen=True, slots=True)
class KilnFired(Event, source="kiln"):
    """An event on a topic of its own, which tests may delete."""

    order_id: str


def note(fired: KilnFired, _: Pantry) -> None:
    """Only hear it."""


@pytest.fixture
def kiln(kitchen: Kitchen) -> Service[Any]:
    """A service that hears one topic of one partition, made for one test."""
    KilnFired.topic = f"kiln.{kitchen.name}"
    on = HandlerRegistry(kitchen.name, Pantry)
    on.learns(note)
    kitchen.make(KilnFired.topic)
    return replace(sample_service.service(), on=on)


def fire(kitchen: Kitchen, count: int) -> None:
    """Put so many events on the kiln's topic."""
    for n in range(count):
        kitchen.tell(KilnFired(f"o-{n}"))
    kitchen.flush()


def stopped(running: Running) -> str:
    """Wait for the worker to stop by itself; return why."""
    running.thread.join(60)
    assert isinstance(running.failure, StoppedError), running.failure
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

    assert "deleted and made anew: found id" in stopped(worker)


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


LOSSY = {
    "kafka.cleanup": {"cleanup_policy": "compact"},
    "kafka.retention": {"retention_ms": "3600000"},
    "kafka.min-insync": {"min_insync_replicas": "2"},
    "kafka.unclean-election": {"unclean_leader_election_enable": "true"},
}
"""What is required of topics, and a setting of a topic of one broker that breaks it."""


def test_everything_required_of_topics_has_its_case() -> None:
    """Whatever a worker refuses of a topic is broken here."""
    assert LOSSY.keys() == OF_TOPICS.keys()
    assert all("worker" in rule.roles for rule in OF_TOPICS.values())


@pytest.mark.parametrize("name", LOSSY)
def test_a_topic_that_may_lose_events_stops_a_worker_that_starts(
    kitchen: Kitchen, kiln: Service[Any], db: Database, name: str
) -> None:
    """It says which topic, what is found and wanted and the way out, and has handled nothing; mended, it goes on."""
    fire(kitchen, 3)
    usual = {"cleanup_policy": "delete", "retention_ms": "-1", "min_insync_replicas": "1"}
    kitchen.configure(KilnFired.topic, **LOSSY[name])

    why = stopped(Running(kitchen.worker(kiln).run))
    assert f"({name}, topic {KilnFired.topic})" in why
    assert f"wanted {OF_TOPICS[name].wants}; fix: {OF_TOPICS[name].fix}" in why
    assert db.one(HANDLED) == 0
    kitchen.configure(KilnFired.topic, **usual, unclean_leader_election_enable="false")
    with running(kitchen.worker(kiln)):
        handled(db, 3)


def test_an_acknowledgement_is_never_one_brokers_of_three() -> None:
    """One broker is enough of one or of two, of three it is not; more than there are is never given."""
    look = OF_TOPICS["kafka.min-insync"].look
    good = {(1, 1), (1, 2), (2, 2), (2, 3), (3, 3)}
    for least, replicas in itertools.product((1, 2, 3), repeat=2):
        seen = look(TopicSeen("kiln", {"min.insync.replicas": str(least)}, replicas))
        assert seen.good is ((least, replicas) in good), seen


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


def test_retention_that_overtakes_a_running_worker_stops_it(kitchen: Kitchen, kiln: Service[Any], db: Database) -> None:
    """Its position lies before the first record left: it stops with topic, partition, position and bounds."""
    fire(kitchen, 5)
    worker = Running(kitchen.worker(kiln).run)
    handled(db, 5)
    kitchen.cut(KilnFired.topic, 3)
    db.rows("UPDATE position SET next_offset = 1 WHERE topic = %s", KilnFired.topic)
    fire(kitchen, 1)

    assert f"{KilnFired.topic}[0] holds 3 to 6, the position is 1: retention overtook this worker" in stopped(worker)


def test_a_position_taken_away_from_a_running_worker_begins_anew(
    kitchen: Kitchen, kiln: Service[Any], db: Database
) -> None:
    """Its row is deleted under it: it reads the partition from its beginning, and what it has handled it has Seen."""
    fire(kitchen, 3)
    with running(kitchen.worker(kiln)):
        handled(db, 3)
        db.rows("DELETE FROM position WHERE topic = %s", KilnFired.topic)
        fire(kitchen, 2)
        handled(db, 5)
        wait_until(lambda: kitchen.caught_up(KilnFired.topic))


WAYS_OUT = re.findall(r"```sql\n(.+?)```", TROUBLESHOOTING.read_text("utf-8"), re.DOTALL)


def way_out(words: str, **names: str) -> str:
    """Return the one piece of SQL in docs/troubleshooting.md with these words, names of its example replaced."""
    [found] = [sql for sql in WAYS_OUT if words in sql]
    for name, value in names.items():
        found = found.replace(name.replace("_", "."), value)
    return str(found)


@contextlib.contextmanager
def in_its_role(kitchen: Kitchen, service: Service[Any]) -> Iterator[WorkerRole]:
    """Run a worker as its process does, looking again soon when it had to stop."""
    role = WorkerRole(lambda: kitchen.worker(service), retry_seconds=0.2)
    run = Running(role.run)
    try:
        yield role
    finally:
        run.end()


def refused(check: Callable[[], None]) -> str:
    """Return why a check says not ready, or nothing."""
    try:
        check()
    except NotReadyError as why:
        return str(why)
    return ""


def test_the_way_out_of_a_topic_made_anew_works(kitchen: Kitchen, kiln: Service[Any], db: Database) -> None:
    """Not ready with the reason while it lasts; what docs/troubleshooting.md says, and it hears the new one at once."""
    fire(kitchen, 3)
    with running(kitchen.worker(kiln)):
        handled(db, 3)
    kitchen.drop(KilnFired.topic)
    kitchen.make(KilnFired.topic)
    fire(kitchen, 9)

    with in_its_role(kitchen, kiln) as role:
        wait_until(lambda: "deleted and made anew" in refused(role.allowed))
        assert refused(role.assigned)
        db.rows(way_out("DELETE FROM topic", order_events=KilnFired.topic))
        handled(db, 12)
        wait_until(lambda: not refused(role.allowed) and not refused(role.assigned))


def test_the_way_out_of_retention_that_overtook_works(kitchen: Kitchen, kiln: Service[Any], db: Database) -> None:
    """Not ready with the reason while it lasts; then it goes on with the first record that is left."""
    fire(kitchen, 5)
    db.start_at(KilnFired.topic, 0, 1)
    kitchen.cut(KilnFired.topic, 3)

    with in_its_role(kitchen, kiln) as role:
        wait_until(lambda: "holds 3 to 5, the position is 1" in refused(role.allowed))
        db.rows(way_out("AND partition = 3", order_events=KilnFired.topic).replace("partition = 3", "partition = 0"))
        handled(db, 2)
        wait_until(lambda: not refused(role.allowed) and not refused(role.assigned))


def test_another_kafka_cluster_stops_the_worker(
    kitchen: Kitchen, db: Database, new_stack: Callable[..., Stack]
) -> None:
    """A stranger's Kafka under our address: nothing of it is heard, the reason names both and how to go back."""
    kitchen.start_here()
    with running(kitchen.worker()) as [worker]:
        wait_until(kitchen.caught_up)
        assert worker.failure is None
    with new_stack(parts={"kafka", "topics"}) as stranger:
        theirs = Kitchen(stranger.kafka_bootstrap, db)
        theirs.tell(OrderDropped("o-strange"), 3)
        theirs.flush()
        why = stopped(Running(kitchen.worker(kafka_bootstrap=stranger.kafka_bootstrap).run))

    assert f"KAFKA_BOOTSTRAP={stranger.kafka_bootstrap} is another Kafka cluster: found " in why
    assert db.one(HANDLED) == 0


def test_a_topic_with_other_partitions_stops_the_worker(kitchen: Kitchen, kiln: Service[Any], db: Database) -> None:
    """More partitions than when it was first read: order per order no longer holds, and the worker says so."""
    fire(kitchen, 3)
    with running(kitchen.worker(kiln)):
        handled(db, 3)
    kitchen.admin.create_partitions([NewPartitions(KilnFired.topic, 2)])[KilnFired.topic].result(10)

    assert "has 2 partitions, wanted 1" in stopped(Running(kitchen.worker(kiln).run))
