"""An order is placed once per reference, whatever the client repeats."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from order.domain import Orders
from order.events import PlaceAnswered, PlaceOrder
from quadrille import Event
from quadrille.testing import InMemory

Sales = InMemory[Orders]


def test_a_reference_of_another_caller(order: Sales, place: PlaceOrder) -> None:
    """References are a caller's own: another caller's same one places another order."""
    order.receives(replace(place, order_id="o-2", caller="somebody"))

    assert [emitted.type for emitted in order.emitted()] == ["order.placed", "order_deadline", "place_answered"]


def test_a_taken_reference(order: Sales, place: PlaceOrder) -> None:
    """The reference of an order that stands is taken, however much later: it places nothing."""
    again = replace(place, order_id="o-2")
    much_later = replace(place, order_id="o-3", placed_at=place.placed_at + timedelta(days=400))

    order.receives(again, much_later)

    assert order.emitted() == [PlaceAnswered("o-1", "REFERENCE_TAKEN")] * 2
    assert order.work.rows.get("o-2") is None


@pytest.mark.parametrize("reference", [None, "basket-2"])
def test_a_second_order(order: Sales, place: PlaceOrder, reference: str | None) -> None:
    """Another reference, or none, places another order of the same customer."""
    order.receives(replace(place, order_id="o-2", reference=reference))

    assert [emitted.type for emitted in order.emitted() if isinstance(emitted, Event)] == ["order.placed"]
