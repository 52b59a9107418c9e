"""Restored databases: one that is older than its own topics is noticed, and relays nothing until a person has spoken.

Each service counts its beats, a beat every two seconds, in its database and on its topic. A beat that lies on the topic
and that the database has never said was said before the database was set back: with it every fact since has no row.
Looked for whenever the server has been started, before anything is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from typing import LiteralString
from uuid import UUID

import structlog
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from psycopg.types.json import Jsonb

from quadrille.ids import uuid7
from quadrille.kafka.config import client_settings
from quadrille.kafka.topics import Place, Topics
from quadrille.observability.readiness import NotReadyError
from quadrille.relay.held import settled
from quadrille.relay.session import RelaySession
from quadrille.relay.target import PARTITIONS, Target
from quadrille.system_messages import CanaryBeat

MARGIN_SECONDS = 10
"""A record's time is its relay's clock, that of a beat the database's: so far apart they may be."""
SAMPLE = 100
BATCH = 1_000
_BEAT = CanaryBeat.type.encode()
_READ_SECONDS = 0.2
_MAGIC = 5
"""Bytes before the Avro of a payload: a zero, and the schema's id."""
_TO_LOOK: LiteralString = """
SELECT pg_postmaster_start_time(), coalesce((SELECT looked_for FROM relay_progress) = pg_postmaster_start_time(), false)
"""
_LOOKED: LiteralString = "UPDATE relay_progress SET looked_for = %s"
# Without a beat of its own, what the database knows of itself is how far it was relayed.
_SAID: LiteralString = """
SELECT coalesce(max(number), 0), coalesce(max(said_at), (SELECT committed_at FROM relay_progress), to_timestamp(0))
  FROM canary WHERE source = %s AND number > 0"""
_OPEN: LiteralString = "SELECT detail FROM relay_restore WHERE ended_at IS NULL"
_ENDS: LiteralString = "SELECT ends FROM relay_restore WHERE ended_at IS NOT NULL ORDER BY ended_at"
# A row's own time finds it by its block; a second each way, for who writes it in another form.
_LACKS: LiteralString = """
SELECT u.id::text FROM unnest(%s::uuid[], %s::timestamptz[]) u(id, at)
 WHERE NOT EXISTS (SELECT FROM outbox o WHERE o.id = u.id
                      AND o.occurred_at BETWEEN u.at - interval '1 s' AND u.at + interval '1 s')"""
_FOUND: LiteralString = """
INSERT INTO relay_restore (id, detail, facts, sample, ends) VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"""
log = structlog.get_logger(__name__)


class RestoredError(NotReadyError):
    """The database is older than what it has published: a person must say what is to become of that."""


def beat_number(payload: bytes) -> int:
    """Return the number of a beat: Avro of (service, number, said_at), of which only the first two are read.

    Raises IndexError for bytes that end too soon.
    """
    size, at = _varint(payload, _MAGIC)
    return _varint(payload, at + size)[0]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number in Avro's zigzag form, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:  # noqa: PLR2004 - the last byte's bit
            return (value >> 1) ^ -(value & 1), at


@dataclass(slots=True)
class Loss:
    """What lies on the topics and has no row: how many, the first of them, and where each partition ended."""

    facts: int = 0
    beats: int = 0
    sample: list[dict[str, str]] = field(default_factory=list)
    ends: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RestoreCheck:
    """Looks whether a service's database has forgotten what it published."""

    service: str
    bootstrap: str
    topics: Sequence[str]

    def look(self, keeper: RelaySession, target: Target, alive: Callable[[], None]) -> datetime | None:
        """Raise RestoredError if it has; return which start of the server this was for, None if it was looked at.

        ``alive`` is called all the while and may raise.
        """
        if (row := keeper.connection.execute(_OPEN).fetchone()) is not None:
            raise RestoredError(row[0])
        row = keeper.connection.execute(_TO_LOOK).fetchone()
        started: datetime | None = row[0] if row else None
        if row is None or row[1]:
            return None
        settled(keeper, alive)
        [(number, said_at)] = keeper.connection.execute(_SAID, [self.service]).fetchall()
        known = [ends for (ends,) in keeper.connection.execute(_ENDS)]
        topics = Topics(self.bootstrap)
        try:
            spans = self._spans(topics, target, said_at, known)
            if self._forgotten(spans, number, alive):
                self._stop(keeper, target, spans, alive)
        except (KafkaException, TimeoutError) as away:
            message = f"Kafka at {self.bootstrap} does not tell what lies on the topics: {type(away).__name__}"
            raise NotReadyError(message) from None
        return started

    @staticmethod
    def looked(keeper: RelaySession, started: datetime | None) -> None:
        """Note that it was looked for a start of the server."""
        if started is not None:
            keeper.connection.execute(_LOOKED, [started])

    def _spans(
        self, topics: Topics, target: Target, since: datetime, known: Sequence[Mapping[str, Mapping[str, int]]]
    ) -> dict[Place, tuple[int, int]]:
        """Return what to read of each partition of our own topics: all since a time that no person has spoken of."""
        own = [name for name in self.topics if name.startswith(f"{self.service}.")]
        places = [(name, number) for name in own for number in range(PARTITIONS)]
        bounds = topics.watermarks(places)
        firsts = topics.since(places, max(0, int((since.timestamp() - MARGIN_SECONDS) * 1000)))
        spans = dict[Place, tuple[int, int]]()
        for place, (low, high) in bounds.items():
            first = firsts[place][0]
            ended = [ends.get(target.topics[place[0]], {}).get(str(place[1]), 0) for ends in known]
            begin = max(low, high if first < 0 else first, *ended)
            if begin < high:
                spans[place] = begin, high
        return spans

    def _forgotten(self, spans: Mapping[Place, tuple[int, int]], number: int, alive: Callable[[], None]) -> bool:
        """Tell whether a beat lies on the topic that the database has not said."""
        ours = {place: span for place, span in spans.items() if place[0] == f"{self.service}.events"}
        return any(
            beat_of(record) > number for record in self._read(ours, alive) if _header(record, "ce_type") == _BEAT
        )

    def _stop(
        self, keeper: RelaySession, target: Target, spans: Mapping[Place, tuple[int, int]], alive: Callable[[], None]
    ) -> None:
        """Write down what the database lacks, and raise RestoredError."""
        loss = Loss()
        for (name, partition), (_, high) in spans.items():
            loss.ends.setdefault(target.topics[name], {})[str(partition)] = high
        batch: list[Message] = []
        for record in self._read(spans, alive):
            batch.append(record)
            if len(batch) >= BATCH:
                self._lacking(keeper, batch, loss)
                batch = []
        self._lacking(keeper, batch, loss)
        detail = (
            f"restored: the database is older than its topics: {loss.facts} facts and {loss.beats} beats lie there "
            "that it has no row of; nothing is sent, and no intent carried out, until a person has spoken: "
            "quadrille relay restore, see docs/troubleshooting.md"
        )
        keeper.connection.execute(_FOUND, [uuid7(), detail, loss.facts, Jsonb(loss.sample), Jsonb(loss.ends)])
        log.critical("relay.older_than_its_topics", rows=loss.facts, reason=detail)
        raise RestoredError(detail)

    @staticmethod
    def _lacking(keeper: RelaySession, records: Sequence[Message], loss: Loss) -> None:
        """Count the records that the outbox does not have; one that is none of ours is none of its business."""
        asked = {one.id: one for record in records if (one := _Fact.of(record)) is not None}
        rows = keeper.connection.execute(_LACKS, [list(asked), [one.at for one in asked.values()]]).fetchall()
        for (identity,) in rows:
            fact = asked[UUID(identity)]
            if fact.type == CanaryBeat.type:
                loss.beats += 1
                continue
            loss.facts += 1
            if len(loss.sample) < SAMPLE:
                loss.sample.append({"id": identity, "key": fact.key, "type": fact.type, "place": fact.place})

    def _read(self, spans: Mapping[Place, tuple[int, int]], alive: Callable[[], None]) -> Iterator[Message]:
        """Yield the records of offset ranges."""
        left = {place: high for place, (_, high) in spans.items()}
        settings = {**client_settings(self.bootstrap), "group.id": "relay", "enable.auto.commit": False}
        with closing(Consumer(settings)) as consumer:
            consumer.assign([TopicPartition(*place, begin) for place, (begin, _) in spans.items()])
            while left:
                for record in consumer.consume(BATCH, _READ_SECONDS):
                    if record.error() is not None:
                        raise KafkaException(record.error())
                    place, at = (str(record.topic()), int(record.partition() or 0)), int(record.offset() or 0)
                    if place in left and at < left[place]:
                        yield record
                    if place in left and at + 1 >= left[place]:
                        del left[place]
                alive()


@dataclass(frozen=True, slots=True)
class _Fact:
    id: UUID
    at: datetime
    key: str
    type: str
    place: str

    @classmethod
    def of(cls, record: Message) -> _Fact | None:
        """Return what a record of a relay says of itself; None if it is no relay's."""
        try:
            key = record.key() or b""
            return cls(
                UUID(_header(record, "id").decode()), datetime.fromisoformat(_header(record, "ce_time").decode()),
                (key if isinstance(key, str) else key.decode("utf-8", "replace"))[:64],
                _header(record, "ce_type").decode(), f"{record.topic()}[{record.partition()}] at {record.offset()}",
            )  # fmt: skip
        except ValueError:
            return None


def beat_of(record: Message) -> int:
    """Return the number of the beat that a record holds, 0 for one that cannot be read."""
    value = record.value() or b""
    try:
        return beat_number(value if isinstance(value, bytes) else value.encode())
    except IndexError:
        return 0


def _header(record: Message, name: str) -> bytes:
    found = dict(record.headers() or ()).get(name)
    return found.encode() if isinstance(found, str) else found or b""
