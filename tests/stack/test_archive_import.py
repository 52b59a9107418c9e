"""An archive put back: the same records in the same order on another cluster, once; or refused with nothing changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from quadrille.avro.registry import Cache, Registry, SchemaIds
from quadrille.avro.schemas import parse
from quadrille.kafka.config import client_settings, producer_settings
from quadrille.replay.archive import MANIFEST, Archive, ArchivedRecord
from quadrille_cli.archive import ArchiveWriter
from quadrille_cli.event_log import EventLog, Reading, Selection, raw
from quadrille_cli.stack import Stack, topics
from tests.conftest import Shop
from tests.stack.test_events import run

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
BEAT: list[tuple[str, bytes | None]] = [("ce_type", b"canary.beat")]
_numbers = count()
Lying = dict[int, list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]], int]]]


@pytest.fixture(scope="module")
def other(stack_home: Path) -> Iterator[Shop]:
    """Another cluster, with a registry of its own and no service."""
    with Stack(stack_home / "other", parts=("kafka", "registry", "topics", "schemas"), scattered=True) as stack:
        yield Shop(stack)


@pytest.fixture
def topic(other: Shop) -> str:
    """A topic that nobody has written to."""
    name = f"moved-{next(_numbers)}.events"
    topics.apply(other.stack.kafka_bootstrap, topics.Plan(create=(topics.Wanted(name, topics.FOR_EVER),)))
    return name


def lying(stack: Stack, *names: str) -> Lying:
    """What lies on topics, by partition and as it lies there: key, value, headers, time."""
    log, found = EventLog(stack), Lying()
    for message in log.read(Reading(log.ranges(names, None)), Selection(names, beats=True)):
        key, value = (None if part is None else raw(part) for part in (message.key(), message.value()))
        headers = [(name, None if held is None else raw(held)) for name, held in message.headers() or ()]  # type: ignore[str-unpack]  # pairs, as librdkafka gives them
        found.setdefault(message.partition() or 0, []).append((key, value, headers, message.timestamp()[1]))
    return found


def records_of(topic: str, amount: int = 6, value: bytes = b"x") -> list[ArchivedRecord]:
    """Records of two partitions and two days; a later day's lie between those of the earlier."""
    return [
        ArchivedRecord(
            topic, n % 2, n // 2, NOW - DAY * (n % 3 == 0), b"o-%d" % n, value, [("a", b"%d" % n), ("a", None)]
        )
        for n in range(amount)
    ]


def archived(directory: Path, found: list[ArchivedRecord], partitions: int = topics.PARTITIONS) -> Path:
    """An archive of records as an export makes it."""
    names = {record.topic for record in found}
    read = {f"{name}[{n}]": [0, len(found)] for name in names for n in range(partitions)}
    with ArchiveWriter(directory, {"read": read, "since": None, "until": None}) as writer:
        for record in found:
            writer.add(record)
        writer.finish()
    return directory


def wanted(found: list[ArchivedRecord]) -> Lying:
    """What should lie there."""
    kept = Lying()
    for one in sorted(found, key=lambda one: one.offset):
        kept.setdefault(one.partition, []).append(
            (one.key, one.value, list(one.headers), int(one.at.timestamp() * 1000))
        )
    return kept


def test_what_was_exported_lies_on_the_other_cluster(shop: Shop, other: Shop, tmp_path: Path) -> None:
    """Every event of real orders: key, value, headers and time, per partition in the same order; asked again, nothing.

    The services' own schemas have the ids of the other registry; heartbeats stay away.
    """
    shop.ended(order := shop.submit([("SKU-TEA", 1)]))
    shop.until(lambda: len(shop.records(order)) >= 6, "its events are published")
    chosen = [part for name in ("order", "payment") for part in ("--topic", f"{name}.events")]
    assert run(shop, "events", "export", *chosen, str(tmp_path / "archive"))[0] == 0

    code, out, err = run(other, "events", "import", str(tmp_path / "archive"), "--renumber")
    assert code == 0, err
    archive, cache = Archive(tmp_path / "archive"), SchemaIds(Registry(other.stack.registry_url), Cache(tmp_path / "c"))
    for name in archive.topics:
        there = lying(other.stack, name)
        for number in range(topics.PARTITIONS):
            kept = [r for r in archive.partition(name, number) if ("ce_type", b"canary.beat") not in r.headers]
            found = there.get(number, [])
            assert [(key, value and value[5:], headers, at) for key, value, headers, at in found] == [
                (r.key, r.value and r.value[5:], r.headers, int(r.at.timestamp() * 1000)) for r in kept
            ]
            for then, now in ((r.value or b"", value or b"") for r, (_, value, _, _) in zip(kept, found, strict=True)):
                if then[:1] == b"\0":
                    told = archive.directory / "schemas" / f"{int.from_bytes(then[1:5], 'big')}.avsc"
                    assert cache.by_id(int.from_bytes(now[1:5], "big")) == parse(told.read_text("utf-8"))
    assert "heartbeats left out" in out
    before = lying(other.stack, *archive.topics)
    code, out, err = run(other, "events", "import", str(tmp_path / "archive"), "--renumber")
    assert (code, "0 records written" in out) == (0, True), err
    assert lying(other.stack, *archive.topics) == before


def test_days_that_lie_in_one_another_keep_their_order(other: Shop, topic: str, tmp_path: Path) -> None:
    """A partition's records come as they lay on it, though the file of another day has those between."""
    found = [*records_of(topic, 40), ArchivedRecord(topic, 5, 0, NOW, None, None, BEAT)]

    assert run(other, "events", "import", str(archived(tmp_path / "a", found)))[0] == 0
    assert lying(other.stack, topic) == wanted(found[:-1])


@pytest.mark.parametrize("there", [1, 5])
def test_what_was_cut_short_goes_on(other: Shop, topic: str, tmp_path: Path, there: int) -> None:
    """A topic that holds the archive's beginning gets the rest; what lies there is not written twice."""
    found = records_of(topic, 12)
    put(other, found[:there])
    put(other, [ArchivedRecord(topic, 1, 0, NOW, b"order", b"", BEAT)])  # somebody lives here

    code, out, _ = run(other, "events", "import", str(archived(tmp_path / "a", found)))

    assert (code, f"{12 - there} records written, {there} were there already" in out) == (0, True)
    kept = {n: [one for one in lies if one[2] != BEAT] for n, lies in lying(other.stack, topic).items()}
    assert kept == wanted(found)


def put(shop: Shop, found: list[ArchivedRecord]) -> None:
    """Write records to their topics."""
    producer = Producer(producer_settings(shop.stack.kafka_bootstrap))
    for one in found:
        at = int(one.at.timestamp() * 1000)
        producer.produce(one.topic, one.value, one.key, one.partition, timestamp=at, headers=list(one.headers))
    assert producer.flush(60) == 0


def flipped(archive: Path) -> None:
    file = next(archive.glob("*.events/*.avro"))
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a wrong hash": (flipped, ".avro is not what was written: SHA-256"),
    "a broken manifest": (lambda a: (a / MANIFEST).write_text("{"), "manifest.json is no JSON"),
    "no archive": (shutil.rmtree, "manifest.json cannot be read"),
}


@pytest.mark.parametrize(("damage", "said"), BROKEN.values(), ids=BROKEN)
def test_a_broken_archive_is_refused(
    other: Shop, topic: str, tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    """Exit code 3, what is wrong and where; nothing is written."""
    damage(archived(tmp_path / "a", records_of(topic)))

    code, _, err = run(other, "events", "import", str(tmp_path / "a"))

    assert (code, said in " ".join(err.split())) == (3, True), err
    assert lying(other.stack, topic) == {}


def test_a_topic_that_holds_something_else_is_refused(other: Shop, topic: str, tmp_path: Path) -> None:
    """Its records are not the archive's first, or are those from its middle: named, and nothing is written anywhere."""
    found = records_of(topic)
    put(other, found[4:])
    before = lying(other.stack, topic)

    code, _, err = run(other, "events", "import", str(archived(tmp_path / "a", found)))

    assert (code, f"{topic}[0] holds 1 records that are not the first of the archive's 3" in err) == (3, True), err
    assert lying(other.stack, topic) == before


def test_what_is_there_and_goes_on_is_not_written_twice(other: Shop, topic: str, tmp_path: Path) -> None:
    """Records that came after those of the archive stay, and nothing is written."""
    put(other, found := records_of(topic, 10))

    code, out, _ = run(other, "events", "import", str(archived(tmp_path / "a", found[:6])))

    assert (code, "0 records written, 6 were there already" in out) == (0, True)
    assert lying(other.stack, topic) == wanted(found)


def test_a_topic_that_does_not_fit_is_refused(other: Shop, topic: str, tmp_path: Path) -> None:
    """Not there, of another number of partitions, or one that would let the records go at once: each by name."""
    admin = AdminClient(client_settings(other.stack.kafka_bootstrap))
    weekly = f"weekly-{topic}"
    topics.apply(other.stack.kafka_bootstrap, topics.Plan(create=(topics.Wanted(weekly, topics.WEEK),)))
    old = [ArchivedRecord(weekly, 0, 0, NOW - 8 * DAY, b"k", b"v", [])]
    cases = {
        "there is no topic none.events": archived(tmp_path / "none", records_of("none.events")),
        f"{topic} has 12 partitions, the archive 4": archived(tmp_path / "few", records_of(topic), 4),
        f"{weekly} keeps records for 7 days": archived(tmp_path / "old", old),
    }

    for said, archive in cases.items():
        code, _, err = run(other, "events", "import", str(archive))
        assert (code, said in " ".join(err.split())) == (3, True), err
    assert lying(other.stack, topic, weekly) == {}
    assert "none.events" not in admin.list_topics(timeout=60).topics


def test_a_schema_of_another_id_is_refused_unless_renumbered(other: Shop, topic: str, tmp_path: Path) -> None:
    """Values name schemas by id: another one here is named; asked for, this registry's is written in front."""
    registry = Registry(other.stack.registry_url)
    schema = SchemaIds(registry, Cache(tmp_path / "ids")).by_id(here := 1)
    assert registry.text_of(99_999) is None
    found = records_of(topic, 2, b"\0" + (99_999).to_bytes(4, "big") + b"body")
    with ArchiveWriter(tmp_path / "a", {"read": {f"{topic}[{n}]": [0, 2] for n in range(12)}}) as writer:
        for record in found:
            writer.add(record)
        writer.schema(99_999, schema.text)
        writer.finish()

    code, _, err = run(other, "events", "import", str(tmp_path / "a"))
    assert (code, f"schema 99999 of the archive, {schema.name}, is not" in " ".join(err.split())) == (3, True), err
    assert lying(other.stack, topic) == {}
    assert run(other, "events", "import", str(tmp_path / "a"), "--renumber")[0] == 0
    values = [value for lies in lying(other.stack, topic).values() for _, value, _, _ in lies]
    number = registry.id_of(schema)
    assert values == [b"\0" + (number or here).to_bytes(4, "big") + b"body"] * 2
    assert "0 records written" in run(other, "events", "import", str(tmp_path / "a"), "--renumber")[1]


def test_a_schema_that_the_registry_lacks_is_put_there_only_with_the_records(
    other: Shop, topic: str, tmp_path: Path
) -> None:
    """A topic that refuses the archive leaves the registry as it was; one that takes it gets both."""
    registry = Registry(other.stack.registry_url)
    fields = '[{"name": "order_id", "type": "string"}]'
    schema = parse(f'{{"type": "record", "name": "Moved", "namespace": "quadrille.tests", "fields": {fields}}}')
    found = records_of(topic, 2, b"\0" + (99_998).to_bytes(4, "big"))
    with ArchiveWriter(tmp_path / "a", {"read": {f"{topic}[{n}]": [0, 2] for n in range(12)}}) as writer:
        for record in found:
            writer.add(record)
        writer.schema(99_998, schema.text)
        writer.finish()
    words = ("events", "import", str(tmp_path / "a"), "--renumber")

    put(other, [ArchivedRecord(topic, 0, 0, NOW, b"k", b"something else", [])])
    assert (run(other, *words)[0], registry.id_of(schema)) == (3, None)
    admin, whole = AdminClient(client_settings(other.stack.kafka_bootstrap)), TopicPartition(topic, 0, -1)
    admin.delete_records([whole])[whole].result(60)
    assert run(other, *words)[0] == 0
    number = registry.id_of(schema) or 0
    assert {value for lies in lying(other.stack, topic).values() for _, value, _, _ in lies} == {
        b"\0" + number.to_bytes(4, "big")
    }
