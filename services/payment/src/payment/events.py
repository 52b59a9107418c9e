"""The words payment hears and says: events of others, its own events, its intents and the processor's answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from quadrille import Event, Intent, Result

# heard ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OrderPlaced(Event, source="order"):
    """An order with its amount and the token of the card; stock may or may not be held yet."""

    order_id: str
    amount_minor: int
    currency: str
    payment_token: str
    deadline_at: datetime


@dataclass(frozen=True, slots=True)
class StockReserved(Event, source="inventory"):
    """The permission to charge: every line of the order is held."""

    order_id: str


@dataclass(frozen=True, slots=True)
class OrderCancellationRequested(Event, source="order"):
    """The order is to be undone, whatever the cause (law L2)."""

    order_id: str
    reason: str


# said ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PaymentCharged(Event):
    """The card was charged; ``payment_id`` is the charge's key."""

    order_id: str
    payment_id: str
    provider_reference: str
    amount_minor: int
    currency: str


@dataclass(frozen=True, slots=True)
class PaymentDeclined(Event):
    """The card was declined, definitely: nothing was or will be charged."""

    order_id: str
    code: str


@dataclass(frozen=True, slots=True)
class PaymentOutcomeUnknown(Event):
    """Nobody knows yet whether the card was charged; payment keeps asking."""

    order_id: str
    attempts: int
    since_at: datetime


@dataclass(frozen=True, slots=True)
class PaymentSkipped(Event):
    """The order was cancelled before a charge began: there is nothing to undo, and there never will be."""

    order_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class PaymentRefunded(Event):
    """The money went back: ``kind`` is VOID before settlement, REFUND after it."""

    order_id: str
    refund_id: str
    kind: str
    amount_minor: int
    currency: str


@dataclass(frozen=True, slots=True)
class PaymentRefundFailed(Event):
    """The money did not go back: refused for a business reason, or every try used up."""

    order_id: str
    error_class: str
    code: str
    attempts: int


@dataclass(frozen=True, slots=True)
class PaymentResolved(Event):
    """A person has ended what payment still owed the order."""

    order_id: str
    how: str
    operator: str
    evidence: str


# the outside: intents ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChargeCard(Intent, effect="charge"):
    """Charge the card once, under the key ``charge:<order>``."""

    order_id: str
    amount_minor: int
    currency: str
    payment_token: str


@dataclass(frozen=True, slots=True)
class InquireCharge(Intent, effect="charge"):
    """Ask what became of ``charge:<order>``."""

    order_id: str


@dataclass(frozen=True, slots=True)
class RefundCard(Intent, effect="refund"):
    """Give the whole amount of ``charge:<order>`` back once, under the key ``refund:<order>``.

    ``again``: a person's retry, maybe long after the last one, so what became of that is asked first.
    """

    order_id: str
    amount_minor: int
    again: bool = False


@dataclass(frozen=True, slots=True)
class InquireRefund(Intent, effect="refund"):
    """Ask what became of ``refund:<order>``."""

    order_id: str


# the outside: answers ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CardCharged(Result):
    """The processor has charged the card; ``reference`` is its own name for the charge."""

    order_id: str
    reference: str


@dataclass(frozen=True, slots=True)
class CardDeclined(Result):
    """The processor has declined the card for good."""

    order_id: str
    code: str


@dataclass(frozen=True, slots=True)
class ChargeUnknown(Result):
    """Every fast try ended without a definite answer: the card may be charged or not (law L7)."""

    order_id: str
    attempts: int = field()  # the calls made; without field() the property of Answer would become its default


@dataclass(frozen=True, slots=True)
class ChargeNotFound(Result):
    """The processor knows no such charge yet, which is no answer: a frozen worker may still send it (law L7)."""

    order_id: str


@dataclass(frozen=True, slots=True)
class CardRefunded(Result):
    """The processor has given the money back: ``kind`` is VOID or REFUND."""

    order_id: str
    kind: str
    reference: str


@dataclass(frozen=True, slots=True)
class RefundRefused(Result):
    """The processor refuses the refund for a business reason, for example a closed card."""

    order_id: str
    code: str


@dataclass(frozen=True, slots=True)
class RefundExhausted(Result):
    """Every try of the refund ended without an answer."""

    order_id: str


@dataclass(frozen=True, slots=True)
class RefundNotFound(Result):
    """The processor has given nothing back under this key."""

    order_id: str


@dataclass(frozen=True, slots=True)
class ChargeCardDropped(Result):
    """The charge was not to be made any more when its turn came."""

    order_id: str


@dataclass(frozen=True, slots=True)
class RefundCardDropped(Result):
    """The refund was not to be made any more when its turn came."""

    order_id: str


# keys ----------------------------------------------------------------------------------------------------------------


def charge_key(order_id: str) -> str:
    """Return the processor's key of the order's one charge: unique for ever, never an attempt's."""
    return f"charge:{order_id}"


def refund_key(order_id: str) -> str:
    """Return the processor's key of the order's one refund."""
    return f"refund:{order_id}"
