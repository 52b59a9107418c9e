"""The words notification hears and says: events of the order, its own events, its mail and the address book."""

from __future__ import annotations

from dataclasses import dataclass

from quadrille import Command, Event, Intent, Reply, Result

# heard ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OrderConfirmed(Event, source="order"):
    """The order is confirmed: the customer is to be told."""

    order_id: str
    customer_id: str
    amount_minor: int
    currency: str


@dataclass(frozen=True, slots=True)
class OrderCancellationRequested(Event, source="order"):
    """The order is to be undone: a confirmation not yet sent would be a lie."""

    order_id: str


@dataclass(frozen=True, slots=True)
class OrderCancelled(Event, source="order"):
    """The order is undone: the customer is to be told."""

    order_id: str
    customer_id: str
    reason: str


# said ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NotificationSent(Event):
    """The message of this kind was handed over."""

    order_id: str
    kind: str
    channel: str


@dataclass(frozen=True, slots=True)
class NotificationFailed(Event):
    """The message of this kind was given up; ``error`` is a fixed phrase without a personal datum."""

    order_id: str
    kind: str
    error: str


@dataclass(frozen=True, slots=True)
class NotificationSuppressed(Event):
    """The message of this kind is not to be sent; ``reason`` is NO_ADDRESS or CANCELLED."""

    order_id: str
    kind: str
    reason: str


# the outside ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendMail(Intent, effect="mail"):
    """Send one mail; its Message-ID is made of order and kind alone, so that a second one is seen to be the same."""

    order_id: str
    kind: str  # confirmed, cancelled
    customer_id: str
    address: str
    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class MailSent(Result):
    """The mail server has taken the mail."""

    order_id: str
    kind: str


@dataclass(frozen=True, slots=True)
class MailFailed(Result):
    """The mail server refuses the mail for good, or every try was used up; ``error`` is a fixed phrase."""

    order_id: str
    kind: str
    error: str


@dataclass(frozen=True, slots=True)
class SendMailDropped(Result):
    """The mail was not to be sent any more, or not to this address, when its turn came."""

    order_id: str
    kind: str
    customer_id: str
    subject: str
    text: str


# the address book ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PutContact(Command):
    """Set the address of a customer."""

    customer_id: str
    address: str


@dataclass(frozen=True, slots=True)
class DeleteContact(Command):
    """Erase a customer from the address book."""

    customer_id: str


@dataclass(frozen=True, slots=True)
class ContactStored(Reply):
    """The address is stored; ``created`` is true if the customer was not in the book before."""

    customer_id: str
    address: str
    created: bool


@dataclass(frozen=True, slots=True)
class ContactErased(Reply):
    """The customer is not in the address book; ``existed`` is false if there was nothing to erase."""

    customer_id: str
    existed: bool
