"""The ledger under any story: captured - refunded is what the state says, and every key is entered at most once."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payment.domain import OrderId, Payments, State
from payment.events import (
    CardCharged,
    CardDeclined,
    CardRefunded,
    ChargeNotFound,
    ChargeUnknown,
    OrderCancellationRequested,
    OrderPlaced,
    PaymentCharged,
    PaymentDeclined,
    PaymentRefunded,
    PaymentSkipped,
    RefundCard,
    RefundExhausted,
    RefundRefused,
    StockReserved,
)
from payment.handlers import on
from quadrille import Message
from quadrille.testing import START, InMemory

AMOUNT = 2500
KEPT = (State.CHARGED, State.REFUNDING, State.REFUND_FAILED)
stories = st.lists(
    st.sampled_from(
        [
            OrderPlaced("o-1", AMOUNT, "EUR", "tok_ok", START),
            StockReserved("o-1"),
            OrderCancellationRequested("o-1", "CUSTOMER"),
            CardCharged("o-1", "ch-1"),
            CardDeclined("o-1", "expired_card"),
            ChargeUnknown("o-1", 3),
            ChargeNotFound("o-1"),
            CardRefunded("o-1", "REFUND", "re-1"),
            RefundRefused("o-1", "card_closed"),
            RefundExhausted("o-1"),
        ]
    ),
    max_size=30,
)


def told(story: list[Message]) -> InMemory[Payments]:
    payment = InMemory(on)
    payment.receives(*story)
    return payment


@pytest.mark.proves("payment.ledger")
@settings(max_examples=300, deadline=None)
@given(stories)
def test_captured_less_refunded_is_what_the_state_says(story: list[Message]) -> None:
    """Money is ours exactly while CHARGED, REFUNDING or REFUND_FAILED; at most one capture, at most one refund."""
    payment = told(story)

    entries = list(payment.work.entries)
    captured = sum(entry.amount_minor for entry in entries if entry.kind == "CAPTURE")
    refunded = sum(entry.amount_minor for entry in entries if entry.kind != "CAPTURE")
    assert captured - refunded == (AMOUNT if payment.work.state(OrderId("o-1")) in KEPT else 0)
    assert captured in (0, AMOUNT)
    assert refunded <= captured


@pytest.mark.proves("L11")
@settings(max_examples=300, deadline=None)
@given(stories)
def test_every_outward_act_is_said_at_most_once(story: list[Message]) -> None:
    """At most one refund is asked for, and charged, declined, skipped and refunded are said at most once."""
    emitted = told(story).emitted()

    for kind in (PaymentCharged, PaymentDeclined, PaymentSkipped, PaymentRefunded, RefundCard):
        assert len([one for one in emitted if isinstance(one, kind)]) <= 1


@settings(max_examples=300, deadline=None)
@given(stories)
def test_no_charge_without_permission(story: list[Message]) -> None:
    """Nothing is captured before stock.reserved was heard, and nothing after a tombstone."""
    payment = told(story)

    if payment.work.state(OrderId("o-1")) in (State.NONE, State.SKIPPED, State.DECLINED):
        assert list(payment.work.entries) == []
