"""The intake's own breaker on the whole stack: shut by sagas that fail, tried with a trickle, opened by good ones."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from quadrille.web.admission import PROBES, TRICKLE_SECONDS
from quadrille_cli.client import Client, Reply
from quadrille_cli.demo_data import order_of
from tests.conftest import told_otherwise

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Shop

TEA, NONE = [("SKU-TEA", 1)], [("SKU-NONE", 1)]
REST = 2
BREAKER = {"INTAKE_FAILURE_MINIMUM": "20", "INTAKE_REST": f"{REST}s", "ORDER_DEADLINE": "1m"}
GUARD = {"INTAKE_WAL_KEPT": "100MB", "INTAKE_REST": "1h", "ORDER_DEADLINE": "1h"}
FILL = "SELECT pg_logical_emit_message(false, 'test', repeat('x', 1000000)) FROM generate_series(1, 130)"
RESTED = "UPDATE intake SET since = since - interval '1 h' RETURNING state"
ENDED = "SELECT 1 FROM intake WHERE (SELECT sum(ended) FROM tally WHERE tally.at >= intake.since) >= %s"


@pytest.fixture
def guarded(hasty: Shop) -> Iterator[Shop]:
    """The stack with the breaker's own minimum, a short rest, and nothing counted yet; open again afterwards."""
    operate(hasty, "pause")
    operate(hasty, "resume")
    with told_otherwise(hasty.stack, "order-api", **BREAKER):
        yield hasty
        operate(hasty, "resume")


def operate(shop: Shop, act: str) -> None:
    """Pause or resume the intake, as an operator does."""
    shop.ask("order-api", "POST", f"/ops/intake/{act}", {"reason": "a scenario"})


def place(shop: Shop, key: str = "") -> Reply:
    """Ask for an order; whatever is answered."""
    with Client(shop.stack.url("order")) as api:
        return api.ask("POST", "/v1/orders", order_of(TEA), {"Idempotency-Key": key or f"test-{uuid.uuid4()}"})


def state(shop: Shop) -> str:
    """Where the breaker stands."""
    return str(shop.sql("order", "SELECT state FROM intake")[0][0])


def news(shop: Shop) -> list[tuple[str, dict[str, Any]]]:
    """What operators were told of the breaker."""
    told = shop.told("ops.events", "order")
    return [(kind, body) for kind, body in told if kind.startswith("intake.") and body["cause"] != "PAUSED"]


@pytest.mark.proves("F23")
def test_sagas_that_fail_shut_the_intake_and_good_ones_open_it(guarded: Shop) -> None:
    """F23: POST answers 503, then a trickle is let in, then all; what runs is untouched, operators are told both."""
    before, key = len(news(guarded)), f"test-{uuid.uuid4()}"
    first, running = place(guarded, key), guarded.submit(TEA, "tok_slow_6s")
    bad = [guarded.submit(TEA, "tok_refund_fails_business") for _ in range(2)]
    with ThreadPoolExecutor(8) as buyers:
        assert len(list(buyers.map(lambda _: guarded.submit(NONE), range(18)))) == 18
    assert {guarded.ended(order)["status"] for order in (first.body["order_id"], *bad)} == {"CONFIRMED"}
    for count in (21, 22, 23):  # counted once a second, as the breaker looks: it has looked meanwhile
        guarded.until(lambda: guarded.sql("order", ENDED, count), f"{count} sagas are counted")  # noqa: B023 - called at once
        guarded.submit(NONE)
    assert state(guarded) == "OPEN"  # out of stock is no failure

    assert [guarded.cancel(order).status for order in bad] == [202, 202]
    guarded.until(lambda: state(guarded) == "SHUT", "two of them fail and shut the intake")
    refused = guarded.until(lambda: next((r for r in [place(guarded)] if r.status != 202), None), "POST is refused")
    assert (refused.status, refused.body["type"].rpartition("/")[2]) == (503, "overloaded")
    assert (refused.body["cause"], refused.body["retryable"]) == ("SAGA_FAILURE_RATE", True)
    assert 1 <= int(refused.headers["retry-after"]) <= REST
    untouched(guarded, first, key)
    assert guarded.order(running)["status"] in {"PENDING", "INVENTORY_RESERVED"}

    for order in trickled(guarded):
        assert guarded.ended(order)["status"] == "CONFIRMED"
    guarded.until(lambda: {place(guarded).status for _ in range(3)} == {202}, "all are let in")
    assert guarded.ended(running)["status"] == "CONFIRMED"
    assert [entry["kind"] for entry in guarded.captures(running)] == ["CAPTURE"]
    why = {"service": "order", "cause": "SAGA_FAILURE_RATE"}
    guarded.until(lambda: len(news(guarded)) >= before + 2, "operators are told")
    assert news(guarded)[before:] == [("intake.paused", why), ("intake.resumed", why)]


def untouched(shop: Shop, taken: Reply, key: str) -> None:
    """While new orders are refused, one that was taken is answered as ever, and can be cancelled."""
    again = place(shop, key)
    assert (again.status, again.raw, again.headers["idempotent-replayed"]) == (202, taken.raw, "true")
    order = taken.body["order_id"]
    assert shop.cancel(order).status == 202
    assert (shop.ended(order)["status"], shop.kept(order)) == ("CANCELLED", 0)
    assert state(shop) == "SHUT"


def trickled(shop: Shop) -> list[str]:
    """The orders that are let in until all are: one a second, however many ask."""
    shop.until(lambda: state(shop) == "TRICKLE", "a trickle is let in")
    answers, began = list[Reply](), time.monotonic()

    def knock() -> bool:
        answers.append(place(shop))
        return state(shop) == "OPEN"

    shop.until(knock, "the trickle opens the intake")
    let_in = [answer for answer in answers if answer.status == 202]
    assert PROBES - 1 <= len(let_in) <= (time.monotonic() - began) / TRICKLE_SECONDS + 2  # one is the saga that ran on
    assert {answer.status for answer in answers} == {202, 503}
    return [answer.body["order_id"] for answer in let_in]


@pytest.fixture
def scarce(hasty: Shop) -> Iterator[Shop]:
    """The stack with an intake that bears no more than 100 MB of log for a slot; open again afterwards."""
    with told_otherwise(hasty.stack, "order-api", **GUARD):
        yield hasty
        operate(hasty, "pause")
        operate(hasty, "resume")


@pytest.mark.proves("F16")
def test_log_kept_for_a_relay_that_is_away_shuts_the_intake_and_what_runs_ends(scarce: Shop) -> None:
    """503 DISK_GUARD while the slot keeps too much; with the relay back the order ends, and the intake opens itself."""
    before, key, relay = len(news(scarce)), f"test-{uuid.uuid4()}", scarce.stack.process("order-relay")
    relay.stop()
    try:
        running = place(scarce, key)
        assert running.status == 202
        scarce.sql("order", FILL)
        refused = scarce.until(lambda: next((r for r in [place(scarce)] if r.status != 202), None), "POST is refused")
        assert (refused.status, refused.body["cause"], refused.headers["retry-after"]) == (503, "DISK_GUARD", "30")
        assert (again := place(scarce, key)).raw == running.raw
        assert again.headers["idempotent-replayed"] == "true"
    finally:
        relay.start()
    told = scarce.ask("order-api", "GET", "/ops/intake")
    assert told["detail"].endswith("of log kept for a slot, 100.0 MB is the limit")
    assert scarce.ended(running.body["order_id"])["status"] == "CONFIRMED"
    assert state(scarce) == "GUARDED"

    assert scarce.sql("order", RESTED) == [("GUARDED",)]
    scarce.until(lambda: place(scarce).status == 202, "the intake opens by itself")
    why = {"service": "order", "cause": "DISK_GUARD"}
    scarce.until(lambda: len(news(scarce)) >= before + 2, "operators are told")
    assert news(scarce)[before:] == [("intake.paused", why), ("intake.resumed", why)]
