"""Conformance suite of relays, ours or another: an outbox to write, topics to read, the promise to hold them to.

The outbox itself is the truth: what a writer was answered is not, for a lost COMMIT answer says nothing.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from uuid import UUID

import psycopg
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka import admin as kafka_admin
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec  # type: ignore[attr-defined] # its stubs do not re-export

from quadrille.db import schema
from quadrille.ids import uuid7
from quadrille.kafka.config import client_settings
from quadrille.observability.trace_context import new_trace
from quadrille.relay.relay import Relay, RelayConfig, topics_of

PARTITIONS = 12
PATIENCE_SECONDS = 120.0
"""Until a test gives up: no promise, and many times what a machine with other things to do needs."""
_ADD = """
INSERT INTO outbox (id, aggregatetype, aggregateid, type, sequence, payload, causationid, traceparent, parent_span)
VALUES (%s, %s, %s, 'parcel.sent', %s, %s, %s, %s, %s)"""
_CLEAR = """
DROP OWNED BY owner CASCADE;
GRANT ALL ON SCHEMA public TO owner;
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename IN ('relay', 'app');"""


@dataclass(frozen=True, slots=True)
class Row:
    """An event as the outbox has it, or as a topic does: which, whose, and its number."""

    id: UUID
    key: str
    sequence: int


class Ground:
    """A fresh outbox in a service's database, under a topic of its own."""

    def __init__(self, service: str, url: Callable[[str], str], bootstrap: str) -> None:
        self.url = url
        self.bootstrap = bootstrap
        self.topic = f"{service}.events"
        self.plan = RelayConfig(service, url("relay"), bootstrap, topics_of(service))
        self._admin = AdminClient(client_settings(bootstrap))
        self._looking: psycopg.Connection | None = None

    def make(self) -> None:
        """Make tables, publication and topics, whatever was there before."""
        self.clear()
        with psycopg.connect(self.url("owner")) as owner:
            for version in schema.VERSIONS:
                schema.upgrade(_Operations(owner), version)
        self.make_topics(*self.plan.topics)

    def make_anew(self, *names: str) -> None:
        """Delete topics and make them again."""
        for deleted in self._admin.delete_topics(list(names), operation_timeout=10).values():
            deleted.result()
        self.until(lambda: self._admin.list_topics(timeout=10).topics.keys().isdisjoint(names))
        self.make_topics(*names)

    def make_topics(self, *names: str, partitions: int = PARTITIONS) -> None:
        """Make topics; one that is there already stays."""
        wanted = [NewTopic(name, partitions, 1) for name in names]
        for made in self._admin.create_topics(wanted, operation_timeout=60).values():
            with suppress(KafkaException):
                made.result()

    def limit(self, size: str) -> None:
        """Have the broker take records of the topic up to so many bytes."""
        self.configure("max.message.bytes", size)

    def configure(self, name: str, value: str) -> None:
        """Set something on the topic."""
        entry = kafka_admin.ConfigEntry(  # type: ignore[attr-defined] # its stubs do not re-export
            name,
            value,
            incremental_operation=kafka_admin.AlterConfigOpType.SET,  # type: ignore[attr-defined]
        )
        topic = kafka_admin.ConfigResource(kafka_admin.ResourceType.TOPIC, self.topic, incremental_configs=[entry])  # type: ignore[attr-defined]
        for altered in self._admin.incremental_alter_configs([topic]).values():
            altered.result()

    def clear(self) -> None:
        """Remove tables, publication and slots."""
        with self.connect("postgres") as superuser:
            superuser.execute(_CLEAR)
            self.until(lambda: not self.one("SELECT count(*) FROM pg_replication_slots WHERE active")[0])
            superuser.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")

    def connect(self, role: str = "app") -> psycopg.Connection:
        """Open a session that commits each statement."""
        return psycopg.connect(self.url(role), autocommit=True, connect_timeout=30)

    def close(self) -> None:
        """Leave nothing behind: tables, publication, slots, and the session that looks."""
        self.clear()
        if self._looking is not None:
            self._looking.close()

    def one(self, query: str, *values: object) -> tuple[object, ...]:
        """Return the one row of a superuser's question, on one session for all, made anew when the server was away."""
        if self._looking is None or self._looking.closed:
            self._looking = self.connect("postgres")
        try:
            return self._looking.execute(query.encode(), values or None).fetchone() or ()
        except psycopg.OperationalError:
            if not self._looking.closed:
                raise
        self._looking = self.connect("postgres")
        return self._looking.execute(query.encode(), values or None).fetchone() or ()

    def say(  # noqa: PLR0913 - a row's columns
        self,
        connection: psycopg.Connection,
        key: str,
        sequence: int,
        topic: str | None = None,
        *,
        at_ms: int | None = None,
        size: int = 300,
    ) -> None:
        """Append one event of so many bytes; ``at_ms`` is the time its id carries."""
        trace = new_trace()
        values = [
            uuid7(at_ms),
            topic or self.topic,
            key,
            sequence,
            b"\0\0\0\0\1" + bytes(size - 5),
            uuid7(),
            trace.traceparent,
        ]
        connection.execute(_ADD, [*values, bytes.fromhex(trace.span_id)])

    def committed(self) -> set[Row]:
        """Return what the outbox holds."""
        with self.connect("postgres") as superuser:
            found = superuser.execute(
                "SELECT id, aggregateid, sequence FROM outbox WHERE aggregatetype = %s", [self.topic]
            )
            return {Row(*row) for row in found}

    def rows(self) -> int:
        """Return how many rows are committed."""
        (found,) = self.one("SELECT count(*)::text FROM outbox WHERE aggregatetype = %s", self.topic)
        return int(str(found))

    def stored(self) -> set[Row]:
        """Return what is committed now, once the relay has stored a position past it; while others write on."""
        committed, (end,) = self.committed(), self.one("SELECT pg_current_wal_flush_lsn()::text")
        self.until(lambda: self.one("SELECT commit_lsn >= %s::pg_lsn FROM relay_progress", end) == (True,))
        return committed

    def arrived(self, topic: str = "") -> int:
        """Return how many records are on the topic, or on another; one sent twice counts twice."""
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call] # confluent's
        asked = {TopicPartition(topic or self.topic, n): latest for n in range(PARTITIONS)}
        while True:
            try:
                answers = self._admin.list_offsets(asked, request_timeout=60).values()
                return sum(answer.result(60).offset for answer in answers)
            except KafkaException:  # no leader yet; or another broker than before, of whose leaders nothing is known
                self._admin = AdminClient(client_settings(self.bootstrap))

    def published(self, wanted: int = 0, within: float = 0.0) -> list[Row]:
        """Return the topic's records in order; waits until so many different ones are there, or so long."""
        settings = {**client_settings(self.bootstrap), "group.id": "judge", "fetch.wait.max.ms": 50}
        consumer = Consumer(settings)
        places = [TopicPartition(self.topic, n, 0) for n in range(PARTITIONS)]

        def led() -> bool:
            nonlocal consumer
            if all(_led(consumer, place) for place in places):
                return True
            consumer.close()  # one made while the broker was frozen may never have an answer
            consumer = Consumer(settings)
            return False

        self.until(led)
        ends = {p.partition: consumer.get_watermark_offsets(p, timeout=60)[1] for p in places}
        consumer.assign(places)
        deadline, rows, seen = time.monotonic() + within, list[Row](), set[UUID]()
        left = {n for n, end in ends.items() if end}
        while (len(seen) < wanted and time.monotonic() < deadline) or left:
            for record in consumer.consume(500, 0.2):
                headers = dict(record.headers() or ())
                row = Row(UUID(_text(headers["id"])), _text(record.key()), int(_text(headers["ce_sequence"])))
                rows.append(row)
                seen.add(row.id)
                if (record.offset() or 0) + 1 >= ends[record.partition() or 0]:
                    left.discard(record.partition() or 0)
        consumer.close()
        return rows

    def judge(self, within: float = PATIENCE_SECONDS) -> int:
        """Hold the topic against the outbox; return the number of duplicates.

        Raises AssertionError if a row is missing, was never committed, or a key's first copies are out of order.
        """
        committed = self.committed()
        published = self.published(len(committed), within)
        missing, phantom = committed - set(published), set(published) - committed
        phantom -= self.committed() if phantom else set()  # committed since we looked
        if missing or phantom:
            message = f"{len(missing)} of {len(committed)} rows missing, {len(phantom)} published but not committed"
            raise AssertionError(message)
        last: dict[str, int] = {}
        for row in dict.fromkeys(published):  # first copies, in the order of the topic
            if row.sequence != last.get(row.key, 0) + 1:
                message = f"key {row.key}: {row.sequence} follows {last.get(row.key, 0)}"
                raise AssertionError(message)
            last[row.key] = row.sequence
        return len(published) - len(committed)

    def copies(self) -> Counter[Row]:
        """Return how often each row is on the topic."""
        return Counter(self.published())

    def until(self, there: Callable[[], bool]) -> None:
        """Wait for a condition; raises AssertionError when it has not come for far too long."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not there():
            if time.monotonic() > deadline:
                message = f"not within {PATIENCE_SECONDS} s"
                raise AssertionError(message)
            time.sleep(0.02)

    @contextmanager
    def relaying(self, relay: Relay | None = None, until: str = "streaming") -> Iterator[Relay]:
        """Run a relay in this process while the block runs, from the moment it streams, or is in another state."""
        relay, stop = relay or Relay(self.plan), threading.Event()
        thread = threading.Thread(target=relay.run, args=(stop,))
        thread.start()
        try:
            self.until(lambda: relay.state == until)
            yield relay
        finally:
            stop.set()
            thread.join()

    @contextmanager
    def writing(self, writers: int = 4, seed: int = 1) -> Iterator[None]:
        """Let writers commit, hold back and roll back at random while the block runs, through outages."""
        stop = threading.Event()
        threads = [threading.Thread(target=_Writer(self, seed * 100 + n).run, args=(stop,)) for n in range(writers)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()


class _Writer:
    """Says events of five keys of its own, several a transaction, some of which end late or never."""

    def __init__(self, ground: Ground, seed: int) -> None:
        self._ground = ground
        self._random = random.Random(seed)  # noqa: S311 - a schedule, not a secret
        self._keys = [f"{seed}-{n}" for n in range(5)]
        self._said: dict[str, int] = {}

    def run(self, stop: threading.Event) -> None:
        """Write until told to stop; after an outage, ask what was committed."""
        while not stop.is_set():
            with suppress(psycopg.OperationalError), psycopg.connect(self._ground.url("app")) as connection:
                for key in self._keys:
                    query = "SELECT coalesce(max(sequence), 0) FROM outbox WHERE aggregateid = %s"
                    row = connection.execute(query, [key]).fetchone()
                    self._said[key] = row[0] if row else 0
                connection.commit()
                while not stop.wait(self._random.random() * 0.004):
                    self._transaction(connection, stop)
            stop.wait(0.05)

    def _transaction(self, connection: psycopg.Connection, stop: threading.Event) -> None:
        said = dict(self._said)
        for _ in range(self._random.randint(1, 4)):
            key = self._random.choice(self._keys)
            said[key] += 1
            self._ground.say(connection, key, said[key])
        if self._random.random() < 0.1:  # noqa: PLR2004 - one in ten
            stop.wait(self._random.random() * 0.05)
        if self._random.random() < 0.15:  # noqa: PLR2004 - one in seven
            connection.rollback()
        else:
            connection.commit()
            self._said = said


class _Operations:
    """Alembic's ``op``, as far as the chassis' tables need it."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    def execute(self, sqltext: str) -> None:
        """Run DDL."""
        self._connection.execute(sqltext.encode())


def _led(consumer: Consumer, place: TopicPartition) -> bool:
    """Whether a new topic's partitions have their leaders."""
    try:
        return bool(consumer.get_watermark_offsets(place, timeout=60))
    except KafkaException:
        return False


def _text(value: str | bytes | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
