"""Stock is conserved under any story: received = available + held + committed, and held is what open holds hold."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inventory.domain import HoldState, Sku, Stock
from inventory.events import (
    Line,
    OrderCancellationRequested,
    OrderConfirmed,
    OrderPlaced,
    PaymentDeclined,
    SetStock,
    StockReleased,
    StockReserved,
)
from inventory.handlers import on
from quadrille import Message
from quadrille.testing import InMemory

SKUS = ("a", "b", "c")
orders = st.sampled_from([f"o-{n}" for n in range(4)])
lines = st.lists(st.builds(Line, st.sampled_from(SKUS), st.integers(1, 4)), min_size=1, max_size=4).map(tuple)
stories = st.lists(
    st.one_of(
        st.builds(OrderPlaced, orders, lines),
        st.builds(OrderConfirmed, orders),
        st.builds(OrderCancellationRequested, orders),
        st.builds(PaymentDeclined, orders),
        st.builds(SetStock, st.sampled_from(SKUS), st.integers(0, 9), st.none() | st.booleans()),
    ),
    max_size=40,
)


def told(story: list[Message]) -> InMemory[Stock]:
    inventory = InMemory(on)
    inventory.given(*(SetStock(sku, 5) for sku in SKUS))
    inventory.receives(*story)
    return inventory


def sums(inventory: InMemory[Stock], state: HoldState) -> Counter[str]:
    held: Counter[str] = Counter()
    for hold in inventory.work.holds:
        if hold.state is state:
            held.update({line.sku: line.quantity for line in hold.lines})
    return held


@pytest.mark.proves("inventory.equation")
@settings(max_examples=200, deadline=None)
@given(stories)
def test_no_piece_is_lost_or_made(story: list[Message]) -> None:
    """Whatever happens in whatever order, the equation holds per SKU and nothing falls below zero."""
    inventory = told(story)

    held = sums(inventory, HoldState.RESERVED)
    taken = sums(inventory, HoldState.COMMITTED) + sums(inventory, HoldState.RELEASE_FAILED)
    for sku in SKUS:
        level = inventory.work.levels.get(Sku(sku))
        assert level is not None
        assert level.received == level.available + level.held + level.committed
        assert (level.held, level.committed) == (held[sku], taken[sku])
        assert level.available >= 0


@pytest.mark.proves("L3")
@settings(max_examples=200, deadline=None)
@given(stories)
def test_each_order_is_acknowledged_at_most_once(story: list[Message]) -> None:
    """However often events repeat, an order is reserved at most once and released at most once."""
    emitted = told(story).emitted()

    for kind in (StockReserved, StockReleased):
        per_order = Counter(fact.order_id for fact in emitted if isinstance(fact, kind))
        assert all(count == 1 for count in per_order.values())
