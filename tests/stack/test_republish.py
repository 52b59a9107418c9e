"""The way out when retention overtook a consumer, and when all of Kafka was lost: on a whole stack of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from quadrille.kafka.config import client_settings
from quadrille_cli.services import PROGRAMS, SERVICES
from quadrille_cli.stack import EVERYTHING, Stack
from quadrille_cli.testing import PATIENT
from tests.conftest import TOPICS, Shop, opened

TEA = [("SKU-TEA", 1)]


def run(shop: Shop, *words: str) -> tuple[int, str]:
    """Exit code of the command, and all it printed."""
    env = {**os.environ, "QUADRILLE_DATA": str(shop.stack.data)}
    line = [sys.executable, "-m", "quadrille_cli", *words]
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def trouble(shop: Shop, port: str) -> str:
    """Return what a process's readiness says of all that is not well."""
    with suppress(httpx.TransportError):  # it has only begun
        return httpx.get(f"{shop.stack.url(port)}/readyz", timeout=60).text
    return ""


@contextmanager
def stopped(shop: Shop, name: str) -> Iterator[None]:
    """A process that is stopped for a while, and not waited for when it begins again: it is not to be ready."""
    process = shop.stack.process(name)
    process.stop()
    yield
    process.launch()


def captured(shop: Shop, orders: list[str]) -> list[int]:
    """Return how often money was taken for each order."""
    return [sum(entry["kind"] == "CAPTURE" for entry in shop.ledger(order)) for order in orders]


@pytest.fixture
def shop_alone(new_stack: Callable[..., Stack]) -> Shop:
    """A whole stack of this test's own."""
    stack = new_stack(parts=EVERYTHING, settings=PATIENT)
    stack.start()
    return opened(stack)


def test_a_consumer_that_retention_overtook_goes_on_by_command(shop_alone: Shop) -> None:
    """It stops and says so, skips nothing by itself; accepted, and the events sent once more, every order ends once."""
    shop = shop_alone
    before = shop.submit(TEA)
    shop.ended(before)
    with stopped(shop, "payment-worker"):
        orders = [shop.submit(TEA) for _ in range(8)]
        shop.until(lambda: len({r.key for r in shop.records() if r.key in orders}) == len(orders), "they are told")
        admin = AdminClient(client_settings(shop.stack.kafka_bootstrap))
        ends = {place: end for place, end in shop._ends().items() if place[0] in ("order.events", "inventory.events")}  # noqa: SLF001 - the harness's own
        cut = [TopicPartition(topic, partition, end) for (topic, partition), end in ends.items()]
        for gone in admin.delete_records(cut, operation_timeout=60).values():
            gone.result()
    shop.until(lambda: "retention overtook this worker" in trouble(shop, "payment-worker"), "payment stands")
    code, said = run(shop, "republish", "--since", "1h", "--reason", "payment was away")
    assert (code, said.count("events sent once more")) == (0, 4), said
    code, said = run(shop, "consumers", "accept", "payment", "--reason", "republished")
    assert (code, "goes on with the first record that is left" in said) == (0, True), said
    assert {shop.ended(order)["status"] for order in orders} == {"CONFIRMED"}
    assert captured(shop, [before, *orders]) == [1] * 9
    code, said = run(shop, "consumers", "accept", "payment", "--topic", "order.events", "--reason", "again")
    assert (code, "NO_GAP" in said) == (6, True), said
    assert run(shop, "audit", "verify")[0] == 0


def test_all_of_kafka_may_be_lost(shop_alone: Shop) -> None:
    """Wiped and set up anew: named and accepted, what the outboxes hold is sent to it, every order ends once."""
    shop = shop_alone
    before = shop.submit(TEA)
    shop.ended(before)
    with stopped(shop, "payment-worker"):
        orders = [shop.submit(TEA) for _ in range(8)]
        kafka = shop.stack.process("kafka")
        kafka.stop()
        shutil.rmtree(shop.stack.data / "kafka" / "data")
        kafka.start()
        code, said = run(shop, "topics", "apply")
        assert code == 0, said
    shop.until(lambda: "is another Kafka cluster" in trouble(shop, "payment-worker"), "payment knows a stranger")
    shop.until(lambda: "not the Kafka that the outbox went to" in trouble(shop, "order-relay"), "its relay does")
    cluster = AdminClient(client_settings(shop.stack.kafka_bootstrap)).list_topics(timeout=60).cluster_id
    for service in PROGRAMS:
        code, said = run(shop, "consumers", "accept", service, "--reason", "Kafka was wiped")
        assert (code, "from its beginning" in said) == (0, True), said
    code, said = run(shop, "up", "--detach", "--set", f"KAFKA_CLUSTER={cluster}")
    assert code == 0, said
    assert {shop.ended(order)["status"] for order in [before, *orders]} == {"CONFIRMED"}
    assert captured(shop, [before, *orders]) == [1] * 9
    after = shop.submit(TEA)
    assert shop.ended(after)["status"] == "CONFIRMED"
    held = {r.key for r in shop.records() if r.topic in TOPICS}
    assert held >= {before, *orders, after}
    for service in SERVICES:
        assert shop.sql(service, "SELECT count(*) FROM relay_recovery WHERE cause = 'another Kafka'") == [(1,)]
