"""Orders whose deadline passes while a service is away or an outcome is unknown: F4 and F12 to F14 of law.md."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from quadrille.consumer.heartbeat import KEYS
from tests.conftest import away

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Shop

TEA = [("SKU-TEA", 2)]
HEARERS = ("order", "payment")  # of inventory's topic
HEARD = "SELECT 1 FROM canary WHERE source = 'inventory' AND heard_at > %s"
CHARGED = "SELECT 1 FROM outbox WHERE aggregateid = %s AND type = 'payment.charged'"
DECLINED = "SELECT 1 FROM outbox WHERE aggregateid = %s AND type = 'payment.declined'"
RELEASED = "SELECT 1 FROM hold WHERE order_id = %s AND state = 'RELEASED'"
PAST = "SELECT 1 FROM orders WHERE order_id = %s AND deadline_at < now()"


@pytest.fixture
def stock(hasty: Shop) -> Iterator[None]:
    """What is available afterwards is what was before: every good of a cancelled order came back."""
    before = hasty.level("SKU-TEA")
    yield
    after = hasty.level("SKU-TEA")
    assert (after["available"], after["held"]) == (before["available"], before["held"])


def expired(shop: Shop, order: str) -> dict[str, Any]:
    """The document of an order that was cancelled at its deadline, said once each, without a cent kept."""
    document = shop.ended(order)
    assert (document["status"], document["reason"]) == ("CANCELLED", "DEADLINE")
    assert document["inventory"] == "RELEASED"
    assert shop.kept(order) == 0
    said = Counter(record.type for record in shop.records(order))
    assert (said["order.cancellation_requested"], said["order.cancelled"], said["order.confirmed"]) == (1, 1, 0)
    return document


def cancelling(shop: Shop, order: str) -> Callable[[], bool | None]:
    """Tell whether the decider has given an order up."""
    return lambda: shop.order(order)["status"] == "CANCELLING" or None


@pytest.fixture(scope="module", autouse=True)
def pending(hasty: Shop) -> list[str]:
    """Orders whose charge the processor works on for 15 s, placed before all others so that nobody waits for them.

    Each is one that payment has asked the processor for; where the deadline was faster than that, another is placed.
    """
    asked: list[str] = []
    while len(asked) < 2:
        order = hasty.submit([("SKU-HOT", 1)], "tok_pending_15s")
        if hasty.until(lambda: _asked_or_late(hasty, order), "the charge is asked for, or too late") == "ASKED":  # noqa: B023 - called at once
            asked.append(order)
    return asked


def _asked_or_late(shop: Shop, order: str) -> str | None:
    """Tell whether the processor was asked for an order's charge, or the order was given up before."""
    if shop.sql("payment", "SELECT 1 FROM payment WHERE order_id = %s AND state = 'UNKNOWN'", order):
        return "ASKED"
    return "LATE" if shop.order(order)["status"] in ("CANCELLING", "CANCELLED") else None


@pytest.mark.proves("F13")
@pytest.mark.usefixtures("stock")
def test_payment_away_past_the_deadline(hasty: Shop) -> None:
    """F13: the order is given up without payment; back again, payment finds the cancellation and keeps no money."""
    with away(hasty.stack, "payment-worker"):
        order = hasty.submit(TEA)
        hasty.until(cancelling(hasty, order), "the deadline has passed")
        hasty.until(lambda: hasty.order(order)["inventory"] == "RELEASED" or None, "the stock is back")
    expired(hasty, order)


@pytest.mark.proves("F14", "F2")
def test_order_away_past_the_deadline(hasty: Shop) -> None:
    """F14: participants finish what they have and wait, nothing expires; back again, order reads the events first.

    What was charged is confirmed although its deadline has passed; what was declined is cancelled for that.
    """
    with away(hasty.stack, "order-worker"):
        paid, unpaid = hasty.submit(TEA), hasty.submit(TEA, "tok_declined_funds")
        hasty.until(lambda: hasty.sql("payment", CHARGED, paid), "the card is charged")
        hasty.until(lambda: hasty.sql("payment", DECLINED, unpaid), "the other one is declined")
        hasty.until(lambda: hasty.sql("inventory", RELEASED, unpaid), "inventory needs nobody to give its goods back")
        hasty.until(lambda: hasty.sql("order", PAST, unpaid), "the deadline has passed")
        assert {hasty.order(order)["status"] for order in (paid, unpaid)} == {"PENDING"}
    assert hasty.ended(paid)["status"] == "CONFIRMED"
    document = hasty.ended(unpaid)
    assert (document["status"], document["reason"]) == ("CANCELLED", "PAYMENT_DECLINED")
    assert [hasty.kept(order) for order in (paid, unpaid)] == [2500, 0]


@pytest.mark.proves("F12")
@pytest.mark.usefixtures("stock")
def test_inventory_away_past_the_deadline_and_its_silence_is_announced(hasty: Shop) -> None:
    """F12: nobody holds goods, so every order is given up; back, all end uncharged.

    While none of inventory's processes is there everyone who hears it tells on `ops.events` that it is silent, and
    since when: its last beat.
    """
    before = _silences(hasty, "service.silent")
    hasty.until(_heard_anew(hasty), "a beat of inventory is heard")
    names = [f"inventory-{role}" for role in ("worker", "relay", "api")]
    for name in names:
        hasty.stack.process(name).kill()
    with away(hasty.stack, *names):
        orders = [hasty.submit(TEA) for _ in range(10)]
        hasty.until(
            lambda: {body["service"] for body in _silences(hasty, "service.silent")[len(before) :]} == set(HEARERS),
            "the silence is told",
        )
        last = max(body["said_at"] for _, body in hasty.told("inventory.events", *KEYS))
        for order in orders:
            hasty.until(cancelling(hasty, order), "the deadline has passed")
    for body in _silences(hasty, "service.silent")[len(before) :]:
        assert body["since_at"] == last
    for order in orders:
        assert expired(hasty, order)["payment"] == "SKIPPED"
        assert hasty.captures(order) == []
    hasty.until(lambda: _silences(hasty, "service.heard"), "it is told that inventory is heard again")


def _silences(shop: Shop, kind: str) -> list[dict[str, Any]]:
    """What the others have said of inventory's silence."""
    told = shop.told("ops.events", *HEARERS)
    return [body for said, body in told if said == kind and body["silent"] == "inventory"]


def _heard_anew(shop: Shop) -> Callable[[], bool]:
    """Tell whether all who hear inventory have heard a beat of it since we were asked."""
    at = datetime.now(UTC)
    return lambda: all(shop.sql(service, HEARD, at) for service in HEARERS)


@pytest.mark.proves("F9")
def test_the_stuck_clock_runs_while_a_refund_is_waited_for(hasty: Shop) -> None:
    """F9: a refund nobody answers is called stuck after its time, on `ops.events` and in the queue, until it lands."""
    order = hasty.submit(TEA)
    assert hasty.ended(order)["status"] == "CONFIRMED"
    with away(hasty.stack, "sandbox"):
        assert hasty.cancel(order).status == 202
        stuck = hasty.until(lambda: _called(hasty, order), "it is called stuck")
        document = hasty.order(order)
        (told,) = hasty.until(lambda: _stuck_facts(hasty, order), "operators are told")
    owed = [{"owes": "payment", "fact": "payment.refunded"}]
    since = next(entry["at"] for entry in document["history"] if entry["status"] == "CANCELLING")
    assert (stuck["status"], stuck["reason"], stuck["level"]) == ("CANCELLING", "CUSTOMER", "WARN")
    assert (stuck["owed"], stuck["since_at"], document["attention"]) == (owed, since, "STUCK")
    assert ({"owes": told["owes"], "fact": told["fact"]}, told["level"]) == (owed[0], "WARN")
    document = hasty.ended(order)
    assert (document["status"], document["payment"], document["attention"]) == ("CANCELLED", "REFUNDED", None)
    assert _called(hasty, order) is None
    assert len(_stuck_facts(hasty, order)) == 1


def _called(shop: Shop, order: str) -> dict[str, Any] | None:
    """The order's place in the queue of the stuck, if it has one."""
    return next((one for one in shop.stuck() if one["order_id"] == order), None)


def _stuck_facts(shop: Shop, order: str) -> list[dict[str, Any]]:
    """What operators were told of an order that waits too long."""
    return [body for kind, body in shop.told("ops.events", order) if kind == "order.stuck"]


@pytest.mark.proves("F4")
def test_the_deadline_passes_while_the_outcome_is_unknown(hasty: Shop, pending: list[str]) -> None:
    """F4: the order is given up at its deadline, payment keeps asking; charged after all, the money goes back."""
    for order in pending:
        document = expired(hasty, order)
        assert document["payment"] == "REFUNDED"
        assert document["detail"]["refund"]["amount_minor"] == 300
        assert [entry["kind"] for entry in hasty.captures(order)] == ["CAPTURE", "VOID"]
        types = [record.type for record in hasty.records(order)]
        assert types.count("payment.outcome_unknown") == types.count("payment.charged") == 1
