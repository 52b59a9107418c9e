"""A charge that nobody can tell of is asked for and made again by one policy: less and less often, without an end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from uuid import uuid4

import pytest

from payment import store
from payment.domain import Payments
from payment.events import ChargeNotFound, ChargeUnknown, OrderPlaced, StockReserved
from payment.gateway import outside
from payment.handlers import on
from quadrille import HandlerRegistry
from quadrille.gateway import INQUIRY, Gateway
from quadrille.service import Store
from quadrille.testing import OnPostgres

Money = OnPostgres[Payments]
LATER = datetime(2100, 1, 1, tzinfo=UTC)
ROWS = "SELECT type, extract(epoch FROM due - now())::float FROM task WHERE key = %s"
LEASE = "UPDATE task SET attempts = attempts + 1 WHERE key = %s RETURNING attempts"
ROUNDS = 70


@pytest.fixture
def order(payment: Money) -> str:
    """An order whose charge has begun."""
    name = str(uuid4())
    payment.given(OrderPlaced(name, 2500, "EUR", "tok_ok", LATER), StockReserved(name))
    return name


@pytest.fixture(scope="module")
def payment(on_postgres: Callable[[HandlerRegistry[Payments], Store[Payments]], Money]) -> Money:
    return on_postgres(on, store)


def rounds(payment: Money, order: str, by: Gateway) -> list[tuple[str, float]]:
    """Answer a charge with unknown and its inquiry with not found, again and again; return what waits how long."""
    payment.service, found = replace(payment.service, outside=by), []
    for number in range(ROUNDS):
        [(attempts,)] = payment.tx.execute(LEASE, [order])
        [answer] = payment.inputs([ChargeNotFound(order) if number % 2 else ChargeUnknown(order, 3)])
        payment.takes([replace(answer, attempts=attempts)])
        found += payment.tx.execute(ROWS, [order]).fetchall()
    return found


@pytest.mark.proves("L7", "F3")
def test_unknown_and_not_found_climb_one_ladder(payment: Money, order: str) -> None:
    """0.5, 1, 2, 4 s, every 5 s for 5 min, then every 2 min, ± 50 %, whichever of the two is next."""
    found = rounds(payment, order, outside)

    assert {kind for kind, _ in islice(found, 0, None, 2)} == {"inquire_charge"}
    assert {kind for kind, _ in islice(found, 1, None, 2)} == {"charge_card"}
    wanted = [delay.total_seconds() for delay in INQUIRY.delays]
    wanted += [wanted[-1]] * (ROUNDS - len(wanted))
    assert all(0.4 * delay <= wait <= 1.5 * delay for (_, wait), delay in zip(found, wanted, strict=True)), found


def test_without_one_ladder_each_round_would_be_at_once(payment: Money, order: str) -> None:
    """Planted: an outside whose intents do not climb together asks as fast as it is answered."""
    alone = Gateway("payment")
    alone.policies = {intent: replace(policy, continues=False) for intent, policy in outside.policies.items()}

    assert all(wait <= 0 for _, wait in rounds(payment, order, alone))
