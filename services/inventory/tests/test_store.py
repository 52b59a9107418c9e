"""Inventory's SQL on a real Postgres, through commit: batches, tombstones, races, and the equation at the end."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest
import sqlalchemy as sa

from inventory import store
from inventory.domain import MOST, Level, Stock
from inventory.events import (
    Line,
    OrderCancellationRequested,
    OrderConfirmed,
    OrderPlaced,
    PaymentDeclined,
    SetStock,
    Shortage,
    StockChanged,
    StockRejected,
    StockReleased,
    StockReserved,
    StockSet,
)
from inventory.handlers import on
from quadrille import HandlerRegistry, Message
from quadrille.service import Store
from quadrille.testing import Handled, OnPostgres, Parked, drift

Inventory = OnPostgres[Stock]


@pytest.fixture(scope="module")
def migrated(on_postgres: Callable[[HandlerRegistry[Stock], Store[Stock]], Inventory]) -> Inventory:
    return on_postgres(on, store)


@pytest.fixture
def inventory(migrated: Inventory) -> Inventory:
    """Inventory over its database, with nothing said yet."""
    migrated.emitted()
    return migrated


@pytest.fixture
def sku(inventory: Inventory) -> str:
    """A SKU of its own with five pieces."""
    name = f"sku-{uuid4()}"
    inventory.given(SetStock(name, 5))
    return name


@pytest.fixture
def order() -> str:
    return str(uuid4())


@contextmanager
def reading(inventory: Inventory, login: str = "app") -> Iterator[sa.Connection]:
    """A connection as the API's reads use it."""
    url = inventory.logins.owner if login == "owner" else inventory.logins.app
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    try:
        with engine.begin() as db:
            yield db
    finally:
        engine.dispose()


def pieces(inventory: Inventory, sku: str) -> tuple[int, int, int, int]:
    row = inventory.tx.execute(
        "SELECT available, held, committed, received FROM level WHERE sku = %s", [sku]
    ).fetchone()
    assert row is not None
    return row[0], row[1], row[2], row[3]


def test_an_order_in_a_batch_of_many(inventory: Inventory, sku: str) -> None:
    """Orders of one batch see each other: the last piece is sold once, the next one is short."""
    orders = [str(uuid4()) for _ in range(6)]

    inventory.receives(*(OrderPlaced(order, (Line(sku, 1),)) for order in orders))

    held, short = (
        [StockReserved(o, (Line(sku, 1),)) for o in orders[:5]],
        StockRejected(orders[5], (Shortage(sku, 1, 0),)),
    )
    assert inventory.emitted() == [*held, short]
    assert pieces(inventory, sku) == (0, 5, 0, 5)
    assert inventory.published(orders[5]) == [
        ("stock.rejected", {"order_id": orders[5], "shortages": [{"sku": sku, "asked": 1, "available": 0}]})
    ]


def test_the_same_order_twice_in_a_batch(inventory: Inventory, sku: str, order: str) -> None:
    """Placed and cancelled in one batch: reserved, released, and the level intact."""
    inventory.receives(OrderPlaced(order, (Line(sku, 2),)), OrderCancellationRequested(order))

    assert inventory.emitted() == [
        StockReserved(order, (Line(sku, 2),)),
        StockReleased(order, had_hold=True, returned=False),
    ]
    assert pieces(inventory, sku) == (5, 0, 0, 5)


def test_a_whole_life_over_batches(inventory: Inventory, sku: str, order: str) -> None:
    """Held, sold and returned in three batches: each finds what the one before has stored."""
    inventory.receives(OrderPlaced(order, (Line(sku, 1), Line(sku, 2))))
    assert pieces(inventory, sku) == (2, 3, 0, 5)
    inventory.receives(OrderConfirmed(order))
    assert pieces(inventory, sku) == (2, 0, 3, 5)
    inventory.receives(OrderCancellationRequested(order))
    assert pieces(inventory, sku) == (5, 0, 0, 5)

    assert [kind for kind, _ in inventory.published(order)] == ["stock.reserved", "stock.committed", "stock.released"]


@pytest.mark.proves("inventory.tombstone", "L4")
def test_a_cancellation_before_the_order(inventory: Inventory, sku: str, order: str) -> None:
    """The tombstone is stored: an order.placed in a later batch holds nothing and says nothing."""
    inventory.receives(OrderCancellationRequested(order))
    inventory.receives(OrderPlaced(order, (Line(sku, 2),)), PaymentDeclined(order))

    assert inventory.emitted() == [StockReleased(order, had_hold=False, returned=False)]
    assert pieces(inventory, sku) == (5, 0, 0, 5)


def test_sealed_goods_stay_sold(inventory: Inventory, sku: str, order: str) -> None:
    """The flag set over the API is obeyed: sealed goods once committed do not come back."""
    inventory.given(SetStock(sku, 5, sealed=True), OrderPlaced(order, (Line(sku, 2),)), OrderConfirmed(order))

    inventory.receives(OrderCancellationRequested(order))

    assert [emitted.type for emitted in inventory.emitted()] == ["stock.release_failed"]
    assert pieces(inventory, sku) == (3, 0, 2, 5)


def test_an_unknown_sku_is_short(inventory: Inventory, order: str) -> None:
    """An order for a SKU nobody stocks is rejected, and no row of it is made."""
    inventory.receives(OrderPlaced(order, (Line("sku-nobody", MOST), Line("sku-nobody", MOST))))

    assert inventory.emitted() == [StockRejected(order, (Shortage("sku-nobody", MOST, 0),))]
    with reading(inventory) as db:
        assert store.stock_of(db, "sku-nobody") is None


def test_stock_is_set_and_read(inventory: Inventory, sku: str, order: str) -> None:
    """PUT and GET agree: the version moves with every change, a stale one changes nothing."""
    inventory.given(OrderPlaced(order, (Line(sku, 2),)))

    inventory.receives(SetStock(sku, 9, version=1), SetStock(sku, 9, sealed=True, version=2), SetStock(f"{sku}-new", 0))

    assert inventory.emitted() == [
        StockChanged(sku, 2),
        StockSet(sku, 9, 2, 0, 11, sealed=True, version=3, created=False),
        StockSet(f"{sku}-new", 0, 0, 0, 0, sealed=False, version=1, created=True),
    ]
    with reading(inventory) as db:
        assert store.stock_of(db, sku) == Level(sku, 9, 2, 0, 11, sealed=True, version=3)  # type: ignore[arg-type]
        assert [level.sku for level in store.list_stock(db, after=sku, limit=1)] == [f"{sku}-new"]


@pytest.mark.proves("inventory.equation")
def test_the_database_refuses_a_broken_equation(inventory: Inventory, sku: str, order: str) -> None:
    """Pieces that are not there cannot be held past the rules either: the input is parked, its neighbours commit."""
    inventory.given(OrderPlaced(order, (Line(sku, 2),)))
    with reading(inventory, "owner") as db:  # the fault: a hand in the database
        db.execute(sa.update(store.level).where(store.level.c.sku == sku).values(held=0, received=3))
    neighbour = f"{sku}-n"

    broken, fine = inventory.receives(OrderConfirmed(order), SetStock(neighbour, 1))

    assert isinstance(broken, Parked)
    assert isinstance(fine, Handled)
    assert pieces(inventory, sku) == (3, 0, 0, 3)


def test_the_migration_makes_what_the_store_describes(inventory: Inventory) -> None:
    """No drift: the migrated tables have the columns, types and keys that the store describes."""
    with reading(inventory) as db:
        assert drift(db, store.metadata) == []


def story(order: str, skus: Iterable[str], rng: random.Random) -> list[Message]:
    lines = tuple(Line(sku, rng.randint(1, 2)) for sku in rng.sample(list(skus), 3))
    ends: list[Message] = [OrderCancellationRequested(order), OrderConfirmed(order), PaymentDeclined(order)]
    told: list[Message] = [OrderPlaced(order, lines), *rng.sample(ends, rng.randint(0, 2))]
    if rng.random() < 0.3:  # the cancellation overtakes
        rng.shuffle(told)
    return told


def test_four_workers_race_for_eight_skus(inventory: Inventory) -> None:
    """Four connections race over eight hot SKUs, half their orders shared: no deadlock, no piece lost or made."""
    skus = [f"hot-{n}-{uuid4()}" for n in range(8)]
    inventory.given(*(SetStock(sku, 60) for sku in skus))
    shared = [str(uuid4()) for _ in range(40)]
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)  # noqa: S311 - a story that can be told again
        try:
            with inventory.connect() as tx:
                for _ in range(12):
                    orders = [rng.choice(shared) if rng.random() < 0.5 else str(uuid4()) for _ in range(8)]
                    batch = [message for order in orders for message in story(order, skus, rng)]
                    outcomes = inventory.takes(inventory.inputs(batch), tx=tx)
                    assert all(isinstance(outcome, Handled) for outcome in outcomes)
        except BaseException as failure:  # noqa: BLE001 - told to the test's own thread
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert failures == []
    held: dict[str, int] = dict.fromkeys(skus, 0)
    taken: dict[str, int] = dict.fromkeys(skus, 0)
    for names, quantities, state in inventory.tx.execute("SELECT skus, quantities, state FROM hold"):
        for sku, n in zip(names, quantities, strict=True):
            if sku in held and state in ("RESERVED", "COMMITTED"):
                (held if state == "RESERVED" else taken)[sku] += n
    for sku in skus:
        assert pieces(inventory, sku) == (60 - held[sku] - taken[sku], held[sku], taken[sku], 60)


def test_the_last_unit_is_sold_once(inventory: Inventory) -> None:
    """Eight connections want the last piece at one instant: one is reserved, seven are rejected."""
    sku = f"last-{uuid4()}"
    inventory.given(SetStock(sku, 1))
    start, emitted, lock = threading.Barrier(8), [], threading.Lock()

    def buy() -> None:
        with inventory.connect() as tx:
            start.wait(60)
            (outcome,) = inventory.takes(inventory.inputs([OrderPlaced(str(uuid4()), (Line(sku, 1),))]), tx=tx)
            with lock:
                emitted.append(outcome.emitted[0].type if isinstance(outcome, Handled) else str(outcome))

    threads = [threading.Thread(target=buy) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sorted(emitted) == ["stock.rejected"] * 7 + ["stock.reserved"]
    assert pieces(inventory, sku) == (0, 1, 0, 1)
