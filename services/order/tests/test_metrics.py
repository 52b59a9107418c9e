"""What order counts of its sagas: begun, ended and why, how long they and their steps took, and who is waited for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from prometheus_client import REGISTRY

from order import metrics
from order.domain import Orders
from order.events import (
    CancelOrder,
    PaymentCharged,
    PaymentRefunded,
    PaymentRefundFailed,
    PaymentSkipped,
    PlaceOrder,
    StockCommitted,
    StockRejected,
    StockReleased,
    StockReserved,
)
from order.handlers import on
from order.settings import OrderSettings
from quadrille import HandlerRegistry, Message
from quadrille.service import Store
from quadrille.testing import OnPostgres, uuid7

Sales = OnPostgres[Orders]


@pytest.fixture
def order(on_postgres: Callable[[HandlerRegistry[Orders], Store[Orders]], Sales]) -> Sales:
    return on_postgres(on, metrics.STORE)


@pytest.fixture
def order_id() -> str:
    return str(uuid7())


@pytest.fixture
def wish(place: PlaceOrder, order_id: str) -> PlaceOrder:
    now = datetime.now(UTC)
    return replace(place, order_id=order_id, reference=None, placed_at=now, deadline_at=now + timedelta(minutes=5))


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


class Counted:
    """How much more something was counted since this began."""

    def __init__(self, name: str, **labels: str) -> None:
        self._of = name, labels
        self._before = value(name, **labels)

    def __call__(self) -> float:
        """Return it."""
        name, labels = self._of
        return value(name, **labels) - self._before


def arrive(order: Sales, *messages: Message) -> None:
    """Let each arrive in a batch of its own, and count what was said, as a process does after its commit."""
    for message in messages:
        order.receives(message)
        for said in order.emitted():
            metrics.count(said)


def test_a_confirmed_order_is_counted_with_its_steps(order: Sales, wish: PlaceOrder, order_id: str) -> None:
    """Begun once, ended once, with its duration and one of each of its steps; what follows adds nothing."""
    started, ended = (
        Counted("quadrille_order_started_total"),
        Counted("quadrille_order_ended_total", status="CONFIRMED", reason=""),
    )
    took = Counted("quadrille_order_duration_seconds_count", status="CONFIRMED")
    steps = [
        Counted("quadrille_order_step_duration_seconds_count", step=step)
        for step in ("stock.reserved", "payment.charged")
    ]

    arrive(order, wish, StockReserved(order_id), PaymentCharged(order_id), StockCommitted(order_id))

    assert (started(), ended(), took()) == (1, 1, 1)
    assert [step() for step in steps] == [1, 2]  # charged, and confirmed by the same event
    assert metrics.STORE.ended == {}


def test_an_undone_order_is_counted_by_its_reason(order: Sales, wish: PlaceOrder, order_id: str) -> None:
    """Its end, and how long undoing took, from the decision on and no longer; both ends of a confirmed one."""
    ended = Counted("quadrille_order_ended_total", status="CANCELLED", reason="CUSTOMER")
    undone = Counted("quadrille_order_compensation_duration_seconds_count", reason="CUSTOMER")
    charged = Counted("quadrille_order_step_duration_seconds_count", step="payment.charged")

    arrive(order, wish, StockReserved(order_id), PaymentCharged(order_id))
    counted = charged()
    arrive(order, CancelOrder(order_id, "local", "customer"), StockReleased(order_id))
    assert (ended(), undone()) == (0, 0)
    arrive(order, PaymentRefunded(order_id, "VOID", 2800))

    assert (ended(), undone()) == (1, 1)
    assert charged() == counted, "steps of the first end are not counted again"


def test_an_end_has_its_reason(order: Sales, wish: PlaceOrder) -> None:
    """An order nothing was left for is counted as cancelled for that, once both participants have settled."""
    ended = Counted("quadrille_order_ended_total", status="CANCELLED", reason="OUT_OF_STOCK")

    arrive(order, wish, StockRejected(wish.order_id, ()))
    assert ended() == 0
    arrive(order, PaymentSkipped(wish.order_id))

    assert ended() == 1


def test_a_failed_undo_is_counted(order: Sales, wish: PlaceOrder, order_id: str) -> None:
    """An undo that failed for good counts by participant, and its order is in flight, COMPENSATION_FAILED."""
    failed = Counted("quadrille_order_compensation_failed_total", participant="payment")

    arrive(order, wish, StockReserved(order_id), PaymentCharged(order_id), CancelOrder(order_id, "local", "customer"))
    arrive(order, PaymentRefundFailed(order_id, "BUSINESS", "card_closed", 1))
    metrics.look(order.tx, OrderSettings.model_construct())

    assert failed() == 1
    assert value("quadrille_order_in_flight_orders", status="COMPENSATION_FAILED") == 1


def test_who_is_waited_for_how_long(order: Sales, wish: PlaceOrder, order_id: str) -> None:
    """Orders that wait count under who owes them which event, the stuck at their highest level; then no more."""
    with psycopg.connect(order.logins.owner) as tx:
        tx.execute("TRUNCATE orders")
    settings = OrderSettings.model_construct()
    arrive(order, replace(wish, order_id=str(uuid7())))
    long_ago = datetime.now(UTC) - timedelta(minutes=11)
    arrive(order, replace(wish, placed_at=long_ago))

    metrics.look(order.tx, settings)

    waits = {"owes": "inventory", "fact": "stock.reserved"}
    assert value("quadrille_order_waiting_orders", **waits) == 2
    assert value("quadrille_order_waiting_age_seconds", **waits) > 600
    assert [value("quadrille_order_stuck_orders", **waits, level=level) for level in ("WARN", "PAGE", "ESCALATE")] == [
        0.0, 1.0, 0.0,
    ]  # fmt: skip
    assert value("quadrille_order_in_flight_orders", status="PENDING") == 2

    arrive(order, StockReserved(order_id))
    metrics.look(order.tx, settings)

    assert value("quadrille_order_stuck_orders", **waits, level="PAGE") == 0
    assert value("quadrille_order_waiting_orders", owes="payment", fact="payment.charged") == 1
