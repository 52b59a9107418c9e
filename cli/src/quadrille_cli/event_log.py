"""Records of any topic, read and decoded for people: what each says, or, where it cannot be read, its bytes and why.

Nothing is committed and no group is joined: who looks changes nothing. What is read is bounded by the ends of the
partitions as they are when reading begins, and how far that came is always known.
"""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from quadrille.avro.codec import Codec, schema_id
from quadrille.avro.decoder import DecodeError
from quadrille.avro.registry import Cache, Registry, SchemaIds
from quadrille.ids import from_milliseconds, milliseconds
from quadrille.kafka.config import client_settings
from quadrille.kafka.headers import CloudEvent, read_headers, type_of
from quadrille.kafka.topics import Place, Topics
from quadrille.messages import Infrastructure
from quadrille.replay.archive import ArchivedRecord
from quadrille.values import rfc3339

if TYPE_CHECKING:
    from quadrille_cli.stack import Stack

BEAT = "canary.beat"
GROUP = "quadrille-look"
BATCH, WAIT_SECONDS, SILENCE_SECONDS = 500, 0.5, 15.0
Document = dict[str, Any]
Ranges = Mapping[Place, tuple[int, int]]


class NoTopicError(Exception):
    """There is no topic, or no partition, of this name; the text says which, and which there are."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which records are asked for: of these topics, of one key, one type or all that begin so; beats only if asked."""

    topics: Sequence[str]
    key: str = ""
    kind: str = ""
    beats: bool = False

    def wants(self, message: Message) -> bool:
        """Tell whether a record is asked for, by its key and header alone: what is not, is not decoded."""
        kind = (type_of(headers_of(message)) or b"").decode("utf-8", "backslashreplace")
        if self.kind:
            return self._of_type(kind) and self._of_key(message)
        return (kind != BEAT or self.beats) and self._of_key(message)

    def _of_type(self, kind: str) -> bool:
        return kind.startswith(self.kind) if self.kind.endswith(".") else kind == self.kind

    def _of_key(self, message: Message) -> bool:
        return not self.key or raw(message.key()) == self.key.encode()


@dataclass(slots=True)
class Reading:
    """How far a reading came: by partition the next offset, in the ranges it was to read; and what it stepped over."""

    ranges: Ranges
    at: dict[Place, int] = field(default_factory=dict)
    matching: int = 0
    beats: int = 0

    @property
    def whole(self) -> bool:
        """Whether every partition was read to the end that it had when reading began."""
        return all(self.at.get(place, since) >= upto for place, (since, upto) in self.ranges.items())

    def lines(self) -> Iterator[str]:
        """Yield, by topic, the offset read to and the one there is; the sums over its partitions."""
        for topic in sorted({name for name, _ in self.ranges}):
            mine = {place: bounds for place, bounds in self.ranges.items() if place[0] == topic}
            at = sum(max(self.at.get(place, since), since) for place, (since, _) in mine.items())
            end = sum(upto for _, upto in mine.values())
            yield f"{topic}: read to offset {at:,} of {end:,}, {len(mine)} partitions"


class EventLog:
    """The topics of one stack; ``decode`` needs its registry, reading only its broker."""

    def __init__(self, stack: Stack) -> None:
        self.bootstrap = stack.kafka_bootstrap
        self.topics = Topics(self.bootstrap)
        self.ids = SchemaIds(Registry(stack.registry_url), Cache(stack.data / "schemas" / "cli"))
        self.codec = Codec((), self.ids)

    def ranges(self, topics: Sequence[str], since: datetime | None, partition: int = -1, offset: int = -1) -> Ranges:
        """Return what there is to read of each partition, from a time or an offset on; raises NoTopicError."""
        places = [place for topic in topics for place in self._places(topic) if partition in (-1, place[1])]
        if not places:
            message = f"{', '.join(topics)} has no partition {partition}"
            raise NoTopicError(message)
        bounds = self.topics.watermarks(places)
        if offset >= 0:
            return {place: (min(max(offset, low), high), high) for place, (low, high) in bounds.items()}
        if since is None:
            return bounds
        found = self.topics.since(places, milliseconds(since))
        return {p: (found[p][0] if found[p][0] >= 0 else high, high) for p, (_, high) in bounds.items()}

    def _places(self, topic: str) -> list[Place]:
        if places := self.topics.places(topic):
            return places
        message = f"there is no topic {topic}"
        raise NoTopicError(message)

    def read(self, reading: Reading, selection: Selection) -> Iterator[Message]:
        """Yield the records asked for, partition after partition as they come, and note how far it is.

        It ends at the ends, or when the broker says nothing for long: then the reading is not ``whole``.
        """
        open_ = {place: bounds for place, bounds in reading.ranges.items() if bounds[0] < bounds[1]}
        reading.at = {place: since for place, (since, _) in reading.ranges.items()}
        consumer, heard = self._consumer(), time.monotonic()
        try:
            consumer.assign([TopicPartition(*place, since) for place, (since, _) in open_.items()])
            while not reading.whole and time.monotonic() - heard < SILENCE_SECONDS:
                for message in consumer.consume(BATCH, WAIT_SECONDS):
                    heard = time.monotonic()
                    if self._within(message, reading) and self._counted(message, reading, selection):
                        yield message
        finally:
            consumer.close()

    def _within(self, message: Message, reading: Reading) -> bool:
        """Note where a partition is; tell whether the message is a record before its end."""
        place = message.topic() or "", message.partition() or 0
        if (error := message.error()) is not None:
            if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - so named
                upto = reading.ranges[place][1]
                reading.at[place] = min(upto, max(reading.at[place], message.offset() or 0))
            return False
        upto = reading.ranges[place][1]
        reading.at[place] = min(upto, (message.offset() or 0) + 1)
        return (message.offset() or 0) < upto

    def _counted(self, message: Message, reading: Reading, selection: Selection) -> bool:
        wanted = selection.wants(message)
        reading.matching += wanted
        if not wanted and not selection.kind and type_of(headers_of(message)) == BEAT.encode():
            reading.beats += 1
        return wanted

    def newest(self, reading: Reading, selection: Selection, limit: int) -> list[Message]:
        """Return the newest records asked for, by time."""
        return heapq.nlargest(limit, self.read(reading, selection), key=moment)[::-1]

    def follow(self, selection: Selection, ranges: Ranges) -> Iterator[Message]:
        """Yield the records asked for from the beginning of the ranges on, for ever."""
        consumer = self._consumer()
        try:
            consumer.assign([TopicPartition(*place, since) for place, (since, _) in ranges.items()])
            while True:
                for message in consumer.consume(BATCH, WAIT_SECONDS):
                    if message.error() is None and selection.wants(message):
                        yield message
        finally:
            consumer.close()

    def _consumer(self) -> Consumer:
        told = {"group.id": GROUP, "enable.auto.commit": False, "enable.partition.eof": True}
        return Consumer(client_settings(self.bootstrap) | told)

    def document(self, message: Message) -> Document:
        """Return a record as every interface shows it; what cannot be decoded is told as bytes, with the reason."""
        return document_of(lying(message), self.codec)


def document_of(record: ArchivedRecord, codec: Codec) -> Document:
    """Return a record of a topic or an archive as every interface shows it, read by a codec."""
    value, headers = record.value or b"", [(name, held or b"") for name, held in record.headers]
    found, key = read_headers(headers), printable(record.key or b"")
    shown: Document = {
        "event_id": str(found.id) if found.id else None, "type": found.type and printable(found.type.encode()),
        "source": None, "order_id": key, "sequence": None, "time": rfc3339(record.at),
        "causation_id": None, "correlation_id": key, "trace_id": (found.traceparent or "")[3:35] or None,
        "topic": record.topic, "partition": record.partition, "offset": record.offset,
        "schema_id": None, "body": None,
    }  # fmt: skip
    reason = None
    if isinstance(found, CloudEvent):
        shown |= {"source": found.source, "sequence": found.sequence, "time": rfc3339(found.time)}
        shown["causation_id"] = str(found.causation)
    else:
        reason = found.reason if headers else "it has no headers"
    try:
        shown["schema_id"] = schema_id(value)
        shown["body"] = json.loads(json.dumps(codec.look(value)[1], default=_plain))
    except (DecodeError, Infrastructure) as trouble:
        reason = "; ".join(filter(None, (reason, str(trouble) or type(trouble).__name__)))
    if reason:
        shown["undecodable"] = {"reason": reason, "size": len(value), "bytes": value.hex()}
    return shown


def lying(message: Message) -> ArchivedRecord:
    """Return a record as it lies on its topic."""
    at, topic, partition, offset = moment(message)
    headers = [(name, None if held is None else raw(held)) for name, held in message.headers() or ()]  # type: ignore[str-unpack]  # pairs, as librdkafka gives them
    key, value = (None if part is None else raw(part) for part in (message.key(), message.value()))
    return ArchivedRecord(topic, partition, offset, at, key, value, headers)


def moment(message: Message) -> tuple[datetime, str, int, int]:
    """Return a record's time on its topic, and its place: what it is sorted by."""
    _, at = message.timestamp()
    return from_milliseconds(max(at, 0)), message.topic() or "", message.partition() or 0, message.offset() or 0


def headers_of(message: Message) -> list[tuple[str, bytes | None]]:
    """Return a record's headers as bytes."""
    return [(name, raw(value)) for name, value in message.headers() or ()]  # type: ignore[str-unpack]  # pairs, as librdkafka gives them


def raw(value: object) -> bytes:
    """Return a key, value or header as bytes; none is no bytes."""
    return value if isinstance(value, bytes) else str(value).encode() if value is not None else b""


def printable(value: bytes) -> str:
    """Return bytes as text that no terminal acts on: what is no letter of ours is escaped."""
    text = value.decode("utf-8", "backslashreplace")
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return rfc3339(value if value.tzinfo else value.replace(tzinfo=UTC))
    return value.hex() if isinstance(value, bytes) else str(value)
