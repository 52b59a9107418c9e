"""The rules of money: at most one charge and one refund per order, each under its key, in a ledger that only grows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Literal, NewType

from payment.events import charge_key, refund_key
from quadrille import Rows

OrderId = NewType("OrderId", str)


class State(StrEnum):
    """Where an order's payment stands; NONE waits for amount or permission."""

    NONE = "NONE"
    CHARGING = "CHARGING"
    UNKNOWN = "UNKNOWN"
    CHARGED = "CHARGED"
    DECLINED = "DECLINED"
    SKIPPED = "SKIPPED"
    REFUNDING = "REFUNDING"
    REFUNDED = "REFUNDED"
    REFUND_FAILED = "REFUND_FAILED"
    RESOLVED = "RESOLVED"


OPEN = frozenset({State.CHARGING, State.UNKNOWN})  # a charge was begun and has no definite answer yet
UNDOING = frozenset({State.REFUNDING, State.REFUND_FAILED})  # cancelled, and not acknowledged yet
ENDED = frozenset({State.DECLINED, State.SKIPPED, State.REFUNDED, State.RESOLVED})


@dataclass(frozen=True, slots=True)
class Price:
    """What is to be charged, and until when a charge may begin."""

    amount_minor: int
    currency: str
    payment_token: str
    deadline_at: datetime


@dataclass(frozen=True, slots=True)
class Resolution:
    """How a person ends what is owed, and on what evidence; ``contradicted``: the money went back after it."""

    how: str
    operator: str
    evidence: str
    contradicted: bool = False


@dataclass(frozen=True, slots=True)
class Payment:
    """One order's payment: ``price`` is learnt from the order, ``permitted`` from inventory, in either order."""

    order_id: OrderId
    state: State = State.NONE
    permitted: bool = False
    cancel_wanted: bool = False
    began_at: datetime | None = None
    code: str | None = None
    price: Price | None = None
    resolution: Resolution | None = None  # a command until the payment is RESOLVED


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the ledger: money taken (CAPTURE) or given back (VOID, REFUND); never changed, never removed."""

    key: str
    order_id: OrderId
    kind: str
    amount_minor: int
    currency: str
    reference: str
    at: datetime


# What a method did is what it returns; None is nothing that anybody needs to hear of (law L11).
@dataclass(frozen=True, slots=True)
class Due:
    """Money is to move: the card is to be charged, or the charge to be given back."""

    price: Price


@dataclass(frozen=True, slots=True)
class Moved:
    """Money came or went back; ``refund`` says that what came is to go back at once (law L6)."""

    price: Price
    refund: bool = False


@dataclass(frozen=True, slots=True)
class Payments:
    """The rows a batch may touch; entries are only ever added; the open intents of orders in ``hurried`` fall due."""

    payments: Rows[OrderId, Payment]
    entries: Rows[str, Entry]
    hurried: Rows[OrderId, OrderId]

    def learn(self, order_id: OrderId, price: Price, now: datetime) -> Due | None:
        """Learn what the order costs; the charge begins if inventory has permitted it already."""
        return self._begin(replace(self._of(order_id), price=price), now)

    def permit(self, order_id: OrderId, now: datetime) -> Due | None:
        """Take inventory's permission; the charge begins if the price is known already."""
        return self._begin(replace(self._of(order_id), permitted=True), now)

    def cancel(self, order_id: OrderId) -> Due | Literal["SKIPPED"] | None:
        """Undo what was done: nothing begun leaves a tombstone, a charge in flight is undone when its answer comes."""
        payment = self._of(order_id)
        if payment.state is State.NONE:
            self._put(replace(payment, state=State.SKIPPED))
            return "SKIPPED"
        if payment.state in OPEN:
            self._put(replace(payment, cancel_wanted=True))
        elif payment.state is State.CHARGED and payment.price:
            self._put(replace(payment, state=State.REFUNDING))
            return Due(payment.price)
        return None

    def capture(self, order_id: OrderId, reference: str, at: datetime) -> Moved | None:
        """Record the charge; under ``cancel_wanted`` the refund begins in the same breath."""
        payment = self._of(order_id)
        if payment.state not in OPEN or not payment.price:
            return None
        self._enter(charge_key(order_id), payment, "CAPTURE", reference, at)
        self._put(replace(payment, state=State.REFUNDING if payment.cancel_wanted else State.CHARGED))
        return Moved(payment.price, refund=payment.cancel_wanted)

    def decline(self, order_id: OrderId, code: str) -> Literal["DECLINED"] | None:
        """Record that the card was declined; wanted or not, there is nothing to undo."""
        payment = self._of(order_id)
        if payment.state not in OPEN:
            return None
        self._put(replace(payment, state=State.DECLINED, code=code))
        return "DECLINED"

    def lose(self, order_id: OrderId) -> datetime | Literal["STILL_LOST"] | None:
        """Record that nobody knows whether the card was charged since it was begun; no success, no failure (L6, L7)."""
        payment = self._of(order_id)
        if payment.state is State.UNKNOWN:
            return "STILL_LOST"
        if payment.state is not State.CHARGING or not payment.began_at:
            return None
        self._put(replace(payment, state=State.UNKNOWN))
        return payment.began_at

    def ask_again(self, order_id: OrderId) -> Due | None:
        """Charge again under the same key, so that the key has its one answer, cancelled or not (law L7)."""
        payment = self._of(order_id)
        return Due(payment.price) if payment.state in OPEN and payment.price else None

    def give_back(
        self, order_id: OrderId, kind: str, reference: str, at: datetime
    ) -> Moved | Literal["CONTRADICTED"] | None:
        """Record the refund, also one that answers after it was given up, or after a person had ended it."""
        payment = self._of(order_id)
        resolution = payment.resolution if payment.state in (State.CHARGED, State.RESOLVED) else None
        if not payment.price or not (payment.state in UNDOING or (resolution and not resolution.contradicted)):
            return None
        self._enter(refund_key(order_id), payment, kind, reference, at)
        if resolution and payment.state is State.RESOLVED:
            self._put(replace(payment, resolution=replace(resolution, contradicted=True)))
            return "CONTRADICTED"
        self._put(replace(payment, state=State.REFUNDED))
        return Moved(payment.price)

    def fail_refund(self, order_id: OrderId, code: str) -> Literal["REFUND_FAILED"] | None:
        """Record that the money did not go back: a person has to decide."""
        payment = self._of(order_id)
        if payment.state is not State.REFUNDING:
            return None
        self._put(replace(payment, state=State.REFUND_FAILED, code=code))
        return "REFUND_FAILED"

    def retry(self, order_id: OrderId) -> Due | Literal["HURRIED"] | None:
        """Begin a failed refund again, whatever was wished before; one that is under way is tried at once."""
        payment = self._of(order_id)
        if payment.state is State.REFUND_FAILED and payment.price:
            self._put(replace(payment, state=State.REFUNDING, resolution=None))
            return Due(payment.price)
        if payment.state is not State.REFUNDING:
            return None
        self.hurried.put(order_id, order_id)
        return "HURRIED"

    def resolve(
        self, order_id: OrderId, resolution: Resolution, *, cancelled: bool
    ) -> Literal["INQUIRED", "HURRIED"] | None:
        """Note how a person ends what is owed; a charge without an answer is never ended by hand, only asked for.

        ``cancelled``: a cancellation came and was not handled; of one that was handled the row tells.
        """
        payment = self._of(order_id)
        if payment.state in ENDED or not (cancelled or payment.cancel_wanted or payment.state in UNDOING):
            return None
        if payment.state in OPEN:
            self.hurried.put(order_id, order_id)
            return "HURRIED"
        self._put(replace(payment, resolution=resolution))
        return "INQUIRED"

    def close(self, order_id: OrderId) -> Resolution | None:
        """End what is owed as a person resolved, now that nothing went back; none outlives the begin of a charge."""
        payment = self._of(order_id)
        if payment.state in ENDED or not payment.resolution:
            return None
        self._put(replace(payment, state=State.RESOLVED))
        return payment.resolution

    def state(self, order_id: OrderId) -> State:
        """Return where the order's payment stands."""
        return self._of(order_id).state

    def known(self, order_id: OrderId) -> State | None:
        """Return where it stands; None for an order not heard of."""
        return self.state(order_id) if self.payments.get(order_id) else None

    def may_begin(self, order_id: OrderId, now: datetime) -> bool:
        """Tell whether a charge may go out: past the deadline the decider is waited for (law L1), unless it began."""
        payment = self._of(order_id)
        late = payment.price is not None and now > payment.price.deadline_at
        return payment.state is State.UNKNOWN or payment.cancel_wanted or not late

    def _begin(self, payment: Payment, now: datetime) -> Due | None:
        if payment.state is State.NONE and payment.price and payment.permitted:
            self._put(replace(payment, state=State.CHARGING, began_at=now, resolution=None))
            return Due(payment.price)
        if payment.state is State.NONE:
            self._put(payment)
        return None

    def _of(self, order_id: OrderId) -> Payment:
        return self.payments.get(order_id) or Payment(order_id)

    def _put(self, payment: Payment) -> None:
        self.payments.put(payment.order_id, payment)

    def _enter(self, key: str, payment: Payment, kind: str, reference: str, at: datetime) -> None:
        if payment.price:
            money = payment.price.amount_minor, payment.price.currency
            self.entries.put(key, Entry(key, payment.order_id, kind, *money, reference, at))
