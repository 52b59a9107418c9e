"""Inventory's handlers over rows in memory."""

from __future__ import annotations

import pytest

from inventory.domain import Stock
from inventory.events import SetStock
from inventory.handlers import on
from quadrille.testing import InMemory


@pytest.fixture
def inventory() -> InMemory[Stock]:
    """Inventory with five pieces of sku-1 and three of sku-2."""
    inventory = InMemory(on)
    inventory.given(SetStock("sku-1", 5), SetStock("sku-2", 3))
    return inventory
