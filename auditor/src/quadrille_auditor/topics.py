"""Topics: every record from the first on, up to the ends that were read before, each decoded by its own schema.

No group is joined and nothing is committed. Schemas come from the registry, by the id that stands in the record, and
bytes are read by fastavro: a second opinion to the decoder that the services use.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import fastavro
import urllib3
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from quadrille_auditor.evidence import Place, Record
from quadrille_auditor.sources import UnreadableError

SHARED = ("saga.audit", "ops.events")
HEAD = 5
BATCH, SILENCE_SECONDS, ASK_SECONDS = 1000, 30.0, 30.0
HEADERS = (
    "id", "ce_id", "ce_specversion", "ce_source", "ce_type", "ce_time", "ce_causationid", "ce_sequence",
    "content-type", "traceparent",
)  # fmt: skip
OK, NOT_FOUND = 200, 404


class Schemas:
    """The registry's schemas by id, each asked for once."""

    def __init__(self, url: str) -> None:
        self._url, self._known = url.rstrip("/"), dict[int, Any]()
        self._http = urllib3.PoolManager(timeout=ASK_SECONDS, retries=urllib3.Retry(3, redirect=False))

    def by_id(self, number: int) -> Any:  # noqa: ANN401 - what fastavro makes of a schema
        """Return a schema, or None where the registry has none of this id; raises UnreadableError."""
        if number not in self._known:
            self._known[number] = self._ask(number)
        return self._known[number]

    def _ask(self, number: int) -> Any:  # noqa: ANN401 - as above
        try:
            answer = self._http.request("GET", f"{self._url}/schemas/ids/{number}")
            if answer.status == NOT_FOUND:
                return None
            if answer.status == OK:
                return fastavro.parse_schema(json.loads(json.loads(answer.data)["schema"]))
        except (urllib3.exceptions.HTTPError, ValueError, KeyError) as failed:
            raise UnreadableError(source="registry", why=type(failed).__name__) from failed
        raise UnreadableError(source="registry", why=f"it answers {answer.status}")

    def decode(self, value: bytes) -> tuple[str, Mapping[str, Any], str]:
        """Return name and body of a value, or why it cannot be read."""
        if len(value) < HEAD or value[0] != 0:
            return "", {}, f"{len(value)} bytes that do not begin as Avro of a registry does"
        number = int.from_bytes(value[1:HEAD])
        if (schema := self.by_id(number)) is None:
            return "", {}, f"there is no schema of id {number}"
        stream = io.BytesIO(value[HEAD:])
        try:
            body = fastavro.schemaless_reader(stream, schema, None)
        except Exception as odd:  # noqa: BLE001 - whatever a reader raises for bytes that are none of its schema
            return "", {}, f"not of schema {number}: {type(odd).__name__}"
        left = len(value) - HEAD - stream.tell()
        name = str(schema["name"])
        return (name, body, "") if not left and isinstance(body, dict) else (name, {}, f"{left} bytes too many")


class Topics:
    """One cluster's topics."""

    def __init__(self, bootstrap: str) -> None:
        said: dict[str, Any] = {
            "bootstrap.servers": bootstrap, "group.id": "quadrille-audit", "enable.auto.commit": False,
            "enable.partition.eof": True, "auto.offset.reset": "error", "check.crcs": True, "log_level": 0,
            "allow.auto.create.topics": False, "enable.metrics.push": False, "fetch.queue.backoff.ms": 20,
        }  # fmt: skip
        self._consumer = partial(Consumer, said)

    def ranges(self, services: Iterable[str]) -> dict[Place, tuple[int, int]]:
        """Return where each partition begins and ends now; raises UnreadableError."""
        wanted = [*SHARED, *(f"{service}.{kind}" for service in services for kind in ("events", "dead-letters"))]
        consumer = self._consumer()
        try:
            known = consumer.list_topics(timeout=ASK_SECONDS).topics
            if missing := [topic for topic in wanted if topic not in known]:
                raise UnreadableError(source="Kafka", why=f"there is no topic {', '.join(missing)}")
            places = [(topic, number) for topic in wanted for number in known[topic].partitions]
            found = {}
            for place in places:
                low, high = consumer.get_watermark_offsets(TopicPartition(*place), timeout=ASK_SECONDS)
                found[place] = int(low), int(high)
        except KafkaException as failed:
            raise UnreadableError(source="Kafka", why=failed.args[0].str()) from failed
        finally:
            consumer.close()
        return found

    def read(self, ranges: Mapping[Place, tuple[int, int]], schemas: Schemas) -> tuple[Record, ...]:
        """Read every record of these ranges, sorted by place; raises UnreadableError, saying how far it came."""
        open_ = {place: low for place, (low, high) in ranges.items() if low < high}
        found: list[Record] = []
        consumer, heard = self._consumer(), time.monotonic()
        try:
            consumer.assign([TopicPartition(*place, low) for place, low in open_.items()])
            while open_:
                for message in consumer.consume(BATCH, 0.5):
                    heard = time.monotonic()
                    if (record := _taken(message, open_, ranges, schemas)) is not None:
                        found.append(record)
                if time.monotonic() - heard > SILENCE_SECONDS:
                    place, at = next(iter(open_.items()))
                    told = f"{place[0]}[{place[1]}] is silent at offset {at} of {ranges[place][1]}"
                    raise UnreadableError(source="Kafka", why=told)
        finally:
            consumer.close()
        return tuple(sorted(found, key=lambda one: one[:3]))


def _taken(
    message: Message, open_: dict[Place, int], ranges: Mapping[Place, tuple[int, int]], schemas: Schemas
) -> Record | None:
    """Note how far a partition is, which leaves ``open_`` at its end; return the record before that end, if it is."""
    place = (message.topic() or "", message.partition() or 0)
    upto = ranges[place][1]
    if (error := message.error()) is not None:
        if error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - so named
            raise UnreadableError(source="Kafka", why=f"{place[0]}[{place[1]}]: {error.str()}")
        open_.pop(place, None)
        return None
    at = message.offset() or 0
    if at + 1 >= upto:
        open_.pop(place, None)
    elif place in open_:
        open_[place] = at + 1
    return record(message, schemas) if at < upto else None


def record(message: Message, schemas: Schemas) -> Record:
    """Return a message as it is judged."""
    headers: dict[str, str] = {}
    for name, value in message.headers() or ():  # type: ignore[str-unpack]  # pairs, as librdkafka gives them
        headers.setdefault(str(name), _text(value))
    value = message.value()
    raw = value if isinstance(value, bytes) else b""
    name, body, fault = schemas.decode(raw)
    missing = [header for header in HEADERS if not headers.get(header)]
    if missing:
        fault = f"without header {', '.join(missing)}"
    place = message.topic() or "", message.partition() or 0, message.offset() or 0
    return Record(*place, _text(message.key()), headers, raw, name, body, fault)


def _text(value: object) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value or "")
