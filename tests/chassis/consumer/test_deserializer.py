"""From bytes to an input: what is older than the inbox can tell is parked, never guessed."""

from __future__ import annotations

import pytest

from quadrille.consumer.deserializer import RecordDeserializer
from quadrille.ids import event_id, milliseconds, uuid7
from quadrille.processing.envelope import Envelope, Record, Unreadable
from quadrille.testing.in_memory import START, PlainCodec
from tests.chassis.support.records import record_headers
from tests.chassis.support.sample_messages import BreadOrdered

DAY_MS = 86_400_000
HORIZON_MS = milliseconds(START) - 7 * DAY_MS
BREAD = BreadOrdered("o-1")


@pytest.fixture
def reader() -> RecordDeserializer:
    made = RecordDeserializer({BREAD.type: BreadOrdered}, PlainCodec())
    made.horizon_ms = HORIZON_MS
    return made


def read(reader: RecordDeserializer, at_ms: int) -> Envelope:
    """The record of an event with an id of this time, said to be of today."""
    identity = event_id("order", uuid7(), BREAD.type, 0, at_ms)
    record = Record(PlainCodec().encode(BREAD), record_headers(identity, BREAD.type))
    return reader.read(record, b"o-1", None, milliseconds(START))


@pytest.mark.proves("late.below-floor")
def test_an_event_older_than_the_inbox_is_not_guessed(reader: RecordDeserializer) -> None:
    """One millisecond below the oldest day the inbox keeps: parked as BELOW_FLOOR under its order, with its bytes."""
    found = read(reader, HORIZON_MS - 1)

    assert isinstance(found.body, Unreadable)
    assert (found.body.error_class, found.lane, found.record and found.record.raw) == (
        "BELOW_FLOOR",
        "o-1",
        PlainCodec().encode(BREAD),
    )


@pytest.mark.parametrize("later", [0, 1, 7 * DAY_MS])
def test_an_event_the_inbox_can_tell_is_read(reader: RecordDeserializer, later: int) -> None:
    """From the first millisecond of the inbox's oldest day on, an event is what it says."""
    assert read(reader, HORIZON_MS + later).body == BREAD
