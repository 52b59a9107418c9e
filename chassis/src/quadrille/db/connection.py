"""Database connection: one of each thread's own, made anew after trouble; and a transaction in few round trips."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias, TypeVar

import psycopg
import structlog
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus

from quadrille.db.conninfo import pinned, settled

# Statements are few, keyed and run for ever: planning the inbox's days anew for each batch is a tenth of its cost.
PLAN_ONCE = "SELECT set_config('plan_cache_mode', 'force_generic_plan', false)"
R = TypeVar("R")
_INTERVAL = 0.1  # psycopg's own: how often a wait looks for Ctrl-C
Tx: TypeAlias = psycopg.Connection[tuple[Any, ...]]
"""A connection as a service's SQL gets it: inside the batch's transaction, which the chassis begins and ends."""
ANSWER_SECONDS = 25.0
"""So long a server that lives answers, one way or another: it ends a statement after 20 s by itself."""
log = structlog.get_logger()


class BoundedConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that waits for no answer longer than a server may take: then it is closed, as if it were lost.

    Time-outs of TCP do not help where something between us and the server acknowledges what it never delivers.
    """

    answer_seconds = ANSWER_SECONDS

    def wait(self, gen: PQGen[R], interval: float = _INTERVAL, timeout: float | None = None) -> R:
        """Wait as psycopg does; raises OperationalError after ``answer_seconds`` without an answer."""
        try:
            return super().wait(gen, interval, self.answer_seconds if timeout is None else timeout)
        except psycopg.errors._WaitTimeout:  # noqa: SLF001 - the one name it has
            self.pgconn.finish()
            raise


class Session:
    """Call it for the connection; after ``close`` the next call makes another. Used by one thread alone."""

    def __init__(self, connect: Callable[[], Tx]) -> None:
        self._connect = connect
        self._tx: Tx | None = None

    def __call__(self) -> Tx:
        """Return the connection; raises psycopg's OperationalError when there is none to be had."""
        if self._tx is None:
            self._tx = self._connect()
            self._tx.execute(PLAN_ONCE)
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


@contextmanager
def pipelined(tx: Tx) -> Iterator[None]:
    """Run the block as one transaction in one pipeline: what it queues last goes out together with the COMMIT.

    psycopg's own ``transaction`` waits for an answer before its COMMIT, after it, and once more at the pipeline's end.
    Inside a transaction of the caller's it is a savepoint. Raises what the block or any statement raised, rolled back.
    """
    if tx.info.transaction_status is not TransactionStatus.IDLE:
        with tx.pipeline(), tx.transaction():
            yield
        return
    try:
        with tx.pipeline():
            tx.execute("BEGIN", prepare=False)
            yield
            tx.execute("COMMIT", prepare=False)
    except BaseException:
        with suppress(psycopg.Error):  # a lost connection has rolled back; whoever uses it next is told
            tx.rollback()
        raise


def connection(url: str) -> Callable[[], Tx]:
    """Return a function that opens a connection as the chassis wants it: autocommit, prepared statements at once.

    Nothing of it depends on the environment or on what the server speaks by default.
    """

    def connect() -> Tx:
        tx: Tx = BoundedConnection.connect(
            pinned(url, connect_timeout=5, keepalives_idle=5, tcp_user_timeout=10_000),
            autocommit=True, prepare_threshold=0,
        )  # fmt: skip
        return settled(tx)

    return connect
