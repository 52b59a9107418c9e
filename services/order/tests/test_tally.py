"""How sagas end is counted by every process that decides it, each saga once."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import psycopg
import pytest
from services.order.tests.shopfront import Shop

from order import api
from order.domain import Status
from order.events import OrderCancellationRequested, OrderCancelled, OrderCompensationFailed, OrderConfirmed
from order.main import PROGRAM
from quadrille.testing import SagaOutcomes, serving

Sums = Callable[[], tuple[int, int, int]]


@pytest.fixture
def sums(shop: Shop) -> Sums:
    """Ask for rows, ended and failed of a tally that was empty."""

    def sums() -> tuple[int, int, int]:
        with psycopg.connect(shop.db.logins.owner) as tx:
            found = tx.execute("SELECT count(*), coalesce(sum(ended), 0), coalesce(sum(failed), 0) FROM tally")
            return next(found)

    with psycopg.connect(shop.db.logins.owner) as tx:
        tx.execute("TRUNCATE tally")
    return sums


def process(shop: Shop) -> SagaOutcomes:
    """Return a process's own count."""
    made = PROGRAM.tally(shop.db.connect)
    assert made
    return made


def late(order_id: str) -> OrderCancellationRequested:
    return OrderCancellationRequested(order_id, "DEADLINE", "order", Status.PENDING)


def frozen(order_id: str, participant: str = "payment") -> OrderCompensationFailed:
    return OrderCompensationFailed(order_id, participant, "BUSINESS", 1, "card_closed")


def test_a_process_writes_down_how_sagas_end(shop: Shop, sums: Sums) -> None:
    """Counted in memory and written at the end at the latest; nothing is written while nothing ends."""
    with process(shop) as tally:
        tally.add([OrderConfirmed("o-1", "c", 1, "EUR"), OrderCancelled("o-2", "c", "DEADLINE", ())])
        tally.add([late("o-3")])
    assert sums() == (2, 2, 1)

    with process(shop):
        pass
    assert sums() == (2, 2, 1)


@pytest.mark.proves("F23")
def test_a_saga_that_fails_twice_is_one_that_failed(shop: Shop, sums: Sums) -> None:
    """By its deadline, then in one undo and in the other, told by any process: one saga of those that ended."""
    for order_id in ("o-1", "o-2"):
        for failure in (late(order_id), frozen(order_id), frozen(order_id, "inventory")):
            with process(shop) as tally:
                tally.add([failure])

    assert sums()[1:] == (2, 2)


def test_what_a_customer_cancels_has_ended_too(shop: Shop, sums: Sums) -> None:
    """The api decides that, so it counts as well: an order cancelled before it was confirmed is one that ended."""
    with process(shop) as tally, serving(api.make, shop.db.service, shop.db.connect, tally) as url:
        front = Shop(url, shop.db)
        assert front.cancel(front.place(f"k-{uuid4()}").body["order_id"]).status == 202

    assert sums()[1:] == (1, 0)
