"""A process of any role, killed at once while orders run and started again: nothing lost, nothing doubled."""

from __future__ import annotations

import http.client
import threading
import uuid
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from quadrille_cli.client import Refused
from quadrille_cli.services import SERVICES

if TYPE_CHECKING:
    from quadrille_cli.stack import Stack
    from tests.conftest import Shop

KINDS = [("tok_ok", "SKU-TEA"), ("tok_declined_funds", "SKU-TEA"), ("tok_ok", "SKU-NONE"), ("tok_ok", "SKU-TEA")]
WANTED = {
    ("tok_ok", "SKU-TEA"): ("CONFIRMED", None),
    ("tok_declined_funds", "SKU-TEA"): ("CANCELLED", "PAYMENT_DECLINED"),
    ("tok_ok", "SKU-NONE"): ("CANCELLED", "OUT_OF_STOCK"),
}
ORDERS = 40


class Customer(threading.Thread):
    """Places orders one after the other; what fails on the way is asked again under the same key."""

    def __init__(self, shop: Shop) -> None:
        super().__init__()
        self.shop = shop
        self.placed: list[tuple[str, tuple[str, str]]] = []
        self.half = threading.Event()

    def run(self) -> None:
        """Place them all."""
        for number in range(ORDERS):
            token, sku = kind = KINDS[number % len(KINDS)]
            key = f"crash-{uuid.uuid4()}"
            order = self.shop.until(lambda: self._once(token, sku, key), "the order is taken")  # noqa: B023 - called at once
            self.placed.append((order, kind))
            if number == ORDERS // 4:
                self.half.set()

    def _once(self, token: str, sku: str, key: str) -> str | None:
        try:
            return self.shop.submit([(sku, 1)], token, key=key)
        except (OSError, http.client.HTTPException):
            return None
        except Refused as refused:
            if refused.reply.status not in (409, 503):
                raise
            return None


@pytest.mark.parametrize("role", ["api", "worker", "relay"])
def test_a_killed_role_loses_and_doubles_nothing(shop: Shop, stack: Stack, role: str) -> None:
    """SIGKILL to this role of all four services while orders run: every order ends as it must, charged as it must."""
    before = shop.level("SKU-TEA")
    customer = Customer(shop)
    customer.start()
    assert customer.half.wait(60)
    for service in SERVICES:
        stack.process(f"{service}-{role}").kill()
    for service in SERVICES:
        stack.process(f"{service}-{role}").start()
    customer.join()
    ends: Counter[str] = Counter()
    for order, kind in customer.placed:
        document = shop.ended(order)
        assert (document["status"], document["reason"]) == WANTED[kind], order
        assert len(shop.captures(order)) == int(document["status"] == "CONFIRMED"), order
        ends[document["status"]] += 1
    assert len({order for order, _ in customer.placed}) == ORDERS
    shop.until(shop.all_read, "all is read")
    after = shop.level("SKU-TEA")
    assert after["committed"] == before["committed"] + ends["CONFIRMED"]
    assert after["held"] == before["held"]
    for service in SERVICES:
        assert shop.sql(
            service, "SELECT count(*) FROM parked WHERE line = ANY(%s)", [o for o, _ in customer.placed]
        ) == [(0,)]
