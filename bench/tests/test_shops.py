"""All shops of the saga's cells take the same paths: happy, declined, out of stock; their books are right after."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from bench.cases import shops
from bench.cases.shops import Shop
from bench.model import CannotMeasureError

from quadrille_cli.loadtest.run import Plan

MIX = {"ok": 2, "declined": 1, "out_of_stock": 1}
WARM = Plan(20, 10, {"ok": 1.0})


@pytest.mark.parametrize("build", [shops.ours, shops.naive, shops.dbos])
def test_a_shop_ends_every_order_as_it_should(build: Callable[[], AbstractContextManager[Shop]]) -> None:
    """Confirmed, PAYMENT_DECLINED, OUT_OF_STOCK: by the events, the processor's ledger, the stock and the mails."""
    try:
        with build() as shop, shop.open(WARM):
            run = shops.measure(shop, Plan(20, 10, MIX))
            assert run.wrong() == []
            assert {end.state for end in run.ends.values()} == {
                "CONFIRMED",
                "CANCELLED PAYMENT_DECLINED",
                "CANCELLED OUT_OF_STOCK",
            }
            assert shops.audit(shop, [run]) == []
            shop.confirmed += 1  # the books are held against something
            assert shops.audit(shop, [run], patience=0.0)
    except CannotMeasureError as reason:
        pytest.skip(str(reason))
