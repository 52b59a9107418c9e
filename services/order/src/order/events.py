"""The words order hears and says: commands with their replies, its own events, the participants' events, its timer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

from quadrille import Command, Event, Intent, Reply, Result, Timer

Outcome: TypeAlias = Literal["ACCEPTED", "ALREADY", "TOO_LATE", "FROZEN", "CHANGED", "UNKNOWN"]


@dataclass(frozen=True, slots=True)
class Line:
    """One position of an order; a SKU may appear in several."""

    sku: str
    quantity: int
    unit_price_minor: int


@dataclass(frozen=True, slots=True)
class Shortage:
    """A SKU of which too little was available."""

    sku: str
    asked: int
    available: int


@dataclass(frozen=True, slots=True)
class PlaceOrder(Command):
    """Place an order."""

    order_id: str  # a UUIDv7 made at intake
    caller: str
    customer_id: str
    reference: str | None
    payment_token: str
    currency: str
    amount_minor: int
    lines: tuple[Line, ...]
    placed_at: datetime  # the time in the order's id
    deadline_at: datetime
    trace_id: str


@dataclass(frozen=True, slots=True)
class PlaceAnswered(Reply):
    """What became of the command to place; ``order_id`` is the order's, or of the one that bears its reference."""

    order_id: str
    outcome: Literal["PLACED", "REFERENCE_TAKEN"]


@dataclass(frozen=True, slots=True)
class CancelOrder(Command):
    """Cancel an order; ``caller`` None is an operator, ``version`` is what If-Match names."""

    order_id: str
    caller: str | None
    requested_by: str
    version: int | None = None


@dataclass(frozen=True, slots=True)
class CancelAnswered(Reply):
    """What became of a command to cancel; the order's row says the rest."""

    order_id: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class GiveUpWaiting(Command):
    """Undo an order that waits for a participant which is away."""

    order_id: str
    participant: str


@dataclass(frozen=True, slots=True)
class OrderPlaced(Event):
    """An order was accepted; nothing is held or charged yet."""

    order_id: str
    customer_id: str
    lines: tuple[Line, ...]
    amount_minor: int
    currency: str
    payment_token: str
    deadline_at: datetime


@dataclass(frozen=True, slots=True)
class OrderConfirmed(Event):
    """Stock is held and money is taken: the order goes through."""

    order_id: str
    customer_id: str
    amount_minor: int
    currency: str


@dataclass(frozen=True, slots=True)
class OrderCancellationRequested(Event):
    """The order is to be undone, whatever the cause; said once (laws L2, L9)."""

    order_id: str
    reason: str
    requested_by: str
    status_then: str


@dataclass(frozen=True, slots=True)
class OrderCancelled(Event):
    """Everything is undone: ``settlement`` names how each participant ended (law L3)."""

    order_id: str
    customer_id: str
    reason: str
    settlement: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class OrderCompensationFailed(Event):
    """A participant could not undo its part: the order is frozen until a person acts."""

    order_id: str
    participant: str
    error_class: str
    attempts: int
    error: str


@dataclass(frozen=True, slots=True)
class OrderCompensationResolved(Event):
    """What could not be undone is undone now, or ended by a person: RETRIED, WRITTEN_OFF or EXTERNAL."""

    order_id: str
    participant: str
    how: str


@dataclass(frozen=True, slots=True)
class OrderDeadline(Timer):
    """The time by which an order is confirmed, or given up."""

    order_id: str
    due: datetime


@dataclass(frozen=True, slots=True)
class OrderCheck(Timer):
    """The time to look whether an order still waits for what it waited for."""

    order_id: str
    due: datetime


@dataclass(frozen=True, slots=True)
class StockReserved(Event, source="inventory"):
    """Every line of the order is held."""

    order_id: str


@dataclass(frozen=True, slots=True)
class StockRejected(Event, source="inventory"):
    """Some SKU is short: nothing is held."""

    order_id: str
    shortages: tuple[Shortage, ...]


@dataclass(frozen=True, slots=True)
class StockCommitted(Event, source="inventory"):
    """The goods are taken for good."""

    order_id: str


@dataclass(frozen=True, slots=True)
class StockReleased(Event, source="inventory"):
    """The order holds nothing any more, or never did."""

    order_id: str


@dataclass(frozen=True, slots=True)
class StockReleaseFailed(Event, source="inventory"):
    """The goods cannot come back."""

    order_id: str
    error_class: str
    attempts: int
    error: str


@dataclass(frozen=True, slots=True)
class StockResolved(Event, source="inventory"):
    """A person ended inventory's undo."""

    order_id: str
    how: str


@dataclass(frozen=True, slots=True)
class PaymentCharged(Event, source="payment"):
    """The card is charged; by law L8 the stock is held."""

    order_id: str


@dataclass(frozen=True, slots=True)
class PaymentDeclined(Event, source="payment"):
    """The card was declined, definitely."""

    order_id: str
    code: str


@dataclass(frozen=True, slots=True)
class PaymentOutcomeUnknown(Event, source="payment"):
    """Nobody knows yet whether the card was charged."""

    order_id: str


@dataclass(frozen=True, slots=True)
class PaymentSkipped(Event, source="payment"):
    """No charge began, and none will."""

    order_id: str


@dataclass(frozen=True, slots=True)
class PaymentRefunded(Event, source="payment"):
    """The money went back."""

    order_id: str
    kind: str
    amount_minor: int


@dataclass(frozen=True, slots=True)
class PaymentRefundFailed(Event, source="payment"):
    """The money did not go back."""

    order_id: str
    error_class: str
    code: str
    attempts: int


@dataclass(frozen=True, slots=True)
class PaymentResolved(Event, source="payment"):
    """A person ended payment's undo."""

    order_id: str
    how: str


@dataclass(frozen=True, slots=True)
class AddWebhook(Command):
    """Tell an endpoint of a caller's the ends of his orders from now on; ``secret`` signs."""

    webhook_id: str
    caller: str
    url: str
    types: tuple[str, ...]
    secret: str


@dataclass(frozen=True, slots=True)
class RotateWebhook(Command):
    """Sign with a new secret; the one before it signs too for a day."""

    webhook_id: str
    caller: str
    secret: str


@dataclass(frozen=True, slots=True)
class EnableWebhook(Command):
    """Go on with an endpoint that was given up, where it stopped; one that was not stays as it is."""

    webhook_id: str
    caller: str


@dataclass(frozen=True, slots=True)
class RemoveWebhook(Command):
    """Tell an endpoint nothing any more."""

    webhook_id: str
    caller: str


@dataclass(frozen=True, slots=True)
class WebhookAnswered(Reply):
    """What became of a command about an endpoint."""

    webhook_id: str
    outcome: Literal["DONE", "UNKNOWN"]


@dataclass(frozen=True, slots=True)
class PushWebhook(Intent, effect="webhook"):
    """Tell an endpoint what it has not been told yet, as its row and the feed have it when it is told."""

    webhook_id: str


@dataclass(frozen=True, slots=True)
class WebhookPushed(Result):
    """The endpoint has been told all up to a place in the feed; ``sent`` counts what it has taken."""

    webhook_id: str
    xid: int
    order_id: str
    number: int
    sent: int


@dataclass(frozen=True, slots=True)
class WebhookGivenUp(Result):
    """The endpoint is told nothing any more until it is enabled; ``because`` is a fixed phrase."""

    webhook_id: str
    because: str


@dataclass(frozen=True, slots=True)
class WebhookDropped(Result):
    """The endpoint is none any more: it was removed, or given up."""

    webhook_id: str
