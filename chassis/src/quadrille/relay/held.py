"""Held rows of the relay: what the broker refuses waits aside with what is behind it of its key; all else flows.

A row is written down as held before the position passes it. What is behind it lies in the outbox, from where it is sent
in sequence once the row is taken by the broker, was mended or taken out, or a person has buried it. At most ``MOST``
keys are held: where more are refused it is no row's fault, and everything waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import LiteralString, TypeAlias
from uuid import UUID

import structlog
from psycopg import pq, sql

from quadrille.db.connection import BoundedConnection
from quadrille.kafka.headers import OutboxRow
from quadrille.relay.publisher import Care, DeliveryFailedError, InFlight, Publisher, RefusedRowError, Transaction
from quadrille.relay.replication import Position, ask, conninfo
from quadrille.relay.session import RelaySession
from quadrille.relay.target import Claim

MOST = 5
RETRY_MOST = 30
"""A row that is refused again and again is tried again after at most so many times the first wait."""
_BATCH = 1_000
_DRAIN_SECONDS = 0.005
_NOWHERE = Position(0, 0)
COLUMNS = sql.SQL(", ").join(map(sql.Identifier, OutboxRow._fields))
# No row is older than a day before the time in its id, whatever clock gave it; a wrong id is no reason to miss one.
_HOLD: LiteralString = """
INSERT INTO relay_held (id, topic, key, sequence, type, size, reason, since)
SELECT %(id)s, %(topic)s, %(key)s, %(sequence)s, %(type)s, %(size)s, %(reason)s,
       least(id_day(%(id)s), (now() AT TIME ZONE 'UTC')::date) - 1
ON CONFLICT (id) DO UPDATE SET reason = excluded.reason"""
_HELD: LiteralString = """
SELECT id, topic, key, sequence, size, reason, state = 'TO_BURY', since::text, held_at
  FROM relay_held WHERE state <> 'BURIED' ORDER BY held_at"""
_LANE = sql.SQL(
    "DECLARE lane BINARY NO SCROLL CURSOR FOR SELECT {} FROM outbox WHERE written_on >= {}::date"
    " AND ((aggregatetype = {} AND aggregateid = {} AND sequence >= {}) OR id = {}) ORDER BY sequence"
)
_BURIED: LiteralString = """
UPDATE relay_held SET state = 'BURIED' WHERE id = %s AND state = 'TO_BURY'
RETURNING ended_by, ended_why, type, size, topic"""
_SENT: LiteralString = "DELETE FROM relay_held WHERE id = %s AND state = 'HELD'"
_ASKED: LiteralString = """
SELECT EXISTS (SELECT FROM relay_held WHERE state = 'TO_BURY')
    OR EXISTS (SELECT FROM relay_republish WHERE ended_at IS NULL)"""
# Every transaction that has ended for a reader of the log has ended for a reader of the tables when this is behind it.
_XMAX: LiteralString = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"
Key: TypeAlias = tuple[bytes, bytes]
log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Lane:
    """A row that is held, with all behind it of its key."""

    id: UUID
    topic: str
    key: str
    sequence: int
    size: int
    reason: str
    to_bury: bool
    since: str
    held_at: datetime
    care: Care = field(default_factory=lambda: Care(left=1))
    tries: int = 0
    retry_at: float = 0.0

    @property
    def stream(self) -> Key:
        """Whose rows wait: topic and key."""
        return self.topic.encode(), self.key.encode()

    @property
    def words(self) -> str:
        """What is told of it while it lasts."""
        return (
            f"refused: row {self.id} of {self.topic}, key {self.key[:64]}, {self.size} bytes: {self.reason}; "
            "what to do: docs/troubleshooting.md"
        )


class HeldRows:
    """What is held, as the database has it; the lanes' tries are counted here."""

    def __init__(self, retry_seconds: Callable[[], float]) -> None:
        self._retry_seconds = retry_seconds
        self.lanes: dict[Key, Lane] = {}
        self.passed: dict[Key, int] = {}
        """How far keys that went on were sent from the outbox: the log tells of it once more, up to ``passed_at``."""
        self.passed_at = 0
        self.asked = False
        """That a person has spoken since ``load``; set by any thread."""

    @property
    def reason(self) -> str | None:
        """Return what is told while anything is held; None in order."""
        return next((lane.words for lane in self.lanes.values()), None)

    def load(self, keeper: RelaySession) -> None:
        """Read what is held."""
        self.asked = False
        before = {lane.id: lane for lane in self.lanes.values()}
        self.lanes = {}
        for row in keeper.connection.execute(_HELD):
            lane = Lane(*row)
            if (old := before.get(lane.id)) is not None:
                lane.care, lane.tries, lane.retry_at = old.care, old.tries, old.retry_at
                if lane.to_bury and not old.to_bury:
                    lane.retry_at = 0.0
            self.lanes.setdefault(lane.stream, lane)

    def take(self, keeper: RelaySession, refused: RefusedRowError) -> bool:
        """Hold a row that was refused; False if it is not for this row alone, or too many keys are held already."""
        row = refused.row
        key = row.aggregatetype, row.aggregateid
        lane = self.lanes.get(key)
        if not refused.own or (lane is None and len(self.lanes) >= MOST):
            return False
        keeper.connection.execute(_HOLD, _values(refused))
        if lane is None:
            log.error("relay.held", event_id=str(_id(row)), topic=_word(row.aggregatetype), reason=refused.reason)
        self.load(keeper)
        if (now := self.lanes.get(key)) is not None:
            self._again(now)
        return True

    def holds(self, row: OutboxRow) -> bool:
        """Tell whether a row is not to be sent from the log: it is held, or was sent with those of its key."""
        key = row.aggregatetype, row.aggregateid
        if (lane := self.lanes.get(key)) is not None:
            return _number(row) >= lane.sequence
        passed = self.passed.get(key)
        return passed is not None and _number(row) <= passed

    def __bool__(self) -> bool:
        return bool(self.lanes or self.passed)

    def came_to(self, lsn: int) -> None:
        """Note how far the log was read: what was sent from the outbox lies behind, and is told no more."""
        if self.passed and lsn >= self.passed_at:
            self.passed = {}

    def due(self) -> Lane | None:
        """Return a lane that is to be tried now."""
        now = time.monotonic()
        return next((lane for lane in self.lanes.values() if now >= lane.retry_at), None)

    def look(self, keeper: RelaySession) -> None:
        """Look whether a person has spoken to another relay of this service."""
        row = keeper.connection.execute(_ASKED).fetchone()
        self.asked = self.asked or bool(row and row[0])

    def begin_anew(self) -> None:
        """Note that the outbox is read anew, and what is held tried: a person may have mended it."""
        self.passed = {}
        self.hasten()

    def hasten(self) -> None:
        """Have all that is held tried as soon as can be: a person may have mended it."""
        for lane in self.lanes.values():
            lane.retry_at = 0.0

    def wanted(self) -> str | None:
        """Return why the stream is to be left for a moment: a person has spoken, or a lane is due."""
        if self.asked:
            return "a person has asked for something"
        return "a row that was refused is tried again" if self.lanes and self.due() else None

    def go_on(self, keeper: RelaySession, lane: Lane, outlet: Publisher, dsn: str, alive: Callable[[], None]) -> None:
        """Send a lane from the outbox, in sequence; raises RefusedRowError as long as a row of it is refused.

        When that is one behind the row that was held, it is held in its place.
        """
        settled(keeper, alive)
        sent, last = InFlight(_NOWHERE, outlet.offsets).begin(), lane.sequence - 1

        def meanwhile() -> None:
            sent.check()
            outlet.check()
            alive()

        try:
            for row in self._rows(dsn, lane, alive):
                if not (lane.to_bury and _id(row) == lane.id):
                    outlet.push(row, sent, meanwhile)
                if (row.aggregatetype, row.aggregateid) == lane.stream:
                    last = max(last, _number(row))
            while sent.delivered < sent.handed:
                meanwhile()
                time.sleep(_DRAIN_SECONDS)
        except DeliveryFailedError as failed:
            lane.care.refused(failed, sent.handed)
            if isinstance(failed, RefusedRowError) and failed.own and _id(failed.row) != lane.id:
                self._prove(outlet, sent, alive)
                self._advance(keeper, lane, failed)
            self._again(lane)
            raise
        self._prove(outlet, sent, alive)
        self._finish(keeper, lane, sent.handed)
        self.passed[lane.stream] = last
        self.passed_at = keeper.beat().flushed

    def _prove(self, outlet: Publisher, sent: Transaction, alive: Callable[[], None]) -> None:
        """Wait until what was delivered is proven to lie in our log."""

        def meanwhile() -> None:
            outlet.check_log()
            alive()

        if sent.delivered:
            outlet.await_proof(Claim(_NOWHERE, sent.delivered), meanwhile)

    def _rows(self, dsn: str, lane: Lane, alive: Callable[[], None]) -> Iterator[OutboxRow]:
        """Yield a lane's rows as the outbox has them now, the held one wherever it was moved to."""
        with closing(BoundedConnection.connect(conninfo(dsn), autocommit=True)) as session:
            session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            lane_of = _LANE.format(COLUMNS, lane.since, lane.topic, lane.key, lane.sequence, str(lane.id))
            ask(session, lane_of.as_string(session), alive)
            while (result := ask(session, f"FETCH {_BATCH} FROM lane", alive)).ntuples:
                yield from rows_of(result)

    def _advance(self, keeper: RelaySession, lane: Lane, refused: RefusedRowError) -> None:
        """Hold a row behind the one that was held: all before it is published, or buried."""
        with keeper.connection.transaction():
            self._end(keeper, lane)
            keeper.connection.execute(_HOLD, _values(refused))
        self.load(keeper)

    def _finish(self, keeper: RelaySession, lane: Lane, count: int) -> None:
        """Let the key go on."""
        with keeper.connection.transaction():
            buried = self._end(keeper, lane)
        seconds = round((datetime.now(UTC) - lane.held_at).total_seconds(), 1)
        how = "buried" if buried else "sent"
        log.error("relay.goes_on", event_id=str(lane.id), topic=lane.topic, rows=count, state=how, seconds=seconds)
        self.load(keeper)

    def _end(self, keeper: RelaySession, lane: Lane) -> bool:
        """End what was held; of a buried row the worker is to tell the others, in the same transaction."""
        buried = keeper.connection.execute(_BURIED, [lane.id]).fetchone()
        if buried is None:
            keeper.connection.execute(_SENT, [lane.id])
            return False
        actor, why, kind, size, topic = buried
        detail = (
            f"row {lane.id} ({kind[:64]}) of {topic[:64]}, key {lane.key[:64]}, sequence {lane.sequence}, {size} bytes "
            f"was refused ({lane.reason[:200]}) and buried by {actor}: {why}"
        )
        keeper.note("BURIED", detail, datetime.now(UTC), key=lane.key)
        return True

    def _again(self, lane: Lane) -> None:
        lane.tries += 1
        lane.retry_at = time.monotonic() + self._retry_seconds() * min(2 ** (lane.tries - 1), RETRY_MOST)


def settled(keeper: RelaySession, alive: Callable[[], None]) -> None:
    """Wait until all that was ever told from the log is seen in the tables: the log knows a commit a moment sooner."""
    row = keeper.connection.execute(_XMAX).fetchone()
    wanted = int(row[0]) if row else 0
    while keeper.beat().xmin < wanted:
        alive()
        time.sleep(_DRAIN_SECONDS)


def _values(refused: RefusedRowError) -> dict[str, object]:
    row = refused.row
    return {
        "id": _id(row), "topic": _word(row.aggregatetype), "key": _word(row.aggregateid), "type": _word(row.type),
        "sequence": _number(row), "size": len(row.payload), "reason": refused.reason,
    }  # fmt: skip


def _id(row: OutboxRow) -> UUID:
    return UUID(bytes=row.id)


def _number(row: OutboxRow) -> int:
    return int.from_bytes(row.sequence, signed=True)


def _word(text: bytes) -> str:
    return text.decode("utf-8", "replace")


def rows_of(result: pq.abc.PGresult) -> Iterator[OutboxRow]:
    """Yield a binary result's rows."""
    for n in range(result.ntuples):
        yield OutboxRow(*(result.get_value(n, column) for column in range(result.nfields)))  # type: ignore[arg-type]
