"""A whole stack of its own, whose databases these tests spoil by hand, and whose reconciler hardly rests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from quadrille_cli.stack import EVERYTHING, Stack
from quadrille_cli.testing import PATIENT
from tests.conftest import Shop, opened
from tests.console.conftest import browser, shots

__all__ = ["browser", "shots", "spoilt"]

SETTINGS = {"RECONCILE_EVERY": "200ms", "AUDIT_SEAL_EVERY": "1s", **PATIENT}


@pytest.fixture(scope="session")
def spoilt(stack_home: Path) -> Iterator[Shop]:
    """A stack that no other test touches: what is spoilt here would be found by those."""
    with Stack(stack_home / "spoilt", parts=EVERYTHING, scattered=True, settings=SETTINGS) as stack:
        yield opened(stack)
