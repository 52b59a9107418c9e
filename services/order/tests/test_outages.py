"""Which orders an outage ends: those of the policy's participants, each order by whom it waits for."""

from __future__ import annotations

from services.order.tests.shopfront import Shop

from order.events import GiveUpWaiting, PaymentCharged, StockReserved
from order.main import PROGRAM
from order.settings import OrderSettings
from quadrille import key_of

NOWHERE = {"database_url": "", "kafka_bootstrap": "none", "registry_url": "http://none"}


def of(**settings: str) -> OrderSettings:
    return OrderSettings.model_validate(NOWHERE | settings)


def test_by_default_an_outage_is_waited_out() -> None:
    """No participant's outage ends an order, unless a setting of its own says so."""
    assert PROGRAM.outages is not None
    assert PROGRAM.outages(of()).fail_fast == frozenset()
    assert PROGRAM.outages(of(outage_payment="fail_fast")).fail_fast == {"payment"}
    both = of(outage_payment="fail_fast", outage_inventory="fail_fast")
    assert PROGRAM.outages(both).fail_fast == {"inventory", "payment"}


def test_an_order_is_found_by_whom_it_waits_for(shop: Shop) -> None:
    """Oldest first, at most so many, each with its trace; a decided order waits for nobody who could be away."""
    assert PROGRAM.outages is not None
    outages = PROGRAM.outages(of())
    fresh, held, over, last = [str(shop.place(f"k-{n}").body["order_id"]) for n in range(4)]
    shop.db.given(StockReserved(held), StockReserved(over), PaymentCharged(over))

    with shop.db.connect() as tx:
        for_inventory, for_payment = outages.waiting(tx, "inventory", 10), outages.waiting(tx, "payment", 10)
        assert [one.key for one in for_inventory] == [fresh, last]
        assert [one.key for one in for_payment] == [held]
        assert [one.key for one in outages.waiting(tx, "inventory", 1)] == [fresh]
        traces = tx.execute("SELECT trace_id FROM orders WHERE order_id = %s", [fresh]).fetchall()

    assert [for_inventory[0].trace_id] == [trace for (trace,) in traces]
    command = outages.give_up(fresh, "inventory")
    assert (key_of(command), command) == (fresh, GiveUpWaiting(fresh, "inventory"))
