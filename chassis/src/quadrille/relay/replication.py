"""One logical replication stream over psycopg's pq layer: messages in, positions out, keepalives answered in time.

Wire (PostgreSQL, "Streaming Replication Protocol"), inside CopyData, numbers big-endian::

    w  start LSN 8 | end of WAL 8 | sent 8 | pgoutput message          server to us
    k  end of WAL 8 | sent 8 | reply wanted 1                          server to us
    r  written LSN 8 | flushed LSN 8 | applied LSN 8 | time 8 | 0      us to the server
"""

from __future__ import annotations

import select
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from operator import itemgetter
from struct import Struct
from typing import TypeAlias

import psycopg
from psycopg import pq

from quadrille.db.conninfo import pinned, spoken
from quadrille.kafka.headers import OutboxRow

TABLE = "outbox"
_BEGIN = Struct(">qqi")
_COMMIT = Struct(">Bqqq")
_RELATION_TAIL = Struct(">BH")
_COLUMN_TAIL = Struct(">ii")
_INSERT = Struct(">IcH")
_LENGTH = Struct(">I")
_INSERT_TAG, _NULL, _BINARY = b"Inb"


class StreamError(ValueError):
    """A message that is not what the protocol, or the publication we made, allows."""


@dataclass(frozen=True, slots=True)
class Begin:
    """The start of a committed transaction: its commit record's LSN, and its time in microseconds since 2000."""

    commit_lsn: int
    committed_at: int


@dataclass(frozen=True, slots=True)
class Commit:
    """The end of a transaction; who has everything up to ``end_lsn`` has it whole."""

    commit_lsn: int
    end_lsn: int
    committed_at: int


@dataclass(frozen=True, slots=True)
class Described:
    """The outbox's columns were told: at first, and again whenever table or publication may have changed."""


Read: TypeAlias = OutboxRow | Begin | Commit | Described | None
_Pick: TypeAlias = Callable[[list[bytes | None]], tuple[bytes | None, ...]]


class PgOutputDecoder:
    """Reads the messages of one stream in order; a new stream needs a new decoder."""

    def __init__(self) -> None:
        self._relations: dict[int, tuple[int, _Pick] | str] = {}
        self._open: Begin | None = None

    @property
    def inside(self) -> bool:
        """Whether a transaction has begun and not ended."""
        return self._open is not None

    def read(self, data: bytes, at: int = 0) -> Read:
        """Return what the message that starts at ``at`` says, None if it says nothing; raises StreamError."""
        try:
            if data[at] == _INSERT_TAG:
                return self._insert(data, at + 1)
            return self._other(data, at)
        except (IndexError, struct.error, UnicodeDecodeError) as cut:
            message = f"a pgoutput message of {len(data) - at} bytes is cut short"
            raise StreamError(message) from cut

    def _other(self, data: bytes, at: int) -> Read:
        match data[at : at + 1]:
            case b"B":
                return self._begin(data, at + 1)
            case b"C":
                return self._commit(data, at + 1)
            case b"R":
                return self._learn(data, at + 1)
            case b"Y" | b"O":  # a type's name, an origin: told for readers of other tables
                return None
            case tag:
                message = f"pgoutput message {tag!r}: the publication must be of inserts only"
                raise StreamError(message)

    def _begin(self, data: bytes, at: int) -> Begin:
        lsn, time, _ = _BEGIN.unpack_from(data, at)
        _ends(data, at + _BEGIN.size)
        if self._open is not None:
            message = "a transaction begins inside another"
            raise StreamError(message)
        self._open = Begin(lsn, time)
        return self._open

    def _commit(self, data: bytes, at: int) -> Commit:
        _, lsn, end, time = _COMMIT.unpack_from(data, at)
        _ends(data, at + _COMMIT.size)
        if self._open is None or self._open.commit_lsn != lsn or end <= lsn:
            message = "a commit does not match its begin"
            raise StreamError(message)
        self._open = None
        return Commit(lsn, end, time)

    def _learn(self, data: bytes, at: int) -> Described | None:
        (oid,) = _LENGTH.unpack_from(data, at)
        _, at = _text(data, at + _LENGTH.size)
        name, at = _text(data, at)
        _, count = _RELATION_TAIL.unpack_from(data, at)
        at += _RELATION_TAIL.size
        columns = []
        for _ in range(count):
            column, at = _text(data, at + 1)
            _COLUMN_TAIL.unpack_from(data, at)
            columns.append(column)
            at += _COLUMN_TAIL.size
        _ends(data, at)
        # a leaf partition announces itself too, though its rows come under the root's oid: kept by name, never read
        self._relations[oid] = (count, _picker(columns)) if name == TABLE else name
        return Described() if name == TABLE else None

    def _insert(self, data: bytes, at: int) -> OutboxRow:
        oid, new, count = _INSERT.unpack_from(data, at)
        relation = self._relations.get(oid)
        if not isinstance(relation, tuple) or new != b"N" or self._open is None:
            message = f"an insert that is not the outbox's, or stands outside a transaction: {relation or oid}"
            raise StreamError(message)
        columns, pick = relation
        if count != columns:
            message = f"{count} values for {columns} columns"
            raise StreamError(message)
        values, nulls, at = _values(data, at + _INSERT.size, count)
        _ends(data, at)
        row = OutboxRow._make(pick(values))
        if nulls and (row.parent_span is not None or row.count(None) > 1):
            message = "a NULL where the outbox has none"
            raise StreamError(message)
        return row


def _values(data: bytes, at: int, count: int) -> tuple[list[bytes | None], int, int]:
    values: list[bytes | None] = []
    nulls = 0
    length = _LENGTH.unpack_from
    for _ in range(count):
        kind = data[at]
        if kind == _BINARY:
            (size,) = length(data, at + 1)
            start, at = at + 5, at + 5 + size
            values.append(data[start:at])
        elif kind == _NULL:
            values.append(None)
            nulls += 1
            at += 1
        else:
            message = f"a value in form {chr(kind)!r}: only binary is asked for"
            raise StreamError(message)
    return values, nulls, at


def _picker(columns: list[str]) -> _Pick:
    """Choose the ten columns by name, wherever a migration has put them."""
    missing = [name for name in OutboxRow._fields if name not in columns]
    if missing:
        message = f"the publication has no column {', '.join(missing)}"
        raise StreamError(message)
    return itemgetter(*(columns.index(name) for name in OutboxRow._fields))


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = data.find(b"\0", at)
    if end < 0:
        message = "a name without an end"
        raise StreamError(message)
    return data[at:end].decode(), end + 1


def _ends(data: bytes, at: int) -> None:
    """Refuse bytes left over, or missing: a slice past the end is silent in Python."""
    if at != len(data):
        message = f"a pgoutput message of {len(data)} bytes ends at {at}"
        raise StreamError(message)


HEADER = 25
"""Bytes before the pgoutput message in what ``take`` returns."""
_DATA, _KEEPALIVE = b"wk"
_KEEPALIVE_BODY = Struct(">QqB")
_STATUS = Struct(">cQQQqB")
_POSTGRES_EPOCH_US = 946_684_800_000_000
_NETWORK: Mapping[str, str | int] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
# What the server, the database or the role says otherwise is for others: a wait for open transactions takes as long
# as they do, a scan as long as it is, what is stored is stored, and texts come in the bytes that are published.
_PINNED: Mapping[str, str] = {
    "lock_timeout": "0",
    "statement_timeout": "0",
    "transaction_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "wal_sender_timeout": "5s",  # a frozen relay does not keep its slot for longer
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read\\ committed",
    "synchronous_commit": "on",
    "search_path": "public",
    "row_security": "on",
}


def conninfo(dsn: str, *, replication: bool = False) -> str:
    """Return the connection string with all a relay's session relies on, whatever shell, server or role are set to.

    Time-outs of the network are against one that is silent in one direction.
    """
    pins = " ".join(f"-c {name}={value}" for name, value in _PINNED.items())
    extra = {**_NETWORK, "application_name": "relay", "options": f"{spoken(dsn)} {pins}"}
    return pinned(dsn, **extra, **({"replication": "database"} if replication else {}))


def lsn_text(lsn: int) -> str:
    """Return PostgreSQL's spelling of an LSN."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def lsn_number(text: str) -> int:
    """Return the number PostgreSQL spells as high/low in hex."""
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def connect(dsn: str) -> psycopg.Connection:
    """Open a walsender session; raises psycopg.OperationalError."""
    return psycopg.connect(conninfo(dsn, replication=True), autocommit=True)


def command(connection: psycopg.Connection, text: str, meanwhile: Callable[[], object] | None = None) -> list[str]:
    """Run one replication command and return its row, empty without one; otherwise as ``ask``."""
    result = ask(connection, text, meanwhile)
    return [(result.get_value(0, n) or b"").decode() for n in range(result.nfields)] if result.ntuples else []


def ask(connection: psycopg.Connection, text: str, meanwhile: Callable[[], object] | None = None) -> pq.abc.PGresult:
    """Run one statement however long it takes; ``meanwhile`` is called about every second and may raise.

    Raises psycopg.Error with the server's words.
    """
    conn = connection.pgconn
    conn.send_query(text.encode())
    poll = select.poll()
    poll.register(conn.socket, select.POLLIN)
    while conn.is_busy():
        if poll.poll(1000):
            conn.consume_input()
        if meanwhile is not None:
            meanwhile()
    result = conn.get_result()
    if result is None or result.status not in _FINE:
        raise _refusal(result)
    while result.status != pq.ExecStatus.COPY_BOTH and conn.get_result() is not None:
        pass
    return result


_FINE = (pq.ExecStatus.COPY_BOTH, pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)


def _refusal(result: pq.abc.PGresult | None) -> psycopg.Error:
    if result is None:
        return psycopg.OperationalError("the server gave no answer")
    return psycopg.errors.error_from_result(result)


class Stream:
    """A started stream; nothing is acknowledged but by ``answer``."""

    def __init__(self, connection: psycopg.Connection, slot: str, at: int) -> None:
        self._connection = connection
        options = "proto_version '1', publication_names 'outbox', binary 'true', messages 'false', streaming 'off'"
        command(connection, f'START_REPLICATION SLOT "{slot}" LOGICAL {lsn_text(at)} ({options})')
        self._conn = connection.pgconn
        self._conn.nonblocking = 1
        self._poll = select.poll()
        self._poll.register(self._conn.socket, select.POLLIN)
        self.end = at
        """How far the server has read its WAL for us: all rows before it have been taken."""
        self.reply_wanted = False

    def wait(self, seconds: float) -> list[int]:
        """Return the sockets that have something, waiting at most so long."""
        return [socket for socket, _ in self._poll.poll(seconds * 1000)]

    def watch(self, socket: int) -> None:
        """Let ``wait`` end for this socket too."""
        self._poll.register(socket, select.POLLIN)

    def take(self, limit: int = 500) -> list[bytes]:
        """Return up to ``limit`` data messages that are here, without waiting; keepalives go into ``end``.

        Raises psycopg.OperationalError when the server has ended the stream.
        """
        conn, taken = self._conn, list[bytes]()
        read: Callable[[int], tuple[int, memoryview]] = conn.get_copy_data
        conn.consume_input()
        while len(taken) < limit:
            size, view = read(1)
            if size == 0:
                break
            if size < 0:
                self._ended()
            data = bytes(view)
            if data[0] == _DATA:
                taken.append(data)
            else:
                self._keepalive(data)
        return taken

    def answer(self, received: int, flushed: int) -> None:
        """Tell the server what has arrived, and what it may forget: never more than is stored and delivered."""
        now = time.time_ns() // 1000 - _POSTGRES_EPOCH_US
        self._conn.put_copy_data(_STATUS.pack(b"r", received, flushed, flushed, now, 0))
        self._conn.flush()
        self.reply_wanted = False

    def close(self) -> None:
        """End the session; the server frees the slot at once."""
        with suppress(psycopg.Error):
            self._connection.close()

    def _keepalive(self, data: bytes) -> None:
        if data[0] != _KEEPALIVE or len(data) != _KEEPALIVE_BODY.size + 1:
            message = f"a replication message of {len(data)} bytes that is neither data nor keepalive"
            raise StreamError(message)
        end, _, wanted = _KEEPALIVE_BODY.unpack_from(data, 1)
        self.end = max(self.end, end)
        self.reply_wanted = self.reply_wanted or bool(wanted)

    def _ended(self) -> None:
        result = self._conn.get_result()
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            raise _refusal(result)
        message = "the server ended the stream"
        raise psycopg.OperationalError(message)


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the WAL between transactions, and the commit time (microseconds since 2000) all before it have."""

    lsn: int
    committed_at: int
