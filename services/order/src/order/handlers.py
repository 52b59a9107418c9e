"""What order does when something happens: the rows of law.md, "Order", one handler a trigger."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from order import events
from order.domain import AWAITS, LEVELS, OPEN, Decision, Order, Orders, Reason, SigningKey, Status, Webhook, placed
from quadrille import Decision as HandlingDecision
from quadrille import Event, FeedPlace, FindingRaised, HandlerRegistry, OrderStuck

Timers: TypeAlias = events.OrderDeadline | events.OrderCheck
Placing: TypeAlias = events.PlaceAnswered | tuple[events.OrderPlaced | Timers | events.PlaceAnswered, ...]
Undoing: TypeAlias = tuple[events.OrderCancellationRequested | events.OrderCancelled, ...]
Ending: TypeAlias = tuple[events.OrderCancelled | FindingRaised, ...]
GivingUp: TypeAlias = tuple[events.OrderCancellationRequested | events.OrderCancelled | FindingRaised, ...]
Freezing: TypeAlias = tuple[events.OrderCompensationFailed | FindingRaised, ...]
Closing: TypeAlias = tuple[events.OrderCompensationResolved | events.OrderCancelled | FindingRaised, ...]

on = HandlerRegistry("order", Orders, watches=("notification",))  # whom nobody else would miss


@on.command
def place_order(command: events.PlaceOrder, orders: Orders) -> Placing:
    """Take an order in, unless another one bears its reference, and set when to look at it first."""
    named = command.caller, command.customer_id, command.reference or ""
    if command.reference and (taken := orders.references.get(named)):
        return events.PlaceAnswered(taken, "REFERENCE_TAKEN")
    if command.reference:
        orders.references.put(named, command.order_id)
    orders.rows.put(command.order_id, placed(command))
    bought = command.customer_id, command.lines, command.amount_minor, command.currency
    fact = events.OrderPlaced(command.order_id, *bought, command.payment_token, command.deadline_at)
    return fact, *_timers(orders, command.order_id, command.placed_at), events.PlaceAnswered(command.order_id, "PLACED")


@on.command
def cancel_order(
    command: events.CancelOrder, orders: Orders
) -> tuple[events.CancelAnswered | events.OrderCancellationRequested | events.OrderCancelled | events.OrderCheck, ...]:
    """Undo an order that is not decided yet, or confirmed and before its cut-off."""
    order = orders.rows.get(command.order_id)
    if order is None or command.caller not in (None, order.caller):
        return (events.CancelAnswered(command.order_id, "UNKNOWN"),)
    outcome = _may_cancel(order, command)
    if outcome != "ACCEPTED":
        return (events.CancelAnswered(command.order_id, outcome),)
    reason: Reason = "OPERATOR" if command.caller is None else "CUSTOMER"
    decision = Decision(reason, command.at, requested_by=command.requested_by)
    undoing = _undo(orders, order, decision)
    first = min(order.deadline_at, order.placed_at + orders.rules.patience.warn)
    ended = not order.debts and command.at >= first  # else a look is still to come, as long as it waits
    checks = _checks(orders, command.order_id, command.at) if ended else ()
    return events.CancelAnswered(command.order_id, outcome), *undoing, *checks


@on.command
def give_up_waiting(command: events.GiveUpWaiting, orders: Orders) -> Undoing:
    """Undo an order that waits for a participant which is away: once it waits for somebody else, it goes on."""
    order = orders.rows.get(command.order_id)
    if order is None or order.status is not AWAITS.get(command.participant):
        return ()
    return _undo(orders, order, Decision("PARTICIPANT_AWAY", command.at))


@on.timer
def expire(
    deadline: events.OrderDeadline, orders: Orders
) -> tuple[events.OrderCancellationRequested | events.OrderCancelled | events.OrderCheck, ...]:
    """Give up an order that is not decided by its deadline; any that still waits is looked after from then on."""
    order = orders.known(deadline.order_id)
    undoing = _undo(orders, order, Decision("DEADLINE", deadline.at)) if order.status in OPEN else ()
    return *undoing, *_checks(orders, deadline.order_id, deadline.at)


@on.timer
def look_after(check: events.OrderCheck, orders: Orders) -> tuple[OrderStuck | Timers, ...]:
    """Tell who owes an order what it waits for too long: each level once, until it moves on."""
    order, patience = orders.known(check.order_id), orders.rules.patience
    level, timers = patience.level(check.at - order.since), _timers(orders, check.order_id, check.at)
    if not order.debts or level <= order.detail.stuck:
        return timers
    orders.rows.put(order.order_id, order.called_for(level))
    return *(OrderStuck(order.order_id, *debt, order.since, LEVELS[level - 1]) for debt in order.debts), *timers


@on.pivot
def confirm(
    charged: events.PaymentCharged, orders: Orders
) -> events.OrderConfirmed | events.OrderCancellationRequested | None:
    """Let an order through whose money is taken, unless its customer is blocked (laws L8, L9)."""
    order = orders.fold(charged, "payment", "CHARGED")
    if order is None or order.status not in OPEN:
        return None
    order = order.to(Status.PAYMENT_CHARGED, charged.at, charged.type)
    if orders.blocked.get(order.customer_id):
        return orders.abort(order, Decision("CONFIRMATION_REJECTED", charged.at, charged.type))
    order = order.to(Status.CONFIRMED, charged.at, charged.type)
    orders.rows.put(order.order_id, replace(order, cancellable_until=charged.at + orders.rules.cancel_cutoff))
    return events.OrderConfirmed(order.order_id, order.customer_id, order.amount_minor, order.currency)


@on.learns
def note_reserved(fact: events.StockReserved, orders: Orders) -> None:
    """The stock is held: a pending order waits for the money now."""
    order = orders.fold(fact, "inventory", "RESERVED")
    if order and order.status is Status.PENDING:
        orders.rows.put(order.order_id, order.to(Status.INVENTORY_RESERVED, fact.at, fact.type))


@on.learns
def give_up_unfilled(fact: events.StockRejected, orders: Orders) -> GivingUp:
    """Out of stock: a pending order is undone."""
    order = orders.fold(fact, "inventory", "REJECTED")
    if order and order.status is Status.PENDING:
        return _undo(orders, order, Decision("OUT_OF_STOCK", fact.at, fact.type, Status.INVENTORY_FAILED))
    return _over(fact, orders, order)


@on.learns
def give_up_unpaid(fact: events.PaymentDeclined, orders: Orders) -> GivingUp:
    """The card was declined: an undecided order is undone."""
    order = orders.fold(fact, "payment", "DECLINED")
    if order and order.status in OPEN:
        return _undo(orders, order, Decision("PAYMENT_DECLINED", fact.at, fact.type, Status.PAYMENT_FAILED))
    return _over(fact, orders, order)


@on.learns
def note_committed(fact: events.StockCommitted, orders: Orders) -> None:
    """The goods are taken for good."""
    orders.fold(fact, "inventory", "COMMITTED")


@on.learns
def note_unknown(fact: events.PaymentOutcomeUnknown, orders: Orders) -> None:
    """Nobody knows yet whether the card was charged; the client may see it."""
    orders.fold(fact, "payment", "UNKNOWN")


@on.learns
def note_skipped(fact: events.PaymentSkipped, orders: Orders) -> Ending:
    """Nothing was charged, and nothing will be."""
    return _over(fact, orders, orders.fold(fact, "payment", "SKIPPED"))


@on.learns
def note_released(fact: events.StockReleased, orders: Orders) -> Closing:
    """The stock is back."""
    return _acknowledged(fact, orders, "inventory", "RELEASED")


@on.learns
def note_refunded(fact: events.PaymentRefunded, orders: Orders) -> Closing:
    """The money is back."""
    return _acknowledged(fact, orders, "payment", "REFUNDED")


@on.learns
def note_stock_resolved(fact: events.StockResolved, orders: Orders) -> Closing:
    """A person ended inventory's undo."""
    return _acknowledged(fact, orders, "inventory", "RESOLVED")


@on.learns
def note_payment_resolved(fact: events.PaymentResolved, orders: Orders) -> Closing:
    """A person ended payment's undo."""
    return _acknowledged(fact, orders, "payment", "RESOLVED")


@on.learns
def freeze_unreleased(fact: events.StockReleaseFailed, orders: Orders) -> Freezing:
    """The stock cannot come back: the order is frozen until a person acts."""
    failure = events.OrderCompensationFailed(fact.order_id, "inventory", fact.error_class, fact.attempts, fact.error)
    return _frozen(fact, orders, "RELEASE_FAILED", failure)


@on.learns
def freeze_unrefunded(fact: events.PaymentRefundFailed, orders: Orders) -> Freezing:
    """The money cannot go back: the order is frozen until a person acts."""
    failure = events.OrderCompensationFailed(fact.order_id, "payment", fact.error_class, fact.attempts, fact.code)
    return _frozen(fact, orders, "REFUND_FAILED", failure)


@on.command
def add_webhook(command: events.AddWebhook, orders: Orders) -> tuple[events.WebhookAnswered | events.PushWebhook, ...]:
    """Take an endpoint in: from now on it is told the ends of its caller's orders."""
    keys = (SigningKey(command.secret, command.at),)
    added = Webhook(command.webhook_id, command.caller, command.url, command.types, keys, command.at)
    orders.webhooks.put(command.webhook_id, added)
    return events.WebhookAnswered(command.webhook_id, "DONE"), events.PushWebhook(command.webhook_id)


@on.command
def rotate_webhook(command: events.RotateWebhook, orders: Orders) -> events.WebhookAnswered:
    """Sign with a new secret, and for a day with the one before too."""
    if webhook := _own(orders, command):
        orders.webhooks.put(command.webhook_id, webhook.rotated(command.secret, command.at))
    return _answered(command.webhook_id, webhook)


@on.command
def enable_webhook(
    command: events.EnableWebhook, orders: Orders
) -> tuple[events.WebhookAnswered | events.PushWebhook, ...]:
    """Go on with an endpoint that was given up, where it stopped."""
    webhook = _own(orders, command)
    answer = _answered(command.webhook_id, webhook)
    if webhook is None or webhook.disabled_at is None:
        return (answer,)
    orders.webhooks.put(command.webhook_id, replace(webhook, disabled_at=None, disabled_because=None, failure=None))
    return answer, events.PushWebhook(command.webhook_id)


@on.command
def remove_webhook(command: events.RemoveWebhook, orders: Orders) -> events.WebhookAnswered:
    """Forget an endpoint; what is under way to it may still arrive."""
    if webhook := _own(orders, command):
        orders.webhooks.drop(command.webhook_id)
    return _answered(command.webhook_id, webhook)


@on.answer
def note_pushed(pushed: events.WebhookPushed, orders: Orders) -> events.PushWebhook | None:
    """An endpoint was told all up to a place: it goes on from there."""
    webhook = orders.webhooks.get(pushed.webhook_id)
    if webhook is None:
        return None
    delivered_at = pushed.at if pushed.sent else webhook.delivered_at
    place = FeedPlace(pushed.xid, UUID(pushed.order_id), pushed.number)
    orders.webhooks.put(pushed.webhook_id, replace(webhook, place=place, delivered_at=delivered_at, failure=None))
    return None if webhook.disabled_at else events.PushWebhook(pushed.webhook_id)


@on.answer
def note_given_up(given_up: events.WebhookGivenUp, orders: Orders) -> None:
    """An endpoint is told nothing any more, and its caller sees why."""
    if webhook := orders.webhooks.get(given_up.webhook_id):
        disabled = replace(webhook, disabled_at=given_up.at, disabled_because=given_up.because)
        orders.webhooks.put(given_up.webhook_id, disabled)


@on.answer
def note_dropped(dropped: events.WebhookDropped, orders: Orders) -> None:
    """There is no such endpoint any more: nothing is left to do."""


def when_news(said: events.PushWebhook, orders: Orders) -> HandlingDecision:
    """Tell an endpoint when an end lies behind its place; one that was removed or given up, never."""
    webhook = orders.webhooks.get(said.webhook_id)
    if webhook is None or webhook.disabled_at:
        return HandlingDecision.CANCEL
    return HandlingDecision.PROCEED if webhook.waits else HandlingDecision.DEFER


def _own(orders: Orders, command: events.RotateWebhook | events.EnableWebhook | events.RemoveWebhook) -> Webhook | None:
    """Return the caller's own endpoint."""
    webhook = orders.webhooks.get(command.webhook_id)
    return webhook if webhook and webhook.caller == command.caller else None


def _answered(webhook_id: str, webhook: Webhook | None) -> events.WebhookAnswered:
    return events.WebhookAnswered(webhook_id, "DONE" if webhook else "UNKNOWN")


def _may_cancel(order: Order, command: events.CancelOrder) -> events.Outcome:
    if order.reason:
        return "FROZEN" if order.status is Status.COMPENSATION_FAILED else "ALREADY"
    if command.version not in (None, order.version):
        return "CHANGED"
    return "TOO_LATE" if order.cancellable_until and command.at >= order.cancellable_until else "ACCEPTED"


def _undo(orders: Orders, order: Order, decision: Decision) -> Undoing:
    """Decide to undo the order; it ends at once if everyone has settled already."""
    asked = orders.abort(order, decision)
    return asked, *orders.close(orders.known(order.order_id), decision.at, decision.because)


def _timers(orders: Orders, order_id: str, at: datetime) -> tuple[Timers, ...]:
    """Return what is next of an order from ``at`` on, its deadline or a look: one timer at a time, and one follows."""
    order = orders.known(order_id)
    if order.status in OPEN and order.deadline_at <= orders.rules.patience.next(order.since, at):
        return (events.OrderDeadline(order_id, order.deadline_at),)
    return _checks(orders, order_id, at)


def _checks(orders: Orders, order_id: str, at: datetime) -> tuple[events.OrderCheck, ...]:
    """Return the next look at an order that waits, from ``at`` on; none is needed once it is over."""
    order = orders.known(order_id)
    return (events.OrderCheck(order_id, orders.rules.patience.next(order.since, at)),) if order.debts else ()


def _over(fact: Event, orders: Orders, order: Order | None) -> Ending:
    """End an order that waits for nobody any more; what contradicts one that goes on is a finding."""
    if order is None:
        return ()
    return _contradicts(fact, order) or orders.close(order, fact.at, fact.type)


def _contradicts(fact: Event, order: Order) -> tuple[FindingRaised, ...]:
    """Return the finding that an event is, which contradicts an order that goes on."""
    if order.reason or order.attention != "CONFLICT":
        return ()
    return (FindingRaised("order", "3", f"{fact.type} while {order.status}", order.order_id),)


def _acknowledged(fact: Event, orders: Orders, participant: str, state: str) -> Closing:
    """Take an undo as done, announced failures of it as resolved, and end the order if it was the last."""
    order = orders.fold(fact, participant, state)
    if order is None:
        return ()
    left = tuple(failure for failure in order.detail.failed if failure.participant != participant)
    if left == order.detail.failed:
        return _over(fact, orders, order)
    how = order.detail.resolved if state == "RESOLVED" else None
    order = replace(order, detail=replace(order.detail, failed=left))
    orders.rows.put(order.order_id, order)
    resolved = events.OrderCompensationResolved(order.order_id, participant, how or "RETRIED")
    return resolved, *orders.close(order, fact.at, fact.type)


def _frozen(fact: Event, orders: Orders, state: str, failure: events.OrderCompensationFailed) -> Freezing:
    """Freeze an order that is being undone; nobody fails an undo that was not asked for, unless the order forgot."""
    order = orders.fold(fact, failure.participant, state)
    if order is None or order.reason is None:
        return _contradicts(fact, order) if order else ()
    if order.status is not Status.COMPENSATION_FAILED:
        order = order.to(Status.COMPENSATION_FAILED, fact.at, fact.type)
    detail = replace(order.detail, failed=(*order.detail.failed, failure))
    orders.rows.put(order.order_id, replace(order, detail=detail))
    return (failure,)
