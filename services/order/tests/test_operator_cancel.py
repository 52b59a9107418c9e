"""An operator's cancel over order's ops port: as the customer's, by the same rules, with its reason in the audit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from services.order.tests.shopfront import Shop

from order.events import (
    PaymentCharged,
    PaymentRefunded,
    PaymentRefundFailed,
    StockCommitted,
    StockReleased,
    StockReserved,
)
from order.main import PROGRAM
from order.settings import OrderSettings
from quadrille import Message
from quadrille.app import ProcessContext
from quadrille.testing import Spans, ops_serving
from quadrille_cli.client import Client

CUT_OFF = "UPDATE orders SET cancellable_until = '2026-11-21T09:44:03.120Z' WHERE order_id = %s"
AUDIT = "SELECT actor, action, reason, before -> 'order' ->> 'order_status', after ->> 'outcome' FROM audit"
NOWHERE = {"database_url": "", "kafka_bootstrap": "none", "registry_url": "http://none"}
Ask = Callable[..., tuple[int, Any]]


@pytest.fixture
def ask(shop: Shop) -> Iterator[Ask]:
    """Ask order's ops port to cancel an order; the audit is empty."""
    with psycopg.connect(shop.db.logins.owner) as tx:
        tx.execute("TRUNCATE audit")
    context = ProcessContext(OrderSettings.model_validate(NOWHERE), shop.db.service, shop.db.connect, Spans.disabled())
    with ops_serving(PROGRAM, context) as port:

        def ask(order_id: str, reason: str = "fraud", **more: object) -> tuple[int, Any]:
            with Client(f"http://127.0.0.1:{port}", timeout=60) as line:
                reply = line.ask("POST", f"/ops/orders/{order_id}/cancel", {"reason": reason, **more})
            return reply.status, reply.body

        yield ask


def placed(shop: Shop, *facts: Callable[[str], Message]) -> str:
    """Place an order, let events about it arrive, and return its id."""
    order_id = str(shop.place(f"k-{uuid4()}").body["order_id"])
    for fact in facts:
        shop.db.given(fact(order_id))
    return order_id


def traces(shop: Shop, order_id: str) -> list[str]:
    """Return the traces the events of an order are told in."""
    with psycopg.connect(shop.db.logins.owner) as tx:
        found = tx.execute(
            "SELECT DISTINCT split_part(traceparent, '-', 2) FROM outbox WHERE aggregateid = %s", [order_id]
        )
        return [trace for (trace,) in found]


def audited(shop: Shop) -> list[tuple[Any, ...]]:
    with psycopg.connect(shop.db.logins.owner) as tx:
        return tx.execute(f"{AUDIT} ORDER BY number".encode()).fetchall()


def emitted(shop: Shop, order_id: str) -> list[str]:
    """The events of an order, by type."""
    return [kind for kind, _ in shop.db.published(order_id)]


@pytest.mark.proves("order.cancel-confirmed")
def test_a_confirmed_order_of_anybody_is_cancelled(shop: Shop, ask: Ask) -> None:
    """202 before the cut-off: the order is undone for OPERATOR; again it is 200, and nothing more is said."""
    order = placed(shop, StockReserved, PaymentCharged, StockCommitted)

    assert [ask(order)[0], ask(order, "fraud again")[0]] == [202, 200]

    document = shop.ask("GET", f"/v1/orders/{order}").body
    assert (document["status"], document["reason"]) == ("CANCELLING", "OPERATOR")
    assert emitted(shop, order)[-2:] == ["order.confirmed", "order.cancellation_requested"]
    assert audited(shop) == [
        ("local", "cancel", "fraud", "CONFIRMED", "ACCEPTED"),
        ("local", "cancel", "fraud again", "CANCELLING", "ALREADY"),
    ]


def test_what_an_operator_cancels_is_one_trace(shop: Shop, ask: Ask) -> None:
    """The undo is told in the order's own trace, and so is the action: whoever looks at the order finds both."""
    order = placed(shop)
    _, told = ask(order)

    assert emitted(shop, order) == ["order.placed", "order.cancellation_requested"]
    assert traces(shop, order) == [told["order"]["trace_id"]]


@pytest.mark.proves("order.cancel-late")
def test_after_the_cut_off_an_operator_is_refused_too(shop: Shop, ask: Ask) -> None:
    """409 names the status and when the cut-off was; nothing is said, and the attempt is in the audit."""
    order = placed(shop, StockReserved, PaymentCharged, StockCommitted)
    with psycopg.connect(shop.db.logins.owner) as tx:
        tx.execute(CUT_OFF, [order])

    status, told = ask(order)

    assert (status, told["type"].rpartition("/")[2]) == (409, "not-cancellable")
    assert (told["order_status"], told["cancellable_until"]) == ("CONFIRMED", "2026-11-21T09:44:03.120Z")
    assert emitted(shop, order)[-1] == "order.confirmed"
    assert audited(shop) == [("local", "cancel", "fraud", "CONFIRMED", "TOO_LATE")]


def test_a_frozen_order_an_old_version_and_nobodys_order_are_refused(shop: Shop, ask: Ask) -> None:
    """423 since when, 412 with the version there is, 404 for an id nobody gave; 422 without a reason."""
    order = placed(shop, StockReserved)
    status, told = ask(order, version=1)
    assert (status, told["current_etag"]) == (412, '"v3"')
    assert ask(order, version=3)[0] == 202
    shop.db.given(PaymentRefundFailed(order, "BUSINESS", "card_closed", 1))
    status, told = ask(order)
    assert (status, told["since"][-1]) == (423, "Z")
    assert "quadrille resolve" in told["detail"]
    assert ask(str(uuid4()))[0] == 404
    assert ask(order, "")[0] == 422
    shop.db.given(PaymentRefunded(order, "REFUND", 2500), StockReleased(order))
    assert ask(order)[0] == 200
    assert [row[4] for row in audited(shop)] == ["CHANGED", "ACCEPTED", "FROZEN", "UNKNOWN", "ALREADY"]
