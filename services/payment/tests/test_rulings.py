"""Whether an intent may go out when its turn comes: a pure judgement of the intent, the rows and the time."""

from __future__ import annotations

from datetime import timedelta

import pytest

from payment.domain import Payments
from payment.events import (
    CardCharged,
    CardDeclined,
    CardRefunded,
    ChargeCard,
    ChargeNotFound,
    ChargeUnknown,
    OrderCancellationRequested,
    OrderPlaced,
    RefundCard,
    RefundRefused,
    StockReserved,
)
from payment.handlers import when_charge, when_refund
from quadrille import Decision, Message
from quadrille.testing import START, InMemory, stamp

DEADLINE = START + timedelta(minutes=5)
PLACED = OrderPlaced("o-1", 2500, "EUR", "tok_ok", DEADLINE)
BEGUN: list[Message] = [PLACED, StockReserved("o-1")]
CANCEL = OrderCancellationRequested("o-1", "DEADLINE")


def charge(payment: InMemory[Payments], after: timedelta) -> Decision:
    intent = stamp(ChargeCard("o-1", 2500, "EUR", "tok_ok"), DEADLINE + after)
    return when_charge(intent, payment.work)


def test_a_charge_goes_out_before_its_deadline(payment: InMemory[Payments]) -> None:
    """Up to the deadline a charge goes out."""
    payment.given(*BEGUN)

    assert charge(payment, timedelta(0)) is Decision.PROCEED


@pytest.mark.proves("late.charge-waits", "L1")
def test_a_charge_past_its_deadline_waits_for_the_decider(payment: InMemory[Payments]) -> None:
    """Past the deadline a charge not yet begun waits: only the order service decides (law L1)."""
    payment.given(*BEGUN)

    assert charge(payment, timedelta(seconds=1)) is Decision.DEFER


@pytest.mark.proves("late.charge-waits", "L7")
def test_a_cancelled_charge_goes_out_past_its_deadline(payment: InMemory[Payments]) -> None:
    """Under cancel_wanted a charge goes out whatever the deadline, so that its key has its one answer (law L7)."""
    payment.given(*BEGUN, CANCEL)

    assert charge(payment, timedelta(hours=1)) is Decision.PROCEED


@pytest.mark.proves("late.charge-waits", "L7")
def test_a_charge_asked_again_goes_out_past_its_deadline(payment: InMemory[Payments]) -> None:
    """A charge that was not found is asked again whatever the deadline (law L7)."""
    payment.given(*BEGUN, ChargeUnknown("o-1", 3), ChargeNotFound("o-1"))

    assert charge(payment, timedelta(hours=1)) is Decision.PROCEED


@pytest.mark.parametrize("answer", [CardCharged("o-1", "ch-1"), CardDeclined("o-1", "expired_card")])
def test_an_answered_charge_is_dropped(payment: InMemory[Payments], answer: Message) -> None:
    """A charge whose answer is known is not sent again."""
    payment.given(*BEGUN, answer)

    assert charge(payment, timedelta(0)) is Decision.CANCEL


@pytest.mark.proves("late.charge-waits")
def test_a_refund_goes_out_while_it_is_owed(payment: InMemory[Payments]) -> None:
    """A refund goes out while REFUNDING, however late: undo work is never skipped."""
    payment.given(*BEGUN, CardCharged("o-1", "ch-1"), CANCEL)

    intent = stamp(RefundCard("o-1", 2500), DEADLINE + timedelta(days=1))
    assert when_refund(intent, payment.work) is Decision.PROCEED


@pytest.mark.parametrize("answer", [CardRefunded("o-1", "VOID", "re-1"), RefundRefused("o-1", "card_closed")])
def test_an_ended_refund_is_dropped(payment: InMemory[Payments], answer: Message) -> None:
    """A refund that has ended is not sent again."""
    payment.given(*BEGUN, CardCharged("o-1", "ch-1"), CANCEL, answer)

    assert when_refund(RefundCard("o-1", 2500), payment.work) is Decision.CANCEL
