"""What payment does when something happens, and whether an intent may still go out."""

from __future__ import annotations

from datetime import datetime

from payment.domain import (
    OPEN,
    Due,
    Moved,
    OrderId,
    Payments,
    Price,
    Resolution,
    State,
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
    InquireRefund,
    OrderCancellationRequested,
    OrderPlaced,
    PaymentCharged,
    PaymentDeclined,
    PaymentOutcomeUnknown,
    PaymentRefunded,
    PaymentRefundFailed,
    PaymentResolved,
    PaymentSkipped,
    RefundCard,
    RefundCardDropped,
    RefundExhausted,
    RefundNotFound,
    RefundRefused,
    StockReserved,
    charge_key,
    refund_key,
)
from quadrille import (
    CompensationAnswered,
    Decision,
    FindingRaised,
    HandlerRegistry,
    ResolveCompensation,
    RetryCompensation,
    not_owed,
)

on = HandlerRegistry("payment", Payments)


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
        case "SKIPPED":
            return PaymentSkipped(cancel.order_id, cancel.reason)
        case Due(price):
            return RefundCard(cancel.order_id, price.amount_minor)
        case None:
            return None


@on.answer
def charged(answer: CardCharged, payments: Payments) -> PaymentCharged | tuple[PaymentCharged, RefundCard] | None:
    """Say that the money is ours, and start the refund at once if the order was cancelled meanwhile (law L6)."""
    match payments.capture(OrderId(answer.order_id), answer.reference, answer.at):
        case Moved(price, refund):
            key = charge_key(answer.order_id)
            fact = PaymentCharged(answer.order_id, key, answer.reference, price.amount_minor, price.currency)
            return (fact, RefundCard(answer.order_id, price.amount_minor)) if refund else fact
        case None:
            return None


@on.answer
def declined(answer: CardDeclined, payments: Payments) -> PaymentDeclined | None:
    """Say that the card was declined, cancelled meanwhile or not."""
    match payments.decline(OrderId(answer.order_id), answer.code):
        case "DECLINED":
            return PaymentDeclined(answer.order_id, answer.code)
        case None:
            return None


@on.answer
def unknown(
    answer: ChargeUnknown, payments: Payments
) -> tuple[PaymentOutcomeUnknown, InquireCharge] | InquireCharge | None:
    """Ask what became of the charge; that it is unknown is said once, however often it stays so."""
    match payments.lose(OrderId(answer.order_id)):
        case datetime() as since_at:
            fact = PaymentOutcomeUnknown(answer.order_id, answer.attempts, since_at)
            return fact, InquireCharge(answer.order_id)
        case "STILL_LOST":
            return InquireCharge(answer.order_id)
        case None:
            return None


@on.answer
def not_found(answer: ChargeNotFound, payments: Payments) -> ChargeCard | None:
    """Charge again under the same key: not found is no answer (law L7)."""
    return _charge(answer.order_id, payments.ask_again(OrderId(answer.order_id)))


@on.answer
def charge_dropped(_: ChargeCardDropped, __: Payments) -> None:
    """Let go of a charge whose answer is known already."""


@on.answer
def refunded(answer: CardRefunded, payments: Payments) -> PaymentRefunded | FindingRaised | None:
    """Say that the money went back, even after it was given up; after a person ended it, operators are to know."""
    match payments.give_back(OrderId(answer.order_id), answer.kind, answer.reference, answer.at):
        case Moved(price):
            key = refund_key(answer.order_id)
            return PaymentRefunded(answer.order_id, key, answer.kind, price.amount_minor, price.currency)
        case "CONTRADICTED":
            return FindingRaised("payment", "4", "the money went back after a person had resolved it", answer.order_id)
        case None:
            return None


@on.answer
def refund_refused(answer: RefundRefused, payments: Payments) -> PaymentRefundFailed | None:
    """Say that the processor refuses the refund for good: no try will change that."""
    match payments.fail_refund(OrderId(answer.order_id), answer.code):
        case "REFUND_FAILED":
            return PaymentRefundFailed(answer.order_id, "BUSINESS", answer.code, answer.attempts)
        case None:
            return None


@on.answer
def refund_exhausted(answer: RefundExhausted, payments: Payments) -> PaymentRefundFailed | None:
    """Say that every try of the refund went unanswered."""
    match payments.fail_refund(OrderId(answer.order_id), "unanswered"):
        case "REFUND_FAILED":
            return PaymentRefundFailed(answer.order_id, "TRANSIENT_EXHAUSTED", "unanswered", answer.attempts)
        case None:
            return None


@on.answer
def refund_dropped(answer: RefundCardDropped, payments: Payments) -> InquireRefund | None:
    """Let go of a refund that is no longer owed; one that a person ended may have been sent, so that is asked."""
    resolved = payments.state(OrderId(answer.order_id)) is State.RESOLVED
    return InquireRefund(answer.order_id) if resolved else None


@on.answer
def refund_not_found(answer: RefundNotFound, payments: Payments) -> PaymentResolved | None:
    """Say how a person ended what was owed, now that nothing went back."""
    match payments.close(OrderId(answer.order_id)):
        case Resolution(how, operator, evidence):
            return PaymentResolved(answer.order_id, how, operator, evidence)
        case None:
            return None


@on.command
def retry_refund(
    command: RetryCompensation, payments: Payments
) -> tuple[RefundCard, CompensationAnswered] | CompensationAnswered:
    """Start a failed refund again, which asks first what became of it; one under way is tried at once."""
    match payments.retry(OrderId(command.order_id)):
        case Due(price):
            asked = CompensationAnswered(command.order_id, "ASKED", State.REFUNDING)
            return RefundCard(command.order_id, price.amount_minor, again=True), asked
        case "HURRIED":
            return CompensationAnswered(command.order_id, "ASKED", State.REFUNDING)
        case None:
            return not_owed(command, payments.known(OrderId(command.order_id)))


@on.command
def resolve_payment(
    command: ResolveCompensation, payments: Payments
) -> tuple[InquireRefund, CompensationAnswered] | CompensationAnswered:
    """Ask what became of the refund, whose answer ends what is owed; a charge without an answer is asked for only."""
    resolution = Resolution(command.how, command.operator, command.evidence)
    cancelled = OrderCancellationRequested.type in command.waiting
    match payments.resolve(OrderId(command.order_id), resolution, cancelled=cancelled):
        case "INQUIRED":
            asked = CompensationAnswered(command.order_id, "ASKED", payments.state(OrderId(command.order_id)))
            return InquireRefund(command.order_id), asked
        case "HURRIED":
            return CompensationAnswered(command.order_id, "CHARGE_OPEN", payments.state(OrderId(command.order_id)))
        case None:
            return not_owed(command, payments.known(OrderId(command.order_id)))


def when_charge(intent: ChargeCard, payments: Payments) -> Decision:
    """Rule on a charge about to be leased at ``intent.at``: past its deadline it waits for the decider (law L1)."""
    order_id = OrderId(intent.order_id)
    if payments.state(order_id) not in OPEN:
        return Decision.CANCEL
    return Decision.PROCEED if payments.may_begin(order_id, intent.at) else Decision.DEFER


def when_refund(intent: RefundCard, payments: Payments) -> Decision:
    """Rule on a refund about to be leased: only one that is still owed goes out."""
    return Decision.PROCEED if payments.state(OrderId(intent.order_id)) is State.REFUNDING else Decision.CANCEL


def _charge(order_id: str, transition: Due | None) -> ChargeCard | None:
    match transition:
        case Due(price):
            return ChargeCard(order_id, price.amount_minor, price.currency, price.payment_token)
        case None:
            return None
