"""Every row of payment's machine (law.md, "Payment"): given, when it hears, then it says."""

from __future__ import annotations

from datetime import timedelta

import pytest

from payment.domain import OrderId, Payments, State
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
    RefundNotFound,
    RefundRefused,
    StockReserved,
)
from payment.handlers import on
from quadrille import Message, ResolveCompensation, RetryCompensation
from quadrille.testing import START, InMemory

PLACED = OrderPlaced("o-1", 2500, "EUR", "tok_ok", START + timedelta(minutes=5))
RESERVED = StockReserved("o-1")
CANCEL = OrderCancellationRequested("o-1", "CUSTOMER")
CHARGE = ChargeCard("o-1", 2500, "EUR", "tok_ok")
UNKNOWN = ChargeUnknown("o-1", 3)
NOT_FOUND = ChargeNotFound("o-1")
TAKEN = CardCharged("o-1", "ch-1")
REFUSED = CardDeclined("o-1", "insufficient_funds")
BACK = CardRefunded("o-1", "VOID", "re-1")
CLOSED = RefundRefused("o-1", "card_closed")
EXHAUSTED = RefundExhausted("o-1")
DROPPED = ChargeCardDropped("o-1"), RefundCardDropped("o-1")
CHARGED = PaymentCharged("o-1", "charge:o-1", "ch-1", 2500, "EUR")
REFUNDED = PaymentRefunded("o-1", "refund:o-1", "VOID", 2500, "EUR")
GONE = RefundNotFound("o-1")
RETRY = RetryCompensation("o-1")
RESOLVE = ResolveCompensation("o-1", "EXTERNAL", "ann", "T-7")
EVERYTHING = [PLACED, RESERVED, CANCEL, UNKNOWN, NOT_FOUND, TAKEN, REFUSED, BACK, CLOSED, EXHAUSTED, GONE, *DROPPED]
CANCELLED_AFTER_CHARGE = [PLACED, RESERVED, TAKEN, CANCEL]


def state(payment: InMemory[Payments]) -> State:
    return payment.work.state(OrderId("o-1"))


def ledger(payment: InMemory[Payments]) -> list[tuple[str, str, int]]:
    return [(entry.key, entry.kind, entry.amount_minor) for entry in payment.work.entries]


@pytest.mark.proves("payment.join")
@pytest.mark.parametrize("order", [(PLACED, RESERVED), (RESERVED, PLACED)], ids=["amount first", "permission first"])
def test_a_charge_starts_when_both_are_known(payment: InMemory[Payments], order: tuple[Message, ...]) -> None:
    """Amount and permission start one charge, whichever comes first and however often both arrive."""
    payment.receives(*order, *order)

    assert payment.emitted() == [CHARGE]
    assert state(payment) is State.CHARGING


@pytest.mark.proves("payment.join")
@pytest.mark.parametrize("one", [PLACED, RESERVED], ids=lambda one: one.type)
def test_one_half_alone_starts_nothing(payment: InMemory[Payments], one: Message) -> None:
    """Neither the amount nor the permission alone starts a charge."""
    payment.receives(one, times=3)

    assert payment.emitted() == []
    assert state(payment) is State.NONE


@pytest.mark.proves("payment.charged")
def test_a_charged_card_is_said_once(payment: InMemory[Payments]) -> None:
    """CardCharged makes one capture and one payment.charged, however often it arrives."""
    payment.given(PLACED, RESERVED)

    payment.receives(TAKEN, times=3)

    assert payment.emitted() == [CHARGED]
    assert ledger(payment) == [("charge:o-1", "CAPTURE", 2500)]


@pytest.mark.proves("payment.declined")
def test_a_declined_card_is_said_once(payment: InMemory[Payments]) -> None:
    """CardDeclined says payment.declined once and enters nothing into the ledger."""
    payment.given(PLACED, RESERVED)

    payment.receives(REFUSED, times=3)

    assert payment.emitted() == [PaymentDeclined("o-1", "insufficient_funds")]
    assert (state(payment), ledger(payment)) == (State.DECLINED, [])


@pytest.mark.proves("payment.unknown", "L7")
def test_an_unknown_outcome_is_asked_for(payment: InMemory[Payments]) -> None:
    """An unknown outcome is no decline: payment says since when, and inquires (law L7)."""
    payment.given(PLACED, RESERVED)

    payment.receives(UNKNOWN)

    assert payment.emitted() == [PaymentOutcomeUnknown("o-1", 3, START + timedelta(seconds=2)), InquireCharge("o-1")]
    assert state(payment) is State.UNKNOWN


@pytest.mark.proves("payment.unknown")
def test_unknown_again_is_asked_for_but_not_said_again(payment: InMemory[Payments]) -> None:
    """payment.outcome_unknown is said on entering UNKNOWN only; every further unknown is only inquired."""
    payment.given(PLACED, RESERVED, UNKNOWN, NOT_FOUND)

    payment.receives(UNKNOWN)

    assert payment.emitted() == [InquireCharge("o-1")]


@pytest.mark.proves("payment.not-found", "L7")
@pytest.mark.parametrize("past", [[], [CANCEL]], ids=["wanted", "cancelled"])
def test_not_found_is_no_answer(payment: InMemory[Payments], past: list[Message]) -> None:
    """A charge that is not found stays UNKNOWN and is asked again under the same key, cancelled or not (law L7)."""
    payment.given(PLACED, RESERVED, UNKNOWN, *past)

    payment.receives(NOT_FOUND)

    assert payment.emitted() == [CHARGE]
    assert state(payment) is State.UNKNOWN


@pytest.mark.proves("payment.inquiry")
def test_an_inquiry_that_finds_the_charge_ends_the_unknown(payment: InMemory[Payments]) -> None:
    """UNKNOWN becomes CHARGED when the inquiry finds the charge."""
    payment.given(PLACED, RESERVED, UNKNOWN)

    payment.receives(TAKEN)

    assert payment.emitted() == [CHARGED]


@pytest.mark.proves("payment.inquiry")
def test_an_inquiry_that_finds_a_decline_ends_the_unknown(payment: InMemory[Payments]) -> None:
    """UNKNOWN becomes DECLINED when the inquiry finds a decline."""
    payment.given(PLACED, RESERVED, UNKNOWN)

    payment.receives(REFUSED)

    assert payment.emitted() == [PaymentDeclined("o-1", "insufficient_funds")]


@pytest.mark.proves("payment.tombstone", "L4", "late.cancel-first")
@pytest.mark.parametrize("past", [[], [PLACED], [RESERVED]], ids=["nothing", "amount", "permission"])
def test_a_cancellation_before_the_charge_leaves_a_tombstone(payment: InMemory[Payments], past: list[Message]) -> None:
    """A cancellation before the charge is acknowledged as skipped, and a late permission starts nothing (law L4)."""
    payment.given(*past)

    payment.receives(CANCEL, PLACED, RESERVED, CANCEL)

    assert payment.emitted() == [PaymentSkipped("o-1", "CUSTOMER")]
    assert state(payment) is State.SKIPPED


@pytest.mark.proves("payment.cancel-wanted", "L6")
@pytest.mark.parametrize("past", [[], [UNKNOWN]], ids=["CHARGING", "UNKNOWN"])
def test_a_cancellation_during_the_charge_waits_for_its_answer(
    payment: InMemory[Payments], past: list[Message]
) -> None:
    """A charge in flight is neither success nor failure: charged says so and refunds at once (law L6)."""
    payment.given(PLACED, RESERVED, *past)

    payment.receives(CANCEL, times=2)
    assert payment.emitted() == []
    payment.receives(TAKEN, times=2)

    assert payment.emitted() == [CHARGED, RefundCard("o-1", 2500)]
    assert state(payment) is State.REFUNDING


@pytest.mark.proves("payment.cancel-wanted", "L6")
@pytest.mark.parametrize("past", [[], [UNKNOWN]], ids=["CHARGING", "UNKNOWN"])
def test_a_cancellation_during_a_charge_that_is_declined(payment: InMemory[Payments], past: list[Message]) -> None:
    """A cancelled charge that is declined just says so: there is nothing to give back (law L6)."""
    payment.given(PLACED, RESERVED, *past, CANCEL)

    payment.receives(REFUSED)

    assert payment.emitted() == [PaymentDeclined("o-1", "insufficient_funds")]


@pytest.mark.proves("payment.refund", "payment.ledger")
def test_a_cancelled_payment_goes_back(payment: InMemory[Payments]) -> None:
    """A cancellation after the charge starts one refund; its answer is one entry and one payment.refunded."""
    payment.given(PLACED, RESERVED, TAKEN)

    payment.receives(CANCEL, times=2)
    assert payment.emitted() == [RefundCard("o-1", 2500)]
    payment.receives(BACK, times=2)

    assert payment.emitted() == [REFUNDED]
    assert ledger(payment) == [("charge:o-1", "CAPTURE", 2500), ("refund:o-1", "VOID", 2500)]


@pytest.mark.proves("payment.refund-failed")
def test_a_refused_refund_needs_a_person(payment: InMemory[Payments]) -> None:
    """A refund refused for a business reason fails at once, said once with the processor's code."""
    payment.given(PLACED, RESERVED, TAKEN, CANCEL)

    payment.receives(CLOSED, times=2)

    assert payment.emitted() == [PaymentRefundFailed("o-1", "BUSINESS", "card_closed", 1)]
    assert state(payment) is State.REFUND_FAILED


@pytest.mark.proves("payment.refund-failed")
def test_an_exhausted_refund_needs_a_person(payment: InMemory[Payments]) -> None:
    """A refund whose every try went unanswered fails as TRANSIENT_EXHAUSTED, said once."""
    payment.given(PLACED, RESERVED, TAKEN, CANCEL)

    payment.receives(EXHAUSTED, times=2)

    assert payment.emitted() == [PaymentRefundFailed("o-1", "TRANSIENT_EXHAUSTED", "unanswered", 1)]


@pytest.mark.proves("payment.retry")
def test_a_late_refund_after_its_failure_counts(payment: InMemory[Payments]) -> None:
    """REFUND_FAILED becomes REFUNDED when the processor answers after all."""
    payment.given(PLACED, RESERVED, TAKEN, CANCEL, EXHAUSTED)

    payment.receives(BACK, times=2)

    assert payment.emitted() == [REFUNDED]


@pytest.mark.proves("payment.absorbs", "L11")
@pytest.mark.parametrize(
    ("past", "deaf_to"),
    [
        ([PLACED, RESERVED, REFUSED], EVERYTHING),
        ([CANCEL], EVERYTHING),
        ([PLACED, RESERVED, TAKEN, CANCEL, BACK], EVERYTHING),
        ([PLACED, RESERVED, TAKEN], [m for m in EVERYTHING if m is not CANCEL]),
        ([PLACED, RESERVED, TAKEN, CANCEL], [m for m in EVERYTHING if m not in (BACK, CLOSED, EXHAUSTED)]),
        ([PLACED, RESERVED, TAKEN, CANCEL, CLOSED], [m for m in EVERYTHING if m is not BACK]),
        ([*CANCELLED_AFTER_CHARGE, CLOSED, RESOLVE, GONE], [m for m in EVERYTHING if m not in (BACK, *DROPPED)]),
        ([*CANCELLED_AFTER_CHARGE, CLOSED, RESOLVE, GONE, BACK], [m for m in EVERYTHING if m not in DROPPED]),
    ],
    ids=["DECLINED", "SKIPPED", "REFUNDED", "CHARGED", "REFUNDING", "REFUND_FAILED", "RESOLVED", "RESOLVED, refunded"],
)
def test_what_does_not_fit_the_state_is_absorbed(
    payment: InMemory[Payments], past: list[Message], deaf_to: list[Message]
) -> None:
    """Late, duplicate and stale messages say nothing, change no state and enter nothing (law L11)."""
    payment.given(*past)
    before = state(payment), ledger(payment)

    payment.receives(*deaf_to, times=2)

    assert payment.emitted() == []
    assert (state(payment), ledger(payment)) == before


def test_an_answer_nobody_asked_for_is_absorbed(payment: InMemory[Payments]) -> None:
    """Answers about an order that has no charge begun say nothing."""
    payment.receives(*[m for m in EVERYTHING if m not in (PLACED, RESERVED, CANCEL)])

    assert payment.emitted() == []
    assert (state(payment), ledger(payment)) == (State.NONE, [])


def test_every_edge_of_the_map_was_walked() -> None:
    """Each (handler, said) pair that payment declares is exercised by one story or another."""
    walked: set[tuple[str, str]] = set()
    for story in (
        [RESERVED, PLACED, UNKNOWN, NOT_FOUND, UNKNOWN, CANCEL, TAKEN, BACK],
        [PLACED, RESERVED, TAKEN, CANCEL, CLOSED],
        [PLACED, RESERVED, TAKEN, CANCEL, EXHAUSTED],
        [PLACED, RESERVED, REFUSED],
        [CANCEL],
        [RETRY, RESOLVE, *CANCELLED_AFTER_CHARGE, CLOSED, RETRY, RESOLVE, GONE, DROPPED[1], BACK],
    ):
        payment = InMemory(on)
        payment.receives(*story)
        walked |= payment.exercised

    assert walked == {(r.name, emitted.type) for r in on.specs.values() for emitted in r.emits}
