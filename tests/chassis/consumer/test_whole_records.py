"""One reaction to every record: what can be read comes decoded, what cannot comes with its bytes and the reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from quadrille import AnyRecord, Event, HandlerRegistry, Rows
from quadrille.avro.decoder import refuse
from quadrille.consumer.whole_records import VALUE_MAX, WholeRecordReader
from quadrille.ids import event_id, milliseconds, uuid7
from quadrille.messages import Infrastructure
from quadrille.processing.envelope import OffsetRange, Record
from quadrille.testing.in_memory import START
from tests.chassis.support.records import record_headers

DAY_MS = 86_400_000
NOW_MS = milliseconds(START)
PLACE = OffsetRange("order.events", 5, 20, 22)


class Bodies:
    """Reads {} from everything that is not x; the registry is away for a y."""

    def look(self, value: bytes) -> tuple[object, dict[str, Any]]:
        """Return an empty body."""
        if value == b"x":
            refuse("no schema id in front")
        if value == b"y":
            raise Infrastructure
        return None, {"order_id": "o-1"}


@pytest.fixture
def reader() -> WholeRecordReader:
    made = WholeRecordReader(Bodies())
    made.horizon_ms = NOW_MS - 7 * DAY_MS
    return made


def read(reader: WholeRecordReader, record: Record, key: bytes = b"o-1") -> AnyRecord:
    """The message of a record at order.events[5]@21."""
    body = reader.read(record, key, PLACE, NOW_MS).body
    assert isinstance(body, AnyRecord)
    return body


def test_a_record_comes_decoded_with_all_its_headers_say(reader: WholeRecordReader) -> None:
    """Its id is the event's, its place its offset's, its body plain values."""
    identity = event_id("order", uuid7(NOW_MS), "order.placed", 0)
    record = Record(b"\0\0\0\0\x07rest", record_headers(identity, "order.placed", 3))

    found = read(reader, record)

    assert (found.id, found.named, found.source, found.sequence) == (identity, "order.placed", "quadrille/order", 3)
    assert (found.topic, found.partition, found.offset, found.schema_id) == ("order.events", 5, 21, 7)
    assert (found.body, found.fault, found.raw) == ({"order_id": "o-1"}, None, record.raw)
    assert len(found.trace_id) == 32


@pytest.mark.parametrize(
    ("raw", "schema_id"),
    [(b"\0\x7f\xff\xff\xff", 2**31 - 1), (b"\0\x80\0\0\0", None), (b"\0\xffjunk!", None), (b"\0\0\0", None)],
)
def test_what_can_be_no_id_of_a_registry_names_no_schema(
    reader: WholeRecordReader, raw: bytes, schema_id: int | None
) -> None:
    """Ids are of 32 bits and positive: junk with a zero in front is not taken for a huge one."""
    assert read(reader, Record(raw, record_headers(uuid7(NOW_MS), "order.placed"))).schema_id == schema_id


@pytest.mark.parametrize(
    ("raw", "headers", "fault"),
    [
        pytest.param(b"poison!", (), "header ce_id is missing", id="no-headers"),
        pytest.param(b"x", record_headers(uuid7(NOW_MS), "order.placed"), "no schema id in front", id="no-avro"),
        pytest.param(
            b"\0" * (VALUE_MAX + 1), record_headers(uuid7(NOW_MS), "order.placed"), "larger than", id="too-large"
        ),
        pytest.param(b"", record_headers(uuid7(NOW_MS * 9), "order.placed"), "a time to come", id="to-come"),
    ],
)
def test_what_cannot_be_read_comes_with_its_bytes_and_the_reason(
    reader: WholeRecordReader, raw: bytes, headers: tuple[tuple[str, bytes], ...], fault: str
) -> None:
    """It is given an id of its place, twice the same, and no body; nothing is parked for what it is."""
    found, again = (read(reader, Record(raw, headers)) for _ in range(2))

    assert fault in (found.fault or "")
    assert (found.body, found.raw, found.id) == (None, raw, again.id)


def test_a_registry_that_is_away_blames_no_record(reader: WholeRecordReader) -> None:
    """The partition waits."""
    with pytest.raises(Infrastructure):
        read(reader, Record(b"y", record_headers(uuid7(NOW_MS), "order.placed")))


def test_proofs_of_life_and_what_is_past_its_time_are_left_out(reader: WholeRecordReader) -> None:
    """A beat, and an id from before the inbox's oldest day; a record without an id is heard whatever its time."""
    beat = Record(b"", record_headers(uuid7(NOW_MS), "canary.beat"))
    old = Record(b"", record_headers(uuid7(NOW_MS - 7 * DAY_MS - 1), "order.placed"))
    young = Record(b"", record_headers(uuid7(NOW_MS - 7 * DAY_MS), "order.placed"))

    assert [reader.unheard(one) for one in (beat, old, young, Record(b""))] == [True, True, False, False]


@dataclass(frozen=True)
class Kept:
    """What is kept."""

    keys: Rows[str, str]


@dataclass(frozen=True)
class BunBaked(Event, source="oven"):
    """An event somebody else emits."""

    bun_id: str


def keep(record: AnyRecord, kept: Kept) -> None:
    """Keep the key."""
    kept.keys.put(record.key, record.key)


def test_a_service_hears_all_records_or_events_of_its_own_classes() -> None:
    """The topics are those named; a second such reaction, or one for an event beside it, is refused at import."""
    on = HandlerRegistry("archive", Kept)
    on.records("oven.events", "ops.events")(keep)
    assert on.topics() == ("ops.events", "oven.events")

    with pytest.raises(TypeError, match="one reaction"):
        on.records("oven.events")

    def note(bun: BunBaked, kept: Kept) -> None:
        """Note it."""

    with pytest.raises(TypeError, match="by one reaction already"):
        on.learns(note)
