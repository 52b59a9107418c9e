"""Connections for an API's reads: few, lent with a bounded wait, so that nobody queues for ever (failure H5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa

from chassis import sqlstate
from chassis.problems import refuse
from chassis.service import Tx

P = ParamSpec("P")
T = TypeVar("T")
SIZE = 4
WAIT_SECONDS = 1.0
BOUNDS = "SET statement_timeout = '5s'; SET default_transaction_read_only = on"


class Pool:
    """Gives a query function of the store its connection, on which all its statements see one moment."""

    def __init__(self, connect: Callable[[], Tx], size: int = SIZE) -> None:
        def bounded() -> Tx:
            tx = connect()
            tx.execute(BOUNDS, prepare=False)
            return tx

        self._engine = sa.create_engine(
            "postgresql+psycopg://", creator=bounded, isolation_level="REPEATABLE READ", use_native_hstore=False,
            pool_size=size, max_overflow=0, pool_timeout=WAIT_SECONDS, pool_pre_ping=True, pool_use_lifo=True,
        )  # fmt: skip

    def read(self, query: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the query finds.

        Raises Problem: overloaded when no connection is free in a second, dependency-unavailable without a database.
        """
        try:
            with self._engine.connect() as db:
                return query(db, *args, **kwargs)
        except sa.exc.TimeoutError:
            refuse("overloaded", cause="POOL_EXHAUSTED", retry_after=1)
        except sa.exc.DBAPIError as trouble:
            if sqlstate.blames_input(trouble.orig or trouble):
                raise
            refuse("dependency-unavailable", dependency="database", retry_after=1)

    def close(self) -> None:
        """Close every idle connection."""
        self._engine.dispose()
