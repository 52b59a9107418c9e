"""A service over its real database, once a session: the stores' tests ask for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quadrille import HandlerRegistry
from quadrille.service import Store
from quadrille.testing import Logins, OnPostgres
from quadrille_cli.testing import Start

Wire = Callable[[HandlerRegistry[Any], Store[Any]], OnPostgres[Any]]


@pytest.fixture(scope="session")
def on_postgres(parts_of_the_stack: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """Makes a service over its own Postgres, migrated."""
    made: list[OnPostgres[Any]] = []

    def wired(on: HandlerRegistry[Any], store: Store[Any]) -> OnPostgres[Any]:
        stack = parts_of_the_stack(f"postgres:{on.service}")
        logins = Logins(stack.database_url(on.service, "owner"), stack.database_url(on.service, "app"))
        made.append(OnPostgres(on, store, logins, Path(tmp_path_factory.mktemp("schemas"))))
        return made[-1]

    yield wired
    for one in made:
        one.close()
