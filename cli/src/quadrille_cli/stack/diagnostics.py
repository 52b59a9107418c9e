"""What a stack held at one moment: each service's chassis tables and the ends of the topics, as plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from quadrille.consumer.deserializer import HEADERS_OF
from quadrille.db.conninfo import pinned
from quadrille_cli.stack import topics

if TYPE_CHECKING:
    from quadrille_cli.stack import Stack

ROWS = 15
PER_PARTITION = 2
FIRST = OffsetSpec.earliest()  # type: ignore[no-untyped-call] # the client's own signatures are partly bare
LAST = OffsetSpec.latest()  # type: ignore[no-untyped-call]
QUERIES = {
    "outbox": "SELECT aggregatetype, aggregateid, type, sequence, id FROM outbox ORDER BY occurred_at DESC",
    "inbox": "SELECT event_id FROM inbox ORDER BY event_id DESC",
    "position": "SELECT topic, partition, next_offset FROM position WHERE next_offset > 0 ORDER BY topic, partition",
    "task": "SELECT id, key, type, due, leased_until, attempts, error FROM task ORDER BY due",
    "parked": "SELECT id, line, place, state, type, error_class, error FROM parked ORDER BY place DESC",
    "relay_progress": "SELECT commit_lsn, committed_at, stopped FROM relay_progress",
}


def of(stack: Stack) -> str:
    """Everything worth reading after a failure, newest first where there is an order."""
    lines = [f"dead: {name}" for name, process in stack.processes.items() if not process.running]
    for service, cluster in stack.clusters.items():
        lines += _tables(service, cluster.url("postgres"))
    if "kafka" in stack.parts:
        lines += _records(stack.kafka_bootstrap)
    lines.append(f"logs: {stack.logs}")
    return "\n".join(lines)


def _tables(service: str, url: str) -> list[str]:
    lines = []
    try:
        with psycopg.connect(pinned(url, connect_timeout=2), autocommit=True) as connection:
            for table, query in QUERIES.items():
                lines += [f"{service}.{table}", *_rows(connection, query)]
    except psycopg.OperationalError as refused:
        lines.append(f"{service}: {str(refused).strip()}")
    return lines


def _rows(connection: psycopg.Connection[tuple[Any, ...]], query: str) -> list[str]:
    try:
        rows = connection.execute(f"{query} LIMIT {ROWS}".encode()).fetchall()
    except psycopg.errors.UndefinedTable:
        return ["  (no such table)"]
    return ["  " + "  ".join(str(value) for value in row) for row in rows]


def _records(bootstrap: str) -> list[str]:
    """The last records of every partition of every declared topic."""
    settings: dict[str, str | int | float | bool] = {"bootstrap.servers": bootstrap, "log_level": 0}
    try:
        starts, waiting = _ends(AdminClient(settings))
    except KafkaException as gone:
        return [f"kafka: {gone}"]
    if not starts:
        return []
    consumer = Consumer({**settings, "group.id": "evidence", "enable.auto.commit": False})
    consumer.assign(starts)
    found = [message for message in consumer.consume(waiting, timeout=3) if message.error() is None]
    consumer.close()
    return [_line(message) for message in sorted(found, key=lambda m: m.timestamp()[1])]


def _ends(admin: AdminClient) -> tuple[list[TopicPartition], int]:
    """Where to read from to see the last few records of each partition, and how many that are."""
    there = admin.list_topics(timeout=3).topics
    every = [TopicPartition(t.name, n) for t in topics.TOPICS if t.name in there for n in range(t.partitions)]
    low = {p: f.result(timeout=5).offset for p, f in admin.list_offsets(dict.fromkeys(every, FIRST)).items()}
    high = {p: f.result(timeout=5).offset for p, f in admin.list_offsets(dict.fromkeys(every, LAST)).items()}
    begin = {p: max(low[p], high[p] - PER_PARTITION) for p in every if high[p] > low[p]}
    return [TopicPartition(p.topic, p.partition, o) for p, o in begin.items()], sum(high[p] - begin[p] for p in begin)


def _line(message: Message) -> str:
    try:
        headers = dict(HEADERS_OF(message) or ())
    except (SystemError, UnicodeDecodeError):  # a header whose name is no text
        headers = {}
    told = " ".join(_text(headers.get(name)) for name in ("ce_type", "ce_sequence", "id"))
    key = _text(message.key())
    return f"{message.topic()}/{message.partition()}@{message.offset()}  {key}  {told}"


def _text(value: str | bytes | None) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or "-"
