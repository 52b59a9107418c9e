"""Session of the relay in its database: one holder at a time, and a position stored before a slot is answered with it.

The lock belongs to a session the server itself ends when it is silent for ``LEASE_SECONDS``: a frozen holder loses it.
Storing asks for the publication's identity in the same statement: nothing is acknowledged past a changed publication.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString, NamedTuple

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from quadrille.db.connection import BoundedConnection
from quadrille.ids import lock_key, uuid7
from quadrille.kafka.headers import OutboxRow
from quadrille.observability.readiness import NotReadyError
from quadrille.relay.replication import Position, conninfo, lsn_number, lsn_text
from quadrille.relay.target import Target

LEASE_SECONDS = 4
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)

_IDENTITY: LiteralString = """
SELECT concat(p.oid, '.', p.xmin, '/', r.oid, '.', r.xmin, '/', r.prrelid)
  FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
 WHERE p.pubname = 'outbox' AND r.prrelid = to_regclass('outbox')"""
_LOOK: LiteralString = f"""
SELECT current_setting('wal_level'), pg_is_in_recovery(), to_regclass('outbox') IS NOT NULL, p.oid IS NOT NULL,
       p.pubinsert AND NOT (p.pubupdate OR p.pubdelete OR p.pubtruncate), p.pubviaroot,
       (SELECT count(*) FROM pg_publication_tables t WHERE t.pubname = 'outbox'),
       (SELECT array_agg(c::text) FROM pg_publication_tables t, unnest(t.attnames) c
         WHERE t.pubname = 'outbox' AND t.tablename = 'outbox' AND t.rowfilter IS NULL),
       ({_IDENTITY})
  FROM (SELECT) one LEFT JOIN pg_publication p ON p.pubname = 'outbox'"""  # noqa: S608 - our own constants
# The snapshot is taken when a statement begins, the end of the WAL is told after that: what was committed in one lies
# before the other.
_NOW: LiteralString = """pg_current_wal_flush_lsn()::text, clock_timestamp(),
  pg_snapshot_xmin(pg_current_snapshot())::text, pg_current_wal_insert_lsn()::text"""
_BEAT: LiteralString = f"SELECT {_NOW}"
_STORE: LiteralString = f"""
UPDATE relay_progress SET commit_lsn = %s::pg_lsn, committed_at = %s, proven_xid = coalesce(%s::xid8, proven_xid)
 WHERE publication = ({_IDENTITY}) AND commit_lsn <= %s::pg_lsn AND rescan IS NULL
RETURNING {_NOW}"""  # noqa: S608 - our own constants
_ADOPT: LiteralString = "UPDATE relay_progress SET kafka_cluster = %s, kafka_topics = %s"
_PROGRESS: LiteralString = """
SELECT system_id, timeline, commit_lsn::text, committed_at, publication, kafka_cluster, kafka_topics,
       proven_xid::text, rescan FROM relay_progress"""
_BEGIN_ANEW: LiteralString = """
INSERT INTO relay_progress (system_id, timeline, commit_lsn, committed_at, publication, kafka_cluster, kafka_topics,
                            proven_xid, rescan) VALUES (%s, %s, %s, %s, %s, %s, %s, %s::xid8, NULL)
ON CONFLICT (only_one) DO UPDATE SET
  (system_id, timeline, commit_lsn, committed_at, publication, kafka_cluster, kafka_topics, proven_xid, rescan)
  = (excluded.system_id, excluded.timeline, excluded.commit_lsn, excluded.committed_at, excluded.publication,
     excluded.kafka_cluster, excluded.kafka_topics, excluded.proven_xid, NULL)"""
_ASK_RESCAN: LiteralString = "UPDATE relay_progress SET rescan = %s, proven_xid = %s::xid8 WHERE rescan IS NULL"
_NOTE: LiteralString = """
INSERT INTO relay_notice (id, kind, detail, since_at, took_ms, key) VALUES (%s, %s, %s, %s, %s, %s)"""
_SLOT: LiteralString = """
SELECT plugin, database, active_pid, wal_status, confirmed_flush_lsn::text
  FROM pg_replication_slots WHERE slot_name = %s"""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Which WAL an LSN belongs to."""

    system_id: int
    timeline: int


@dataclass(frozen=True, slots=True)
class Progress:
    """What was stored: a position, the WAL it is a place in, the publication it was read through, where records went.

    Every row of a transaction before ``proven_xid`` is published; ``rescan`` is why a person wants the outbox read.
    """

    cluster: Cluster
    position: Position
    publication: str
    target: Target | None = None
    proven_xid: int | None = None
    rescan: str | None = None


class Beat(NamedTuple):
    """How things are at the server: the end of the flushed WAL, and its time in microseconds since 2000.

    What transactions before ``xmin`` committed lies in the WAL before ``inserted``.
    """

    flushed: int
    now: int
    xmin: int
    inserted: int


@dataclass(frozen=True, slots=True)
class Slot:
    """The replication slot as the server shows it; ``confirmed`` is None while it is lost."""

    active_pid: int | None
    confirmed: int | None


@dataclass(frozen=True, slots=True)
class Source:
    """What the database is to be relayed from, as it was found; ``columns`` are those published without a filter."""

    wal_level: str
    replica: bool
    table: bool
    publication: bool
    inserts_only: bool | None
    via_root: bool | None
    members: int
    columns: list[str] | None
    identity: str | None

    def faults(self) -> Iterator[str]:
        """Yield what forbids relaying, each in one line that names the fix."""
        if self.wal_level != "logical":
            yield f"wal_level is {self.wal_level}: set it to logical and restart PostgreSQL"
        if self.replica:
            yield "this server is a replica: connect the relay to the primary"
        if not self.table:
            yield "there is no table outbox: run the migrations"
        if not self.publication:
            yield "there is no publication outbox: run the migrations, or create it again"
        elif not self.inserts_only or not self.via_root:
            yield "publication outbox must publish inserts only, via the partition root"
        elif self.members != 1 or self.columns is None:
            yield "publication outbox must hold the table outbox alone, without a row filter"
        elif missing := [name for name in OutboxRow._fields if name not in self.columns]:
            yield f"publication outbox does not publish {', '.join(missing)}"


class RelaySession:
    """A session that holds the relay's lock, or waits for it."""

    def __init__(self, dsn: str, slot: str) -> None:
        self._slot = slot
        self.connection = BoundedConnection.connect(conninfo(dsn), autocommit=True, prepare_threshold=0)
        self.heard = time.monotonic()
        """When the server last answered: while this is fresh, nobody else can hold the lock."""

    def try_lock(self) -> bool:
        """Take the lock if it is free; from then on the server ends this session when it falls silent."""
        if not self._one("SELECT pg_try_advisory_lock(%s)", [lock_key(f"relay:{self._slot}")])[0]:
            return False
        self.connection.execute(sql.SQL("SET idle_session_timeout = {}").format(f"{LEASE_SECONDS}s"))
        return True

    def beat(self) -> Beat:
        """Show that we live; return how things are at the server."""
        return _heard(self._one(_BEAT))

    def beat_seldom(self) -> None:
        """Show that we live, if the server has not heard of us for a second."""
        if time.monotonic() - self.heard > LEASE_SECONDS / 4:
            self.beat()

    def rescan(self) -> str | None:
        """Return why a person wants the outbox read again, None if nobody does."""
        row = self._maybe("SELECT rescan FROM relay_progress")
        return row[0] if row else None

    def ask_rescan(self, reason: str, proven_xid: int | None) -> None:
        """Have the outbox read again, from where it is known to be whole."""
        self.connection.execute(_ASK_RESCAN, [reason, None if proven_xid is None else str(proven_xid)])

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Show that we live while the block runs, however long one of its steps takes; what it does may fail first."""
        over = threading.Event()
        thread = threading.Thread(target=self._beat_until, args=(over,), name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _beat_until(self, over: threading.Event) -> None:
        with suppress(psycopg.Error):  # whoever asks next is told
            while not over.wait(LEASE_SECONDS / 4):
                self.connection.execute("SELECT")

    def publication(self) -> str:
        """Return the identity of a publication that is as it must be; raises NotReadyError if it is not."""
        source = Source(*self._one(_LOOK))
        if faults := list(source.faults()):
            raise NotReadyError(faults[0])
        return str(source.identity)

    def progress(self) -> Progress | None:
        """Return what was stored last, None before the first time."""
        row = self._maybe(_PROGRESS)
        if row is None:
            return None
        position = Position(lsn_number(row[2]), _microseconds(row[3]))
        target = None if row[5] is None else Target(row[5], row[6] or {})
        return Progress(Cluster(row[0], row[1]), position, row[4], target, row[7] and int(row[7]), row[8])

    def store(self, position: Position, proven_xid: int | None = None) -> Beat:
        """Store a position, durably; return as ``beat``. Raises NotReadyError if the publication is not what it was."""
        lsn, at = lsn_text(position.lsn), _EPOCH + timedelta(microseconds=position.committed_at)
        row = self._maybe(_STORE, [lsn, at, None if proven_xid is None else str(proven_xid), lsn])
        if row is None:
            message = "the publication, or the stored position, was changed under the stream"
            raise NotReadyError(message)
        return _heard(row)

    def adopt(self, target: Target) -> None:
        """Store which Kafka the records go to, where that was not known in full."""
        self.connection.execute(_ADOPT, [target.cluster, Jsonb(dict(target.topics))])

    def begin_anew(self, progress: Progress) -> None:
        """Store where a recovery, or the very first start, has come to."""
        at = _EPOCH + timedelta(microseconds=progress.position.committed_at)
        system, lsn = progress.cluster, lsn_text(progress.position.lsn)
        cluster, topics = (progress.target.cluster, progress.target.topics) if progress.target else (None, {})
        proven = None if progress.proven_xid is None else str(progress.proven_xid)
        self.connection.execute(
            _BEGIN_ANEW,
            [system.system_id, system.timeline, lsn, at, progress.publication, cluster, Jsonb(dict(topics)), proven],
        )

    def note(self, kind: str, detail: str, since: datetime, took_ms: int = 0, key: str | None = None) -> None:
        """Write down what the worker is to tell the others; ``key`` is whose stream it is about."""
        self.connection.execute(_NOTE, [uuid7(), kind, detail, since, took_ms, key])

    def slot(self) -> Slot | None:
        """Return the slot; None if there is none. Raises NotReadyError for one that is not ours."""
        row = self._maybe(_SLOT, [self._slot])
        if row is None:
            return None
        if (row[0], row[1]) != ("pgoutput", self.connection.info.dbname):
            message = f"slot {self._slot} belongs to plugin {row[0]} and database {row[1]}"
            raise NotReadyError(message)
        lost = row[3] == "lost" or row[4] is None
        return Slot(active_pid=row[2], confirmed=None if lost else lsn_number(row[4]))

    def kept_at_failover(self) -> bool:
        """Tell whether the slot is one that standbys copy; asked from PostgreSQL 17 on only."""
        return bool(self._one("SELECT failover FROM pg_replication_slots WHERE slot_name = %s", [self._slot])[0])

    def free_slot(self) -> None:
        """End the session of a former holder, which has lost the lock and may be frozen."""
        slot = self.slot()
        deadline = time.monotonic() + LEASE_SECONDS
        while slot is not None and slot.active_pid is not None:
            self._one("SELECT pg_terminate_backend(%s)", [slot.active_pid])
            if time.monotonic() > deadline:
                message = f"slot {self._slot} is held by process {slot.active_pid}, which does not end"
                raise NotReadyError(message)
            time.sleep(0.02)
            slot = self.slot()

    def drop_slot(self) -> None:
        """Remove the slot, if there is one."""
        self.free_slot()
        if self.slot() is not None:
            self._one("SELECT pg_drop_replication_slot(%s)", [self._slot])

    def close(self) -> None:
        """Give the lock back."""
        with suppress(psycopg.Error):
            self.connection.close()

    def _one(self, query: LiteralString, values: list[Any] | None = None) -> tuple[Any, ...]:
        row = self._maybe(query, values)
        if row is None:
            message = "a query that always has a row had none"
            raise psycopg.InternalError(message)
        return row

    def _maybe(self, query: LiteralString, values: list[Any] | None = None) -> tuple[Any, ...] | None:
        row = self.connection.execute(query, values).fetchone()
        self.heard = time.monotonic()
        return row


def _heard(row: tuple[Any, ...]) -> Beat:
    return Beat(lsn_number(row[0]), _microseconds(row[1]), int(row[2]), lsn_number(row[3]))


def _microseconds(at: datetime) -> int:
    since = at - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
