"""What order does when something happens: the rows of saga.md's order table, one handler a trigger."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

from chassis.registry import Reactions
from chassis.words import Fact
from order.domain import OPEN, ROUTE, Decision, Order, Orders, Reason, Request, Status, placed
from order.events import (
    CancelAnswered,
    CancelOrder,
    OrderCancellationRequested,
    OrderCancelled,
    OrderCompensationFailed,
    OrderCompensationResolved,
    OrderConfirmed,
    OrderDeadline,
    OrderPlaced,
    Outcome,
    PaymentCharged,
    PaymentDeclined,
    PaymentOutcomeUnknown,
    PaymentRefunded,
    PaymentRefundFailed,
    PaymentResolved,
    PaymentSkipped,
    PlaceAnswered,
    PlaceOrder,
    StockCommitted,
    StockRejected,
    StockReleased,
    StockReleaseFailed,
    StockReserved,
    StockResolved,
)

Undoing: TypeAlias = tuple[OrderCancellationRequested | OrderCancelled, ...]
Closing: TypeAlias = tuple[OrderCompensationResolved | OrderCancelled, ...]

on = Reactions("order", Orders)


@on.command
def place_order(wish: PlaceOrder, orders: Orders) -> PlaceAnswered | tuple[OrderPlaced, OrderDeadline, PlaceAnswered]:
    """Take an order in, once per idempotency key and once per reference, and set its deadline."""
    key, named = (wish.caller, ROUTE, wish.idempotency_key), (wish.caller, wish.customer_id, wish.reference or "")
    earlier = orders.requests.get(key)
    if earlier and wish.placed_at - earlier.at <= orders.rules.idempotency_ttl:
        if earlier.fingerprint != wish.fingerprint:
            return PlaceAnswered(earlier.order_id, "KEY_REUSED")
        mine = earlier.order_id == wish.order_id  # asked again, because the commit's answer was lost
        return PlaceAnswered(earlier.order_id, "PLACED" if mine else "REPLAYED", earlier.answer)
    if wish.reference and (taken := orders.references.get(named)):
        return PlaceAnswered(taken, "REFERENCE_TAKEN")
    if wish.reference:
        orders.references.put(named, wish.order_id)
    orders.requests.put(key, Request(*key, wish.fingerprint, wish.order_id, wish.answer, wish.placed_at))
    orders.rows.put(wish.order_id, placed(wish))
    bought = wish.customer_id, wish.lines, wish.amount_minor, wish.currency
    fact = OrderPlaced(wish.order_id, *bought, wish.payment_token, wish.deadline_at)
    return fact, OrderDeadline(wish.order_id, wish.deadline_at), PlaceAnswered(wish.order_id, "PLACED", wish.answer)


@on.command
def cancel_order(
    wish: CancelOrder, orders: Orders
) -> tuple[CancelAnswered | OrderCancellationRequested | OrderCancelled, ...]:
    """Undo an order that is not decided yet, or confirmed and before its cut-off."""
    order = orders.rows.get(wish.order_id)
    if order is None or wish.caller not in (None, order.caller):
        return (CancelAnswered(wish.order_id, "UNKNOWN"),)
    outcome = _may_cancel(order, wish)
    if outcome != "ACCEPTED":
        return (CancelAnswered(wish.order_id, outcome),)
    reason: Reason = "OPERATOR" if wish.caller is None else "CUSTOMER"
    decision = Decision(reason, wish.at, requested_by=wish.requested_by)
    return CancelAnswered(wish.order_id, outcome), *_undo(orders, order, decision)


@on.timer
def expire(deadline: OrderDeadline, orders: Orders) -> Undoing:
    """Give up an order that is not decided by its deadline; any other is left alone."""
    order = orders.known(deadline.order_id)
    return _undo(orders, order, Decision("DEADLINE", deadline.at)) if order.status in OPEN else ()


@on.pivot
def confirm(charged: PaymentCharged, orders: Orders) -> OrderConfirmed | OrderCancellationRequested | None:
    """Let an order through whose money is taken, unless its customer is blocked (laws L8, L9)."""
    order = orders.fold(charged, "payment", "CHARGED")
    if order is None or order.status not in OPEN:
        return None
    order = order.to(Status.PAYMENT_CHARGED, charged.at, charged.type)
    if orders.blocked.get(order.customer_id):
        return orders.abort(order, Decision("CONFIRMATION_REJECTED", charged.at, charged.type))
    order = order.to(Status.CONFIRMED, charged.at, charged.type)
    orders.rows.put(order.order_id, replace(order, cancellable_until=charged.at + orders.rules.cancel_cutoff))
    return OrderConfirmed(order.order_id, order.customer_id, order.amount_minor, order.currency)


@on.learns
def note_reserved(fact: StockReserved, orders: Orders) -> None:
    """The stock is held: a pending order waits for the money now."""
    order = orders.fold(fact, "inventory", "RESERVED")
    if order and order.status is Status.PENDING:
        orders.rows.put(order.order_id, order.to(Status.INVENTORY_RESERVED, fact.at, fact.type))


@on.learns
def give_up_unfilled(fact: StockRejected, orders: Orders) -> Undoing:
    """Out of stock: a pending order is undone."""
    order = orders.fold(fact, "inventory", "REJECTED")
    if order and order.status is Status.PENDING:
        return _undo(orders, order, Decision("OUT_OF_STOCK", fact.at, fact.type, Status.INVENTORY_FAILED))
    return orders.close(order, fact.at, fact.type) if order else ()


@on.learns
def give_up_unpaid(fact: PaymentDeclined, orders: Orders) -> Undoing:
    """The card was declined: an undecided order is undone."""
    order = orders.fold(fact, "payment", "DECLINED")
    if order and order.status in OPEN:
        return _undo(orders, order, Decision("PAYMENT_DECLINED", fact.at, fact.type, Status.PAYMENT_FAILED))
    return orders.close(order, fact.at, fact.type) if order else ()


@on.learns
def note_committed(fact: StockCommitted, orders: Orders) -> None:
    """The goods are taken for good."""
    orders.fold(fact, "inventory", "COMMITTED")


@on.learns
def note_unknown(fact: PaymentOutcomeUnknown, orders: Orders) -> None:
    """Nobody knows yet whether the card was charged; the client may see it."""
    orders.fold(fact, "payment", "UNKNOWN")


@on.learns
def note_skipped(fact: PaymentSkipped, orders: Orders) -> tuple[OrderCancelled, ...]:
    """Nothing was charged, and nothing will be."""
    order = orders.fold(fact, "payment", "SKIPPED")
    return orders.close(order, fact.at, fact.type) if order else ()


@on.learns
def note_released(fact: StockReleased, orders: Orders) -> Closing:
    """The stock is back."""
    return _acknowledged(fact, orders, "inventory", "RELEASED")


@on.learns
def note_refunded(fact: PaymentRefunded, orders: Orders) -> Closing:
    """The money is back."""
    return _acknowledged(fact, orders, "payment", "REFUNDED")


@on.learns
def note_stock_resolved(fact: StockResolved, orders: Orders) -> Closing:
    """A person ended inventory's undo."""
    return _acknowledged(fact, orders, "inventory", "RESOLVED")


@on.learns
def note_payment_resolved(fact: PaymentResolved, orders: Orders) -> Closing:
    """A person ended payment's undo."""
    return _acknowledged(fact, orders, "payment", "RESOLVED")


@on.learns
def freeze_unreleased(fact: StockReleaseFailed, orders: Orders) -> OrderCompensationFailed | None:
    """The stock cannot come back: the order is frozen until a person acts."""
    failure = OrderCompensationFailed(fact.order_id, "inventory", fact.error_class, fact.attempts, fact.error)
    return _frozen(fact, orders, "RELEASE_FAILED", failure)


@on.learns
def freeze_unrefunded(fact: PaymentRefundFailed, orders: Orders) -> OrderCompensationFailed | None:
    """The money cannot go back: the order is frozen until a person acts."""
    failure = OrderCompensationFailed(fact.order_id, "payment", fact.error_class, fact.attempts, fact.code)
    return _frozen(fact, orders, "REFUND_FAILED", failure)


def _may_cancel(order: Order, wish: CancelOrder) -> Outcome:
    if order.reason:
        return "FROZEN" if order.status is Status.COMPENSATION_FAILED else "ALREADY"
    if wish.version not in (None, order.version):
        return "CHANGED"
    return "TOO_LATE" if order.cancellable_until and wish.at >= order.cancellable_until else "ACCEPTED"


def _undo(orders: Orders, order: Order, decision: Decision) -> Undoing:
    """Decide to undo the order; it ends at once if everyone has settled already."""
    asked = orders.abort(order, decision)
    return asked, *orders.close(orders.known(order.order_id), decision.at, decision.because)


def _acknowledged(fact: Fact, orders: Orders, participant: str, state: str) -> Closing:
    """Take an undo as done, announced failures of it as resolved, and end the order if it was the last."""
    order = orders.fold(fact, participant, state)
    if order is None:
        return ()
    left = tuple(failure for failure in order.detail.failed if failure.participant != participant)
    if left == order.detail.failed:
        return orders.close(order, fact.at, fact.type)
    how = order.detail.resolved if state == "RESOLVED" else None
    order = replace(order, detail=replace(order.detail, failed=left))
    orders.rows.put(order.order_id, order)
    resolved = OrderCompensationResolved(order.order_id, participant, how or "RETRIED")
    return resolved, *orders.close(order, fact.at, fact.type)


def _frozen(fact: Fact, orders: Orders, state: str, failure: OrderCompensationFailed) -> OrderCompensationFailed | None:
    """Freeze an order that is being undone; nobody fails an undo that was not asked for, unless the order forgot."""
    order = orders.fold(fact, failure.participant, state)
    if order is None or order.reason is None:
        return None
    if order.status is not Status.COMPENSATION_FAILED:
        order = order.to(Status.COMPENSATION_FAILED, fact.at, fact.type)
    detail = replace(order.detail, failed=(*order.detail.failed, failure))
    orders.rows.put(order.order_id, replace(order, detail=detail))
    return failure
