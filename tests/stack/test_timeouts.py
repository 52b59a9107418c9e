"""Proposed time-outs: the own P99 and a fifth more, of whole seconds, and none where too few orders say how long."""

from __future__ import annotations

from typing import Any

import pytest

from quadrille_cli.commands import timeouts
from quadrille_cli.commands.timeouts import proposed, timeout_of


def step(name: str, p99: float, orders: int = 100) -> dict[str, Any]:
    """A step as order tells it, with its time-out."""
    row = {"step": name, "owes": "payment", "orders": orders, "p50": p99 / 2, "p99": p99}
    return {**row, "timeout": timeout_of(row)}


@pytest.mark.parametrize(("orders", "timeout"), [(100, 2.4), (99, None)])
def test_a_timeout_is_the_p99_and_a_fifth(orders: int, timeout: float | None) -> None:
    """Of a hundred orders or more; of fewer nobody knows the P99."""
    assert step("payment.charged", 2.0, orders)["timeout"] == timeout


def test_settings_follow_from_the_slowest() -> None:
    """Who waits is told of after the slowest step, given up after the whole way, in whole seconds."""
    rows = [
        step("stock.reserved", 0.2), step("payment.charged", 2.5), step(timeouts.DECIDED, 2.7),
        step(timeouts.UNDONE, 60), step("payment.refunded", 50, 3),
    ]  # fmt: skip
    assert proposed(rows) == {"order_deadline": "4s", "stuck_warn": "3s"}
    assert proposed([step("stock.reserved", 0.01), step(timeouts.DECIDED, 1, 7)]) == {"stuck_warn": "1s"}
    assert proposed([]) == {}


def test_the_words_are_orders_own() -> None:
    """The names of the whole ways are the same in the command and in the service, which share no code."""
    from order.domain import TO_DECIDE, TO_UNDO  # noqa: PLC0415 - the command knows no service

    assert (timeouts.DECIDED, timeouts.UNDONE) == (TO_DECIDE, TO_UNDO)
