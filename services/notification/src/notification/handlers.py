"""What notification does when something happens, and whether a mail may still go out."""

from __future__ import annotations

from decimal import Decimal

from notification.domain import Contact, CustomerId, Ended, Kind, Nothing, OrderId, Post, Suppressed, Write
from notification.events import (
    ContactErased,
    ContactStored,
    DeleteContact,
    MailFailed,
    MailSent,
    NotificationFailed,
    NotificationSent,
    NotificationSuppressed,
    OrderCancellationRequested,
    OrderCancelled,
    OrderConfirmed,
    PutContact,
    SendMail,
    SendMailDropped,
)
from quadrille import Decision, HandlerRegistry

on = HandlerRegistry("notification", Post)
_DIGITS = dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF"), 0)  # ISO 4217: else 2
_DIGITS |= dict.fromkeys(("UGX", "UYI", "VND", "VUV", "XAF", "XOF", "XPF"), 0)
_DIGITS |= dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3)
_REASONS = {
    "CUSTOMER": "as you asked",
    "DEADLINE": "because it could not be completed in time",
    "PARTICIPANT_AWAY": "because it could not be completed in time",
    "OUT_OF_STOCK": "because something in it is out of stock",
    "PAYMENT_DECLINED": "because the card was declined",
}


@on.retryable
def tell_of_confirmation(order: OrderConfirmed, post: Post) -> SendMail | NotificationSuppressed | None:
    """Write to the customer that the order is confirmed."""
    subject = f"Order {order.order_id} is confirmed"
    text = f"Your order is confirmed. Charged: {_money(order.amount_minor, order.currency)}.\n"
    match post.write(OrderId(order.order_id), Kind.CONFIRMED, CustomerId(order.customer_id)):
        case Write(address):
            return SendMail(order.order_id, Kind.CONFIRMED, order.customer_id, address, subject, text)
        case Suppressed(why):
            return NotificationSuppressed(order.order_id, Kind.CONFIRMED, why)
        case Nothing():
            return None


@on.retryable
def tell_of_cancellation(order: OrderCancelled, post: Post) -> SendMail | NotificationSuppressed | None:
    """Write to the customer that the order is cancelled."""
    subject = f"Order {order.order_id} is cancelled"
    text = f"Your order is cancelled, {_REASONS.get(order.reason, 'because we could not carry it out')}.\n"
    match post.write(OrderId(order.order_id), Kind.CANCELLED, CustomerId(order.customer_id)):
        case Write(address):
            return SendMail(order.order_id, Kind.CANCELLED, order.customer_id, address, subject, text)
        case Suppressed(why):
            return NotificationSuppressed(order.order_id, Kind.CANCELLED, why)
        case Nothing():
            return None


@on.learns
def note_cancellation(cancel: OrderCancellationRequested, post: Post) -> None:
    """Remember that a confirmation not yet sent would be untrue."""
    post.outdate(OrderId(cancel.order_id))


@on.answer
def sent(answer: MailSent, post: Post) -> NotificationSent | None:
    """Say that the mail was taken."""
    match post.finish(OrderId(answer.order_id), Kind(answer.kind)):
        case Ended():
            return NotificationSent(answer.order_id, answer.kind, "email")
        case Nothing():
            return None


@on.answer
def failed(answer: MailFailed, post: Post) -> NotificationFailed | None:
    """Say that the mail was given up; neither money nor stock hears of it."""
    match post.finish(OrderId(answer.order_id), Kind(answer.kind), answer.error):
        case Ended():
            return NotificationFailed(answer.order_id, answer.kind, answer.error)
        case Nothing():
            return None


@on.answer
def dropped(answer: SendMailDropped, post: Post) -> SendMail | NotificationSuppressed | None:
    """Say that the mail was held back when its turn came, or write to where the customer is now."""
    customer = CustomerId(answer.customer_id)
    match post.drop(OrderId(answer.order_id), Kind(answer.kind), customer):
        case Write(address):
            return SendMail(answer.order_id, answer.kind, customer, address, answer.subject, answer.text)
        case Suppressed(why):
            return NotificationSuppressed(answer.order_id, answer.kind, why)
        case Nothing():
            return None


@on.command
def put_contact(contact: PutContact, post: Post) -> ContactStored:
    """Set the address of a customer."""
    created = post.enter(CustomerId(contact.customer_id), contact.address)
    return ContactStored(contact.customer_id, contact.address, created)


@on.command
def delete_contact(contact: DeleteContact, post: Post) -> ContactErased:
    """Erase a customer from the address book."""
    return ContactErased(contact.customer_id, post.erase(CustomerId(contact.customer_id)))


def when_mail(intent: SendMail, post: Post) -> Decision:
    """Rule on a mail about to be leased: an untrue one, or one to an address that is not in the book, is dropped."""
    there = Contact(CustomerId(intent.customer_id), intent.address)
    may_go = post.may_send(OrderId(intent.order_id), Kind(intent.kind), there)
    return Decision.PROCEED if may_go else Decision.CANCEL


def _money(amount_minor: int, currency: str) -> str:
    return f"{Decimal(amount_minor).scaleb(-_DIGITS.get(currency, 2)):f} {currency}"
