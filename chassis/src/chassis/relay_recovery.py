"""A lost slot need not lose facts: a new slot, a scan of the outbox in its snapshot, then the stream.

Guarantee: every row whose publication is not proven by the stored position is handed on again, each key in sequence.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import psycopg
import structlog
from psycopg import sql

from chassis.ids import floor_of, uuid7
from chassis.pgoutput import OutboxRow
from chassis.relay_keeper import Cluster, Keeper, Progress, Slot
from chassis.relay_outlet import Outlet
from chassis.relay_window import Position, Window
from chassis.replication import ask, command, connect, conninfo, lsn_number

FIRST_START = "first start"
MARGIN = timedelta(minutes=10)
"""Rows carry no LSN, only their transaction's start: scanning from this much earlier misses none of them."""
_BATCH = 1_000
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_COLUMNS = sql.SQL(", ").join(map(sql.Identifier, OutboxRow._fields))
_RESCAN = sql.SQL(
    "DECLARE rescan BINARY NO SCROLL CURSOR FOR SELECT {} FROM outbox"
    " WHERE occurred_at >= {since} AND written_on >= ({since} AT TIME ZONE 'UTC')::date AND id >= {floor}"
    " ORDER BY aggregatetype, aggregateid, sequence"
)
_BELOW = sql.SQL("SELECT id::text FROM outbox WHERE occurred_at >= {since} AND id < {floor} ORDER BY id")
_TELL = "INSERT INTO relay_recovery (id, cause, rows, seconds) VALUES (%s, %s, %s, %s)"
_DRAIN_SECONDS = 0.005
Alive: TypeAlias = Callable[[], None]
log = structlog.get_logger(__name__)


def cause(stored: Progress | None, cluster: Cluster, publication: str, slot: Slot | None) -> str | None:
    """Return why the stream cannot simply go on from the stored position, None if it can."""
    if stored is None:
        return FIRST_START
    if stored.cluster != cluster:
        return "another cluster or timeline"
    if stored.publication != publication:
        return "publication changed"
    if slot is None:
        return "slot missing"
    if slot.confirmed is None:
        return "slot lost"
    # a position is stored before the slot is answered with it: a slot further on was moved by somebody else
    return "slot moved" if slot.confirmed > stored.position.lsn else None


def rows(session: psycopg.Connection, since: datetime, window: timedelta, alive: Alive) -> Iterator[OutboxRow]:
    """Yield the session's outbox rows from a moment on, each key in sequence; ``alive`` is called during the sort."""
    floor = floor_of(int((time.time() - window.total_seconds()) * 1000))
    below = [row[0] for row in session.execute(_BELOW.format(since=since, floor=floor))]
    if below:  # their hearers would park them as too old: they are listed, not sent
        log.warning("relay.below_window", rows=len(below), ids=below[:100])
    session.execute(_RESCAN.format(_COLUMNS, since=since, floor=floor))
    while (result := ask(session, f"FETCH {_BATCH} FROM rescan", alive)).ntuples:
        for n in range(result.ntuples):
            yield OutboxRow(*(result.get_value(n, column) for column in range(result.nfields)))  # type: ignore[arg-type]


@contextmanager
def fresh_slot(dsn: str, slot: str, keeper: Keeper) -> Iterator[tuple[psycopg.Connection, int]]:
    """Make the slot anew; yield a session that sees exactly what was committed before it, and where the slot begins.

    Waits for every transaction that is open now (they end within 30 s), the keeper's lease held meanwhile.
    """
    keeper.drop_slot()
    with closing(connect(dsn)) as walsender, closing(psycopg.connect(conninfo(dsn), autocommit=True)) as session:
        make = f"CREATE_REPLICATION_SLOT \"{slot}\" LOGICAL pgoutput (SNAPSHOT 'export')"
        _, start, snapshot, _ = command(walsender, make, meanwhile=keeper.beat)
        session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        session.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(snapshot))
        yield session, lsn_number(start)


@dataclass(frozen=True, slots=True)
class Recovery:
    """One recovery: why, and what was stored before it."""

    dsn: str
    slot: str
    window: timedelta
    reason: str
    stored: Progress | None

    def run(self, keeper: Keeper, outlet: Outlet, found: Progress, alive: Alive) -> Progress:
        """Return where the new slot begins, once all before it is delivered and that is stored.

        ``found`` is what the position is to be stored with; ``alive`` is called all the while and may raise.
        """
        began, handed = time.monotonic(), Window(found.position)
        _, clock = keeper.beat()  # before the snapshot: all that was committed until now is in it
        scan, since = handed.begin(), self._since(found.cluster)
        with fresh_slot(self.dsn, self.slot, keeper) as (session, start):
            for row in rows(session, since, self.window, alive):
                outlet.push(row, scan, alive)
            while scan.delivered < scan.handed:
                handed.check()
                alive()
                time.sleep(_DRAIN_SECONDS)
        progress = Progress(found.cluster, Position(start, clock), found.publication)
        self._finish(keeper, progress, scan.handed, time.monotonic() - began)
        return progress

    def _since(self, cluster: Cluster) -> datetime:
        """From when on rows must be scanned: all of them, where the stored position says nothing."""
        if self.stored is None or self.stored.cluster != cluster:
            return _EPOCH
        return _EPOCH + timedelta(microseconds=self.stored.position.committed_at) - MARGIN

    def _finish(self, keeper: Keeper, progress: Progress, count: int, seconds: float) -> None:
        """Store the new beginning and, in the same transaction, what the worker is to tell the others."""
        with keeper.connection.transaction():
            keeper.begin_anew(progress)
            if self.reason != FIRST_START:
                keeper.connection.execute(_TELL, [uuid7(), self.reason, count, seconds])
        log.info("relay.recovered", cause=self.reason, rows=count, seconds=round(seconds, 3))
