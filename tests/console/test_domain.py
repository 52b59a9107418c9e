"""How an order stands, read off its facts: whom it waits for and why, whatever came first."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import TypeAlias

import pytest

from console.domain import Fact, Order

AT = datetime(2026, 11, 21, 9, 14, 3, tzinfo=UTC)
Told: TypeAlias = tuple[str, int, Mapping[str, object]]
ORDER = "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1"


def heard(*facts: Told) -> Order:
    """Return the order of which these facts were heard, a second apart: type, sequence, body."""
    order = Order(ORDER)
    for number, (kind, sequence, body) in enumerate(facts):
        fact = Fact(kind, AT + timedelta(seconds=number), f"id-{kind}", sequence, body)
        order = order.hears(kind, fact, "")
    return order


PLACED: Told = ("order.placed", 1, {"customer_id": "cust_demo", "amount_minor": 2500, "currency": "EUR"})
RESERVED: Told = ("stock.reserved", 1, {})
CHARGED: Told = ("payment.charged", 1, {"amount_minor": 2500})
ASKED: Told = ("order.cancellation_requested", 2, {"reason": "CUSTOMER"})


@pytest.mark.parametrize(
    ("facts", "status", "waits_for", "what"),
    [
        pytest.param((PLACED,), "PENDING", "inventory", "stock.reserved", id="placed"),
        pytest.param((PLACED, RESERVED), "INVENTORY_RESERVED", "payment", "payment.charged", id="reserved"),
        pytest.param((PLACED, RESERVED, CHARGED), "PAYMENT_CHARGED", "order", "order.confirmed", id="charged"),
        pytest.param((PLACED, ("stock.rejected", 1, {})), "PENDING", "order", "order.cancelled", id="out-of-stock"),
        pytest.param((PLACED, RESERVED, ASKED), "CANCELLING", "payment", "payment.skipped", id="undone-uncharged"),
        pytest.param((PLACED, RESERVED, CHARGED, ASKED), "CANCELLING", "payment", "payment.refunded", id="refund-owed"),
        pytest.param(
            (PLACED, RESERVED, CHARGED, ASKED, ("payment.refunded", 2, {})),
            "CANCELLING", "inventory", "stock.released", id="stock-owed",
        ),
        pytest.param(
            (PLACED, RESERVED, CHARGED, ASKED, ("payment.refunded", 2, {}), ("stock.released", 2, {})),
            "CANCELLING", "order", "order.cancelled", id="all-undone",
        ),
        pytest.param(
            (PLACED, ("order.compensation_failed", 3, {"participant": "payment", "error": "card_closed"})),
            "COMPENSATION_FAILED", "a person", "resolve", id="frozen",
        ),
    ],
)  # fmt: skip
def test_an_order_waits_for_whoever_owes_the_next_event(
    facts: tuple[Told, ...], status: str, waits_for: str, what: str
) -> None:
    """Each stretch of the saga has the one who is to speak next, and the event that is owed."""
    order = heard(*facts)

    assert order.status == status
    assert order.waits
    assert (order.waits.who, order.waits.what) == (waits_for, what)
    assert order.waits.because


def test_the_order_of_hearing_changes_nothing() -> None:
    """Topics are read in any order: what an order is follows from the facts alone."""
    facts: tuple[Told, ...] = (PLACED, RESERVED, CHARGED, ASKED, ("order.cancelled", 3, {"reason": "CUSTOMER"}))
    told = {(order.status, order.reason, order.final) for order in (heard(*one) for one in permutations(facts))}

    assert told == {("CANCELLED", "CUSTOMER", True)}


def test_what_is_parked_is_said_before_what_is_owed() -> None:
    """The service that holds the thing itself is named, until it went on; then the saga's own wait counts again."""
    order = heard(PLACED, RESERVED, CHARGED)
    parked = Fact("input.parked", AT, "p", 1, {"service": "order", "error": "KeyError while handling payment.charged"})
    order = order.parks("order/e1", parked)
    assert order.waits
    assert (order.waits.who, order.waits.what) == ("order", "parked")
    assert "KeyError" in order.waits.because
    assert order.attention is None, "it is tried again by itself"
    order = order.parks("order/e1", Fact("input.dead", AT + timedelta(seconds=8), "d", 2, parked.body))
    assert order.waits
    assert (order.waits.what, order.attention) == ("parked", "PARKED")

    redriven = Fact("input.redriven", AT + timedelta(seconds=9), "r", 2, {"service": "order"})
    order = order.parks("order/e1", redriven).parks("order/e1", parked)
    assert order.waits
    assert (order.waits.what, order.attention) == ("order.confirmed", None)


def test_a_hostile_body_is_no_error() -> None:
    """Whatever a body holds instead of what was meant, an order stands somewhere."""
    placed = {"amount_minor": "many", "lines": 7, "customer_id": None}
    order = heard(("order.placed", 1, placed), ("order.cancelled", 2, {"reason": 5}))

    assert (order.status, order.reason, order.facts["order.placed"].number("amount_minor")) == ("CANCELLED", None, None)
