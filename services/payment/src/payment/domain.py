"""The rules of money: at most one charge and one refund per order, each under its key, in a ledger that only grows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import NewType

from chassis.rows import Rows
from payment.events import charge_key, refund_key

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

    @property
    def open(self) -> bool:
        """Tell whether a charge was begun and has no definite answer yet."""
        return self in (State.CHARGING, State.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Price:
    """What is to be charged, and until when a charge may begin."""

    amount_minor: int
    currency: str
    payment_token: str
    deadline_at: datetime


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


# transitions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Charge:
    """The card is to be charged."""

    price: Price


@dataclass(frozen=True, slots=True)
class Captured:
    """The money is ours; ``refund`` says that it is to go back at once (law L6)."""

    price: Price
    refund: bool


@dataclass(frozen=True, slots=True)
class Declined:
    """The card was declined for good."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The outcome is unknown now; ``since_at`` is when the charge was begun."""

    since_at: datetime


@dataclass(frozen=True, slots=True)
class StillLost:
    """The outcome is as unknown as before."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """Nothing was charged and nothing will be."""


@dataclass(frozen=True, slots=True)
class Refund:
    """The money is to go back."""

    price: Price


@dataclass(frozen=True, slots=True)
class Returned:
    """The money went back."""

    price: Price


@dataclass(frozen=True, slots=True)
class RefundFailed:
    """The money did not go back."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """Nothing changed that anybody needs to hear of (law L11)."""


# the working set -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Payments:
    """The rows a batch may touch; entries are only ever added."""

    payments: Rows[OrderId, Payment]
    entries: Rows[str, Entry]

    def learn(self, order_id: OrderId, price: Price, now: datetime) -> Charge | Nothing:
        """Learn what the order costs; the charge begins if inventory has permitted it already."""
        return self._begin(replace(self._of(order_id), price=price), now)

    def permit(self, order_id: OrderId, now: datetime) -> Charge | Nothing:
        """Take inventory's permission; the charge begins if the price is known already."""
        return self._begin(replace(self._of(order_id), permitted=True), now)

    def cancel(self, order_id: OrderId) -> Skipped | Refund | Nothing:
        """Undo what was done: nothing begun leaves a tombstone, a charge in flight is undone when its answer comes."""
        payment = self._of(order_id)
        if payment.state is State.NONE:
            self._put(replace(payment, state=State.SKIPPED))
            return Skipped()
        if payment.state.open:
            self._put(replace(payment, cancel_wanted=True))
        elif payment.state is State.CHARGED and payment.price:
            self._put(replace(payment, state=State.REFUNDING))
            return Refund(payment.price)
        return Nothing()

    def capture(self, order_id: OrderId, reference: str, at: datetime) -> Captured | Nothing:
        """Record the charge; under ``cancel_wanted`` the refund begins in the same breath."""
        payment = self._of(order_id)
        if not payment.state.open or not payment.price:
            return Nothing()
        self._enter(charge_key(order_id), payment, "CAPTURE", reference, at)
        after = State.REFUNDING if payment.cancel_wanted else State.CHARGED
        self._put(replace(payment, state=after))
        return Captured(payment.price, refund=payment.cancel_wanted)

    def decline(self, order_id: OrderId, code: str) -> Declined | Nothing:
        """Record that the card was declined; wanted or not, there is nothing to undo."""
        payment = self._of(order_id)
        if not payment.state.open:
            return Nothing()
        self._put(replace(payment, state=State.DECLINED, code=code))
        return Declined()

    def lose(self, order_id: OrderId) -> Lost | StillLost | Nothing:
        """Record that nobody knows whether the card was charged: neither success nor failure (laws L6, L7)."""
        payment = self._of(order_id)
        if payment.state is State.UNKNOWN:
            return StillLost()
        if payment.state is not State.CHARGING or not payment.began_at:
            return Nothing()
        self._put(replace(payment, state=State.UNKNOWN))
        return Lost(payment.began_at)

    def ask_again(self, order_id: OrderId) -> Charge | Nothing:
        """Charge again under the same key, so that the key has its one answer, cancelled or not (law L7)."""
        payment = self._of(order_id)
        return Charge(payment.price) if payment.state.open and payment.price else Nothing()

    def give_back(self, order_id: OrderId, kind: str, reference: str, at: datetime) -> Returned | Nothing:
        """Record the refund, also one that answers after it was given up."""
        payment = self._of(order_id)
        if payment.state not in (State.REFUNDING, State.REFUND_FAILED) or not payment.price:
            return Nothing()
        self._enter(refund_key(order_id), payment, kind, reference, at)
        self._put(replace(payment, state=State.REFUNDED))
        return Returned(payment.price)

    def fail_refund(self, order_id: OrderId, code: str) -> RefundFailed | Nothing:
        """Record that the money did not go back: a person has to decide."""
        payment = self._of(order_id)
        if payment.state is not State.REFUNDING:
            return Nothing()
        self._put(replace(payment, state=State.REFUND_FAILED, code=code))
        return RefundFailed()

    def state(self, order_id: OrderId) -> State:
        """Return where the order's payment stands."""
        return self._of(order_id).state

    def may_begin(self, order_id: OrderId, now: datetime) -> bool:
        """Tell whether a charge may go out: past the deadline the decider is waited for (law L1), unless it began."""
        payment = self._of(order_id)
        late = payment.price is not None and now > payment.price.deadline_at
        return payment.state is State.UNKNOWN or payment.cancel_wanted or not late

    def _begin(self, payment: Payment, now: datetime) -> Charge | Nothing:
        if payment.state is not State.NONE:
            return Nothing()
        if not payment.price or not payment.permitted:
            self._put(payment)
            return Nothing()
        self._put(replace(payment, state=State.CHARGING, began_at=now))
        return Charge(payment.price)

    def _of(self, order_id: OrderId) -> Payment:
        return self.payments.get(order_id) or Payment(order_id)

    def _put(self, payment: Payment) -> None:
        self.payments.put(payment.order_id, payment)

    def _enter(self, key: str, payment: Payment, kind: str, reference: str, at: datetime) -> None:
        if payment.price:
            money = payment.price.amount_minor, payment.price.currency
            self.entries.put(key, Entry(key, payment.order_id, kind, *money, reference, at))
