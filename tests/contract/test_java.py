"""Others' programs on our bytes: a stock Debezium ships what our relay ships, a Java deserializer reads it."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from bench import environment, outbox
from bench.cases.relays import ENGINE, ENGINE_SETTINGS, HEAP, PRODUCER
from bench.model import CannotMeasureError

from quadrille.avro.codec import Codec, schema_id
from quadrille.avro.decoder import DecodeError
from quadrille.avro.registry import Cache, Registry, RegistryUnavailableError, SchemaIds
from quadrille.kafka.headers import NAMES
from quadrille.replay.archive import ArchivedRecord
from quadrille_cli.event_log import EventLog, Reading, Selection, lying
from quadrille_cli.services import SERVICES
from quadrille_cli.stack import EVERYTHING, Stack, topics
from quadrille_cli.stack.errors import CannotRun
from quadrille_cli.stack.servers import artifacts, jvm
from tests.conftest import Shop, opened

JAVA = Path(__file__).parent / "java"
SLOT, TWIN = "twin", "twin."
MADE = "SELECT pg_create_logical_replication_slot(%s, 'pgoutput')"
Story = dict[tuple[str, bytes | None], list[ArchivedRecord]]


@dataclass(frozen=True, slots=True)
class Lived:
    """A shop, and the orders that came to all their ends in it."""

    shop: Shop
    orders: list[str]


@pytest.fixture(scope="module")
def lived(stack_home: Path) -> Iterator[Lived]:
    """A stack of its own where, behind a slot for a second relay of each outbox, orders came to all their ends."""
    with Stack(stack_home / "twin", parts=EVERYTHING, scattered=True) as stack:
        shop = opened(stack)
        for service in SERVICES:
            with superuser(stack, service) as session:
                session.execute(MADE, [SLOT])
        orders = [
            shop.submit([("SKU-TEA", 2)]),
            shop.submit([("SKU-NONE", 1)]),
            shop.submit([("SKU-TEA", 1)], "tok_declined"),
            shop.submit([("SKU-TEA", 1), ("SKU-HOT", 3)]),
        ]
        for order in orders:
            shop.ended(order)
        assert shop.cancel(orders[3]).status == 202
        shop.until(lambda: shop.order(orders[3])["status"] == "CANCELLED", "a confirmed order is undone")
        shop.until(shop.all_read, "all is handled")
        yield Lived(shop, orders)


@contextmanager
def superuser(stack: Stack, service: str) -> Iterator[psycopg.Connection]:
    """A session that may make slots."""
    with psycopg.connect(stack.database_url(service, "postgres"), autocommit=True) as session:
        yield session


def on(stack: Stack, *names: str) -> Story:
    """What lies on topics, by topic and key in its order; heartbeats are no order's."""
    log, found = EventLog(stack), defaultdict[tuple[str, bytes | None], list[ArchivedRecord]](list)
    for message in log.read(Reading(log.ranges(names, None)), Selection(names)):
        record = lying(message)
        found[record.topic, record.key].append(record)
    return found


@contextmanager
def debezium(stack: Stack, service: str, folder: Path) -> Iterator[None]:
    """Debezium's engine with its outbox router over a service's outbox, from the slot on, to topics of its own."""
    at = urlsplit(stack.database_url(service, "postgres"))
    routed = {
        "transforms.outbox.route.topic.replacement": f"{TWIN}${{routedByValue}}",
        "database.hostname": str(at.hostname), "database.port": str(at.port), "database.dbname": at.path.strip("/"),
        "database.user": str(at.username), "database.password": str(at.password),
    }  # fmt: skip
    client = {"bootstrap.servers": stack.kafka_bootstrap} | PRODUCER
    files = [written(folder / "engine", ENGINE_SETTINGS | routed), written(folder / "producer", client)]
    path = ":".join([str(ENGINE), *map(str, environment.jars())])
    told = [*HEAP, *jvm.QUIET, f"-Dsource=quadrille/{service}", "-cp", path, "OutboxEngine", *files]
    with (
        (stack.logs / f"twin-{service}.log").open("wb") as log,
        subprocess.Popen(
            [jvm.binary(), *told], env=jvm.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            text=True,
        ) as engine,
    ):  # fmt: skip
        assert engine.stdin
        assert engine.stdout
        try:
            print("run", SLOT, file=engine.stdin, flush=True)
            assert engine.stdout.readline().strip() == "started"
            yield
            print("stop", file=engine.stdin, flush=True)
            assert engine.stdout.readline().strip() == "stopped"
        finally:
            engine.terminate()


def written(file: Path, settings: dict[str, str]) -> str:
    """A file of Java properties."""
    file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()), encoding="utf-8")
    return str(file)


def shipped(record: ArchivedRecord, *, by_us: bool) -> dict[str, object]:
    """What of a record is compared: all but its place; a time that names microseconds is rounded down as ours is."""
    headers = {name: (value or b"").decode() for name, value in record.headers}
    assert len(headers) == len(record.headers), "no header stands there twice"
    assert not by_us or tuple(headers) == NAMES
    at = datetime.fromisoformat(headers.pop("ce_time"))
    millisecond = at.replace(microsecond=at.microsecond // 1000 * 1000)
    topic = record.topic.removeprefix(TWIN)
    return {"topic": topic, "key": record.key, "value": record.value, "time": millisecond, "headers": headers}


@pytest.mark.parametrize("service", SERVICES)
def test_a_stock_debezium_ships_what_our_relay_ships(lived: Lived, service: str, tmp_path: Path) -> None:
    """Of one outbox, order by order: the same topic, key, value, headers, in the same sequence, on the same partition.

    Debezium's times have microseconds, and its headers another order; that is all that differs. Three headers that no
    row says are the same for all, and whoever runs a Debezium sets them.
    """
    try:
        environment.jars()
    except CannotMeasureError as absent:
        pytest.skip(f"Debezium: {absent}")
    shop, stack = lived.shop, lived.shop.stack
    names = [str(name) for (name,) in shop.sql(service, "SELECT DISTINCT aggregatetype FROM outbox ORDER BY 1")]
    twins, there = [TWIN + name for name in names], EventLog(stack).topics
    made = tuple(topics.Wanted(name) for name in twins if not there.places(name))
    topics.apply(stack.kafka_bootstrap, topics.Plan(create=made))
    ours = said(stack, names, service, lived.orders)
    try:
        with debezium(stack, service, tmp_path):
            shop.until(lambda: ids(ours) <= ids(said(stack, twins, service, lived.orders)), "Debezium has shipped all")
    finally:
        with superuser(stack, service) as session:
            outbox.drop_slot(session, SLOT)
    theirs = said(stack, twins, service, lived.orders)

    assert theirs.keys() == ours.keys()
    for place, found in ours.items():
        assert [shipped(one, by_us=False) for one in theirs[place]] == [shipped(one, by_us=True) for one in found]
        assert [one.partition for one in theirs[place]] == [one.partition for one in found]
    assert len(ours) >= len(lived.orders)


@pytest.mark.parametrize("name", NAMES)
def test_a_header_that_differs_would_be_found(name: str) -> None:
    """Planted: one header of ten with another value, or a record on another topic, is not what was shipped."""
    headers = [(one, b"2026-11-21T09:14:03.120Z" if one == "ce_time" else b"x") for one in NAMES]
    record = ArchivedRecord("order.events", 0, 0, datetime.now(UTC), b"o-1", b"v", headers)
    later = [(one, b"2026-11-21T09:14:03.121Z" if one == name == "ce_time" else b"y" if one == name else value)
             for one, value in headers]  # fmt: skip
    finer = [(one, b"2026-11-21T09:14:03.120999Z" if one == "ce_time" else value) for one, value in reversed(headers)]

    ours = shipped(record, by_us=True)
    assert shipped(replace(record, topic=f"{TWIN}order.events", offset=9, headers=finer), by_us=False) == ours
    assert shipped(replace(record, headers=later), by_us=True) != ours
    assert shipped(replace(record, topic="ops.events"), by_us=True) != ours


def said(stack: Stack, names: Sequence[str], service: str, orders: Sequence[str]) -> Story:
    """What a service has said of orders, by topic, as it is without the twin's prefix, and key."""
    found = Story()
    for (topic, key), lies in on(stack, *names).items():
        own = [one for one in lies if dict(one.headers).get("ce_source") == f"quadrille/{service}".encode()]
        if own and (key or b"").decode() in orders:
            found[topic.removeprefix(TWIN), key] = own
    return found


def ids(story: Story) -> set[bytes | None]:
    """The events of a story."""
    return {dict(one.headers).get("ce_id") for found in story.values() for one in found}


def test_a_java_deserializer_reads_our_bytes(lived: Lived, tmp_path: Path) -> None:
    """Apicurio's, with Confluent's ids and the registry's answers: every value on the topics, field by field.

    A value that is cut, and one of a schema there is not, it refuses as we do.
    """
    try:
        jars = artifacts.fetch(str(JAVA / "jars.lock"))
    except CannotRun as absent:
        pytest.skip(f"Apicurio's deserializer: {absent.what}")
    stack = lived.shop.stack
    names = [*(f"{service}.events" for service in SERVICES), "ops.events"]
    log = EventLog(stack)
    found = log.read(Reading(log.ranges(names, None)), Selection(names, beats=True))
    values = sorted({lying(message).value or b"" for message in found})
    codec = Codec((), SchemaIds(Registry(stack.registry_url), Cache(tmp_path / "schemas")))
    broken = [values[0][:6], b"\0\0\x0f\xff\xff" + values[0][5:]]
    lines = "".join(f"{base64.b64encode(value).decode()}\n" for value in [*values, *broken])
    registry = f"{stack.url('registry')}/apis/registry/v2"
    command = [jvm.binary(), *jvm.QUIET, "-cp", ":".join([str(JAVA), *map(str, jars)]), "Reader", registry]
    done = subprocess.run(command, env=jvm.environment(), input=lines, capture_output=True, text=True, check=True)

    told = [line.split("\t", 1) for line in done.stdout.splitlines()]
    kinds = set[str]()
    for value, (name, body) in zip(values, told, strict=False):
        schema, ours = codec.look(value)
        kinds.add(schema.name)
        assert (name, json.loads(body)) == (schema.name, json.loads(json.dumps(ours))), schema_id(value)
    assert [name for name, _ in told[len(values) :]] == ["refused"] * 2
    for value in broken:
        lived.shop.until(lambda value=value: refused(codec, value), "we refuse it too")  # type: ignore[misc]  # bound now
    assert len(kinds) >= 12, kinds


def refused(codec: Codec, value: bytes) -> bool:
    """Whether a value cannot be read; an id that a registry does not know is waited for first."""
    try:
        codec.look(value)
    except DecodeError:
        return True
    except RegistryUnavailableError:
        return False
    pytest.fail("it was read")


def test_the_classes_were_compiled_from_the_source_beside_them() -> None:
    """The list of sums is written when it is compiled: `javac --release 17 -cp JARS -d . Reader.java`, `sha256sum`."""
    lines = (JAVA / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    listed = {name: digest for digest, name in (line.split("  ") for line in lines)}
    files = [*JAVA.glob("*.java"), *JAVA.glob("*.class")]
    assert listed == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
