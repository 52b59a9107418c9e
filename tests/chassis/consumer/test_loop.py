"""From Kafka into commit: everything heard once and in order, whatever comes, stops or moves in between."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from quadrille.consumer.deserializer import RecordDeserializer
from quadrille.consumer.loop import ConsumerLoop, ConsumerPorts
from quadrille.kafka.topics import Topics
from quadrille.messages import Event, Infrastructure
from quadrille.observability.tracing import Spans
from quadrille.processing.envelope import Envelope, Outcome
from quadrille.processing.telemetry import Telemetry
from quadrille.service import Tx
from quadrille.testing.in_memory import PlainCodec
from tests.chassis.support import raw_producer, sample_service
from tests.chassis.support.database import Database, wait_until
from tests.chassis.support.kafka_harness import Kitchen, Running, Told, running
from tests.chassis.support.records import record_headers
from tests.chassis.support.sample_messages import BreadOrdered, CakeOrdered, OrderDropped
from tests.chassis.support.sample_service import Pantry

F = TypeVar("F", bound=Event)
HANDLED = "SELECT count(*) FROM inbox"


def handled(db: Database, count: int) -> None:
    """Wait until so many inputs were handled."""
    wait_until(lambda: db.one(HANDLED) == count, what=f"{count} inputs handled, not {db.one(HANDLED)}")


def test_what_is_on_the_topics_is_heard_from_the_position_on(kitchen: Kitchen, db: Database) -> None:
    """Orders before the position are left alone; those after it are held, in order, and the positions reach the end."""
    db.fill(rye=1000)
    kitchen.tell(BreadOrdered("before"))
    kitchen.flush()
    kitchen.start_here()
    for n in range(300):
        kitchen.tell(BreadOrdered(f"o-{n}"))
        kitchen.tell(OrderDropped(f"o-{n}"))
        kitchen.tell(CakeOrdered(f"o-{n}"))
    kitchen.flush()

    with running(kitchen.worker()):
        handled(db, 900)
        wait_until(kitchen.caught_up)

    assert db.one("SELECT available FROM level") == 1000
    numbers = [n for (n,) in db.emitted("sequence")]
    assert (len(numbers), min(numbers), max(numbers)) == (600, 1, 2)


def test_an_undecodable_record_holds_up_its_order_alone(kitchen: Kitchen, db: Database) -> None:
    """It is parked with what follows of its order; others flow, on its own partition too."""
    db.fill(rye=1000)
    kitchen.start_here()
    bad = kitchen.tell(BreadOrdered("o-bad"), 3, value=b"\0\0\0\0\7not what was promised")
    kitchen.tell(OrderDropped("o-bad"), 3)
    for n in range(50):
        kitchen.tell(BreadOrdered(f"o-{n}"), n % 12)
    kitchen.tell(BreadOrdered("o-bad"), 3)
    kitchen.flush()

    with running(kitchen.worker()):
        handled(db, 50)
        wait_until(lambda: len(db.parked()) == 3)
        wait_until(kitchen.caught_up)

    assert db.parked() == [("o-bad", "UNDECODABLE"), ("o-bad", "BEHIND"), ("o-bad", "BEHIND")]
    found = db.rows('SELECT id, topic, partition, "offset", raw FROM parked ORDER BY place LIMIT 1')
    assert found == [(bad.id, "order.events", 3, bad.offset, b"\0\0\0\0\7not what was promised")]


ODD_ID = "01A1FD62-57F0-7EEB-BE96-E59CE40F9CB1"


def odd_headers(told: Told, **changed: bytes | None) -> tuple[tuple[str, Any], ...]:
    """Return a record's headers with some replaced, or left out when None."""
    names = {name.replace("-", "_"): name for name, _ in record_headers(told.id, "bread.ordered")}
    changes = {names[name]: value for name, value in changed.items()}
    return tuple(
        (k, changes.get(k, v)) for k, v in record_headers(told.id, "bread.ordered") if changes.get(k, v) is not None
    )


HOSTILE: dict[str, dict[str, Any]] = {
    "no value": {"value": None},
    "an empty value": {"value": b""},
    "no key": {"key": None},
    "another's key": {"key": b"o-other"},
    "a key with a NUL": {"key": b"o-\0bad"},
    "a key that is not UTF-8": {"key": b"\xff\xfe\xed\xa0\x80"},
    "a NUL in its body": {"value": PlainCodec().encode(BreadOrdered("o-hostile", "ry\0e"))},
    "a lone surrogate in its body": {"value": b'\0\0\0\0\7{"order_id": "o-hostile", "sku": "\\ud800"}'},
    "no headers": {"headers": ()},
    "no type": {"headers": odd_headers(Told(""), ce_type=None)},
    "an empty type": {"headers": odd_headers(Told(""), ce_type=b"")},
    "a type that is not UTF-8": {"headers": odd_headers(Told(""), ce_type=b"\xff")},
    "no id": {"headers": odd_headers(Told(""), id=None, ce_id=None)},
    "an id of another spelling": {"headers": odd_headers(Told(""), id=ODD_ID.encode(), ce_id=ODD_ID.encode())},
    "an id of all ones": {"headers": odd_headers(Told(""), id=b"f" * 8 + b"-ffff" * 3 + b"-" + b"f" * 12)},
    "a time out of this world": {"headers": odd_headers(Told(""), ce_time=b"99999-01-01T00:00:00Z")},
    "a NUL in a header's value": {"headers": odd_headers(Told(""), ce_source=b"\0", ce_sequence=b"\0")},
    "headers without values": {"headers": (("ce_type", None), ("id", None))},
}


def test_no_record_however_hostile_stops_or_slips_through(kitchen: Kitchen, db: Database) -> None:
    """Each is parked by itself with its bytes; the good order before and after each is held; the position is exact."""
    db.fill(rye=1000)
    kitchen.start_here()
    for number, odd in enumerate(HOSTILE.values()):
        kitchen.tell(BreadOrdered("o-hostile"), 5, **odd)
        kitchen.tell(BreadOrdered(f"o-{number}"), 5)
    kitchen.flush()

    with running(kitchen.worker()):
        handled(db, len(HOSTILE))
        wait_until(kitchen.caught_up)
    assert db.one("SELECT count(*) FROM parked") == len(HOSTILE)

    with running(kitchen.worker()) as [worker]:  # tried again at the next start, and nothing comes of it
        wait_until(lambda: db.one("SELECT count(*) FROM parked WHERE attempts > 1") > 0)
    assert worker.failure is None
    assert db.one("SELECT count(*) FROM parked WHERE state = 'OPEN'") == len(HOSTILE)


def test_a_header_whose_name_is_no_text_parks_its_record(kitchen: Kitchen, db: Database) -> None:
    """The client cannot even show such headers: the record is parked with what can be read of it, others flow."""
    db.fill(rye=500)
    kitchen.start_here()
    for n in range(100):  # so that the interpreter has seen the call often and specialised it
        kitchen.tell(BreadOrdered(f"o-{n}"), 5)
    kitchen.flush()
    for number in range(5):
        raw_producer.produce(kitchen.bootstrap, "order.events", 5, b"o-bad-%d" % number, b"\xff\xfe")
    kitchen.tell(BreadOrdered("o-100"), 5)
    kitchen.flush()
    try:
        with running(kitchen.worker(batch_max=7)):
            handled(db, 101)
        assert db.parked("line", "raw") == [(f"o-bad-{n}", b"\0\0\0\0\7{}") for n in range(5)]
    finally:
        kitchen.cut("order.events", -1, partition=5)  # nobody else is to meet them


def test_what_nobody_hears_still_moves_the_position(kitchen: Kitchen, db: Database) -> None:
    """A tail of types without a handler, and a canary, is stepped over: a lag tool sees no lag that is none."""
    kitchen.start_here()
    for number in range(40):
        told = Told("order.events")
        kitchen.put(told, b"o-1", b"\0", record_headers(told.id, "toast.burnt"), number % 12)
    kitchen.flush()

    with running(kitchen.worker()):
        wait_until(kitchen.caught_up)

    assert db.one("SELECT count(*) FROM parked") == db.one(HANDLED) == 0


def test_a_fenced_worker_reads_its_position_again(kitchen: Kitchen, db: Database) -> None:
    """Somebody else handled the next two: the worker does not, and goes on with the third, losing nothing."""
    db.fill(rye=1000)
    kitchen.start_here()
    with running(kitchen.worker()):
        kitchen.tell(BreadOrdered("first"), 2)
        kitchen.flush()
        handled(db, 1)
        db.rows("UPDATE position SET next_offset = next_offset + 2 WHERE (topic, partition) = ('order.events', 2)")
        for name in ("theirs", "theirs too", "third", "fourth"):
            kitchen.tell(BreadOrdered(name), 2)
        kitchen.flush()
        handled(db, 3)
        wait_until(kitchen.caught_up)

    assert {key for (key,) in db.emitted("aggregateid")} == {"first", "third", "fourth"}


class Forgetful(PlainCodec):
    """A codec whose schema registry is away for its first readings."""

    def __init__(self, away: int) -> None:
        self.away = away

    def decode(self, value: bytes, cls: type[F]) -> F:
        """Read, once the registry is back."""
        if self.away:
            self.away -= 1
            reason = "the registry is away"
            raise Infrastructure(reason)
        return super().decode(value, cls)


@pytest.mark.proves("F22")
def test_a_registry_that_is_away_parks_nothing(kitchen: Kitchen, db: Database) -> None:
    """While a schema cannot be fetched the worker waits where it stands; then everything is heard, in order."""
    db.fill(rye=1000)
    kitchen.start_here()
    for n in range(20):
        kitchen.tell(BreadOrdered(f"o-{n}"), 1)
        kitchen.tell(OrderDropped(f"o-{n}"), 1)
    kitchen.flush()

    with running(kitchen.worker(decoder=Forgetful(3))):
        handled(db, 40)

    assert (db.parked(), db.one("SELECT available FROM level")) == ([], 1000)
    assert db.one("SELECT count(*) FROM outbox WHERE sequence = 2 AND type = 'loaves.returned'") == 20


class Slow(sample_service.PantryStore):
    """A store that waits in save() until it is let go."""

    def __init__(self) -> None:
        self.saving, self.go = threading.Event(), threading.Event()

    def save(self, tx: Tx, work: Pantry) -> None:
        """Wait, then save."""
        self.saving.set()
        assert self.go.wait(60)
        super().save(tx, work)


def test_a_worker_has_caught_up_only_when_what_it_read_is_committed(kitchen: Kitchen, db: Database) -> None:
    """Read to the end but not committed is not caught up: a timer must not overtake the event before it."""
    kitchen.start_here()
    kitchen.tell(OrderDropped("o-1"), 0)
    kitchen.flush()
    store = Slow()
    db.rows("UPDATE position SET next_offset = next_offset - 1 WHERE (topic, partition) = ('order.events', 0)")
    kitchen.tell(OrderDropped("o-2"), 0)
    kitchen.flush()
    worker = kitchen.worker(replace(kitchen.service(), store=store))

    with running(worker):
        try:
            assert store.saving.wait(20)
            assert not worker.consumer_loop.caught_up()
        finally:
            store.go.set()
        wait_until(worker.consumer_loop.caught_up)


class Slept:
    """A database that does not answer for a while."""

    def __init__(self, db: Database) -> None:
        self.db, self.away, self.tried = db, True, 0

    def connect(self) -> Tx:
        """Connect, or fail as to a port nobody listens on."""
        self.tried += 1
        return Database(lambda _: "postgresql://127.0.0.1:9/none").connect() if self.away else self.db.connect()


class Deaf:
    """A watcher that notes nothing."""

    def handled(self, batch: Sequence[tuple[Envelope, Outcome]], began_ns: int) -> None:
        """Note nothing."""

    called = Telemetry(Spans.disabled()).called


def test_an_assignment_that_waits_too_long_for_the_database_is_made_again(kitchen: Kitchen, db: Database) -> None:
    """The database is away longer than a consumer may be silent: once it is back everything is heard all the same."""
    db.fill(rye=1000)
    kitchen.start_here()
    for n in range(24):
        kitchen.tell(BreadOrdered(f"o-{n}"), n % 12)
    kitchen.flush()
    slept, service = Slept(db), kitchen.service()
    reader = RecordDeserializer(service.on.consumes(Event), PlainCodec())
    consumer_loop = ConsumerLoop(
        service,
        slept.connect,
        ConsumerPorts(lambda: kitchen.consumer(**{"max.poll.interval.ms": 2_000}), Topics(kitchen.bootstrap), reader),
        Deaf(),
    )
    worker = Running(consumer_loop.run)
    wait_until(lambda: slept.tried >= 8)
    slept.away = False

    handled(db, 24)
    wait_until(kitchen.caught_up)
    worker.end()


def test_a_stop_while_an_assignment_waits_is_a_clean_stop(kitchen: Kitchen, db: Database) -> None:
    """Told to stop while the database is away: partitions never taken in hand are no reason to refuse to run."""
    kitchen.start_here()
    slept, service = Slept(db), kitchen.service()
    reader = RecordDeserializer(service.on.consumes(Event), PlainCodec())
    ports = ConsumerPorts(kitchen.consumer, Topics(kitchen.bootstrap), reader)
    worker = Running(ConsumerLoop(service, slept.connect, ports, Deaf()).run)
    wait_until(lambda: slept.tried >= 2)

    worker.end()
