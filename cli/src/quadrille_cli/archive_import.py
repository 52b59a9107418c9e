"""Archives put back: their records written to the topics of another cluster, each partition as it lay, or nothing.

What a topic holds already is compared first: it is nothing, or the beginning of what the archive has, as a run that was
cut short leaves it; then only the rest is written. Heartbeats stay away: they say that somebody lived then.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from confluent_kafka import KafkaError, Message, Producer

from quadrille.avro import schemas
from quadrille.avro.codec import schema_id
from quadrille.avro.decoder import DecodeError
from quadrille.avro.registry import Registry
from quadrille.avro.schemas import Schema, UnsafeSchemaError
from quadrille.ids import milliseconds
from quadrille.kafka.config import producer_settings
from quadrille.kafka.headers import type_of
from quadrille.kafka.topics import Place
from quadrille.replay.archive import Archive, ArchivedRecord, ArchiveError
from quadrille.values import rfc3339
from quadrille_cli.event_log import BEAT, EventLog, Reading, Selection, headers_of, lying
from quadrille_cli.schema import lifecycle
from quadrille_cli.stack import topics as declared

NO_ID = 0xFFFF_FFFF
"""What no registry has given a schema that it lacks: no record here can have been written with it."""
FLUSH_SECONDS, GATHER_SECONDS = 60.0, 0.005
Ids = Mapping[int, int]


class BrokerGoneError(Exception):
    """The broker went away before all was read or written: what is there is a beginning, and the same goes on."""


@dataclass(slots=True)
class Imported:
    """What came of it, by partition: how many records the archive has, how many were there, how many were written."""

    wanted: dict[Place, int] = field(default_factory=dict)
    there: dict[Place, int] = field(default_factory=dict)
    beats: int = 0
    written: int = 0

    def lines(self) -> Iterator[str]:
        """Yield what there is to say, a line a topic."""
        for topic in sorted({topic for topic, _ in self.wanted}):
            mine = [place for place in self.wanted if place[0] == topic]
            wanted = sum(self.wanted[place] for place in mine)
            held = sum(min(self.wanted[place], self.there.get(place, 0)) for place in mine)
            yield f"{topic}: {wanted - held:,} records written" + (f", {held:,} were there already" if held else "")
        if self.beats:
            yield f"{self.beats:,} heartbeats left out: they say that somebody lived then"


def import_from(archive: Archive, log: EventLog, registry: Registry, *, renumber: bool) -> Imported:
    """Write what an archive holds to its topics; asked again, nothing more is written.

    Raises ArchiveError, with nothing changed, for an archive that is not what was written, topics that are not there,
    have other partitions, hold other records or would let these go at once, and schemas that have another id here
    unless they are to be ``renumber``ed. Raises BrokerGoneError, KafkaException, RegistryUnavailableError.
    """
    archive.verify()
    _fits(archive, log)
    ids, lacking = _ids(archive, registry, renumber=renumber)
    done = Imported()
    for topic in archive.topics:
        _compare(archive, log, topic, ids | dict.fromkeys(lacking, NO_ID), done)
    for number, schema in lacking.items():
        ids[number] = lifecycle.register(registry, schema.name, (schema,))[-1]
    _write(archive, log.bootstrap, ids, done)
    return done


def _fits(archive: Archive, log: EventLog) -> None:
    """Refuse topics that are missing, have another number of partitions, or keep records for too short a time."""
    for topic in archive.topics:
        here, there = len(log.topics.places(topic)), len(archive.places(topic))
        if not here:
            _refuse(f"there is no topic {topic}: quadrille topics apply")
        if here != there:
            _refuse(f"{topic} has {here} partitions, the archive {there}: a key's events would lie on two")
    kept = declared.retention(log.bootstrap, archive.topics)
    for topic in archive.topics:
        oldest = min(span.oldest for _, spans in archive.spans(topic) for span in spans.values())
        if kept[topic] >= 0 and oldest < datetime.now(UTC) - timedelta(milliseconds=kept[topic]):
            days = f"{timedelta(milliseconds=kept[topic]).total_seconds() / 86_400:g} days"
            _refuse(f"{topic} keeps records for {days}, the oldest here is of {rfc3339(oldest)}: it would go at once")


def _ids(archive: Archive, registry: Registry, *, renumber: bool) -> tuple[dict[int, int], dict[int, Schema]]:
    """Return the id that each schema of the archive has here, and those that the registry lacks, by the archive's id.

    Refuses another id unless renumbering is asked for.
    """
    found: dict[int, int] = {}
    parsed = archive.schemas
    for number, schema in parsed.items():
        if _means(registry, number) == schema.fingerprint:
            found[number] = number
        elif not renumber:
            _refuse(
                f"schema {number} of the archive, {schema.name}, is not what the registry has under this id: values "
                "name schemas by id; --renumber writes the ids that this registry has"
            )
    here = {number: registry.id_of(parsed[number]) for number in sorted(parsed.keys() - found.keys())}
    found |= {number: known for number, known in here.items() if known is not None}
    return found, {number: parsed[number] for number, known in here.items() if known is None}


def _means(registry: Registry, number: int) -> str | None:
    text = registry.text_of(number)
    try:
        return None if text is None else schemas.parse(text).fingerprint
    except UnsafeSchemaError:
        return None


def _compare(archive: Archive, log: EventLog, topic: str, ids: Ids, done: Imported) -> None:
    """Count what a topic holds of the archive, by partition; refuses a topic that holds anything else."""
    wanted: dict[Place, int] = defaultdict(int)
    for record in archive.records(topic):
        if _is_beat(record.headers):
            done.beats += 1
        else:
            wanted[topic, record.partition] += 1
    reading = Reading(log.ranges([topic], None))
    here = _Prints(dict(wanted))
    for message in log.read(reading, Selection([topic], beats=True)):
        if not _is_beat(headers_of(message)):
            record = lying(message)
            here.add((topic, record.partition), _parts(record, {}))
    if not reading.whole:
        raise BrokerGoneError("\n".join(reading.lines()))
    there = _Prints({place: min(count, wanted.get(place, 0)) for place, count in here.count.items()})
    for record in archive.records(topic):
        if not _is_beat(record.headers):
            there.add((topic, record.partition), _parts(record, ids))
    for place, count in sorted(here.count.items()):
        if count and here.print(place) != there.print(place):
            _refuse(
                f"{topic}[{place[1]}] holds {count:,} records that are not the first of the archive's "
                f"{wanted.get(place, 0):,}: an archive goes to a topic that is empty, or holds its beginning"
            )
    done.wanted |= wanted
    done.there |= here.count


@dataclass(slots=True)
class _Prints:
    """A running hash of each partition's records, over so many of the first."""

    most: Mapping[Place, int]
    count: dict[Place, int] = field(default_factory=lambda: defaultdict(int))
    _hash: dict[Place, hashlib._Hash] = field(default_factory=lambda: defaultdict(hashlib.sha256))

    def add(self, place: Place, parts: Iterable[bytes | None]) -> None:
        """Take the next record of a partition."""
        if self.count[place] < self.most.get(place, 0):
            told = list(parts)
            self._hash[place].update(b"#%d" % len(told))
            for part in told:
                self._hash[place].update(b"-" if part is None else b"%d:" % len(part) + part)
        self.count[place] += 1

    def print(self, place: Place) -> bytes:
        """Return what the first records of a partition come to."""
        return self._hash[place].digest() + (b"" if self.most.get(place) else b"nothing wanted")


def _parts(record: ArchivedRecord, ids: Ids) -> Iterator[bytes | None]:
    """Yield what of a record is compared, as it is written here."""
    yield record.key
    yield _value(record.value, ids)
    for name, held in record.headers:
        yield from (name.encode(), held)


def _value(value: bytes | None, ids: Ids) -> bytes | None:
    """Return a value as it is written here: with this registry's id of its schema."""
    try:
        number = schema_id(value or b"")
    except DecodeError:
        return value
    return value and value[:1] + ids.get(number, number).to_bytes(4, "big") + value[5:]


def _write(archive: Archive, bootstrap: str, ids: Ids, done: Imported) -> None:
    """Write what is not there yet, each partition in its order; ends when the broker has all of it."""
    failed: list[KafkaError] = []
    # a finite time-out makes no gap: after a record that failed the producer takes no other
    producer = Producer(producer_settings(bootstrap, GATHER_SECONDS) | {"message.timeout.ms": 60_000})

    def told(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failed.append(error)

    for record in _wanting(archive, done.there):
        while not _sent(producer, record, ids, told):
            producer.poll(1)
        done.written += 1
        if failed:
            break
    if producer.flush(FLUSH_SECONDS) or failed:
        raise BrokerGoneError(failed[0].str() if failed else "not all of it was acknowledged")


def _wanting(archive: Archive, there: Mapping[Place, int]) -> Iterator[ArchivedRecord]:
    """Yield what topics that hold so many of its first records do not have yet."""
    passed: dict[Place, int] = defaultdict(int)
    for record in (one for topic in archive.topics for one in archive.records(topic)):
        place = record.topic, record.partition
        if not _is_beat(record.headers):
            passed[place] += 1
            if passed[place] > there.get(place, 0):
                yield record


def _sent(
    producer: Producer, record: ArchivedRecord, ids: Ids, told: Callable[[KafkaError | None, Message], None]
) -> bool:
    """Hand a record to the producer; False while its queue is full."""
    producer.poll(0)
    try:
        producer.produce(
            record.topic, _value(record.value, ids), record.key, record.partition,
            timestamp=milliseconds(record.at), headers=list(record.headers), on_delivery=told,
        )  # fmt: skip
    except BufferError:
        return False
    return True


def _is_beat(headers: Iterable[tuple[str, bytes | None]]) -> bool:
    return type_of(list(headers)) == BEAT.encode()


def _refuse(reason: str) -> None:
    raise ArchiveError(reason)
