"""How long steps take, read off the histories of orders that have ended, and told over the ops port."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TypeAlias

import psycopg
from services.order.tests.shopfront import Shop

from order import store
from order.domain import TO_DECIDE, TO_UNDO, StepTimes
from order.main import PROGRAM
from order.settings import OrderSettings
from quadrille.app import ProcessContext
from quadrille.testing import START, Spans, ops_serving
from quadrille_cli.client import Client

NOWHERE = {"database_url": "", "kafka_bootstrap": "none", "registry_url": "http://none"}
Way: TypeAlias = list[tuple[str, str, float]]  # status, the event, and after how many seconds
COPY = """
INSERT INTO orders (order_id, caller, customer_id, lines, amount_minor, currency, placed_at, deadline_at, trace_id,
                    version, states, detail, status, history, reason)
SELECT gen_random_uuid(), caller, customer_id, lines, amount_minor, currency, placed_at, deadline_at, trace_id,
       version, states, detail, %s, %s::jsonb, %s FROM orders WHERE order_id = %s"""


def confirmed(reserved: float, charged: float) -> Way:
    """An order's way to its confirmation; it passes PAYMENT_CHARGED in no time."""
    begun: Way = [("PENDING", "order.placed", 0), ("INVENTORY_RESERVED", "stock.reserved", reserved)]
    return begun + [(status, "payment.charged", reserved + charged) for status in ("PAYMENT_CHARGED", "CONFIRMED")]


DECLINED: Way = [
    *confirmed(1, 0)[:2], ("PAYMENT_FAILED", "payment.declined", 3),
    ("INVENTORY_RELEASED", "stock.released", 3.5), ("CANCELLED", "stock.released", 3.5),
]  # fmt: skip
BY_HAND: Way = [
    *confirmed(1, 2), ("CANCELLING", "order.cancellation_requested", 900), ("CANCELLED", "payment.refunded", 904),
]  # fmt: skip


def ended(shop: Shop, *ways: Way) -> None:
    """Have orders that have come all these ways."""
    like = shop.place().body["order_id"]
    with psycopg.connect(shop.db.logins.owner) as tx:
        for way in ways:
            history = [
                {
                    "sequence": n,
                    "status": status,
                    "because": because,
                    "at": (START + timedelta(seconds=after)).isoformat(),
                }
                for n, (status, because, after) in enumerate(way, 1)
            ]
            reason = "CUSTOMER" if way[-1][0] == "CANCELLED" else None
            tx.execute(COPY, [way[-1][0], json.dumps(history), reason, like])


def test_what_each_step_took(shop: Shop) -> None:
    """Half and 99 of 100 by step, and on the whole; no wait for somebody's wish is one, nor a status passed at once."""
    ended(shop, *[confirmed(n / 100, 2) for n in range(1, 101)], DECLINED, BY_HAND)

    with shop.db.connect() as tx:
        found = {one.step: one for one in store.step_times(tx, 1000)}
        newest = store.step_times(tx, 1)

    assert found["stock.reserved"] == StepTimes("stock.reserved", 102, 0.51, 1.0)
    assert found["payment.charged"] == StepTimes("payment.charged", 101, 2.0, 2.0)
    assert found["payment.declined"] == StepTimes("payment.declined", 1, 2.0, 2.0)
    assert found["stock.released"] == StepTimes("stock.released", 1, 0.5, 0.5)
    assert found["payment.refunded"] == StepTimes("payment.refunded", 1, 4.0, 4.0)
    assert (found[TO_DECIDE].orders, found[TO_DECIDE].p99) == (102, 3.0)
    assert found[TO_UNDO] == StepTimes(TO_UNDO, 2, 0.5, 4.0)
    assert "order.cancellation_requested" not in found
    assert sum(one.orders for one in newest if one.step == TO_DECIDE) == 1


def test_operators_see_them_beside_the_timeouts_there_are(shop: Shop) -> None:
    """GET /ops/steps names who owes each step's event, and what is set; nothing has ended: nothing is said."""
    context = ProcessContext(OrderSettings.model_validate(NOWHERE), shop.db.service, shop.db.connect, Spans.disabled())
    with ops_serving(PROGRAM, context) as port, Client(f"http://127.0.0.1:{port}", timeout=60) as ops:
        told = {"order_deadline": "15m", "stuck_warn": "5m"}
        assert ops.demand("GET", "/ops/steps").body == {"steps": [], "settings": told}
        ended(shop, DECLINED)
        rows = {row["step"]: row for row in ops.demand("GET", "/ops/steps").body["steps"]}
    assert {step: row["owes"] for step, row in rows.items()} == {
        "stock.reserved": "inventory", "payment.declined": "payment", "stock.released": "inventory", TO_DECIDE: None,
        TO_UNDO: None,
    }  # fmt: skip
    assert rows["payment.declined"] | {"owes": ""} == {
        "step": "payment.declined", "owes": "", "orders": 1, "p50": 2.0, "p99": 2.0
    }  # fmt: skip
