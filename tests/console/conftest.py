"""What the tests of the console stand on: its own database, its server over it, and a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from console import store
from console.api import make
from console.domain import Keeping, Shown
from console.handlers import on
from quadrille.testing import Logins, OnPostgres, serving
from quadrille_cli.testing import Start
from tests.console.stories import Teller, a_day, inputs

EMPTY = "DELETE FROM event; DELETE FROM order_view; DELETE FROM failure; DELETE FROM span; DELETE FROM trace"


@pytest.fixture(scope="session")
def logins(parts_of_the_stack: Start) -> Logins:
    stack = parts_of_the_stack("postgres:console")
    return Logins(stack.database_url("console", "owner"), stack.database_url("console", "app"))


@pytest.fixture
def console(logins: Logins, tmp_path: Path) -> Iterator[OnPostgres[Shown]]:
    """The console over its database, emptied."""
    there = OnPostgres(on, store, logins, tmp_path, Keeping())
    for statement in EMPTY.split(";"):
        there.tx.execute(statement.encode())
    yield there
    there.close()


@pytest.fixture(scope="module")
def shop(logins: Logins, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A console that has heard a bit of everything, served: its address."""
    there = OnPostgres(on, store, logins, tmp_path_factory.mktemp("schemas"), Keeping())
    for statement in EMPTY.split(";"):
        there.tx.execute(statement.encode())
    there.takes(inputs(*a_day(Teller())))
    with serving(make, there.service, there.connect) as address:
        yield address
    there.close()
