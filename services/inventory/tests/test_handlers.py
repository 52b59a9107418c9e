"""Every row of inventory's machine (law.md, "Inventory"): given, when it hears, then it says."""

from __future__ import annotations

from datetime import timedelta

import pytest

from inventory.domain import MOST, HoldState, Level, OrderId, Sku, Stock
from inventory.events import (
    Line,
    OrderCancellationRequested,
    OrderConfirmed,
    OrderPlaced,
    PaymentDeclined,
    SetStock,
    Shortage,
    StockChanged,
    StockCommitted,
    StockRejected,
    StockReleased,
    StockReleaseFailed,
    StockReserved,
    StockSet,
)
from inventory.handlers import on
from quadrille import ResolveCompensation, RetryCompensation
from quadrille.testing import InMemory

PLACED = OrderPlaced("o-1", (Line("sku-1", 2), Line("sku-2", 1)))
CANCEL = OrderCancellationRequested("o-1")
CONFIRMED = OrderConfirmed("o-1")
DECLINED = PaymentDeclined("o-1")
LATER = [PLACED, CONFIRMED, CANCEL, DECLINED]


def pieces(inventory: InMemory[Stock], sku: str) -> tuple[int, int, int]:
    level = inventory.work.levels.get(Sku(sku))
    assert level is not None
    assert level.received == level.available + level.held + level.committed
    return level.available, level.held, level.committed


def state(inventory: InMemory[Stock]) -> HoldState | None:
    hold = inventory.work.holds.get(OrderId("o-1"))
    return hold.state if hold else None


@pytest.mark.proves("inventory.reserve")
def test_an_order_is_held_whole(inventory: InMemory[Stock]) -> None:
    """order.placed holds every line and says so once, however often it arrives."""
    inventory.receives(PLACED, times=3)

    assert inventory.emitted() == [StockReserved("o-1", (Line("sku-1", 2), Line("sku-2", 1)))]
    assert pieces(inventory, "sku-1") == (3, 2, 0)
    assert pieces(inventory, "sku-2") == (2, 1, 0)


@pytest.mark.proves("inventory.late-placed", "L1")
def test_an_order_read_after_its_deadline_is_held_all_the_same(inventory: InMemory[Stock]) -> None:
    """However late order.placed is read, its lines are held: only the order service gives an order up."""
    inventory.now += timedelta(days=2)

    inventory.receives(PLACED)

    assert inventory.emitted() == [StockReserved("o-1", (Line("sku-1", 2), Line("sku-2", 1)))]


@pytest.mark.proves("inventory.reserve")
def test_an_order_that_is_short_holds_nothing(inventory: InMemory[Stock]) -> None:
    """One short line rejects the whole order, naming what was asked and what was there; nothing is held."""
    inventory.receives(OrderPlaced("o-1", (Line("sku-1", 2), Line("sku-2", 4), Line("sku-3", 1))), times=3)

    assert inventory.emitted() == [StockRejected("o-1", (Shortage("sku-2", 4, 3), Shortage("sku-3", 1, 0)))]
    assert pieces(inventory, "sku-1") == (5, 0, 0)
    assert state(inventory) is HoldState.REJECTED


def test_a_sku_named_twice_counts_twice(inventory: InMemory[Stock]) -> None:
    """Lines of one SKU are added up: neither half of too many is held, and what is held is one line."""
    inventory.receives(OrderPlaced("o-1", (Line("sku-1", 3), Line("sku-1", 3))))
    inventory.receives(OrderPlaced("o-2", (Line("sku-1", 3), Line("sku-1", 2))))

    assert inventory.emitted() == [
        StockRejected("o-1", (Shortage("sku-1", 6, 5),)),
        StockReserved("o-2", (Line("sku-1", 5),)),
    ]


def test_more_than_a_fact_can_carry_is_short(inventory: InMemory[Stock]) -> None:
    """A sum beyond 32 bits is rejected with the largest count there is, not with an overflow."""
    inventory.receives(OrderPlaced("o-1", (Line("sku-1", MOST), Line("sku-1", MOST))))

    assert inventory.emitted() == [StockRejected("o-1", (Shortage("sku-1", MOST, 5),))]


def test_the_last_piece_is_sold_once(inventory: InMemory[Stock]) -> None:
    """Two orders want the last piece: the first holds it, the second is rejected."""
    inventory.given(SetStock("sku-1", 1))

    inventory.receives(OrderPlaced("o-1", (Line("sku-1", 1),)), OrderPlaced("o-2", (Line("sku-1", 1),)))

    assert inventory.emitted() == [
        StockReserved("o-1", (Line("sku-1", 1),)),
        StockRejected("o-2", (Shortage("sku-1", 1, 0),)),
    ]


@pytest.mark.proves("inventory.commit")
def test_a_confirmed_order_takes_its_goods(inventory: InMemory[Stock]) -> None:
    """order.confirmed commits the hold and says so once."""
    inventory.given(PLACED)

    inventory.receives(CONFIRMED, times=3)

    assert inventory.emitted() == [StockCommitted("o-1")]
    assert pieces(inventory, "sku-1") == (3, 0, 2)


def test_a_confirmation_without_a_hold_takes_nothing(inventory: InMemory[Stock]) -> None:
    """order.confirmed of an order that holds nothing is a no-op."""
    inventory.receives(CONFIRMED)

    assert inventory.emitted() == []
    assert state(inventory) is None


@pytest.mark.proves("inventory.release")
def test_a_cancellation_gives_the_hold_back(inventory: InMemory[Stock]) -> None:
    """order.cancellation_requested releases every line and says so once."""
    inventory.given(PLACED)

    inventory.receives(CANCEL, times=3)

    assert inventory.emitted() == [StockReleased("o-1", had_hold=True, returned=False)]
    assert pieces(inventory, "sku-1") == (5, 0, 0)
    assert pieces(inventory, "sku-2") == (3, 0, 0)


@pytest.mark.proves("inventory.release", "L2")
def test_a_declined_card_gives_the_stock_back(inventory: InMemory[Stock]) -> None:
    """payment.declined releases the hold at once, and the cancellation that follows says nothing more."""
    inventory.given(PLACED)

    inventory.receives(DECLINED, times=3)
    inventory.receives(CANCEL)

    assert inventory.emitted() == [StockReleased("o-1", had_hold=True, returned=False)]
    assert pieces(inventory, "sku-1") == (5, 0, 0)


@pytest.mark.proves("inventory.tombstone", "L4", "late.cancel-first")
def test_a_cancellation_before_the_order_leaves_a_tombstone(inventory: InMemory[Stock]) -> None:
    """A cancellation that comes first is acknowledged, and the late order.placed holds nothing (law L4)."""
    inventory.receives(CANCEL, PLACED, CANCEL)

    assert inventory.emitted() == [StockReleased("o-1", had_hold=False, returned=False)]
    assert pieces(inventory, "sku-1") == (5, 0, 0)


def test_a_declined_card_of_an_unknown_order_leaves_nothing(inventory: InMemory[Stock]) -> None:
    """Only a cancellation leaves a tombstone: the order may still be held, and is undone by its cancellation."""
    inventory.receives(DECLINED, PLACED, CANCEL)

    assert [emitted.type for emitted in inventory.emitted()] == ["stock.reserved", "stock.released"]
    assert pieces(inventory, "sku-1") == (5, 0, 0)


@pytest.mark.proves("inventory.return")
@pytest.mark.parametrize("cause", [CANCEL, DECLINED], ids=lambda cause: cause.type)
def test_sold_goods_come_back(inventory: InMemory[Stock], cause: OrderCancellationRequested | PaymentDeclined) -> None:
    """A confirmed order that is undone returns what it took to what is available."""
    inventory.given(PLACED, CONFIRMED)

    inventory.receives(cause, times=3)

    assert inventory.emitted() == [StockReleased("o-1", had_hold=True, returned=True)]
    assert pieces(inventory, "sku-1") == (5, 0, 0)


@pytest.mark.proves("inventory.sealed")
def test_sold_sealed_goods_stay_sold(inventory: InMemory[Stock]) -> None:
    """One sealed line keeps the whole committed order: stock.release_failed, BUSINESS, once, and no piece moves."""
    inventory.given(SetStock("sku-2", 3, sealed=True), PLACED, CONFIRMED)

    inventory.receives(CANCEL, times=3)

    assert inventory.emitted() == [StockReleaseFailed("o-1", "BUSINESS", 1, "sealed goods cannot come back")]
    assert pieces(inventory, "sku-1") == (3, 0, 2)
    assert pieces(inventory, "sku-2") == (2, 0, 1)


def test_held_sealed_goods_come_back(inventory: InMemory[Stock]) -> None:
    """Goods that were held but not sold are still sealed: they go back."""
    inventory.given(SetStock("sku-2", 3, sealed=True), PLACED)

    inventory.receives(CANCEL)

    assert inventory.emitted() == [StockReleased("o-1", had_hold=True, returned=False)]


@pytest.mark.proves("inventory.absorbs", "L11")
@pytest.mark.parametrize(
    "past",
    [
        pytest.param([OrderPlaced("o-1", (Line("sku-1", 9),))], id="REJECTED"),
        pytest.param([PLACED, CANCEL], id="RELEASED"),
        pytest.param([CANCEL], id="tombstone"),
        pytest.param([SetStock("sku-1", 5, sealed=True), PLACED, CONFIRMED, CANCEL], id="RELEASE_FAILED"),
    ],
)
def test_an_ended_hold_absorbs_every_fact(
    inventory: InMemory[Stock],
    past: list[OrderPlaced | OrderCancellationRequested | OrderConfirmed | SetStock],
) -> None:
    """REJECTED, RELEASED and RELEASE_FAILED absorb every event: nothing is said, nothing moves (law L11)."""
    inventory.given(*past)
    before = pieces(inventory, "sku-1"), pieces(inventory, "sku-2"), state(inventory)

    inventory.receives(*LATER, times=2)

    assert inventory.emitted() == []
    assert (pieces(inventory, "sku-1"), pieces(inventory, "sku-2"), state(inventory)) == before


@pytest.mark.proves("inventory.equation")
def test_stock_that_is_set_is_received_or_written_off(inventory: InMemory[Stock]) -> None:
    """PUT of a level sets what is available; held and committed stay, the difference changes what was received."""
    inventory.given(PLACED)

    inventory.receives(SetStock("sku-1", 10), SetStock("sku-1", 0))

    more, none = inventory.emitted()
    assert more == StockSet("sku-1", 10, 2, 0, 12, sealed=False, version=3, created=False)
    assert none == StockSet("sku-1", 0, 2, 0, 2, sealed=False, version=4, created=False)


def test_a_new_sku_is_created(inventory: InMemory[Stock]) -> None:
    """PUT of an unknown SKU creates it, sealed if it says so."""
    inventory.receives(SetStock("sku-9", 7, sealed=True, version=0))

    assert inventory.emitted() == [StockSet("sku-9", 7, 0, 0, 7, sealed=True, version=1, created=True)]


def test_a_stale_version_changes_nothing(inventory: InMemory[Stock]) -> None:
    """PUT with a version that is not the present one is told the present one, and nothing changes."""
    inventory.receives(
        SetStock("sku-1", 9, version=7), SetStock("sku-1", 9, version=0), SetStock("sku-9", 9, version=1)
    )

    assert inventory.emitted() == [StockChanged("sku-1", 1), StockChanged("sku-1", 1), StockChanged("sku-9", 0)]
    assert inventory.work.levels.get(Sku("sku-1")) == Level(Sku("sku-1"), 5, 0, 0, 5, version=1)


def test_the_flag_stays_unless_named(inventory: InMemory[Stock]) -> None:
    """PUT without ``sealed`` leaves the flag as it is."""
    inventory.given(SetStock("sku-1", 5, sealed=True))

    inventory.receives(SetStock("sku-1", 4, version=2))

    assert inventory.emitted() == [StockSet("sku-1", 4, 0, 0, 4, sealed=True, version=3, created=False)]


def test_a_handler_that_fails_moves_no_piece(inventory: InMemory[Stock]) -> None:
    """A message that breaks the handler half-way leaves every row as it was."""
    broken = OrderPlaced("o-1", (Line("sku-1", 2), Line("sku-2", None)))  # type: ignore[arg-type]  # the fault

    with pytest.raises(TypeError):
        inventory.receives(broken)

    assert pieces(inventory, "sku-1") == (5, 0, 0)
    assert state(inventory) is None


def test_every_edge_of_the_map_was_walked() -> None:
    """Each (handler, said) pair that inventory declares is exercised by one story or another."""
    walked: set[tuple[str, str]] = set()
    stock = SetStock("sku-1", 5), SetStock("sku-2", 3, sealed=True), SetStock("sku-1", 5, version=9)
    for story in (
        [*stock, PLACED, CONFIRMED, CANCEL],
        [*stock, PLACED, CONFIRMED, DECLINED],
        [*stock, PLACED, CANCEL],
        [*stock, PLACED, DECLINED],
        [*stock, PLACED, CONFIRMED, CANCEL, SetStock("sku-2", 2, sealed=False), RetryCompensation("o-1")],
        [*stock, PLACED, CONFIRMED, CANCEL, ResolveCompensation("o-1", "EXTERNAL", "ann", "T-7")],
        [PLACED],
    ):
        inventory = InMemory(on)
        inventory.receives(*story)
        walked |= inventory.exercised

    assert walked == {(r.name, emitted.type) for r in on.specs.values() for emitted in r.emits}
