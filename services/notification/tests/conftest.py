"""Notification's handlers over rows in memory."""

from __future__ import annotations

import pytest

from notification.domain import Post
from notification.events import PutContact
from notification.handlers import on
from quadrille.testing import InMemory


@pytest.fixture
def notification() -> InMemory[Post]:
    """Notification that knows the address of cust_demo."""
    notification = InMemory(on)
    notification.given(PutContact("cust_demo", "demo@example.com"))
    return notification
