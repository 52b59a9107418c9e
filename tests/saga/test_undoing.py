"""Undos that fail, for a while or for good: F6 to F11 of law.md, to the order's honest end."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from quadrille_cli.client import Client, Reply
from tests.conftest import away, told_otherwise

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quadrille_cli.stack import Stack
    from quadrille_cli.stack.processes import Process
    from tests.conftest import Shop

TEA, SEALED = [("SKU-TEA", 1)], [("SKU-SEALED", 1)]
BLOCK = "INSERT INTO blocked VALUES ('cust_blocked') ON CONFLICT DO NOTHING RETURNING 1"
CHARGING = "SELECT 1 FROM payment WHERE order_id = %s AND state = 'CHARGING'"
REFUSED_BY_NOBODY = "SELECT 1 FROM task WHERE key = %s AND type = 'refund_card' AND error IS NOT NULL"


def operate(shop: Shop, participant: str, order: str, act: str, **body: str) -> Reply:
    """What an operator asks of the participant that owes an undo."""
    with Client(shop.stack.url(f"{participant}-worker")) as ops:
        return ops.ask("POST", f"/ops/orders/{order}/{act}", {"reason": "a scenario", **body})


def confirmed(shop: Shop, lines: list[tuple[str, int]], token: str = "tok_ok") -> str:  # noqa: S107 - a test token
    """An order that was confirmed and whose goods are taken."""
    order = shop.submit(lines, token)
    assert shop.ended(order)["status"] == "CONFIRMED"
    return order


def frozen(shop: Shop, order: str) -> dict[str, Any]:
    """The order when an undo of it has failed for good and the other participant has done its part."""

    def there() -> dict[str, Any] | None:
        document = shop.order(order)
        over = document["inventory"] in {"RELEASED", "RELEASE_FAILED"} and document["payment"].startswith("REFUND")
        return document if document["status"] == "COMPENSATION_FAILED" and over else None

    document = shop.until(there, f"an undo of {order} fails")
    assert document["final"] is False
    answer = shop.cancel(order)
    assert (answer.status, answer.body["type"].rpartition("/")[2]) == (423, "order-frozen")
    return document


def counts(shop: Shop, order: str) -> Counter[str]:
    """How often each type of event was said of an order."""
    return Counter(record.type for record in shop.records(order))


@pytest.mark.proves("F6")
def test_a_rejected_confirmation_gives_money_and_goods_back(shop: Shop) -> None:
    """F6: a blocked customer's order is charged, never confirmed, refunded and released, and ends CANCELLED."""
    shop.sql("order", BLOCK)
    before = shop.level("SKU-TEA")
    order = shop.submit(TEA, customer="cust_blocked")
    document = shop.ended(order)
    assert (document["status"], document["reason"]) == ("CANCELLED", "CONFIRMATION_REJECTED")
    assert (document["inventory"], document["payment"]) == ("RELEASED", "REFUNDED")
    assert document["detail"]["refund"] == {"kind": "VOID", "amount_minor": 1250}
    assert [entry["status"] for entry in document["history"]][-3:] == ["PAYMENT_CHARGED", "CANCELLING", "CANCELLED"]
    assert [entry["kind"] for entry in shop.captures(order)] == ["CAPTURE", "VOID"]
    assert shop.level("SKU-TEA")["available"] == before["available"]
    said = counts(shop, order)
    assert (said["order.confirmed"], said["order.cancellation_requested"], said["order.cancelled"]) == (0, 1, 1)


@pytest.mark.proves("F7")
def test_a_refund_that_fails_for_a_while_is_tried_again(shop: Shop) -> None:
    """F7: three refusals to answer, then one refund; every attempt stands on saga.audit, with the next one's time."""
    order = confirmed(shop, TEA, "tok_refund_flaky")
    assert shop.cancel(order).status == 202
    assert shop.ended(order)["payment"] == "REFUNDED"
    assert [entry["kind"] for entry in shop.captures(order)] == ["CAPTURE", "VOID"]
    attempts = shop.until(lambda: _attempts(shop, order, "DONE"), "the attempts are on saga.audit")
    tries = [attempt for attempt in attempts if attempt["participant"] == "payment"]
    assert [attempt["attempt"] for attempt in tries] == list(range(1, len(tries) + 1))
    assert [attempt["outcome"] for attempt in tries] == ["RETRY"] * (len(tries) - 1) + ["DONE"]
    assert len(tries) >= 2
    assert {attempt["error_class"] for attempt in tries[:-1]} == {"TRANSIENT"}
    assert all(attempt["next_attempt_at"] for attempt in tries[:-1])
    assert tries[-1]["next_attempt_at"] is None


@pytest.mark.proves("payment.void", "payment.refund")
def test_a_settled_charge_is_refunded_not_voided(shop: Shop, stack: Stack) -> None:
    """Settled at the processor before it is undone: ledger, event and document say REFUND, and no cent is kept."""
    order = confirmed(shop, TEA)
    with told_otherwise(stack, "sandbox", SANDBOX_SETTLE_AFTER="0s"):
        assert shop.cancel(order).status == 202
        document = shop.ended(order)
    assert (document["status"], document["payment"]) == ("CANCELLED", "REFUNDED")
    assert document["detail"]["refund"] == {"kind": "REFUND", "amount_minor": 1250}
    moved = [("CAPTURE", 1250, f"charge:{order}"), ("REFUND", 1250, f"refund:{order}")]
    assert [(entry["kind"], entry["amount_minor"], entry["key"]) for entry in shop.ledger(order)] == moved
    assert shop.kept(order) == 0
    (refunded,) = [body for kind, body in shop.told("payment.events", order) if kind == "payment.refunded"]
    assert (refunded["kind"], refunded["amount_minor"]) == ("REFUND", 1250)
    (known,) = shop.ask("payment", "GET", f"/v1/payments?order_id={order}")["payments"]
    references = [entry["reference"] for entry in shop.ledger(order)]
    assert [(entry["kind"], entry["reference"]) for entry in known["entries"]] == [
        ("CAPTURE", references[0]), ("REFUND", references[1]),
    ]  # fmt: skip


def _attempts(shop: Shop, order: str, last: str) -> list[dict[str, Any]] | None:
    found = [body for kind, body in shop.told("saga.audit", order) if kind == "compensation.attempted"]
    mine = [body for body in found if body["participant"] == "payment"]
    return found if mine and mine[-1]["outcome"] == last else None


@pytest.mark.proves("F8")
def test_sealed_goods_freeze_the_order_until_a_person_resolves_it(shop: Shop) -> None:
    """F8: what cannot come back is said at once; the money goes back all the same; a person ends it with evidence."""
    order = confirmed(shop, SEALED)
    before = shop.level("SKU-SEALED")
    assert shop.cancel(order).status == 202
    document = frozen(shop, order)
    assert (document["inventory"], document["payment"]) == ("RELEASE_FAILED", "REFUNDED")
    assert [(one["participant"], one["error_class"]) for one in document["detail"]["failed"]] == [
        ("inventory", "BUSINESS")
    ]
    assert shop.kept(order) == 0
    assert operate(shop, "payment", order, "resolve", how="EXTERNAL", evidence="none").status == 409
    answer = operate(shop, "inventory", order, "resolve", how="WRITTEN_OFF", evidence="photo 4711")
    assert answer.status == 200, answer.raw
    document = shop.ended(order)
    assert (document["status"], document["inventory"]) == ("CANCELLED", "RESOLVED")
    assert document["detail"]["resolved"] == {"how": "WRITTEN_OFF"}
    assert shop.level("SKU-SEALED") == before
    said = counts(shop, order)
    assert (said["order.compensation_failed"], said["order.compensation_resolved"], said["order.cancelled"]) == (1,) * 3


@pytest.mark.proves("F8")
def test_goods_that_may_come_back_now_are_released_by_a_retry(shop: Shop) -> None:
    """F8: while the goods are sealed a retry changes nothing; once they are not, it releases them: the order ends."""
    order = confirmed(shop, [("SKU-HOT", 1)])
    level = shop.level("SKU-HOT")
    _seal(shop, sealed=True)
    assert shop.cancel(order).status == 202
    frozen(shop, order)
    assert operate(shop, "inventory", order, "retry-compensation").status == 409
    _seal(shop, sealed=False)
    assert operate(shop, "inventory", order, "retry-compensation").status == 200
    document = shop.ended(order)
    assert (document["status"], document["inventory"]) == ("CANCELLED", "RELEASED")
    after = shop.level("SKU-HOT")
    assert (after["available"], after["committed"]) == (level["available"] + 1, level["committed"] - 1)


def _seal(shop: Shop, *, sealed: bool) -> None:
    body = {"available": shop.level("SKU-HOT")["available"], "sealed": sealed}
    shop.ask("inventory", "PUT", "/v1/stock/SKU-HOT", body, {"If-Match": "*"})


@pytest.mark.proves("F10")
def test_a_refused_refund_is_resolved_with_evidence(shop: Shop) -> None:
    """F10: the closed card freezes the order at once; a retry is refused again; money returned otherwise ends it."""
    order = confirmed(shop, TEA, "tok_refund_fails_business")
    assert shop.cancel(order).status == 202
    document = frozen(shop, order)
    failed = [{"participant": "payment", "error_class": "BUSINESS", "code": "card_closed"}]
    assert (document["inventory"], document["payment"]) == ("RELEASED", "REFUND_FAILED")
    assert document["detail"] == {"failed": failed}
    assert operate(shop, "payment", order, "retry-compensation").status == 202
    shop.until(lambda: counts(shop, order)["payment.refund_failed"] == 2 or None, "it is refused once more")
    assert frozen(shop, order)["detail"] == {"failed": failed}
    _resolved(shop, order)


def _resolved(shop: Shop, order: str) -> None:
    """Payment's undo ended by a person: the order is cancelled, and says so once."""
    answer = operate(shop, "payment", order, "resolve", how="EXTERNAL", evidence="transfer 4711")
    assert answer.status in {200, 202}, answer.raw
    document = shop.ended(order)
    assert (document["status"], document["inventory"], document["payment"]) == ("CANCELLED", "RELEASED", "RESOLVED")
    assert document["detail"]["resolved"] == {"how": "EXTERNAL"}
    said = counts(shop, order)
    assert (said["order.compensation_resolved"], said["order.cancelled"]) == (1, 1)
    assert operate(shop, "payment", order, "resolve", how="EXTERNAL", evidence="again").status == 409


@pytest.fixture
def processor(stack: Stack) -> Iterator[Process]:
    """The processor, which a test may freeze: it goes on afterwards."""
    yield stack.process("sandbox")
    stack.process("sandbox").thaw()


@pytest.mark.proves("F11")
def test_charged_without_a_hold_and_the_refund_refused(shop: Shop, processor: Process) -> None:
    """F11: cancelled during the charge, the goods are gone when the money comes and cannot go back: queued first.

    First means before every other failed undo, also one that has waited longer.
    """
    earlier = confirmed(shop, TEA, "tok_refund_fails_business")
    assert shop.cancel(earlier).status == 202
    frozen(shop, earlier)
    processor.freeze()
    order = shop.submit(TEA, "tok_refund_fails_business")
    shop.until(lambda: shop.sql("payment", CHARGING, order), "the charge is in flight")
    assert shop.cancel(order).status == 202
    shop.until(lambda: shop.order(order)["inventory"] == "RELEASED" or None, "the goods are free")
    processor.thaw()
    document = frozen(shop, order)
    assert (document["inventory"], document["payment"]) == ("RELEASED", "REFUND_FAILED")
    assert shop.kept(order) == 1250
    queue = [one["order_id"] for one in shop.stuck()]
    assert queue.index(order) < queue.index(earlier)
    _resolved(shop, order)
    assert order not in [one["order_id"] for one in shop.stuck()]


@pytest.mark.proves("F9")
def test_a_processor_that_is_down_is_waited_for(shop: Shop, stack: Stack) -> None:
    """F9: refunds nobody answers stay owed, the goods go back meanwhile; the processor back, each is refunded once."""
    orders = [confirmed(shop, TEA) for _ in range(3)]
    with away(stack, "sandbox"):
        for order in orders:
            assert shop.cancel(order).status == 202
        for order in orders:
            shop.until(lambda: shop.sql("payment", REFUSED_BY_NOBODY, order), "a refund was tried in vain")  # noqa: B023 - called at once
            assert (shop.order(order)["status"], shop.order(order)["inventory"]) == ("CANCELLING", "RELEASED")
    for order in orders:
        document = shop.ended(order)
        assert (document["status"], document["payment"]) == ("CANCELLED", "REFUNDED")
        assert [entry["kind"] for entry in shop.captures(order)] == ["CAPTURE", "VOID"]
