"""The relay's place in its database: one holder at a time, and a position stored before any slot is answered with it.

The lock belongs to a session the server itself ends when it is silent for ``LEASE_SECONDS``: a frozen holder loses it.
Storing asks for the publication's identity in the same statement: nothing is acknowledged past a changed publication.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from chassis.health import NotReadyError
from chassis.ids import lock_key
from chassis.pgoutput import OutboxRow
from chassis.relay_window import Position
from chassis.replication import conninfo, lsn_number, lsn_text

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
_STORE: LiteralString = f"""
UPDATE relay_progress SET commit_lsn = %s::pg_lsn, committed_at = %s
 WHERE publication = ({_IDENTITY}) AND commit_lsn <= %s::pg_lsn
RETURNING pg_current_wal_flush_lsn()::text, clock_timestamp()"""  # noqa: S608 - our own constants
_BEGIN_ANEW: LiteralString = """
INSERT INTO relay_progress (system_id, timeline, commit_lsn, committed_at, publication) VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (only_one) DO UPDATE SET (system_id, timeline, commit_lsn, committed_at, publication)
  = (excluded.system_id, excluded.timeline, excluded.commit_lsn, excluded.committed_at, excluded.publication)"""
_SLOT: LiteralString = """
SELECT plugin, database, active_pid, wal_status, confirmed_flush_lsn::text
  FROM pg_replication_slots WHERE slot_name = %s"""


class NotReady(NotReadyError):  # noqa: N818 - the name says what is the case
    """Why the relay may not stream now, in one line; nothing is acknowledged until it is put right."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Which WAL an LSN belongs to."""

    system_id: int
    timeline: int


@dataclass(frozen=True, slots=True)
class Progress:
    """What was stored: a position, the WAL it is a place in, and the publication it was read through."""

    cluster: Cluster
    position: Position
    publication: str


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


class Keeper:
    """A session that holds the relay's lock, or waits for it."""

    def __init__(self, dsn: str, slot: str) -> None:
        self._slot = slot
        self.connection = psycopg.connect(conninfo(dsn), autocommit=True, prepare_threshold=0)
        self.heard = time.monotonic()
        """When the server last answered: while this is fresh, nobody else can hold the lock."""

    def try_lock(self) -> bool:
        """Take the lock if it is free; from then on the server ends this session when it falls silent."""
        if not self._one("SELECT pg_try_advisory_lock(%s)", [lock_key(f"relay:{self._slot}")])[0]:
            return False
        self.connection.execute(sql.SQL("SET idle_session_timeout = {}").format(f"{LEASE_SECONDS}s"))
        return True

    def beat(self) -> tuple[int, int]:
        """Show that we live; return the end of the flushed WAL and the server's time, microseconds since 2000."""
        flushed, now = self._one("SELECT pg_current_wal_flush_lsn()::text, clock_timestamp()")
        return lsn_number(flushed), _microseconds(now)

    def publication(self) -> str:
        """Return the identity of a publication that is as it must be; raises NotReady with the reason if it is not."""
        source = Source(*self._one(_LOOK))
        if faults := list(source.faults()):
            raise NotReady(faults[0])
        return str(source.identity)

    def progress(self) -> Progress | None:
        """Return what was stored last, None before the first time."""
        row = self._maybe("SELECT system_id, timeline, commit_lsn::text, committed_at, publication FROM relay_progress")
        if row is None:
            return None
        position = Position(lsn_number(row[2]), _microseconds(row[3]))
        return Progress(Cluster(row[0], row[1]), position, row[4])

    def store(self, position: Position) -> tuple[int, int]:
        """Store a position, durably; return as ``beat``. Raises NotReady if the publication is not what it was."""
        lsn = lsn_text(position.lsn)
        row = self._maybe(_STORE, [lsn, _EPOCH + timedelta(microseconds=position.committed_at), lsn])
        if row is None:
            message = "the publication, or the stored position, was changed under the stream"
            raise NotReady(message)
        return lsn_number(row[0]), _microseconds(row[1])

    def begin_anew(self, progress: Progress) -> None:
        """Store where a recovery, or the very first start, has come to."""
        at = _EPOCH + timedelta(microseconds=progress.position.committed_at)
        system, lsn = progress.cluster, lsn_text(progress.position.lsn)
        self.connection.execute(_BEGIN_ANEW, [system.system_id, system.timeline, lsn, at, progress.publication])

    def slot(self) -> Slot | None:
        """Return the slot; None if there is none. Raises NotReady for one that is not ours."""
        row = self._maybe(_SLOT, [self._slot])
        if row is None:
            return None
        if (row[0], row[1]) != ("pgoutput", self.connection.info.dbname):
            message = f"slot {self._slot} belongs to plugin {row[0]} and database {row[1]}"
            raise NotReady(message)
        lost = row[3] == "lost" or row[4] is None
        return Slot(active_pid=row[2], confirmed=None if lost else lsn_number(row[4]))

    def free_slot(self) -> None:
        """End the session of a former holder, which has lost the lock and may be frozen."""
        slot = self.slot()
        deadline = time.monotonic() + LEASE_SECONDS
        while slot is not None and slot.active_pid is not None:
            self._one("SELECT pg_terminate_backend(%s)", [slot.active_pid])
            if time.monotonic() > deadline:
                message = f"slot {self._slot} is held by process {slot.active_pid}, which does not end"
                raise NotReady(message)
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


def _microseconds(at: datetime) -> int:
    since = at - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
