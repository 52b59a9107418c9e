"""Recovery of the relay: a lost slot or a new log loses no event: a new slot, a scan of the outbox, then the stream.

Every row whose publication is not proven is handed on again, however old, each key in sequence. What is proven is sent
again only to a log that is new, and only as far back as its consumers take it; what is left out is announced.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TypeAlias
from uuid import UUID

import psycopg
import structlog
from psycopg import pq, sql

from quadrille.db.connection import BoundedConnection
from quadrille.ids import floor_of, id_milliseconds, uuid7
from quadrille.kafka.headers import OutboxRow
from quadrille.observability.readiness import NotReadyError
from quadrille.relay.held import COLUMNS, HeldRows, rows_of
from quadrille.relay.publisher import InFlight, Publisher, Transaction
from quadrille.relay.replication import Position, ask, command, connect, conninfo, lsn_number
from quadrille.relay.session import Progress, RelaySession, Slot
from quadrille.relay.streaming import LEFT_OUT
from quadrille.relay.target import Claim, Target

FIRST_START = "first start"
ANOTHER_DATABASE = "another cluster or timeline"
ANOTHER_KAFKA = "another Kafka"
HOLE = "canary hole"
FAILOVER_SLOTS = 170_000
"""From this version of PostgreSQL on a slot may be copied to a standby, and outlive its primary."""
_BATCH = 1_000
# No clock decides what is proven: the numbers of transactions do.
_UNPROVEN = sql.SQL("age(xmin) <= age({}::text::xid)")
_RESCAN = sql.SQL(
    "DECLARE rescan BINARY NO SCROLL CURSOR FOR SELECT {} FROM outbox WHERE {} OR ({} AND id >= {}::uuid)"
    " ORDER BY aggregatetype, aggregateid, sequence"
)
_NEWEST = "SELECT max(id::text), (extract(epoch FROM clock_timestamp()) * 1000)::bigint::text FROM outbox"
_LEFT_OUT = sql.SQL(
    "SELECT count(*)::text, min(id::text), max(id::text) FROM outbox WHERE NOT ({}) AND ({}) AND id < {}"
)
_TELL = "INSERT INTO relay_recovery (id, cause, rows, seconds) VALUES (%s, %s, %s, %s)"
_DRAIN_SECONDS = 0.005
Alive: TypeAlias = Callable[[Transaction], None]
log = structlog.get_logger(__name__)


def cause(stored: Progress | None, found: Progress, slot: Slot | None) -> str | None:
    """Return why the stream cannot simply go on from the stored position, None if it can."""
    if stored is None:
        return FIRST_START
    if stored.cluster != found.cluster:
        return ANOTHER_DATABASE
    if anew := _anew(stored, found):
        another = stored.target is not None and found.target is not None and stored.target.is_another(found.target)
        return ANOTHER_KAFKA if another else f"topic made anew: {', '.join(anew)}"
    confirmed = slot.confirmed if slot else None
    causes = {
        "publication changed": stored.publication != found.publication,
        _asked(stored.rescan or ""): stored.rescan is not None,
        "slot missing": slot is None,
        "slot lost": confirmed is None,
        # a position is stored before the slot is answered with it: a slot further on was moved by somebody else
        "slot moved": confirmed is not None and confirmed > stored.position.lsn,
    }
    return next((reason for reason, is_so in causes.items() if is_so), None)


def _asked(rescan: str) -> str:
    """Return the cause of a scan that was asked for: by a person, or by a relay that has seen a hole."""
    return rescan if rescan.startswith(HOLE) else f"asked for: {rescan}"


def admit(stored: Progress | None, found: Target, accepted: str) -> None:
    """Raise NotReadyError if this Kafka is not the one that the outbox went to, and not the ``accepted`` one either."""
    known = stored.target if stored else None
    if accepted and found.cluster != accepted:
        message = (
            f"Kafka is cluster {found.cluster}, and the setting KAFKA_CLUSTER says {accepted}: put KAFKA_BOOTSTRAP or "
            "KAFKA_CLUSTER right; nothing is sent meanwhile"
        )
        raise NotReadyError(message)
    if known is not None and known.is_another(found) and accepted != found.cluster:
        message = (
            f"this is not the Kafka that the outbox went to (found cluster {found.cluster}, known is {known.cluster}, "
            "no topic is the same): nothing is sent to it; if a stranger has its address, put that right; if it is "
            f"ours now, set KAFKA_CLUSTER={found.cluster} (quadrille up --set KAFKA_CLUSTER={found.cluster}), and what "
            "the outbox holds is sent to it"
        )
        raise NotReadyError(message)


def _anew(stored: Progress | None, found: Progress) -> tuple[str, ...]:
    if stored is None or stored.target is None or found.target is None:
        return ()
    return stored.target.anew(found.target)


@dataclass(frozen=True, slots=True)
class Scope:
    """Which rows to send: ``unproven`` are all sent, those ``again`` only from the floor on."""

    unproven: sql.Composable
    again: sql.Composable | None

    @classmethod
    def of(cls, stored: Progress | None, found: Progress) -> Scope:
        """Return what must be sent after what was stored."""
        if stored is None:
            return cls(sql.SQL("true"), None)
        # a promotion goes on with the numbers of transactions, and has what was stored of them; else nothing is known,
        # and most of it is published
        if stored.cluster.system_id != found.cluster.system_id or stored.proven_xid is None:
            return cls(sql.SQL("false"), sql.SQL("true"))
        anew = _anew(stored, found)
        again = sql.SQL("aggregatetype = ANY({})").format(list(anew)) if anew else None
        return cls(_UNPROVEN.format(str(stored.proven_xid)), again)


class Scan:
    """Reads the outbox in one snapshot, in steps during which the lease is kept."""

    def __init__(
        self, session: psycopg.Connection, scope: Scope, window: timedelta, meanwhile: Callable[[], None]
    ) -> None:
        self._session, self._scope, self._window, self._meanwhile = session, scope, window, meanwhile
        self.left_out: tuple[int, str, str] | None = None
        """How many rows are not sent again because no hearer takes them any more; the first and the last id."""

    def rows(self) -> Iterator[OutboxRow]:
        """Yield the rows, each key in sequence."""
        again, floor = self._scope.again or sql.SQL("false"), None
        if self._scope.again is not None:
            floor = floor_of(self._since())
            self._leave_out(floor)
        self._ask(_RESCAN.format(COLUMNS, self._scope.unproven, again, floor))
        while (result := self._ask(sql.SQL("FETCH {} FROM rescan").format(_BATCH))).ntuples:
            yield from rows_of(result)

    def snapshot_xmin(self) -> int:
        """Return before which transaction all is in the snapshot."""
        return int(self._texts(sql.SQL("SELECT pg_snapshot_xmin(pg_current_snapshot())::text"))[0])

    def _since(self) -> int:
        """Return from when on hearers take a row: by whichever is behind, our clock, the server's, the newest row."""
        newest, server = self._texts(sql.SQL(_NEWEST))
        clocks = [time.time_ns() // 1_000_000, int(server), *([id_milliseconds(UUID(newest))] if newest else [])]
        return max(0, min(clocks) - int(self._window.total_seconds() * 1000))

    def _leave_out(self, floor: UUID) -> None:
        again = self._scope.again or sql.SQL("false")
        count, first, last = self._texts(_LEFT_OUT.format(self._scope.unproven, again, floor))
        if int(count):
            self.left_out = int(count), first, last

    def _texts(self, query: sql.Composable) -> list[str]:
        result = self._ask(query)
        return [(result.get_value(0, column) or b"").decode() for column in range(result.nfields)]

    def _ask(self, query: sql.Composable) -> pq.abc.PGresult:
        return ask(self._session, query.as_string(self._session), self._meanwhile)


@contextmanager
def fresh_slot(dsn: str, slot: str, keeper: RelaySession) -> Iterator[tuple[psycopg.Connection, int]]:
    """Make the slot anew; yield a session that sees exactly what was committed before it, and where the slot begins.

    Waits for every transaction that is open now (they end within 30 s).
    """
    keeper.drop_slot()
    with (
        closing(connect(dsn)) as walsender,
        closing(BoundedConnection.connect(conninfo(dsn), autocommit=True)) as session,
    ):
        kept = ", FAILOVER" if walsender.info.server_version >= FAILOVER_SLOTS else ""
        make = f"CREATE_REPLICATION_SLOT \"{slot}\" LOGICAL pgoutput (SNAPSHOT 'export'{kept})"
        _, start, snapshot, _ = command(walsender, make, meanwhile=keeper.beat_seldom)
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
    held: HeldRows

    def run(self, keeper: RelaySession, outlet: Publisher, found: Progress, alive: Alive) -> Progress:
        """Return where the new slot begins, once all before it is delivered, proven and that is stored.

        ``found`` is what the position is to be stored with; ``alive`` is called all the while and may raise.
        """
        began, handed = time.monotonic(), InFlight(found.position, outlet.offsets)
        clock, sent = keeper.beat().now, handed.begin()  # before the snapshot: all committed until now is in it

        def meanwhile() -> None:
            handed.check()
            alive(sent)

        with fresh_slot(self.dsn, self.slot, keeper) as (session, start):
            scan = Scan(session, Scope.of(self.stored, found), self.window, meanwhile)
            for row in scan.rows():
                if not self.held.holds(row):
                    outlet.push(row, sent, meanwhile)
            while sent.delivered < sent.handed:
                meanwhile()
                time.sleep(_DRAIN_SECONDS)
            if sent.handed:
                outlet.await_proof(Claim(found.position, sent.handed), meanwhile)
            proven = scan.snapshot_xmin()
        progress = replace(found, position=Position(start, clock), proven_xid=proven)
        self._finish(keeper, progress, scan, sent.handed, time.monotonic() - began)
        return progress

    def _finish(self, keeper: RelaySession, progress: Progress, scan: Scan, count: int, seconds: float) -> None:
        """Store the new beginning and, in the same transaction, what the worker is to tell the others."""
        with keeper.connection.transaction():
            keeper.begin_anew(progress)
            if self.reason != FIRST_START:
                keeper.connection.execute(_TELL, [uuid7(), self.reason, count, seconds])
            if scan.left_out is not None:
                left, first, last = scan.left_out
                detail = (
                    f"{left} facts are older than {self.window.days} days and were not sent again ({self.reason}): "
                    f"ids {first} to {last}; they lie in the table outbox until its days go"
                )
                keeper.note("LEFT_OUT", detail, datetime.now(UTC))
                LEFT_OUT.inc(left)
                log.warning("relay.left_out", rows=left, reason=detail)
        log.info("relay.recovered", cause=self.reason, rows=count, seconds=round(seconds, 3))
