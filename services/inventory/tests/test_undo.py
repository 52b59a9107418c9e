"""An operator's hand on inventory's undo: the retry of a failed release, and the resolution with evidence."""

from __future__ import annotations

from typing import Literal

import pytest

from inventory.domain import HoldState, OrderId, Sku, Stock
from inventory.events import (
    Line,
    OrderCancellationRequested,
    OrderConfirmed,
    OrderPlaced,
    PaymentDeclined,
    SetStock,
    StockReleased,
    StockResolved,
)
from quadrille import CompensationAnswered, Message, ResolveCompensation, RetryCompensation
from quadrille.testing import InMemory, tell_waiting

PLACED = OrderPlaced("o-1", (Line("sku-1", 2), Line("sku-2", 1)))
CONFIRMED, DECLINED = OrderConfirmed("o-1"), PaymentDeclined("o-1")
CANCEL = OrderCancellationRequested("o-1")
SEALED, UNSEALED = SetStock("sku-1", 3, sealed=True), SetStock("sku-1", 3, sealed=False)
RETRY = RetryCompensation("o-1")
RESOLVED = StockResolved("o-1", "WRITTEN_OFF", "ann", "T-7")
FAILED: list[Message] = [PLACED, SEALED, CONFIRMED, CANCEL]
Outcome = Literal["DONE", "STILL_FAILED", "NOT_OWED", "UNKNOWN"]


def resolve(*waiting: str) -> ResolveCompensation:
    """Return a command to resolve that finds these types parked or discarded."""
    command = ResolveCompensation("o-1", "WRITTEN_OFF", "ann", "T-7")
    tell_waiting(command, waiting)
    return command


def replied(outcome: Outcome, state: str) -> CompensationAnswered:
    return CompensationAnswered("o-1", outcome, state)


def pieces(inventory: InMemory[Stock], sku: str = "sku-1") -> tuple[int, int, int]:
    level = inventory.work.levels.get(Sku(sku))
    assert level is not None
    assert level.received == level.available + level.held + level.committed
    return level.available, level.held, level.committed


@pytest.mark.proves("inventory.retry")
def test_a_failed_release_is_done_once_the_goods_may_come_back(inventory: InMemory[Stock]) -> None:
    """A retry after the seal is lifted brings the goods back and says so once; a second one has nothing to do."""
    inventory.given(*FAILED, UNSEALED)

    inventory.receives(RETRY, times=2)

    done = StockReleased("o-1", had_hold=True, returned=True)
    assert inventory.emitted() == [done, replied("DONE", "RELEASED"), replied("NOT_OWED", "RELEASED")]
    assert pieces(inventory) == (5, 0, 0)


@pytest.mark.proves("inventory.retry")
def test_goods_that_are_still_sealed_do_not_come_back(inventory: InMemory[Stock]) -> None:
    """A retry that changes nothing says nothing but to its asker: the failure was said already."""
    inventory.given(*FAILED)

    inventory.receives(RETRY, times=2)

    assert inventory.emitted() == [replied("STILL_FAILED", "RELEASE_FAILED")] * 2
    assert pieces(inventory) == (3, 0, 2)


@pytest.mark.proves("inventory.resolve")
def test_a_failed_release_resolved_keeps_what_was_sold(inventory: InMemory[Stock]) -> None:
    """Committed goods stay committed; the event carries how, who and the evidence, once."""
    inventory.given(*FAILED)

    inventory.receives(resolve(), resolve())

    assert inventory.emitted() == [RESOLVED, replied("DONE", "RESOLVED"), replied("NOT_OWED", "RESOLVED")]
    assert pieces(inventory) == (3, 0, 2)


@pytest.mark.proves("inventory.resolve", "resolve.owed", "inventory.equation")
@pytest.mark.parametrize(
    ("past", "left"),
    [([], (5, 0, 0)), ([PLACED], (5, 0, 0)), ([PLACED, CONFIRMED], (3, 0, 2))],
    ids=["NONE", "RESERVED", "COMMITTED"],
)
def test_an_unread_cancellation_may_be_resolved(
    inventory: InMemory[Stock], past: list[Message], left: tuple[int, int, int]
) -> None:
    """With the cancellation parked or discarded: what is held returns, what is sold stays, and nothing follows."""
    inventory.given(*past)

    inventory.receives(resolve(CANCEL.type))
    inventory.receives(CANCEL, DECLINED, PLACED, CONFIRMED, RETRY)

    assert inventory.emitted() == [RESOLVED, replied("DONE", "RESOLVED"), replied("NOT_OWED", "RESOLVED")]
    assert pieces(inventory) == left


@pytest.mark.proves("resolve.owed")
@pytest.mark.parametrize(
    ("past", "waiting", "outcome", "stands"),
    [
        ([], [], "UNKNOWN", "NONE"),
        ([], ["order.placed"], "NOT_OWED", "NONE"),
        ([PLACED], [], "NOT_OWED", "RESERVED"),
        ([PLACED], ["payment.declined"], "NOT_OWED", "RESERVED"),
        ([PLACED, CONFIRMED], [], "NOT_OWED", "COMMITTED"),
        ([CANCEL], [], "NOT_OWED", "RELEASED"),
        ([PLACED, DECLINED], [CANCEL.type], "NOT_OWED", "RELEASED"),
        ([OrderPlaced("o-1", (Line("sku-1", 9),))], [CANCEL.type], "NOT_OWED", "REJECTED"),
    ],
)
def test_nothing_is_owed_without_a_cancellation_or_after_its_acknowledgement(
    inventory: InMemory[Stock], past: list[Message], waiting: list[str], outcome: Outcome, stands: str
) -> None:
    """A command that finds nothing owed is refused, says nothing and changes nothing."""
    inventory.given(*past)
    before = inventory.work.holds.get(OrderId("o-1")), pieces(inventory)

    inventory.receives(resolve(*waiting))

    assert inventory.emitted() == [replied(outcome, stands)]
    assert (inventory.work.holds.get(OrderId("o-1")), pieces(inventory)) == before


@pytest.mark.parametrize("past", [[], [PLACED], [PLACED, CONFIRMED], [CANCEL]])
def test_only_a_release_that_failed_is_retried(inventory: InMemory[Stock], past: list[Message]) -> None:
    """A retry releases nothing that nobody has tried to release."""
    inventory.given(*past)
    before = pieces(inventory)

    inventory.receives(RETRY)

    assert [emitted.type for emitted in inventory.emitted()] == ["compensation_answered"]
    assert pieces(inventory) == before


@pytest.mark.proves("inventory.absorbs")
def test_what_is_resolved_absorbs_everything(inventory: InMemory[Stock]) -> None:
    """After RESOLVED no event changes or says anything."""
    inventory.given(*FAILED, resolve())

    inventory.receives(PLACED, CONFIRMED, CANCEL, DECLINED, times=2)

    assert inventory.emitted() == []
    hold = inventory.work.holds.get(OrderId("o-1"))
    assert hold
    assert hold.state is HoldState.RESOLVED
