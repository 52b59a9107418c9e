"""Outages nobody notices: a participant that is away costs no order, or fails fast; order's api needs nobody else."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from quadrille_cli.commands.timeouts import DECIDED
from quadrille_cli.stack.servers import aot
from tests.conftest import away, told_otherwise

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Shop

TEA = [("SKU-TEA", 2)]
HEARD = "SELECT 1 FROM canary WHERE source = 'payment' AND silent_since IS NULL"
NEEDED = frozenset({"order-api", "postgres:order", aot.NAME})
ORDERS = 20


@pytest.fixture(scope="module")
def patient(shop: Shop) -> Shop:
    """The stack with the defaults a user has: an order waits a quarter of an hour for whoever is away."""
    assert shop.ask("order-api", "GET", "/info")["settings"]["order_deadline"] == "15m"
    return shop


def silences(shop: Shop, source: str) -> list[dict[str, Any]]:
    """What order has said of a service's silence."""
    told = [body for kind, body in shop.told("ops.events", "order") if kind == "service.silent"]
    return [body for body in told if body["silent"] == source]


@pytest.mark.proves("F12")
def test_inventory_is_away_and_nobody_notices(patient: Shop) -> None:
    """Orders that come while inventory is called silent wait for it, and each is confirmed when it is back."""
    before = len(silences(patient, "inventory"))
    with away(patient.stack, "inventory-worker"):
        orders = [patient.submit(TEA) for _ in range(ORDERS)]
        patient.until(lambda: silences(patient, "inventory")[before:], "order calls inventory silent")
        orders += [patient.submit(TEA) for _ in range(ORDERS)]
        assert {patient.order(order)["status"] for order in orders} == {"PENDING"}
    assert {patient.ended(order)["status"] for order in orders} == {"CONFIRMED"}


@pytest.fixture
def failing_fast(shop: Shop) -> Iterator[Shop]:
    """The stack with the policy that orders fail fast while payment is silent."""
    with told_otherwise(shop.stack, "order-worker", OUTAGE_PAYMENT="fail_fast"):
        yield shop


@pytest.mark.proves("order.away", "F13")
def test_payment_is_away_and_what_is_held_for_it_is_released(failing_fast: Shop) -> None:
    """Held goods are back while payment is still away; back, it finds the cancellation, and keeps no money.

    What comes while it is silent is given up too; once it is heard again, orders are confirmed as ever.
    """
    shop = failing_fast
    before = shop.level("SKU-TEA")
    with away(shop.stack, "payment-worker"):
        orders = [shop.submit(TEA) for _ in range(ORDERS)]
        shop.until(lambda: all(shop.order(order)["inventory"] == "RELEASED" for order in orders), "all are released")
        orders.append(shop.submit(TEA))
        shop.until(lambda: shop.order(orders[-1])["inventory"] == "RELEASED", "so is what came later")
        level = shop.level("SKU-TEA")
        assert (level["available"], level["held"]) == (before["available"], before["held"])
        assert {shop.order(order)["status"] for order in orders} == {"CANCELLING"}
    for order in orders:
        document = shop.ended(order)
        assert (document["status"], document["reason"]) == ("CANCELLED", "PARTICIPANT_AWAY")
        assert (document["payment"] in ("SKIPPED", "REFUNDED"), shop.kept(order)) == (True, 0)
    shop.until(lambda: shop.sql("order", HEARD), "payment is heard again")
    assert shop.ended(shop.submit(TEA))["status"] == "CONFIRMED"


def test_with_everything_else_killed_a_fresh_api_takes_orders(shop: Shop) -> None:
    """Kafka, registry, relays, workers and all other services are gone: POST answers 202 and its repeat the same.

    So does an api started only then: it knows its schemas' ids by its cache on disk. Afterwards all is as ever.
    """
    stack = shop.stack
    others = [name for name, process in stack.processes.items() if process.running and name not in NEEDED]
    assert {"kafka", "registry", "postgres:inventory", "order-worker", "order-relay", "sandbox"} <= {*others}
    with ExitStack() as back:
        for name in reversed(others):  # the servers first, as they were started
            back.callback(stack.process(name).start)
        for name in reversed(others):
            end = stack.process(name).stop if name.startswith("postgres:") else stack.process(name).kill
            end()
        running = shop.submit(TEA, key="test-all-away-1")
        stack.process("order-api").kill()
        stack.process("order-api").start()
        fresh = shop.submit(TEA, key="test-all-away-2")
        assert shop.submit(TEA, key="test-all-away-2") == fresh
        assert shop.ask("order-api", "GET", "/readyz")["ready"] is True
        assert {shop.order(order)["status"] for order in (running, fresh)} == {"PENDING"}
    assert {shop.ended(order)["status"] for order in (running, fresh)} == {"CONFIRMED"}


def test_timeouts_are_proposed_of_what_steps_took(shop: Shop) -> None:
    """`quadrille stuck --suggest` shows every step that orders took here, and what is set."""
    assert shop.ended(shop.submit(TEA))["status"] == "CONFIRMED"
    command = [sys.executable, "-m", "quadrille_cli", "stuck", "--suggest", "--data", str(shop.stack.data)]
    table, told = (subprocess.run([*command, *more], capture_output=True, text=True, check=True).stdout
                   for more in ((), ("-o", "json")))  # fmt: skip
    assert "stock.reserved" in table
    document = json.loads(told)
    steps = {row["step"]: row for row in document["steps"]}
    assert {"stock.reserved", "payment.charged", DECIDED} <= set(steps)
    assert steps["stock.reserved"]["owes"] == "inventory"
    assert document["settings"]["order_deadline"] == "15m"
