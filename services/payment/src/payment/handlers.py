"""What payment does when something happens, and whether an intent may still go out."""

from __future__ import annotations

from chassis.outside import Ruling
from chassis.registry import Reactions
from payment.domain import (
    Captured,
    Charge,
    Declined,
    Lost,
    Nothing,
    OrderId,
    Payments,
    Price,
    Refund,
    RefundFailed,
    Returned,
    Skipped,
    State,
    StillLost,
)
from payment.events import (
    CardCharged,
    CardDeclined,
    CardRefunded,
    ChargeCard,
    ChargeCardDropped,
    ChargeNotFound,
    ChargeUnknown,
    InquireCharge,
    OrderCancellationRequested,
    OrderPlaced,
    PaymentCharged,
    PaymentDeclined,
    PaymentOutcomeUnknown,
    PaymentRefunded,
    PaymentRefundFailed,
    PaymentSkipped,
    RefundCard,
    RefundCardDropped,
    RefundExhausted,
    RefundRefused,
    StockReserved,
    charge_key,
    refund_key,
)

on = Reactions("payment", Payments)


@on.learns
def learn_amount(order: OrderPlaced, payments: Payments) -> ChargeCard | None:
    """Learn amount and token; charge if inventory's permission came first."""
    price = Price(order.amount_minor, order.currency, order.payment_token, order.deadline_at)
    return _charge(order.order_id, payments.learn(OrderId(order.order_id), price, order.at))


@on.step
def take_permission(stock: StockReserved, payments: Payments) -> ChargeCard | None:
    """Charge the card now that the stock is held, as soon as the amount is known."""
    return _charge(stock.order_id, payments.permit(OrderId(stock.order_id), stock.at))


@on.compensates(take_permission)
def undo_payment(cancel: OrderCancellationRequested, payments: Payments) -> PaymentSkipped | RefundCard | None:
    """Give the money back; nothing begun leaves a tombstone, a charge in flight is undone when its answer comes."""
    match payments.cancel(OrderId(cancel.order_id)):
        case Skipped():
            return PaymentSkipped(cancel.order_id, cancel.reason)
        case Refund(price):
            return RefundCard(cancel.order_id, price.amount_minor)
        case Nothing():
            return None


@on.answer
def charged(answer: CardCharged, payments: Payments) -> PaymentCharged | tuple[PaymentCharged, RefundCard] | None:
    """Say that the money is ours, and start the refund at once if the order was cancelled meanwhile (law L6)."""
    match payments.capture(OrderId(answer.order_id), answer.reference, answer.at):
        case Captured(price, refund):
            key = charge_key(answer.order_id)
            fact = PaymentCharged(answer.order_id, key, answer.reference, price.amount_minor, price.currency)
            return (fact, RefundCard(answer.order_id, price.amount_minor)) if refund else fact
        case Nothing():
            return None


@on.answer
def declined(answer: CardDeclined, payments: Payments) -> PaymentDeclined | None:
    """Say that the card was declined, cancelled meanwhile or not."""
    match payments.decline(OrderId(answer.order_id), answer.code):
        case Declined():
            return PaymentDeclined(answer.order_id, answer.code)
        case Nothing():
            return None


@on.answer
def unknown(
    answer: ChargeUnknown, payments: Payments
) -> tuple[PaymentOutcomeUnknown, InquireCharge] | InquireCharge | None:
    """Ask what became of the charge; that it is unknown is said once, however often it stays so."""
    match payments.lose(OrderId(answer.order_id)):
        case Lost(since_at):
            fact = PaymentOutcomeUnknown(answer.order_id, answer.attempts, since_at)
            return fact, InquireCharge(answer.order_id)
        case StillLost():
            return InquireCharge(answer.order_id)
        case Nothing():
            return None


@on.answer
def not_found(answer: ChargeNotFound, payments: Payments) -> ChargeCard | None:
    """Charge again under the same key: not found is no answer (law L7)."""
    return _charge(answer.order_id, payments.ask_again(OrderId(answer.order_id)))


@on.answer
def charge_dropped(_: ChargeCardDropped, __: Payments) -> None:
    """Let go of a charge whose answer is known already."""


@on.answer
def refunded(answer: CardRefunded, payments: Payments) -> PaymentRefunded | None:
    """Say that the money went back, even after it was given up."""
    match payments.give_back(OrderId(answer.order_id), answer.kind, answer.reference, answer.at):
        case Returned(price):
            key = refund_key(answer.order_id)
            return PaymentRefunded(answer.order_id, key, answer.kind, price.amount_minor, price.currency)
        case Nothing():
            return None


@on.answer
def refund_refused(answer: RefundRefused, payments: Payments) -> PaymentRefundFailed | None:
    """Say that the processor refuses the refund for good: no try will change that."""
    match payments.fail_refund(OrderId(answer.order_id), answer.code):
        case RefundFailed():
            return PaymentRefundFailed(answer.order_id, "BUSINESS", answer.code, answer.attempts)
        case Nothing():
            return None


@on.answer
def refund_exhausted(answer: RefundExhausted, payments: Payments) -> PaymentRefundFailed | None:
    """Say that every try of the refund went unanswered."""
    match payments.fail_refund(OrderId(answer.order_id), "unanswered"):
        case RefundFailed():
            return PaymentRefundFailed(answer.order_id, "TRANSIENT_EXHAUSTED", "unanswered", answer.attempts)
        case Nothing():
            return None


@on.answer
def refund_dropped(_: RefundCardDropped, __: Payments) -> None:
    """Let go of a refund that is no longer owed."""


def when_charge(intent: ChargeCard, payments: Payments) -> Ruling:
    """Rule on a charge about to be leased at ``intent.at``: past its deadline it waits for the decider (law L1)."""
    order_id = OrderId(intent.order_id)
    if not payments.state(order_id).open:
        return Ruling.DROP
    return Ruling.GO if payments.may_begin(order_id, intent.at) else Ruling.WAIT


def when_refund(intent: RefundCard, payments: Payments) -> Ruling:
    """Rule on a refund about to be leased: only one that is still owed goes out."""
    return Ruling.GO if payments.state(OrderId(intent.order_id)) is State.REFUNDING else Ruling.DROP


def _charge(order_id: str, transition: Charge | Nothing) -> ChargeCard | None:
    match transition:
        case Charge(price):
            return ChargeCard(order_id, price.amount_minor, price.currency, price.payment_token)
        case Nothing():
            return None
