"""Payment's handlers over rows in memory."""

from __future__ import annotations

import pytest

from payment.domain import Payments
from payment.handlers import on
from quadrille.testing import InMemory


@pytest.fixture
def payment() -> InMemory[Payments]:
    """Payment that has heard of no order."""
    return InMemory(on)
