"""One logical replication stream over psycopg's pq layer: messages in, positions out, keepalives answered in time.

Wire (PostgreSQL, "Streaming Replication Protocol"), inside CopyData, numbers big-endian::

    w  start LSN 8 | end of WAL 8 | sent 8 | pgoutput message          server to us
    k  end of WAL 8 | sent 8 | reply wanted 1                          server to us
    r  written LSN 8 | flushed LSN 8 | applied LSN 8 | time 8 | 0      us to the server
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from struct import Struct

import psycopg
from psycopg import pq

from chassis.conninfo import pinned, spoken
from chassis.pgoutput import StreamError

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
