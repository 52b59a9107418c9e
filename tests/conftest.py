"""The shop under test: the session's whole stack with stock, addresses, and words for what tests ask of it."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, Producer, TopicPartition

from chassis.kafka import client_settings, producer_settings
from quadrille.client import Client
from quadrille.shop import order_of, stock_up, write_addresses
from quadrille.stack import Stack

T = TypeVar("T")
SERVICES = ("order", "inventory", "payment", "notification")
TOPICS = tuple(f"{name}.events" for name in SERVICES)


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it lies on its topic."""

    topic: str
    partition: int
    offset: int
    key: str
    type: str
    headers: tuple[tuple[str, bytes], ...]
    value: bytes

    def header(self, name: str) -> str:
        """A header's text."""
        return dict(self.headers)[name].decode()


class Shop:
    """What a test does with a running stack; every wait is for a condition, with a deadline."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    def submit(
        self,
        lines: list[tuple[str, int]],
        token: str = "tok_ok",  # noqa: S107 - a test token
        customer: str = "cust_demo",
        key: str = "",
    ) -> str:
        """Place an order over REST and give back its id."""
        headers = {"Idempotency-Key": key or f"test-{uuid.uuid4()}"}
        return str(self.ask("order", "POST", "/v1/orders", order_of(lines, token, customer), headers)["order_id"])

    def ask(
        self, service: str, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> Any:  # noqa: ANN401 - a JSON document
        """The JSON document an API answers with; a problem is raised."""
        with Client(self.stack.url(service)) as api:
            return api.demand(method, path, body, headers).body

    def order(self, order_id: str) -> dict[str, Any]:
        """The order's document."""
        return dict(self.ask("order", "GET", f"/v1/orders/{order_id}"))

    def ended(self, order_id: str, seconds: float = 60.0) -> dict[str, Any]:
        """The order's document when it has ended and every participant is where it will stay."""
        return self.until(lambda: self._settled(order_id), f"order {order_id} ends", seconds)

    def _settled(self, order_id: str) -> dict[str, Any] | None:
        document = self.order(order_id)
        there = document["final"] and (document["status"] != "CONFIRMED" or document["inventory"] == "COMMITTED")
        return document if there else None

    def until(self, found: Callable[[], T | None], what: str, seconds: float = 30.0) -> T:
        """What `found` gives as soon as it gives anything true; fails with what was waited for."""
        deadline, pause = time.monotonic() + seconds, threading.Event()
        while time.monotonic() < deadline:
            if value := found():
                return value
            pause.wait(0.05)
        pytest.fail(f"waited {seconds:g} s in vain until {what}")

    def captures(self, order_id: str) -> list[dict[str, Any]]:
        """The processor's own entries about an order."""
        with Client(self.stack.url("sandbox")) as processor:
            lines = processor.demand("GET", "/ledger").raw.splitlines()
        return [entry for entry in map(json.loads, lines) if entry["order_id"] == order_id]

    def mails(self, order_id: str) -> list[dict[str, Any]]:
        """The mails that reached the mailbox about an order."""
        with Client(self.stack.url("sandbox")) as mailbox:
            document = mailbox.demand("GET", f"/mail?order_id={order_id}", None, {"Accept": "application/json"}).body
        return list(document["mails"])

    def level(self, sku: str) -> dict[str, Any]:
        """A SKU's level."""
        return dict(self.ask("inventory", "GET", f"/v1/stock/{sku}"))

    def sql(self, service: str, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """What a service's database holds, read as its owner."""
        with psycopg.connect(self.stack.database_url(service, "owner")) as db:
            return db.execute(statement.encode(), parameters).fetchall()

    def records(self, order_id: str = "") -> list[Record]:
        """Every record on the services' topics, from the first; of one order if asked."""
        return [r for topic in TOPICS for r in self._topic(topic) if not order_id or r.key == order_id]

    def _topic(self, topic: str) -> list[Record]:
        settings = client_settings(self.stack.kafka_bootstrap) | {"group.id": "test", "enable.partition.eof": True}
        consumer = Consumer(settings)
        try:
            count = len(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
            consumer.assign([TopicPartition(topic, n, OFFSET_BEGINNING) for n in range(count)])
            return list(_to_the_end(consumer, count))
        finally:
            consumer.close()

    def send_again(self, records: list[Record], times: int) -> None:
        """Put the same records on their topics again, byte for byte."""
        producer = Producer(producer_settings(self.stack.kafka_bootstrap))
        for _ in range(times):
            for r in records:
                producer.produce(r.topic, r.value, r.key.encode(), r.partition, headers=list(r.headers))
        assert producer.flush(30) == 0

    def all_read(self) -> bool | None:
        """Whether every service has handled all that lies on the topics it hears, and no answer is outstanding."""
        ends = self._ends()
        for service in SERVICES:
            read = self.sql(service, "SELECT topic, partition, next_offset FROM position")
            if any(position < ends[topic, partition] for topic, partition, position in read):
                return None
            if self.sql(service, "SELECT 1 FROM agenda WHERE due < now() + interval '5 seconds' LIMIT 1"):
                return None
        return True

    def _ends(self) -> dict[tuple[str, int], int]:
        """The offset after the last record of every partition."""
        consumer = Consumer(client_settings(self.stack.kafka_bootstrap) | {"group.id": "test"})
        try:
            topics = consumer.list_topics(timeout=10).topics
            places = [TopicPartition(topic, n) for topic in TOPICS for n in topics[topic].partitions]
            return {(p.topic, p.partition): int(consumer.get_watermark_offsets(p, timeout=10)[1]) for p in places}
        finally:
            consumer.close()

    def effects(self, *order_ids: str) -> dict[str, Any]:
        """Everything these orders have left behind in four databases, the processor and the mailbox."""
        ids = list(order_ids)
        tables = {
            "order": ("SELECT status, version, history::text FROM orders WHERE order_id = ANY(%s) ORDER BY order_id",),
            "inventory": ("SELECT order_id, state FROM hold WHERE order_id = ANY(%s) ORDER BY order_id",),
            "payment": ("SELECT order_id, state FROM payment WHERE order_id = ANY(%s) ORDER BY order_id",),
            "notification": ("SELECT order_id, kind, state FROM notice WHERE order_id = ANY(%s) ORDER BY 1, 2",),
        }
        left: dict[str, Any] = {
            f"{service} {n}": self.sql(service, statement, ids)
            for service, statements in tables.items()
            for n, statement in enumerate(statements)
        }
        for service in SERVICES:
            said = "SELECT id, type, sequence FROM outbox WHERE aggregateid = ANY(%s) ORDER BY id"
            left[f"{service} outbox"] = self.sql(service, said, ids)
        left["ledger"] = [self.captures(order) for order in ids]
        left["mails"] = [len(self.mails(order)) for order in ids]
        left["stock"] = self.sql(
            "inventory", "SELECT sku, available, held, committed, received FROM level ORDER BY sku"
        )
        return left


def _to_the_end(consumer: Consumer, partitions: int) -> Iterator[Record]:
    ended = 0
    while ended < partitions:
        first = consumer.poll(5.0)
        for message in (first, *consumer.consume(500, 0)) if first else ():
            if message.error() is not None:
                ended += 1
            else:
                yield _record(message)


def _record(message: Message) -> Record:
    headers = message.headers() or []
    pairs = tuple((str(name), value if isinstance(value, bytes) else b"") for name, value in headers)  # type: ignore[str-unpack]  # pairs, as librdkafka gives them
    key, value = message.key() or b"", message.value() or b""
    assert isinstance(key, bytes)
    assert isinstance(value, bytes)
    kind = dict(pairs).get("ce_type", b"").decode()
    place = message.topic() or "", message.partition() or 0, message.offset() or 0
    return Record(*place, key.decode(), kind, pairs, value)


@pytest.fixture(scope="session")
def shop(stack: Stack) -> Shop:
    """The session's stack, with stock and addresses."""
    stock_up(stack, {"SKU-TEA": 10_000, "SKU-HOT": 1_000, "SKU-NONE": 0})
    write_addresses(stack)
    return Shop(stack)
