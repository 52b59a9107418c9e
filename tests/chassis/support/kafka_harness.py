"""Workers of the pantry on a real broker: records told, workers run in threads, and where they stand."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewTopic

from quadrille.consumer.loop import ConsumerLoop
from quadrille.consumer.worker import Worker
from quadrille.context import ProcessContext
from quadrille.db.connection import connection
from quadrille.ids import uuid7
from quadrille.intents import Gateway
from quadrille.kafka.config import client_settings, consumer_settings, producer_settings
from quadrille.messages import Event, Message, key_of
from quadrille.observability.progress import Patience
from quadrille.observability.tracing import Spans
from quadrille.replay.parked_bulk import ParkedBulk
from quadrille.service import Service, Tx
from quadrille.settings import Settings
from quadrille.testing.in_memory import PlainCodec
from tests.chassis.support import sample_service
from tests.chassis.support.database import PATIENCE_SECONDS, Database, wait_until
from tests.chassis.support.records import Headers, record_headers
from tests.chassis.support.sample_service import Pantry, PantryStore, Rules

TOPICS = ("order.events", "payment.events")
HASTY = Patience(stalled_after=3, renew_after=6)
NUMBERS = itertools.count(1)
PROGRAM = f"""
import sys
sys.path.append({str(Path(__file__).parents[3])!r})  # where the tests are found
from tests.chassis.support.kafka_harness import alone
alone()
"""


@dataclass(slots=True)
class Told:
    """One record on its way: where it went once it is there."""

    topic: str
    partition: int = -1
    offset: int = -1
    id: UUID = field(default_factory=uuid7)


class Kitchen:
    """The broker and the database of one test; its workers are one group that nobody else is in."""

    def __init__(self, bootstrap: str, db: Database) -> None:
        self.bootstrap, self.db = bootstrap, db
        self.name = f"pantry-{next(NUMBERS)}-{uuid7()}"
        self.producer = Producer(producer_settings(bootstrap))
        self.admin = AdminClient(client_settings(bootstrap))

    def tell(self, body: Event, partition: int | None = None, **odd: Any) -> Told:  # noqa: ANN401 - key, value, headers
        """Put an event on its topic, as a relay does; ``odd`` replaces key, value or headers."""
        told = Told(body.topic)
        value: bytes | None = odd.get("value", PlainCodec().encode(body))
        headers: Headers = odd.get("headers", record_headers(told.id, body.type))
        self.put(told, odd.get("key", key_of(body).encode()), value, headers, partition)
        return told

    def tell_again(self, told: Told, body: Event) -> None:
        """Put the same event on its topic once more."""
        self.put(told, key_of(body).encode(), PlainCodec().encode(body), record_headers(told.id, body.type), None)

    def put(self, told: Told, key: bytes | None, value: bytes | None, headers: Headers, partition: int | None) -> None:
        """Produce a record; ``flush`` waits for all of them."""

        def landed(error: object, message: Any) -> None:  # noqa: ANN401 - confluent's message
            assert error is None, error
            told.partition, told.offset = message.partition(), message.offset()

        where = -1 if partition is None else partition
        self.producer.produce(told.topic, value, key, where, on_delivery=landed, headers=list(headers))

    def flush(self) -> None:
        """Wait until every record is on its topic."""
        assert self.producer.flush(PATIENCE_SECONDS) == 0

    def ends(self, *topics: str) -> dict[tuple[str, int], int]:
        """Return the end of every partition."""
        there = self.admin.list_topics(timeout=60).topics
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call] # confluent's
        asked = {TopicPartition(t, p): latest for t in topics for p in there[t].partitions}
        while True:
            answers = self.admin.list_offsets(asked, request_timeout=60).items()
            with contextlib.suppress(KafkaException):  # a partition just made has no leader yet
                return {(at.topic, at.partition): answer.result(60).offset for at, answer in answers}

    def start_here(self, *topics: str) -> None:
        """Let the positions be the ends: what is on the topics already is none of this test's business."""
        for (topic, partition), end in self.ends(*(topics or TOPICS)).items():
            self.db.start_at(topic, partition, end)

    def make(self, topic: str, partitions: int = 1) -> None:
        """Make a topic and wait until everybody knows of it."""
        self.admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(60)
        wait_until(lambda: len(self.admin.list_topics(topic, timeout=60).topics[topic].partitions) == partitions)

    def configure(self, topic: str, **settings: str) -> None:
        """Set settings of a topic, dots as underscores, and wait until the broker tells them."""
        wanted = {name.replace("_", "."): value for name, value in settings.items()}
        entries = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in wanted.items()
        ]
        one = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
        self.admin.incremental_alter_configs([one])[one].result(60)

        def told() -> bool:
            asked = ConfigResource(ResourceType.TOPIC, topic)
            found = self.admin.describe_configs([asked])[asked].result(60)
            return all(found[name].value == value for name, value in wanted.items())

        wait_until(told)

    def drop(self, topic: str) -> None:
        """Delete a topic and wait until it is gone."""
        self.admin.delete_topics([topic])[topic].result(60)
        wait_until(lambda: topic not in self.admin.list_topics(timeout=60).topics)

    def cut(self, topic: str, before: int, partition: int = 0) -> None:
        """Delete the records of a partition below an offset, all for -1, as retention does."""
        one = TopicPartition(topic, partition, before)
        self.admin.delete_records([one])[one].result(60)

    def members(self) -> dict[str, int]:
        """Return how many partitions each member of this test's group has."""
        [asked] = self.admin.describe_consumer_groups([self.name], request_timeout=10).values()
        return {one.member_id: len(one.assignment.topic_partitions) for one in asked.result(10).members}

    def service(self, outside: Gateway | None = None, rules: Rules | None = None) -> Service[Any]:
        """Return the pantry under this test's own name."""
        return sample_service.service(self.name, outside, rules)

    def context(self, service: Service[Any] | None = None, **settings: Any) -> ProcessContext:  # noqa: ANN401 - settings
        """Return the context of a process of this test's group, with settings of its own."""
        return context_of(self.bootstrap, service or self.service(), self.db.connect, **settings)

    def worker(self, service: Service[Any] | None = None, **parts: Any) -> Worker:  # noqa: ANN401 - of a context
        """Return a worker of this test's group; parts that no context has are settings."""
        own = {name: parts.pop(name) for name in ("connect", "decoder", "beats") if name in parts}
        return Worker(replace(self.context(service, **parts), **own))

    def consumer(self, **settings: str | int) -> Consumer:
        """Return a consumer of this test's group with settings of its own."""
        return Consumer(consumer_settings(self.bootstrap, self.name) | settings)

    def caught_up(self, *topics: str) -> bool:
        """Tell whether every position is the end of its partition."""
        ends = self.ends(*(topics or TOPICS))
        at = {(t, p): n for t, p, n in self.db.rows("SELECT * FROM position")}
        return all(at.get(place, 0) == end for place, end in ends.items())

    @contextlib.contextmanager
    def process(self, plant: str = "") -> Iterator[Alone]:
        """Run a worker of this group in a process of its own while the block lasts, with a fault if one is named."""
        given = {"PANTRY_URL": self.db.url("app"), "PANTRY_KAFKA": self.bootstrap, "PANTRY_GROUP": self.name}
        given |= {"PANTRY_PLANT": plant}
        child = subprocess.Popen([sys.executable, "-c", PROGRAM], env=os.environ | given, stdout=subprocess.PIPE)
        with child:
            try:
                yield Alone(child)
            finally:
                child.kill()


class Alone:
    """A worker's process, to be killed and frozen."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self.child = child

    def has_partitions(self) -> None:
        """Wait until the broker has given it some."""
        self.says("partitions assigned")

    def says(self, phrase: str) -> None:
        """Wait until it says this, of more than nothing."""
        assert self.child.stdout
        for line in self.child.stdout:
            if phrase.encode() in line and b"count=0" not in line:
                return
        message = f"it ended without saying: {phrase}"
        raise AssertionError(message)

    def kill(self) -> None:
        """End it at once."""
        self.child.kill()
        self.child.wait()

    def freeze(self) -> None:
        """Let it stand still."""
        self.child.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.child.send_signal(signal.SIGCONT)


def alone() -> None:
    """Run a worker until it is killed: what a process of ``Kitchen.process`` does."""
    if os.environ["PANTRY_PLANT"] == "pause":
        ConsumerLoop._idle = _idle_paused  # type: ignore[method-assign]  # noqa: SLF001 - the fault
    if os.environ["PANTRY_PLANT"].startswith("deadly"):
        sample_service.PantryStore.load = _deadly  # type: ignore[method-assign]  # the fault
    connect = connection(os.environ["PANTRY_URL"])
    from tests.chassis.support.sample_gateway import Oven, kitchen_with  # noqa: PLC0415 - it runs what is made here

    service = sample_service.service(os.environ["PANTRY_GROUP"], kitchen_with().outside)
    context = context_of(os.environ["PANTRY_KAFKA"], service, connect, batch_max=10, patience=HASTY)
    with ParkedBulk(context):
        Worker(replace(context, client=Oven())).run(threading.Event())


def context_of(bootstrap: str, service: Service[Any], connect: Callable[[], Tx], **more: Any) -> ProcessContext:  # noqa: ANN401 - settings
    """Return a context with these settings, some of which no process would be given; ``patience`` stands for two."""
    needed = {"database_url": "", "kafka_bootstrap": bootstrap, "registry_url": "http://none"}
    if (patience := more.pop("patience", None)) is not None:
        more["stall_after"] = timedelta(seconds=patience.stalled_after)
        more["stall_renew_after"] = timedelta(seconds=patience.renew_after)
    settings = Settings.model_validate(needed).model_copy(update=more)
    return ProcessContext(settings, service, connect, Spans.disabled(), decoder=PlainCodec())


def _deadly(self: PantryStore, tx: Tx, messages: Sequence[Message]) -> Pantry:
    """Bring the rows, or end the process at once for an order that is called deadly: no exception, no goodbye.

    With a type after a colon in the plant's name for its messages of that type alone.
    """
    kind = os.environ["PANTRY_PLANT"].partition(":")[2]
    if any(getattr(one, "order_id", "") == "deadly" and kind in ("", one.type) for one in messages):
        os.kill(os.getpid(), signal.SIGKILL)
    return _LOAD(self, tx, messages)


_LOAD = PantryStore.load


def _idle_paused(self: ConsumerLoop) -> None:
    """Wait with the partitions paused, and resume those that are still there: what once made workers deaf."""
    resting = [TopicPartition(*place) for place in self.assignment.next]
    self.consumer.pause(resting)
    self.stop.wait(0.5)
    self.consumer.poll(0)
    self.consumer.resume([one for one in resting if (one.topic, one.partition) in self.assignment.next])


class Running:
    """A worker in a thread of its own."""

    def __init__(self, run: Callable[[threading.Event], None]) -> None:
        self.stop = threading.Event()
        self.failure: BaseException | None = None
        self._run = run
        self.thread = threading.Thread(target=self._guarded, daemon=True)
        self.thread.start()

    def _guarded(self) -> None:
        try:
            self._run(self.stop)
        except BaseException as failure:  # noqa: BLE001 - looked at by the test
            self.failure = failure

    def end(self) -> None:
        """Stop it and wait; raises what it raised."""
        self.stop.set()
        self.thread.join(PATIENCE_SECONDS)
        assert not self.thread.is_alive(), "the worker does not stop"
        if self.failure:
            raise self.failure


@contextlib.contextmanager
def running(*workers: Worker) -> Iterator[list[Running]]:
    """Run workers while the block lasts; what one raised is raised again unless the test has looked at it."""
    started = [Running(worker.run) for worker in workers]
    try:
        yield started
    finally:
        for one in started:
            one.stop.set()
    for one in started:
        one.end()
