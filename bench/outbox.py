"""An outbox with a backlog that can be relayed again and again: the same WAL for every relay, and the oracle."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import psycopg
from confluent_kafka import Consumer, Message, TopicPartition

from bench.parts import TOPIC
from quadrille.kafka.config import client_settings

KEYS = 1000
Place: TypeAlias = tuple[str, int, bool]
MASTER = "bench_master"
MARK = "SELECT pg_create_logical_replication_slot('bench_master', 'pgoutput')"
# A row as a service's own: three hundred bytes, all columns; a thousand keys, each counting 1, 2, 3 ...
ROW = """
INSERT INTO outbox (id, aggregatetype, aggregateid, type, sequence, payload, causationid, traceparent, parent_span)
SELECT uuidv7(), 'inventory.events', lpad(mod(n, 1000)::text, 36, 'k'), 'stock.reserved', n / 1000 + 1,
       decode(repeat(md5(n::text), 19), 'hex'), uuidv7(),
       '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00', '\\x0102030405060708'
"""
# Waiting for the disk changes nothing of what is written: only the filling does without.
FILL = f"""
DO $$ BEGIN
  SET synchronous_commit = off;
  FOR i IN 0..{{transactions}} - 1 LOOP
    {ROW} FROM generate_series({{first}} + i * {{rows}}, {{first}} + (i + 1) * {{rows}} - 1) n;
    COMMIT;
  END LOOP;
END $$"""


@dataclass(frozen=True, slots=True)
class Backlog:
    """Rows that wait in the WAL behind the master slot."""

    rows: int
    per_transaction: int


def fill(session: psycopg.Connection, backlog: Backlog, first: int = 0) -> None:
    """Write a backlog behind a new master slot."""
    drop_slot(session, MASTER)
    session.execute(MARK)
    count = backlog.rows // backlog.per_transaction
    text = FILL.format(transactions=count, rows=backlog.per_transaction, first=first)
    session.execute(text.encode())
    session.execute("CHECKPOINT")


def copy_slot(session: psycopg.Connection, name: str) -> None:
    """Have a slot of this name that begins where the backlog does."""
    drop_slot(session, name)
    session.execute("SELECT pg_copy_logical_replication_slot('bench_master', %s)", [name])


def drop_slot(session: psycopg.Connection, name: str) -> None:
    """Have no slot of this name, once its walsender has gone."""
    for _ in range(500):
        found = session.execute("SELECT active FROM pg_replication_slots WHERE slot_name = %s", [name]).fetchone()
        if found is None:
            return
        if not found[0]:
            session.execute("SELECT pg_drop_replication_slot(%s)", [name])
            return
        time.sleep(0.02)
    message = f"slot {name} is still in use"
    raise TimeoutError(message)


def walsender(session: psycopg.Connection, slot: str) -> int | None:
    """Return the pid of the server process that serves a slot, while one does."""
    found = session.execute("SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", [slot]).fetchone()
    return found[0] if found else None


@dataclass(frozen=True, slots=True)
class Read:
    """What lies on the topic between two ends, held against the outbox; stamps are seconds of the broker's clock."""

    first: float
    last: float
    wrong: list[str]


class Reader:
    """Reads a range of the topic, keys and headers, and is the oracle: each row once, in order for its key."""

    def __init__(self, bootstrap: str, topic: str = TOPIC) -> None:
        settings = client_settings(bootstrap) | {"group.id": "bench-oracle", "enable.auto.commit": False}
        self._consumer, self._topic = Consumer(settings), topic

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()

    def read(self, since: Sequence[int], until: Sequence[int]) -> list[Message]:
        """Return the records between two ends, each partition's in its order."""
        wanted = sum(until) - sum(since)
        places = [TopicPartition(self._topic, n, at) for n, at in enumerate(since) if until[n] > at]
        self._consumer.assign(places)
        found: list[Message] = []
        idle = time.monotonic() + 30
        while len(found) < wanted and time.monotonic() < idle:
            if records := self._consumer.consume(1000, 0.2):
                found += [r for r in records if r.error() is None and (r.offset() or 0) < until[r.partition() or 0]]
                idle = time.monotonic() + 30
        self._consumer.unassign()
        return found

    def judge(self, since: Sequence[int], until: Sequence[int], rows: int, first: int = 0) -> Read:
        """Return when the rows came, and what is missing, doubled or out of order among them."""
        records = self.read(since, until)
        if not records:
            return Read(0.0, 0.0, [f"0 of {rows} rows arrived"])
        stamps = [(record.timestamp()[1] or 0) / 1000 for record in records]
        return Read(min(stamps), max(stamps), verdict(map(place, records), rows, first))


def header(record: Message, name: str) -> str:
    """Return a header's text, empty where there is none."""
    value = dict(record.headers() or ()).get(name)
    return value.decode() if isinstance(value, bytes) else ""


def place(record: Message) -> Place:
    """Return a record's key, its sequence, and whether its ten headers and its payload are there."""
    headers, key = dict(record.headers() or ()), record.key()
    whole = len(headers) == 10 and len(record.value() or b"") == 304 and headers.get("id") == headers.get("ce_id")
    return key.decode() if isinstance(key, bytes) else str(key), int(headers.get("ce_sequence") or 0), whole


def verdict(places: Iterable[Place], rows: int, first: int = 0) -> list[str]:
    """Return what is wrong with rows that arrived as (key, sequence, whole), in their order: a line each kind."""
    expected = {key_of(n): first // KEYS + 1 + (n < first % KEYS) for n in range(KEYS)}
    count, faults = 0, Counter[str]()
    for key, sequence, whole in places:
        count += 1
        faults["not whole"] += not whole
        if sequence < expected[key]:
            faults["doubled"] += 1
        elif sequence > expected[key]:
            faults["out of order or after a gap"] += 1
            expected[key] = sequence + 1
        else:
            expected[key] += 1
    told = [f"{n} rows {what}" for what, n in faults.items() if n]
    return told + ([f"{count} of {rows} rows arrived"] if count != rows else [])


def key_of(number: int) -> str:
    """Return the key of a row by its number."""
    return str(number % KEYS).rjust(36, "k")
