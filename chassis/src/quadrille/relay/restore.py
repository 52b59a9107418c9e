"""Restored databases: one that is older than its own topics is noticed, and relays nothing until a person has spoken.

Each service counts its beats, a beat every two seconds, in its database and on its topic. A beat that lies on the topic
and that the database has never said was said before the database was set back: with it every fact since has no row.
Looked for whenever the server has been started, before anything is sent. Then a person has the facts read back into the
outbox, or declares them lost: either way no number of a stream that lies on a topic is given a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import LiteralString
from uuid import UUID

import psycopg
import structlog
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from psycopg import sql
from psycopg.types.json import Jsonb

from quadrille.db.connection import BoundedConnection
from quadrille.ids import uuid7
from quadrille.kafka.config import client_settings
from quadrille.kafka.headers import MalformedHeadersError, read_headers
from quadrille.kafka.topics import Place, Topics
from quadrille.observability.readiness import NotReadyError
from quadrille.relay.held import settled
from quadrille.relay.replication import ask, conninfo
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
_OPEN: LiteralString = """
SELECT id, detail, how, begins, ends, actor, reason FROM relay_restore WHERE ended_at IS NULL"""
_ENDS: LiteralString = "SELECT ends FROM relay_restore WHERE ended_at IS NOT NULL ORDER BY ended_at"
# A row's own time finds it by its block; a second each way, for who writes it in another form. One that was said again
# since, its cause handled once more, has a time of now.
_LACKS: LiteralString = """
SELECT u.id::text FROM unnest(%s::uuid[], %s::timestamptz[]) u(id, at)
 WHERE NOT EXISTS (SELECT FROM outbox o WHERE o.id = u.id
                      AND o.occurred_at BETWEEN u.at - interval '1 s' AND u.at + interval '1 s')
   AND NOT EXISTS (SELECT FROM outbox o WHERE o.id = u.id AND o.occurred_at >= pg_postmaster_start_time())"""
_FOUND: LiteralString = """
INSERT INTO relay_restore (id, detail, facts, of_commands, sample, begins, ends) VALUES (%s, %s, %s, %s, %s, %s, %s)
ON CONFLICT DO NOTHING"""
_STAGE: LiteralString = """
INSERT INTO topic_record SELECT * FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::bigint[],
  %s::bytea[], %s::uuid[], %s::text[], %s::timestamptz[]) ON CONFLICT DO NOTHING"""
_NUMBER: LiteralString = "SELECT lacked::text, changed::text FROM relay_restored({}, {}, {})"
_END: LiteralString = "UPDATE relay_restore SET ended_at = clock_timestamp(), facts = %s WHERE id = %s"
# What was numbered anew goes out under the numbers it has now, not under those that the log tells.
_RESCAN: LiteralString = "UPDATE relay_progress SET rescan = coalesce(rescan, 'a database that was set back')"
_TELL: LiteralString = """
INSERT INTO relay_notice (id, kind, detail, since_at) VALUES (%s, 'RESTORED', %s, clock_timestamp())"""
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
    of_commands: int = 0
    """Of these, how many were said for a command: no topic has it, so it is not handled again."""
    beats: int = 0
    sample: list[dict[str, str]] = field(default_factory=list)
    begins: dict[str, dict[str, int]] = field(default_factory=dict)
    ends: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RestoreCheck:
    """Looks whether a service's database has forgotten what it published."""

    service: str
    dsn: str
    bootstrap: str
    topics: Sequence[str]

    def look(self, keeper: RelaySession, target: Target, alive: Callable[[], None]) -> datetime | None:
        """Raise RestoredError if it has; return which start of the server this was for, None if it was looked at.

        What a person has said is to become of it is done first. ``alive`` is called all the while and may raise.
        """
        if (row := keeper.connection.execute(_OPEN).fetchone()) is not None:
            word = _Word(*row)
            if word.how is None:
                raise RestoredError(word.detail)
            with self._asking_kafka():
                self._heed(word, target, alive)
        row = keeper.connection.execute(_TO_LOOK).fetchone()
        started: datetime | None = row[0] if row else None
        if row is None or row[1]:
            return None
        settled(keeper, alive)
        [(number, said_at)] = keeper.connection.execute(_SAID, [self.service]).fetchall()
        known = [ends for (ends,) in keeper.connection.execute(_ENDS)]
        with self._asking_kafka():
            spans = self._spans(Topics(self.bootstrap), target, said_at, known)
            if self._forgotten(spans, number, alive):
                self._stop(keeper, target, spans, alive)
        return started

    @contextmanager
    def _asking_kafka(self) -> Iterator[None]:
        """Raise NotReadyError for what Kafka does not tell."""
        try:
            yield
        except (KafkaException, TimeoutError) as away:
            message = f"Kafka at {self.bootstrap} does not tell what lies on the topics: {type(away).__name__}"
            raise NotReadyError(message) from None

    @staticmethod
    def looked(keeper: RelaySession, started: datetime | None) -> None:
        """Note that it was looked for a start of the server."""
        if started is not None:
            keeper.connection.execute(_LOOKED, [started])

    def _spans(
        self, topics: Topics, target: Target, since: datetime, known: Sequence[Mapping[str, Mapping[str, int]]]
    ) -> dict[Place, tuple[int, int]]:
        """Return what to read of each partition of the topics we write: all since a time no person has spoken of."""
        places = [(name, number) for name in self.topics for number in range(PARTITIONS)]
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
        for (name, partition), (low, high) in spans.items():
            loss.begins.setdefault(target.topics[name], {})[str(partition)] = low
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
        found = [loss.facts, loss.of_commands, Jsonb(loss.sample), Jsonb(loss.begins), Jsonb(loss.ends)]
        keeper.connection.execute(_FOUND, [uuid7(), detail, *found])
        log.critical("relay.older_than_its_topics", rows=loss.facts, reason=detail)
        raise RestoredError(detail)

    def _heed(self, word: _Word, target: Target, alive: Callable[[], None]) -> None:
        """Do with what lies on the topics as a person has said, in one transaction: a relay that ends begins anew."""
        with (
            closing(BoundedConnection.connect(conninfo(self.dsn), autocommit=True)) as session,
            session.transaction(),
        ):
            beat = self._stage(session, self._spoken_of(word, target), alive)
            values = [self.service, beat, word.how == "read-back"]
            asked = sql.SQL(_NUMBER).format(*(sql.Literal(value) for value in values))
            result = ask(session, asked.as_string(session), alive)
            facts, changed = (int(result.get_value(0, column) or b"0") for column in (0, 1))
            what = "had {} facts read back" if word.how == "read-back" else "declared {} facts lost"
            says = f"{word.actor} {what.format(facts)} ({word.reason}); their list: quadrille relay restore"
            session.execute(_TELL, [uuid7(), says[:500]])
            session.execute(_END, [facts, word.id])
            if changed:
                session.execute(_RESCAN)
        log.warning("relay.restore_ended", rows=facts, reason=says)

    def _stage(
        self, session: psycopg.Connection, spans: Mapping[Place, tuple[int, int]], alive: Callable[[], None]
    ) -> int:
        """Put our records of these offset ranges before the database; return the highest beat among them."""
        highest, batch = 0, list[_Fact]()
        for record in self._read(spans, alive):
            if (fact := _Fact.of(record, self.service)) is None:
                continue
            if fact.type == CanaryBeat.type:
                highest = max(highest, beat_of(record))
            batch.append(fact)
            if len(batch) >= BATCH:
                _put(session, batch)
                batch = []
        _put(session, batch)
        return highest

    def _spoken_of(self, word: _Word, target: Target) -> dict[Place, tuple[int, int]]:
        """Return what to read again: what was read when it was found, as far as retention has left it."""
        ours = [name for name in self.topics if target.topics[name] in word.ends]
        ends = {(name, int(n)): end for name in ours for n, end in word.ends[target.topics[name]].items()}
        bounds = Topics(self.bootstrap).watermarks(list(ends))
        spans = dict[Place, tuple[int, int]]()
        for (name, number), end in ends.items():
            low, high = bounds[name, number]
            begin = max(low, word.begins.get(target.topics[name], {}).get(str(number), low))
            if begin < min(end, high):
                spans[name, number] = begin, min(end, high)
        return spans

    def _lacking(self, keeper: RelaySession, records: Sequence[Message], loss: Loss) -> None:
        """Count the records that the outbox does not have; one that is none of ours is none of its business."""
        asked = {one.id: one for record in records if (one := _Fact.of(record, self.service)) is not None}
        rows = keeper.connection.execute(_LACKS, [list(asked), [one.at for one in asked.values()]]).fetchall()
        for (identity,) in rows:
            fact = asked[UUID(identity)]
            if fact.type == CanaryBeat.type:
                loss.beats += 1
                continue
            loss.facts += 1
            loss.of_commands += fact.of_command
            if len(loss.sample) < SAMPLE:
                loss.sample.append({"id": identity, "key": fact.key[:64], "type": fact.type, "place": fact.place})

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
class _Word:
    """A restore that is not ended, and what a person has said of it: ``how`` is None until then."""

    id: UUID
    detail: str
    how: str | None
    begins: Mapping[str, Mapping[str, int]]
    ends: Mapping[str, Mapping[str, int]]
    actor: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class _Fact:
    id: UUID
    topic: str
    key: str
    type: str
    sequence: int
    payload: bytes
    causation: UUID
    traceparent: str
    at: datetime
    place: str

    @property
    def of_command(self) -> bool:
        """Whether a command caused it: those alone have an id that follows from nothing."""
        return self.causation.version == 7  # noqa: PLR2004 - of RFC 9562

    @classmethod
    def of(cls, record: Message, service: str) -> _Fact | None:
        """Return what a record of a service's relay says of itself; None if it is another's, or no relay's."""
        found = dict(record.headers() or ()).items()
        told = read_headers([(name, value.encode() if isinstance(value, str) else value) for name, value in found])
        if isinstance(told, MalformedHeadersError) or told.source != f"quadrille/{service}":
            return None
        topic, key, value = str(record.topic()), record.key() or b"", record.value() or b""
        return cls(
            told.id, topic, key if isinstance(key, str) else key.decode("utf-8", "replace"), told.type, told.sequence,
            value.encode() if isinstance(value, str) else value, told.causation, told.traceparent or "", told.time,
            f"{topic}[{record.partition()}] at {record.offset()}",
        )  # fmt: skip


def _put(session: psycopg.Connection, facts: Sequence[_Fact]) -> None:
    rows = [(f.id, f.topic, f.key, f.type, f.sequence, f.payload, f.causation, f.traceparent, f.at) for f in facts]
    if rows:
        session.execute(_STAGE, [list(column) for column in zip(*rows, strict=True)])


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
