"""Beats said and heard: each partition in turn, one a service; silence is told once, and never when it is ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from structlog.testing import capture_logs

from quadrille.avro.registry import NotRegisteredError
from quadrille.consumer.assignment import Assignment
from quadrille.consumer.heartbeat import (
    BEAT_SECONDS,
    BEGIN,
    KEYS,
    NEVER_SECONDS,
    SILENT_SECONDS,
    HeartbeatMonitor,
    beat,
)
from quadrille.consumer.loop import BEAT
from quadrille.ids import uuid7
from quadrille.kafka.topics import Topics
from quadrille.messages import Event
from quadrille.system_messages import CanaryBeat
from quadrille.testing.in_memory import PlainCodec
from tests.chassis.support.database import Database, wait_until
from tests.chassis.support.kafka_harness import TOPICS, Kitchen, Told, running
from tests.chassis.support.records import record_headers
from tests.chassis.support.sample_messages import MealOrdered
from tests.chassis.support.sample_service import reactions

BEATS = "SELECT aggregateid, sequence, traceparent, payload FROM outbox WHERE type = 'canary.beat' ORDER BY ctid"
TOLD = "SELECT type, payload FROM outbox WHERE type LIKE 'service.%%' ORDER BY ctid"
SAID_AT = datetime(2099, 11, 21, 9, 14, 3, tzinfo=UTC)  # after whatever else stands in the table


class Worker:
    """A worker's heartbeat monitor with a clock of its own; its group stands at the end of every partition."""

    def __init__(self, kitchen: Kitchen) -> None:
        self.db, self.now = kitchen.db, 1000.0
        self.service = kitchen.service()
        self.tx = kitchen.db.connect()
        self.heartbeat = HeartbeatMonitor(self.service, Topics(kitchen.bootstrap), PlainCodec(), lambda: self.now)
        self.assignment = Assignment(self.service.on.topics())
        ends = kitchen.ends(*TOPICS)
        self.assignment.take([TopicPartition(*place, end) for place, end in ends.items()], ends)
        self.assignment.look()

    def look(self) -> None:
        """Do what a consumer loop does each round."""
        self.heartbeat.poll(self.tx, self.assignment)

    def hear(self, *sources: str, at: datetime = SAID_AT) -> None:
        """Read a beat of each and write it down."""
        for source in sources:
            self.heartbeat.hear(f"{source}.events", PlainCodec().encode(CanaryBeat(source, 1, at)))
        with self.tx.transaction():
            self.heartbeat.record(self.tx)
        self.heartbeat.flush()

    def wait(self, seconds: float, *others: Worker) -> None:
        """Let time pass, a second at a time, here and in the database, while this worker and others go on looking."""
        for _ in range(round(seconds * 2)):
            self.db.rows("UPDATE canary SET heard_at = heard_at - interval '0.5 s', said_at = said_at - interval '1 s'")
            for worker in (self, *others):
                worker.now += 0.5
                worker.look()

    def told(self) -> list[tuple[str, str]]:
        """Return the announcements, and whom each is about."""
        return [(kind, body(payload)["silent"]) for kind, payload in self.db.rows(TOLD)]


def body(payload: bytes) -> dict[str, Any]:
    return dict(json.loads(payload[5:]))


@pytest.fixture
def begins(kitchen: Kitchen) -> Iterator[Callable[[], Worker]]:
    """Makes workers of one group that have just begun, with a table nobody has written in."""
    kitchen.db.rows("TRUNCATE canary")
    kitchen.start_here()
    made: list[Worker] = []

    def begun() -> Worker:
        made.append(Worker(kitchen))
        made[-1].look()
        return made[-1]

    yield begun
    for one in made:
        one.tx.close()


@pytest.fixture
def worker(begins: Callable[[], Worker]) -> Worker:
    """A worker that began half a minute ago and has just heard order and payment."""
    made = begins()
    made.now += 30
    made.look()
    made.hear("order", "payment")
    return made


def test_a_service_beats_once_whoever_works(db: Database, kitchen: Kitchen) -> None:
    """Two workers at once: one beat; later the next, each under the next key, numbered in its stream, without span."""
    db.rows("TRUNCATE canary")
    service = kitchen.service()
    with db.connect() as mine, db.connect() as theirs:
        mine.execute(BEGIN, [[service.name]])
        emitted = []
        for _ in range(2 * len(KEYS)):
            db.rows("UPDATE canary SET said_at = said_at - interval '2 s'")
            emitted.append([beat(mine, service), beat(theirs, service)])

    assert emitted == [[True, False]] * 24
    rows = db.rows(BEATS)
    assert [row[0] for row in rows] == [*KEYS[1:], *KEYS, KEYS[0]]
    assert [row[1] for row in rows] == [1] * 12 + [2] * 12
    assert all(row[2].endswith("-00") for row in rows)
    assert [body(row[3])["number"] for row in rows] == list(range(1, 25))


def test_the_keys_fall_into_each_partition_in_turn(kitchen: Kitchen) -> None:
    """Key n of the list is hashed into partition n of 12, by the producer every relay uses."""
    told = [Told("order.events") for _ in KEYS]
    for one, key in zip(told, KEYS, strict=True):
        kitchen.put(one, key.encode(), b"\0", record_headers(one.id, BEAT.decode()), None)
    kitchen.flush()

    assert [one.partition for one in told] == list(range(12))


def test_beats_are_heard_and_stepped_over(kitchen: Kitchen, db: Database) -> None:
    """A worker notes who beats and moves its position at once; what it finds of earlier days is no sign of life."""
    db.rows("TRUNCATE canary")
    kitchen.start_here()

    def put(source: str, partition: int, number: int) -> None:
        told = Told(f"{source}.events")
        value = PlainCodec().encode(CanaryBeat(source, number, SAID_AT))
        kitchen.put(told, KEYS[partition].encode(), value, record_headers(told.id, BEAT.decode()), partition)

    put("payment", 3, 7)
    kitchen.flush()
    with running(kitchen.worker(beats=True)) as [run]:
        wait_until(kitchen.caught_up)
        wait_until(lambda: db.one("SELECT count(*) FROM canary") == 3)
        put("order", 4, 8)
        kitchen.tell(MealOrdered("o-1"), 4)
        put("order", 4, 9)
        kitchen.flush()
        wait_until(lambda: db.one("SELECT number FROM canary WHERE source = 'order'") == 9)
        wait_until(kitchen.caught_up)
        wait_until(lambda: db.rows(BEATS))
        assert run.failure is None

    assert db.rows("SELECT number FROM canary WHERE source = 'payment'") == [(0,)]
    assert db.rows("SELECT said_at FROM canary WHERE source = 'order'") == [(SAID_AT,)]
    assert db.one("SELECT count(*) FROM inbox") == 1
    assert db.one("SELECT count(*) FROM parked") == 0


def test_a_topic_that_is_watched_is_heard_for_its_beats_alone(kitchen: Kitchen, db: Database) -> None:
    """A service may hear the beats of one it consumes nothing of; whatever else lies there is stepped over unread."""
    db.rows("TRUNCATE canary")
    kitchen.make(watched := f"lodger-{kitchen.name}.events")
    source = watched.removesuffix(".events")
    on = reactions(kitchen.name, watches=(source, "order"))
    assert (on.watched(), on.subscribed()) == ((watched,), ("order.events", "payment.events", watched))
    kitchen.start_here(*TOPICS, watched)
    beats = PlainCodec().encode(CanaryBeat(source, 5, SAID_AT))

    kitchen.put(Told(watched), b"o-1", b"garbage", (), 0)
    kitchen.put(Told(watched), b"o-1", b"{}", record_headers(uuid7(), "meal.ordered"), 0)
    kitchen.flush()
    with running(kitchen.worker(replace(kitchen.service(), on=on), beats=True)):
        wait_until(lambda: kitchen.caught_up(*TOPICS, watched))
        kitchen.put(Told(watched), KEYS[0].encode(), beats, record_headers(uuid7(), BEAT.decode()), 0)
        kitchen.flush()
        wait_until(lambda: db.rows("SELECT number FROM canary WHERE source = %s", source) == [(5,)])
        wait_until(lambda: kitchen.caught_up(*TOPICS, watched))

    assert db.one("SELECT count(*) FROM parked") == 0
    assert db.one("SELECT count(*) FROM inbox") == 0


def test_a_dead_participant_is_told_of_within_eight_seconds(worker: Worker) -> None:
    """From the last beat until the announcement is committed: at most eight seconds of the hearer's own clock."""
    began = worker.now
    while not worker.told():
        worker.wait(0.5)

    assert worker.now - began <= 8
    assert SILENT_SECONDS > 3 * BEAT_SECONDS, "one that is only late would be called silent"


def test_silence_and_return_are_told_once(worker: Worker, begins: Callable[[], Worker]) -> None:
    """Three beats missed: one announcement however many workers miss them; one more when it is heard again."""
    other = begins()
    for _ in range(4):
        worker.wait(1.5, other)
        worker.hear("payment")
    worker.wait(SILENT_SECONDS - 6, other)
    assert worker.told() == []
    worker.hear("payment")
    worker.wait(1.0, other)
    assert worker.told() == [("service.silent", "order")]
    fact = body(worker.db.rows(TOLD)[0][1])
    assert fact["service"] == worker.service.name
    for _ in range(6):
        worker.wait(5, other)
        other.hear("payment")
    assert worker.told() == [("service.silent", "order")]

    with capture_logs() as said:
        other.hear("order")
        worker.hear("order")

    assert [(line["event"], line["seconds"]) for line in said] == [("service heard again", 0.0)]  # since 2099
    assert worker.told() == [("service.silent", "order"), ("service.heard", "order")]
    back = body(worker.db.rows(TOLD)[1][1])
    assert (back["since_at"], back["service"]) == (fact["since_at"], worker.service.name)
    assert worker.db.rows("SELECT silent_since FROM canary WHERE source = 'order'") == [(None,)]


def test_what_another_worker_hears_is_heard(worker: Worker, begins: Callable[[], Worker]) -> None:
    """A worker has only some partitions: beats that only its colleague reads are signs of life."""
    other = begins()
    for _ in range(15):
        worker.wait(2, other)
        other.hear("order", "payment")

    assert worker.told() == []


def test_records_not_yet_read_are_no_silence(worker: Worker, kitchen: Kitchen) -> None:
    """Something on the topic that nobody of the group has handled: a beat may be behind it, nobody is accused."""
    kitchen.tell(MealOrdered("o-1"), 2)
    kitchen.flush()
    worker.wait(SILENT_SECONDS + 3)
    assert worker.told() == [("service.silent", "payment")]  # of whose topic all is read

    worker.db.rows("UPDATE position SET next_offset = next_offset + 1 WHERE (topic, partition) = ('order.events', 2)")
    worker.assignment.read.pop(("order.events", 2))  # a colleague's partition, and it has come that far
    worker.wait(2)

    assert ("service.silent", "order") in worker.told()


@pytest.mark.parametrize("reason", ["doubt", "stall", "not caught up"])
def test_our_own_absence_is_nobodys_silence(worker: Worker, reason: str) -> None:
    """While we could not hear nobody is accused; afterwards the full time must pass once more."""
    worker.wait(5)
    if reason == "not caught up":
        worker.assignment.caught_up = False
    worker.now += 4
    if reason == "doubt":
        worker.heartbeat.suspend()
    worker.db.rows("UPDATE canary SET heard_at = heard_at - interval '4 s'")
    worker.wait(SILENT_SECONDS - 1)
    assert worker.told() == []
    worker.assignment.caught_up = True

    worker.wait(2)

    assert sorted(worker.told()) == [("service.silent", "order"), ("service.silent", "payment")]


def test_one_never_heard_since_we_began_has_a_minute(begins: Callable[[], Worker], db: Database) -> None:
    """After a start others may come later than we do: they are given longer, whatever stood in the table before."""
    long_ago = timedelta(hours=1)
    db.rows("INSERT INTO canary VALUES ('order', 5, now() - %s, now() - %s)", long_ago, long_ago)
    worker = begins()

    worker.wait(NEVER_SECONDS - 2)
    assert worker.told() == []
    worker.wait(4)

    assert sorted(worker.told()) == [("service.silent", "order"), ("service.silent", "payment")]


def test_a_beat_nobody_can_read_is_no_sign_of_life(worker: Worker) -> None:
    """Bytes that are no beat are left out and said in the log; the listening goes on."""
    worker.heartbeat.hear("order.events", b"nonsense")

    assert not worker.heartbeat.news


class Unregistered:
    """The encoder of a service whose schemas nobody has put into the registry."""

    def encode(self, fact: Event) -> bytes:
        """Find no id for a schema."""
        message = f"{type(fact).__name__} is not registered: run quadrille schema apply"
        raise NotRegisteredError(message)


def test_a_beat_that_cannot_be_said_names_the_schema_and_the_way_out(worker: Worker) -> None:
    """While a schema is not registered the log says which, and what to run."""
    missing = "CanaryBeat is not registered: run quadrille schema apply"
    worker.heartbeat.service = replace(worker.service, codec=Unregistered())
    worker.db.rows("UPDATE canary SET said_at = said_at - interval '1 hour'")
    worker.now += SILENT_SECONDS
    with capture_logs() as told:
        worker.look()

    assert [(line["event"], line["reason"]) for line in told] == [("no beat", missing)]
