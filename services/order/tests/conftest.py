"""Order's handlers over rows in memory; its API over a real database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

import psycopg
import pytest
from services.order.tests.shopfront import Shop

from order import api, store
from order.domain import Orders
from order.events import Line, PlaceOrder
from order.handlers import on
from quadrille import HandlerRegistry
from quadrille.service import Store
from quadrille.testing import START, InMemory, OnPostgres, serving

Wire = Callable[[HandlerRegistry[Orders], Store[Orders]], OnPostgres[Orders]]


@pytest.fixture
def place() -> PlaceOrder:
    """The command to place o-1."""
    return PlaceOrder(
        order_id="o-1",
        caller="local",
        customer_id="cust_demo",
        reference="basket-1",
        payment_token="tok_ok",  # noqa: S106 - a test value of the sandbox
        currency="EUR",
        amount_minor=2800,
        lines=(Line("SKU-TEA", 2, 1250), Line("SKU-CUP", 1, 300)),
        placed_at=START,
        deadline_at=START + timedelta(minutes=5),
        trace_id="04a75036e9d520bb983c5ed03b8d0182",
    )


@pytest.fixture
def empty() -> InMemory[Orders]:
    """Order before anything was placed; cust_blocked is blocked."""
    order = InMemory(on)
    order.work.blocked.put("cust_blocked", "cust_blocked")
    return order


@pytest.fixture
def order(empty: InMemory[Orders], place: PlaceOrder) -> InMemory[Orders]:
    """Order with o-1 placed."""
    empty.given(place)
    return empty


@pytest.fixture(scope="module")
def served(on_postgres: Wire) -> Iterator[Shop]:
    db = on_postgres(on, store)
    with serving(api.make, db.service, db.connect) as url:
        yield Shop(url, db)


@pytest.fixture
def shop(served: Shop) -> Shop:
    with psycopg.connect(served.db.logins.owner) as tx:
        tx.execute(
            "TRUNCATE orders, order_change, order_change_gone, webhook, idempotency_key, outbox, stream, task, inbox"
        )
    return served
