"""Republishing: a person has the relay send once more what lies in the outbox, same bytes, same ids, in order.

For consumers whose records were deleted before they had read them, and for a Kafka that was lost. Whoever has handled
an event takes no effect from it a second time. Nothing new is sent meanwhile, so each key stays in sequence.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString
from uuid import UUID

import structlog
from psycopg import sql

from quadrille.db.connection import BoundedConnection
from quadrille.ids import uuid7
from quadrille.kafka.headers import OutboxRow
from quadrille.relay.held import COLUMNS, HeldRows, rows_of
from quadrille.relay.publisher import InFlight, Publisher
from quadrille.relay.replication import Position, ask, conninfo
from quadrille.relay.session import RelaySession
from quadrille.relay.target import Claim

_BATCH = 1_000
_DRAIN_SECONDS = 0.005
_NEXT: LiteralString = """
SELECT id, since_at, key, actor, reason FROM relay_republish WHERE ended_at IS NULL ORDER BY asked_at LIMIT 1"""
_DONE: LiteralString = "UPDATE relay_republish SET rows = %s, ended_at = clock_timestamp() WHERE id = %s"
_TELL: LiteralString = "INSERT INTO relay_recovery (id, cause, rows, seconds) VALUES (%s, %s, %s, %s)"
_SCAN = sql.SQL(
    "DECLARE again BINARY NO SCROLL CURSOR FOR SELECT {} FROM outbox WHERE {}"
    " ORDER BY aggregatetype, aggregateid, sequence"
)
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Republish:
    """What is to be sent once more: all since a time, or all of a key."""

    id: UUID
    since: datetime | None
    key: str | None
    actor: str
    reason: str

    @classmethod
    def next(cls, keeper: RelaySession) -> Republish | None:
        """Return what was asked for first and is not done."""
        row = keeper.connection.execute(_NEXT).fetchone()
        return None if row is None else cls(*row)

    @property
    def cause(self) -> str:
        """What is told of it."""
        what = f"key {self.key}" if self.since is None else f"since {self.since.isoformat()}"
        return f"republish: {what}, by {self.actor}: {self.reason}"

    def run(
        self, keeper: RelaySession, outlet: Publisher, dsn: str, held: HeldRows, alive: Callable[[int], None]
    ) -> None:
        """Send it, prove it, and note it; begins again if it is cut short. What is held stays held."""
        began, window = time.monotonic(), InFlight(Position(0, 0), outlet.offsets)
        sent = window.begin()

        def meanwhile() -> None:
            window.check()
            alive(sent.delivered)

        log.info("relay.republishing", cause=self.cause)
        for row in self._rows(dsn, meanwhile):
            if not held.holds(row):
                outlet.push(row, sent, meanwhile)
        while sent.delivered < sent.handed:
            meanwhile()
            time.sleep(_DRAIN_SECONDS)
        if sent.handed:
            outlet.await_proof(Claim(Position(0, 0), sent.handed), meanwhile)
        seconds = time.monotonic() - began
        with keeper.connection.transaction():
            keeper.connection.execute(_DONE, [sent.handed, self.id])
            keeper.connection.execute(_TELL, [uuid7(), self.cause[:500], sent.handed, seconds])
        log.info("relay.republished", cause=self.cause, rows=sent.handed, seconds=round(seconds, 3))

    def _rows(self, dsn: str, meanwhile: Callable[[], None]) -> Iterator[OutboxRow]:
        """Yield the rows in one snapshot, each key in sequence; no more than a batch is held."""
        wanted = (
            sql.SQL("aggregateid = {}").format(self.key)
            if self.since is None
            else sql.SQL("occurred_at >= {}").format(self.since)
        )
        with closing(BoundedConnection.connect(conninfo(dsn), autocommit=True)) as session:
            session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            ask(session, _SCAN.format(COLUMNS, wanted).as_string(session), meanwhile)
            while (result := ask(session, f"FETCH {_BATCH} FROM again", meanwhile)).ntuples:
                yield from rows_of(result)
