"""The shop under test: the session's whole stack with stock, addresses, and words for what tests ask of it."""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psycopg
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, Producer, TopicPartition

from quadrille.avro.codec import Codec
from quadrille.avro.registry import Cache, Registry, SchemaIds
from quadrille.kafka.config import client_settings, producer_settings
from quadrille_cli.chaos import own
from quadrille_cli.chaos.faults import Arena
from quadrille_cli.client import Client, Reply
from quadrille_cli.demo_data import order_of, stock_up, write_addresses
from quadrille_cli.services import SERVICES
from quadrille_cli.stack import EVERYTHING, Stack
from quadrille_cli.stack.processes import Process
from quadrille_cli.testing import PATIENT

T = TypeVar("T")
TOPICS = tuple(f"{name}.events" for name in SERVICES)
CANARY = "canary-"  # the key of a beat: no order's
SIGNS = {"CAPTURE": 1, "VOID": -1, "REFUND": -1}  # of the processor's ledger
READING = {"enable.partition.eof": True, "fetch.wait.max.ms": 10}
PATIENCE_SECONDS = 180.0
"""Until a test gives up: no promise, and many times what a machine with other things to do needs."""
for part in ("connect", "read", "write", "pool"):  # httpx's own are five seconds: a bound on the machine's speed
    setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, part, PATIENCE_SECONDS)  # noqa: SLF001 - the one default all calls share
HASTY = {"ORDER_DEADLINE": "4s", "STUCK_WARN": "2s", **PATIENT}


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
        cache = Cache(stack.data / "schemas" / "tests")
        self._codec = Codec((), SchemaIds(Registry(stack.registry_url), cache))

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

    def cancel(self, order_id: str) -> Reply:
        """Ask to cancel an order; whatever is answered."""
        with Client(self.stack.url("order")) as api:
            return api.ask("POST", f"/v1/orders/{order_id}/cancel")

    def order(self, order_id: str) -> dict[str, Any]:
        """The order's document."""
        return dict(self.ask("order", "GET", f"/v1/orders/{order_id}"))

    def ended(self, order_id: str) -> dict[str, Any]:
        """The order's document when it has ended and every participant is where it will stay."""
        return self.until(lambda: self._settled(order_id), f"order {order_id} ends")

    def _settled(self, order_id: str) -> dict[str, Any] | None:
        document = self.order(order_id)
        there = document["final"] and (document["status"] != "CONFIRMED" or document["inventory"] == "COMMITTED")
        return document if there else None

    def until(self, found: Callable[[], T | None], what: str) -> T:
        """What `found` gives as soon as it gives anything true; fails with what was waited for far too long."""
        deadline, pause = time.monotonic() + PATIENCE_SECONDS, threading.Event()
        while time.monotonic() < deadline:
            if value := found():
                return value
            pause.wait(0.05)
        pytest.fail(f"waited {PATIENCE_SECONDS:g} s in vain until {what}")

    def captures(self, order_id: str) -> list[dict[str, Any]]:
        """The processor's own entries about an order."""
        return self.ledger(order_id)

    def ledger(self, order_id: str = "") -> list[dict[str, Any]]:
        """The processor's own entries, of one order if asked."""
        with Client(self.stack.url("sandbox")) as processor:
            lines = processor.demand("GET", f"/ledger?order_id={order_id}").raw.splitlines()
        return [json.loads(line) for line in lines]

    def kept(self, order_id: str) -> int:
        """What the processor has of an order's money after all, in minor units."""
        return sum(SIGNS[entry["kind"]] * entry["amount_minor"] for entry in self.captures(order_id))

    def trouble(self, **plan: float) -> None:
        """Have the processor and the mailbox in the trouble asked for, or in none; of timeouts only those asked for."""
        with Client(self.stack.url("sandbox")) as outside:
            if plan:
                outside.demand("PUT", "/chaos", {"timeouts": 0, "seconds": 600, **plan})
            else:
                outside.demand("DELETE", "/chaos")

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
        """Every record about an order on the services' topics, from the first; of one order if asked."""
        found = self._read(*TOPICS)
        return [r for r in found if (r.key == order_id if order_id else not r.key.startswith(CANARY))]

    def told(self, topic: str, *keys: str) -> list[tuple[str, dict[str, Any]]]:
        """The events a topic tells of orders or services, from the first, as (type, body)."""
        return [(r.type, dict(self._codec.look(r.value)[1])) for r in self._read(topic) if r.key in keys]

    def stuck(self) -> list[dict[str, Any]]:
        """The queue of those who wait, as order's operators see it."""
        return list(self.ask("order-api", "GET", "/ops/stuck")["stuck"])

    def _read(self, *topics: str) -> list[Record]:
        """Every record there is, one topic after the other."""
        settings = client_settings(self.stack.kafka_bootstrap) | {"group.id": "test", **READING}
        consumer = Consumer(settings)
        try:
            known = consumer.list_topics(timeout=60).topics
            places = [TopicPartition(topic, n, OFFSET_BEGINNING) for topic in topics for n in known[topic].partitions]
            consumer.assign(places)
            return sorted(_to_the_end(consumer, len(places)), key=lambda record: topics.index(record.topic))
        finally:
            consumer.close()

    def send_again(self, records: list[Record], times: int) -> None:
        """Put the same records on their topics again, byte for byte."""
        producer = Producer(producer_settings(self.stack.kafka_bootstrap))
        for _ in range(times):
            for r in records:
                producer.produce(r.topic, r.value, r.key.encode(), r.partition, headers=list(r.headers))
        assert producer.flush(120) == 0

    def all_read(self) -> bool | None:
        """Whether every service has handled all that lies on the topics it hears, and no answer is outstanding."""
        ends = self._ends()
        for service in SERVICES:
            read = self.sql(service, "SELECT topic, partition, next_offset FROM position")
            if any(position < ends[topic, partition] for topic, partition, position in read):
                return None
            if self.sql(service, "SELECT 1 FROM task WHERE due < now() + interval '5 seconds' LIMIT 1"):
                return None
        return True

    def _ends(self) -> dict[tuple[str, int], int]:
        """The offset after the last record of every partition."""
        consumer = Consumer(client_settings(self.stack.kafka_bootstrap) | {"group.id": "test"})
        try:
            topics = consumer.list_topics(timeout=60).topics
            places = [TopicPartition(topic, n) for topic in TOPICS for n in topics[topic].partitions]
            return {(p.topic, p.partition): int(consumer.get_watermark_offsets(p, timeout=60)[1]) for p in places}
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
    """Read until each partition has been at its end once; what comes after that may be read or not."""
    ended: set[tuple[str | None, int | None]] = set()
    while len(ended) < partitions:
        first = consumer.poll(5.0)
        for message in (first, *consumer.consume(500, 0)) if first else ():
            if message.error() is not None:
                ended.add((message.topic(), message.partition()))
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


@contextmanager
def away(stack: Stack, *processes: str) -> Iterator[None]:
    """Processes that are not there for a while."""
    for process in processes:
        stack.process(process).stop()
    try:
        yield
    finally:
        for process in processes:
            stack.process(process).launch()
        for process in processes:
            stack.process(process).start()


@contextmanager
def told_otherwise(stack: Stack, name: str, **settings: str) -> Iterator[None]:
    """A process that has other settings for a while; it is started anew for them, and again when the while is over."""
    usual = stack.process(name)
    more = {f"QUADRILLE_{setting}": value for setting, value in settings.items()}
    other = Process(replace(usual.spec, env={**usual.spec.env, **more}))
    usual.stop()
    stack.processes[name] = other
    try:
        other.start()
        yield
    finally:
        other.stop()
        stack.processes[name] = usual
        usual.start()


def opened(stack: Stack) -> Shop:
    """A running stack with stock and addresses."""
    stock_up(stack, {"SKU-TEA": 10_000, "SKU-HOT": 1_000, "SKU-NONE": 0, "SKU-SEALED": 1_000})
    write_addresses(stack)
    return Shop(stack)


@pytest.fixture(scope="session")
def shop(stack: Stack) -> Shop:
    """The session's stack, with stock and addresses."""
    return opened(stack)


@pytest.fixture(scope="session")
def hasty(stack_home: Path) -> Iterator[Shop]:
    """A second whole stack whose clocks run fast: orders are given up after four seconds."""
    with Stack(stack_home / "hasty", parts=EVERYTHING, scattered=True, settings=HASTY) as stack:
        yield opened(stack)


@pytest.fixture(scope="session")
def arena(stack_home: Path) -> Iterator[Arena]:
    """A third whole stack, every server of it behind a proxy: there to be broken."""
    home = stack_home / "arena"
    home.mkdir(mode=0o711)
    with own.arena(home, seed=14) as there:
        yield there
    if not os.environ.get("QUADRILLE_KEEP"):
        there.stack.wipe()
