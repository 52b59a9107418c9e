"""An order is placed once per idempotency key and once per reference, whatever the client repeats."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from order.domain import Orders
from order.events import PlaceAnswered, PlaceOrder
from quadrille import Event
from quadrille.testing import InMemory

Desk = InMemory[Orders]


def test_a_repeat_gets_the_stored_answer(order: Desk, place: PlaceOrder) -> None:
    """The same request again, with a new order id and answer of its own, gets the first one's, and places nothing."""
    again = replace(place, order_id="o-2", answer="another", placed_at=place.placed_at + timedelta(hours=47))

    order.hears(again, times=2)

    assert order.said() == [PlaceAnswered("o-1", "REPLAYED", place.answer)] * 2
    assert order.work.rows.get("o-2") is None


def test_another_body_under_the_same_key(order: Desk, place: PlaceOrder) -> None:
    """A key that comes back with another body is refused, naming its order; nothing is stored."""
    order.hears(replace(place, order_id="o-2", fingerprint="f-2", reference="basket-2"))

    assert order.said() == [PlaceAnswered("o-1", "KEY_REUSED")]
    assert order.work.rows.get("o-2") is None


def test_a_lost_answer(order: Desk, place: PlaceOrder) -> None:
    """The very same command again, because its commit's answer was lost, is told that it was placed, not replayed."""
    order.hears(place)

    assert order.said() == [PlaceAnswered("o-1", "PLACED", place.answer)]


def test_a_key_of_another_caller(order: Desk, place: PlaceOrder) -> None:
    """Keys and references are a caller's own: another caller's same ones place another order."""
    order.hears(replace(place, order_id="o-2", caller="somebody"))

    assert [said.type for said in order.said()] == ["order.placed", "order_deadline", "place_answered"]


def test_an_expired_key(order: Desk, place: PlaceOrder) -> None:
    """After 48 hours a key may be used anew, and is then remembered for the new order."""
    later = replace(
        place, order_id="o-2", reference=None, fingerprint="f-2", placed_at=place.placed_at + timedelta(hours=48.1)
    )
    order.hears(later, replace(later, order_id="o-3"))

    answers = [said for said in order.said() if isinstance(said, PlaceAnswered)]
    assert answers == [PlaceAnswered("o-2", "PLACED", place.answer), PlaceAnswered("o-2", "REPLAYED", place.answer)]


def test_a_taken_reference(order: Desk, place: PlaceOrder) -> None:
    """The reference of an order that stands is taken: under another key, and after the key's end, it places nothing."""
    other_key = replace(place, order_id="o-2", idempotency_key="basket-1-try-2")
    much_later = replace(place, order_id="o-3", placed_at=place.placed_at + timedelta(days=400))

    order.hears(other_key, much_later)

    assert order.said() == [PlaceAnswered("o-1", "REFERENCE_TAKEN")] * 2
    key = (place.caller, "POST /v1/orders", "basket-1-try-2")
    assert order.work.requests.get(key) is None


@pytest.mark.parametrize("reference", [None, "basket-2"])
def test_a_second_order(order: Desk, place: PlaceOrder, reference: str | None) -> None:
    """Another key with another reference, or none, places another order of the same customer."""
    order.hears(replace(place, order_id="o-2", idempotency_key="k-2", reference=reference))

    assert [said.type for said in order.said() if isinstance(said, Event)] == ["order.placed"]
