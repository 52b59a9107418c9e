"""Lives of workers: one that died without an end makes the next one careful with the records it takes.

A worker's life is a row that its clean end deletes, and a lock that its death lets go of. Who starts and finds a life
that ended otherwise is careful for a while: it takes records one by one, and writes down each before it is even
decoded. What is still written down at the next start was in hand when the process died. Without a death nothing of
this costs a statement.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import structlog

from quadrille.db.connection import Session
from quadrille.ids import lock_key, uuid7
from quadrille.service import Tx

LIVES = "SELECT id FROM worker_life"
MINE = "SELECT pg_try_advisory_lock(%b)"
LET_GO = "SELECT pg_advisory_unlock(%b)"
BEGIN = "INSERT INTO worker_life (id) VALUES (%b)"
END = "DELETE FROM worker_life WHERE id = %b"
log = structlog.get_logger()


class WorkerLife:
    """The life of one worker, on a connection of its own; begun and ended by one thread."""

    def __init__(self, connect: Callable[[], Tx]) -> None:
        self._connection = Session(connect)
        self._id: UUID | None = None

    @property
    def begun(self) -> bool:
        """Whether it is written down."""
        return self._id is not None

    def begin(self) -> bool:
        """Write down that a worker lives; tell whether one before it died without an end."""
        tx, mine = self._connection(), uuid7()
        tx.execute(MINE, [lock_key(str(mine))])
        tx.execute(BEGIN, [mine])
        self._id = mine
        died = [life for (life,) in tx.execute(LIVES).fetchall() if life != mine and self._is_over(tx, life)]
        for life in died:
            tx.execute(END, [life])
        if died:
            log.warning("a worker died here", count=len(died))
        return bool(died)

    def end(self) -> None:
        """Write down that it ended as it should."""
        if self._id is not None:
            self._connection().execute(END, [self._id])
        self._connection.close()

    def _is_over(self, tx: Tx, life: UUID) -> bool:
        row = tx.execute(MINE, [lock_key(str(life))]).fetchone()
        if row is None or not row[0]:
            return False
        tx.execute(LET_GO, [lock_key(str(life))])
        return True
