"""Cancellation at every moment: the rows of law.md, on the real stack; money, goods and events agree."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from quadrille_cli.client import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quadrille_cli.client import Reply
    from quadrille_cli.stack import Stack
    from tests.conftest import Shop

TEA = [("SKU-TEA", 2)]
CUT_OFF = "UPDATE orders SET cancellable_until = now() - interval '1 second' WHERE order_id = %s RETURNING 1"
CHARGING = "SELECT 1 FROM payment WHERE order_id = %s AND state = 'CHARGING'"
CHARGED = "SELECT 1 FROM outbox WHERE aggregateid = %s AND type = 'payment.charged'"
AT_ONCE = 24


def cancel(shop: Shop, order: str) -> Reply:
    """Ask to cancel an order; whatever is answered."""
    with Client(shop.stack.url("order")) as api:
        return api.ask("POST", f"/v1/orders/{order}/cancel")


@contextmanager
def stopped(stack: Stack, process: str) -> Iterator[None]:
    """A process that is away for a while."""
    stack.process(process).stop()
    try:
        yield
    finally:
        stack.process(process).start()


@pytest.fixture
def stock(shop: Shop) -> Iterator[None]:
    """What is available afterwards is what was before: every good came back."""
    shop.until(shop.all_read, "what went before is over")
    before = shop.level("SKU-TEA")
    yield
    shop.until(shop.all_read, "all is read")
    after = shop.level("SKU-TEA")
    names = ("available", "held", "committed", "received")
    assert [after[name] for name in names] == [before[name] for name in names]


def told_once(shop: Shop, *orders: str) -> None:
    """Each order's undoing was asked for once, and ended once."""
    said = Counter((record.key, record.type) for record in shop.records())
    for kind in ("order.cancellation_requested", "order.cancelled"):
        assert [said[order, kind] for order in orders] == [1] * len(orders), kind


def undone(shop: Shop, order: str, *, charged: bool) -> dict[str, Any]:
    """The document of an order the customer cancelled, when it has ended; no money is kept."""
    document = shop.ended(order)
    assert (document["status"], document["reason"]) == ("CANCELLED", "CUSTOMER")
    assert (document["inventory"], document["payment"]) == ("RELEASED", "REFUNDED" if charged else "SKIPPED")
    signs = {"CAPTURE": 1, "VOID": -1, "REFUND": -1}
    entries = shop.captures(order)
    assert sum(signs[entry["kind"]] * entry["amount_minor"] for entry in entries) == 0
    assert Counter(entry["kind"] == "CAPTURE" for entry in entries) == (Counter([True, False]) if charged else {})
    assert ("refund" in document["detail"]) is charged
    return document


@pytest.mark.proves("cancel.unsaid")
@pytest.mark.usefixtures("stock")
def test_before_the_order_left_the_outbox(shop: Shop, stack: Stack) -> None:
    """With the relay away: stock is held and released, payment leaves a tombstone and charges nobody.

    Inventory works once payment has heard: no order holds between the topics that payment reads.
    """
    with stopped(stack, "inventory-worker"):
        with stopped(stack, "order-relay"):
            order = shop.submit(TEA)
            assert cancel(shop, order).status == 202
        shop.until(lambda: shop.order(order)["payment"] == "SKIPPED" or None, "payment has heard of it")
    undone(shop, order, charged=False)
    told_once(shop, order)


@pytest.mark.proves("cancel.reserving")
@pytest.mark.usefixtures("stock")
def test_while_inventory_works(shop: Shop, stack: Stack) -> None:
    """Cancelled before the stock is held: payment leaves a tombstone, and a late hold charges nobody."""
    with stopped(stack, "inventory-worker"):
        order = shop.submit(TEA)
        assert cancel(shop, order).status == 202
        shop.until(lambda: shop.order(order)["payment"] == "SKIPPED" or None, "payment has heard of it")
    undone(shop, order, charged=False)
    told_once(shop, order)


@pytest.mark.proves("cancel.reserved")
@pytest.mark.usefixtures("stock")
def test_before_the_charge_has_begun(shop: Shop, stack: Stack) -> None:
    """Reserved, and payment hears of hold and cancellation later, in either order: no money is kept."""
    with stopped(stack, "payment-worker"):
        order = shop.submit(TEA)
        shop.until(lambda: shop.order(order)["status"] == "INVENTORY_RESERVED" or None, "the stock is held")
        assert cancel(shop, order).status == 202
        shop.until(lambda: shop.order(order)["inventory"] == "RELEASED" or None, "the stock is back")
    shop.ended(order)
    undone(shop, order, charged=bool(shop.captures(order)))
    told_once(shop, order)


@pytest.mark.proves("cancel.in-flight")
@pytest.mark.usefixtures("stock")
def test_while_the_charge_is_in_flight(shop: Shop) -> None:
    """The processor has been asked and has not answered: the stock goes back at once, the money once it is known."""
    order = shop.submit(TEA, "tok_slow_6s")
    shop.until(lambda: shop.sql("payment", CHARGING, order), "the charge is in flight")
    assert cancel(shop, order).status == 202
    shop.until(lambda: shop.order(order)["inventory"] == "RELEASED" or None, "the stock is back")
    assert shop.order(order)["status"] == "CANCELLING"
    document = undone(shop, order, charged=True)
    assert document["detail"]["refund"]["amount_minor"] == 2500
    told_once(shop, order)


@pytest.mark.proves("cancel.unread")
@pytest.mark.usefixtures("stock")
def test_charged_and_the_order_has_not_read_it(shop: Shop, stack: Stack) -> None:
    """The card is charged while order's worker is away: the order is cancelled, never confirmed, and refunded."""
    with stopped(stack, "order-worker"):
        order = shop.submit(TEA)
        shop.until(lambda: shop.sql("payment", CHARGED, order), "the card is charged")
        answer = cancel(shop, order)
        assert (answer.status, answer.body["history"][-1]["status"]) == (202, "CANCELLING")
    document = undone(shop, order, charged=True)
    assert [entry["status"] for entry in document["history"]] == ["PENDING", "CANCELLING", "CANCELLED"]
    told_once(shop, order)


@pytest.mark.proves("cancel.confirmed")
@pytest.mark.usefixtures("stock")
def test_after_the_confirmation(shop: Shop) -> None:
    """Before the cut-off a confirmed order is restocked and refunded, and its customer gets a second mail."""
    order = shop.submit(TEA)
    shop.ended(order)
    shop.until(lambda: shop.mails(order), "the confirmation is in the mailbox")
    assert cancel(shop, order).status == 202
    document = undone(shop, order, charged=True)
    assert [entry["status"] for entry in document["history"]][-3:] == ["CONFIRMED", "CANCELLING", "CANCELLED"]
    mails = shop.until(lambda: shop.mails(order)[1:], "the second mail is in the mailbox")
    assert len(mails) == 1
    told_once(shop, order)


@pytest.mark.proves("cancel.again")
@pytest.mark.usefixtures("stock")
def test_cancelled_already(shop: Shop) -> None:
    """Cancelling or cancelled: 200 and the same body, and nothing is said a second time."""
    order = shop.submit(TEA, "tok_slow_6s")
    assert [cancel(shop, order).status for _ in range(3)] == [202, 200, 200]
    document = shop.ended(order)
    again = cancel(shop, order)
    assert (again.status, again.body) == (200, document)
    undone(shop, order, charged=bool(shop.captures(order)))
    told_once(shop, order)


@pytest.mark.proves("cancel.too-late")
def test_after_the_cut_off(shop: Shop) -> None:
    """409 with the status and the time it was possible until; the order stays confirmed and paid."""
    order = shop.submit(TEA)
    shop.ended(order)
    assert shop.sql("order", CUT_OFF, order) == [(1,)]
    answer = cancel(shop, order)
    assert (answer.status, answer.body["order_status"]) == (409, "CONFIRMED")
    assert answer.body["type"].endswith("/not-cancellable")
    assert [entry["kind"] for entry in shop.captures(order)] == ["CAPTURE"]
    assert "order.cancellation_requested" not in [record.type for record in shop.records(order)]


@pytest.mark.proves("cancel.frozen", "F10")
def test_a_refund_that_is_refused(shop: Shop) -> None:
    """The order freezes honestly: COMPENSATION_FAILED, not final, told once; to cancel it again is 423."""
    order = shop.submit(TEA, "tok_refund_fails_business")
    shop.ended(order)
    assert cancel(shop, order).status == 202
    shop.until(lambda: shop.order(order)["status"] == "COMPENSATION_FAILED" or None, "the refund is refused")
    answer = cancel(shop, order)
    assert (answer.status, answer.body["type"].rpartition("/")[2]) == (423, "order-frozen")
    shop.until(lambda: shop.order(order)["inventory"] == "RELEASED" or None, "the stock is back all the same")
    document = shop.order(order)
    failed = [{"participant": "payment", "error_class": "BUSINESS", "code": "card_closed"}]
    assert (document["final"], document["detail"]) == (False, {"failed": failed})
    said = Counter(record.type for record in shop.records(order))
    assert (said["order.compensation_failed"], said["order.cancelled"]) == (1, 0)


@pytest.mark.proves("cancel.race")
@pytest.mark.usefixtures("stock")
def test_at_the_same_instant_as_the_confirmation(shop: Shop) -> None:
    """Two clients cancel each order while it goes its way: one is told 202, one 200, and every order is undone."""

    def race(number: int) -> tuple[str, list[int]]:
        order = shop.submit(TEA)
        threading.Event().wait(number * 0.004)  # spreads the cancellations over the whole way of an order
        with ThreadPoolExecutor(2) as two:
            return order, sorted(two.map(lambda _: cancel(shop, order).status, range(2)))

    with ThreadPoolExecutor(8) as pool:
        races = list(pool.map(race, range(AT_ONCE)))
    assert [answers for _, answers in races] == [[200, 202]] * AT_ONCE
    for order, _ in races:
        shop.ended(order)
        undone(shop, order, charged=bool(shop.captures(order)))
    told_once(shop, *(order for order, _ in races))
