"""A connection of one thread's own: made when it is needed, made anew after trouble."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import structlog

from chassis.service import Tx

log = structlog.get_logger()


class Session:
    """Call it for the connection; after ``close`` the next call makes another. Used by one thread alone."""

    def __init__(self, connect: Callable[[], Tx]) -> None:
        self._connect = connect
        self._tx: Tx | None = None

    def __call__(self) -> Tx:
        """Return the connection; raises psycopg's OperationalError when there is none to be had."""
        if self._tx is None:
            self._tx = self._connect()
        return self._tx

    def close(self) -> None:
        """Close the connection, which may be broken already."""
        tx, self._tx = self._tx, None
        if tx is None:
            return
        try:
            tx.close()
        except psycopg.Error as trouble:
            log.debug("connection was broken", error_class=type(trouble).__name__)
