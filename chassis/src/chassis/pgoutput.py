"""Reads PostgreSQL's pgoutput messages: whole committed transactions, rows by column name, bytes as they were stored.

Guarantee: what cannot be read exactly raises StreamError; nothing is guessed and no insert is passed over.
Wire (PostgreSQL, "Logical Replication Message Formats", protocol 1, option binary), numbers big-endian::

    B  commit LSN 8 | commit time 8 | xid 4
    R  oid 4 | namespace 0 | name 0 | identity 1 | columns 2 | per column: flags 1 | name 0 | type 4 | modifier 4
    I  oid 4 | 'N' | columns 2 | per column: 'n', or 'b' | length 4 | bytes
    C  flags 1 | commit LSN 8 | end LSN 8 | commit time 8
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from struct import Struct
from typing import NamedTuple, TypeAlias

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


class OutboxRow(NamedTuple):
    """An inserted row, each column in PostgreSQL's binary form; only ``parent_span`` may be NULL."""

    id: bytes
    aggregatetype: bytes
    aggregateid: bytes
    type: bytes
    sequence: bytes
    payload: bytes
    causationid: bytes
    traceparent: bytes
    parent_span: bytes | None
    occurred_at: bytes


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


class Decoder:
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
