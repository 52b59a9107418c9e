"""A service on a real Kafka, registry and database, for its tests: what it needs is made, its worker and relay run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from quadrille.avro.codec import Codec
from quadrille.avro.registry import Cache, Registry, SchemaIds
from quadrille.avro.schemas import emitted_by
from quadrille.consumer.deserializer import record_of
from quadrille.db.migrations import upgrade
from quadrille.handlers import HandlerRegistry
from quadrille.ids import uuid7
from quadrille.kafka.config import client_settings, consumer_settings, producer_settings
from quadrille.kafka.headers import POSTGRES_EPOCH, OutboxRow, type_of, write_headers
from quadrille.messages import Event, key_of
from quadrille.observability.trace_context import new_trace
from quadrille.relay.relay import topics_of
from quadrille_cli.schema import lifecycle
from quadrille_cli.stack import Stack, topics

if TYPE_CHECKING:
    from types import TracebackType

PATIENCE_SECONDS = 120.0
TAIL = 20


class OnKafka:
    """One service beside others: while it is entered, ``python -m <service>.main`` runs as worker and as relay.

    Its topics and those it consumes are made where they are missing, its schemas and those of its sources registered,
    its tables migrated in the database of ``borrowed``, a service whose own programs do not run; ``folder`` is for
    schemas' ids and logs. The stack has the parts ``postgres:<borrowed>``, ``kafka`` and ``registry``.
    """

    def __init__(self, on: HandlerRegistry[Any], stack: Stack, borrowed: str, folder: Path) -> None:
        self.service, self._stack, self._borrowed, self._folder = on.service, stack, borrowed, folder
        self._topics = {*topics_of(on.service), *on.subscribed()}
        owners = {"chassis", on.service, *(topic.removesuffix(".events") for topic in on.topics())}
        self._schemas = [schema for owner in sorted(owners) for schema in emitted_by(owner)]
        registry = Registry(stack.registry_url)
        self._registry, self._codec = registry, Codec(self._schemas, SchemaIds(registry, Cache(folder / "test")))
        self._running = ExitStack()

    def __enter__(self) -> Self:
        """Make what is missing and start worker and relay."""
        there = AdminClient(client_settings(self._stack.kafka_bootstrap)).list_topics(timeout=PATIENCE_SECONDS).topics
        missing = tuple(topics.Wanted(name) for name in sorted(self._topics - there.keys()))
        topics.apply(self._stack.kafka_bootstrap, topics.Plan(create=missing))
        for schema in self._schemas:
            lifecycle.register(self._registry, schema.name, (schema,))
        upgrade(self.service, self._stack.database_url(self._borrowed, "owner"))
        with ExitStack() as started:
            self._start(started, "worker", "app")
            self._start(started, "relay", "relay")
            self._running = started.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End both."""
        self._running.close()

    def put(self, event: Event) -> None:
        """Put an event on its topic as its service's relay does, and wait until it is there."""
        name = f".{type(event).__name__}"
        source = next(schema.name.split(".")[1] for schema in self._schemas if schema.name.endswith(name))
        topic, key, now = f"{source}.events", key_of(event).encode(), int((time.time() - POSTGRES_EPOCH) * 1e6)
        row = OutboxRow(
            id=uuid7().bytes, aggregatetype=topic.encode(), aggregateid=key, type=event.type.encode(),
            sequence=(1).to_bytes(8), payload=self._codec.encode(event), causationid=uuid7().bytes,
            traceparent=new_trace().traceparent.encode(), parent_span=None, occurred_at=now.to_bytes(8, signed=True),
        )  # fmt: skip
        headers = write_headers(row, f"quadrille/{source}".encode())
        producer = Producer(producer_settings(self._stack.kafka_bootstrap))
        answers: list[str] = []
        producer.produce(
            topic, row.payload, key, headers=headers, on_delivery=lambda error, _: answers.append(str(error or ""))
        )
        producer.flush(PATIENCE_SECONDS)
        if answers != [""]:
            message = f"{topic} did not take the event: {', '.join(answers) or 'no answer'}"
            raise AssertionError(message)

    def published(self, key: str, count: int = 1) -> list[tuple[str, dict[str, Any]]]:
        """Return type and body of what the service's relay published of a key, once that is so many events."""
        topic, found = f"{self.service}.events", list[tuple[str, dict[str, Any]]]()
        consumer = Consumer(consumer_settings(self._stack.kafka_bootstrap, f"test-{uuid7()}"))
        consumer.assign([TopicPartition(topic, number, 0) for number in range(topics.PARTITIONS)])
        until = time.monotonic() + PATIENCE_SECONDS
        try:
            while len(found) < count:
                if time.monotonic() > until:
                    raise AssertionError(self._told(f"{len(found)} of {count} events of {key} on {topic}"))
                record = consumer.poll(1.0)
                if record is not None and record.error() is None and record.key() == key.encode():
                    read = record_of(record)
                    found.append(((type_of(read.headers) or b"").decode(), self._codec.look(read.raw)[1]))
        finally:
            consumer.close()
        return found

    def _start(self, started: ExitStack, role: str, login: str) -> None:
        env = os.environ | {
            "QUADRILLE_DATABASE_URL": self._stack.database_url(self._borrowed, login),
            "QUADRILLE_KAFKA_BOOTSTRAP": self._stack.kafka_bootstrap,
            "QUADRILLE_REGISTRY_URL": self._stack.registry_url,
            "QUADRILLE_SCHEMA_CACHE": str(self._folder / role),
            "QUADRILLE_OPS_BIND": "127.0.0.1:0",
        }
        log = started.enter_context(self._log(role).open("wb"))
        command = [sys.executable, "-m", f"{self.service}.main", role]
        child = subprocess.Popen(command, env=env, stdout=log, stderr=log)  # noqa: S603 - the service under test
        started.callback(child.wait, 60)
        started.callback(child.terminate)

    def _log(self, role: str) -> Path:
        return self._folder / f"{role}.log"

    def _told(self, what: str) -> str:
        """Add the ends of both logs to what is the matter."""
        ends = [self._log(role).read_text("utf-8", "replace").splitlines()[-TAIL:] for role in ("worker", "relay")]
        return "\n".join([what, *(line for lines in ends for line in lines)])
