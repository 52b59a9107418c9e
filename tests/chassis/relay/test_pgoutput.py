"""What the decoder promises of any stream of pgoutput messages, made by a generator in step with the protocol."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quadrille.kafka.headers import OutboxRow
from quadrille.relay.replication import Begin, Commit, Described, PgOutputDecoder, StreamError

ROOT, LEAF = 16_432, 16_440
COLUMNS = OutboxRow._fields


def begin(lsn: int, time: int = 5) -> bytes:
    return struct.pack(">cqqi", b"B", lsn, time, 77)


def commit(lsn: int, time: int = 5) -> bytes:
    return struct.pack(">cBqqq", b"C", 0, lsn, lsn + 48, time)


def relation(oid: int, name: str, columns: tuple[str, ...]) -> bytes:
    listed = b"".join(b"\0" + c.encode() + b"\0" + struct.pack(">ii", 25, -1) for c in columns)
    return struct.pack(">cI", b"R", oid) + f"public\0{name}\0d".encode() + struct.pack(">H", len(columns)) + listed


def value(data: bytes | None) -> bytes:
    return b"n" if data is None else b"b" + struct.pack(">I", len(data)) + data


def insert(oid: int, values: list[bytes | None]) -> bytes:
    return struct.pack(">cIcH", b"I", oid, b"N", len(values)) + b"".join(map(value, values))


def in_order(row: OutboxRow, columns: tuple[str, ...]) -> list[bytes | None]:
    return [getattr(row, c, b"of a column we do not read") for c in columns]


raw = st.binary(max_size=40)
rows = st.builds(OutboxRow, raw, raw, raw, raw, raw, raw, raw, raw, st.none() | raw, raw)


@dataclass
class Wal:
    """A stream and what it says."""

    messages: list[bytes]
    emitted: list[OutboxRow | Begin | Commit | Described]


@st.composite
def wals(draw: st.DrawFn) -> Wal:
    """Transactions of any size at any LSN, columns in any place, leaves announcing themselves, in between noise."""
    wal, columns = Wal([], []), None
    for lsn in draw(st.lists(st.integers(0, 2**62), max_size=6)):
        wal.messages.append(begin(lsn))
        wal.emitted.append(Begin(lsn, 5))
        for row in draw(st.lists(rows, max_size=4)):
            if columns is None or draw(st.booleans()):
                columns = tuple(draw(st.permutations([*COLUMNS, *draw(st.sets(st.sampled_from("xyz")))])))
                wal.messages.append(relation(ROOT, "outbox", columns))
                wal.emitted.append(Described())
            if draw(st.booleans()):
                wal.messages.append(relation(LEAF, "outbox_20261121", tuple(draw(st.permutations(COLUMNS)))))
            if draw(st.booleans()):
                wal.messages.append(draw(st.sampled_from([b"O" + bytes(9) + b"x\0", b"Y" + bytes(4) + b"a\0b\0"])))
            wal.messages.append(insert(ROOT, in_order(row, columns)))
            wal.emitted.append(row)
        wal.messages.append(commit(lsn))
        wal.emitted.append(Commit(lsn, lsn + 48, 5))
    return wal


@given(wals(), st.integers(0, 30))
def test_a_stream_is_read_as_it_was_written(wal: Wal, at: int) -> None:
    """Each row comes out by column name, byte for byte, between its begin and commit, whatever stands around it."""
    decoder = PgOutputDecoder()

    emitted = [decoder.read(bytes(at) + message, at) for message in wal.messages]

    assert [s for s in emitted if s is not None] == wal.emitted
    assert not decoder.inside


@given(wals().filter(lambda w: w.messages), st.data())
def test_a_message_cut_short_or_too_long_is_refused(wal: Wal, data: st.DataObject) -> None:
    """No prefix of a message, and no message with bytes left over, passes for a message."""
    decoder = PgOutputDecoder()
    broken = data.draw(st.integers(0, len(wal.messages) - 1))
    for message in wal.messages[:broken]:
        decoder.read(message)
    whole = wal.messages[broken]
    if whole[:1] in b"OY":
        return  # these two say nothing to us and are not looked into
    wrong = whole[: data.draw(st.integers(0, len(whole) - 1))] if data.draw(st.booleans()) else whole + b"\0"

    with pytest.raises(StreamError):
        decoder.read(wrong)


def opened() -> PgOutputDecoder:
    decoder = PgOutputDecoder()
    decoder.read(begin(10))
    decoder.read(relation(ROOT, "outbox", COLUMNS))
    return decoder


ROW = OutboxRow(*[b"x"] * 10)
GOOD = insert(ROOT, list(ROW))


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (begin(11), "begins inside another"),
        (commit(11), "does not match its begin"),
        (insert(LEAF, list(ROW)), "not the outbox's"),
        (insert(ROOT, [*ROW, b"x"]), "11 values for 10 columns"),
        (insert(ROOT, [None, *ROW[1:]]), "a NULL"),
        (insert(ROOT, [*ROW[:8], None, None]), "a NULL"),
        (GOOD.replace(b"b\0", b"t\0", 1), "only binary"),
        (GOOD.replace(b"b\0", b"u\0", 1), "only binary"),
        (relation(ROOT, "outbox", COLUMNS[1:]), "no column id"),
        (b"U" + GOOD[1:], "inserts only"),
        (b"T" + bytes(9), "inserts only"),
        (b"S" + bytes(5), "inserts only"),
        (b"", "cut short"),
    ],
)
def test_what_the_publication_cannot_have_sent_is_refused(message: bytes, why: str) -> None:
    """An insert elsewhere, a NULL, an update, a streamed block: refused with the reason, never passed over."""
    with pytest.raises(StreamError, match=why):
        opened().read(message)


def test_a_row_outside_a_transaction_is_refused() -> None:
    """An insert after its commit belongs to nothing and stops the stream."""
    decoder = opened()
    assert decoder.read(GOOD) == ROW
    decoder.read(commit(10))

    with pytest.raises(StreamError, match="outside a transaction"):
        decoder.read(GOOD)
