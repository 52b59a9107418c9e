"""The ten headers, written by a relay and read by a consumer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quadrille.kafka.headers import (
    NAMES,
    CloudEvent,
    Fault,
    MalformedHeadersError,
    OutboxRow,
    read_headers,
    type_of,
    write_headers,
)

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
EVENT, CAUSE = UUID("01a1fd62-57f0-8654-81bf-64a9a8cc9acb"), UUID("01a1fd62-57f0-7eeb-be96-e59ce40f9cb1")
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
AT = datetime(2026, 11, 21, 9, 5, 7, 123_999, tzinfo=UTC)


def row(at: datetime = AT, sequence: int = 3) -> OutboxRow:
    microseconds = (at - EPOCH) // timedelta(microseconds=1)
    return OutboxRow(
        id=EVENT.bytes,
        aggregatetype=b"inventory.events",
        aggregateid=b"o-1",
        type=b"stock.reserved",
        sequence=sequence.to_bytes(8, signed=True),
        payload=b"\0\0\0\0\1",
        causationid=CAUSE.bytes,
        traceparent=TRACEPARENT.encode(),
        parent_span=None,
        occurred_at=microseconds.to_bytes(8, signed=True),
    )


def written(**changed: bytes | None) -> list[tuple[str, bytes | None]]:
    """Headers as they come from Kafka, some replaced, None meaning left out; underscores as in the names."""
    headers = dict(write_headers(row(), b"quadrille/inventory")) | {k.replace("__", "-"): v for k, v in changed.items()}
    return [(name, v) for name, v in headers.items() if isinstance(v, bytes)]


def test_a_row_has_exactly_the_ten_headers_in_their_order() -> None:
    """What leaves is byte for byte what contracts.md, section 2, lists: time in UTC and milliseconds, rounded down."""
    assert write_headers(row(), b"quadrille/inventory") == [
        ("id", str(EVENT).encode()),
        ("ce_id", str(EVENT).encode()),
        ("ce_specversion", b"1.0"),
        ("ce_source", b"quadrille/inventory"),
        ("ce_type", b"stock.reserved"),
        ("ce_time", b"2026-11-21T09:05:07.123Z"),
        ("ce_causationid", str(CAUSE).encode()),
        ("ce_sequence", b"3"),
        ("content-type", b"application/vnd.confluent.avro"),
        ("traceparent", TRACEPARENT.encode()),
    ]
    assert [name for name, _ in written()] == list(NAMES)


@given(st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1)), st.integers(1, 2**63 - 1))  # noqa: DTZ001 - made aware
def test_what_is_written_is_read(at: datetime, sequence: int) -> None:
    """Every row's headers make the envelope it was written from, to the millisecond."""
    at = at.replace(tzinfo=UTC)
    read = read_headers(write_headers(row(at, sequence), b"quadrille/inventory"))  # type: ignore[arg-type] # all bytes

    millisecond = at.replace(microsecond=at.microsecond // 1000 * 1000)
    assert read == CloudEvent(EVENT, "stock.reserved", "quadrille/inventory", millisecond, CAUSE, sequence, TRACEPARENT)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"ce_type": None}, Fault("ce_type", "missing")),
        ({"ce_type": b"\xff"}, Fault("ce_type", "invalid")),
        ({"ce_type": b""}, Fault("ce_type", "invalid")),
        ({"id": None}, Fault("id", "missing")),
        ({"id": str(CAUSE).encode()}, Fault("id", "invalid")),
        ({"ce_specversion": b"0.3"}, Fault("ce_specversion", "invalid")),
        ({"ce_source": None}, Fault("ce_source", "missing")),
        ({"ce_time": b"2026-11-21T09:05:07"}, Fault("ce_time", "invalid")),
        ({"ce_time": b"yesterday"}, Fault("ce_time", "invalid")),
        ({"ce_causationid": b"{" + str(CAUSE).encode() + b"}"}, Fault("ce_causationid", "invalid")),
        ({"ce_sequence": b"0"}, Fault("ce_sequence", "invalid")),
        ({"ce_sequence": b"+1"}, Fault("ce_sequence", "invalid")),
        ({"ce_sequence": str(2**63).encode()}, Fault("ce_sequence", "invalid")),
        ({"content__type": b"text/plain"}, Fault("content-type", "invalid")),
    ],
)
def test_a_header_at_fault_is_named(changed: dict[str, bytes | None], fault: Fault) -> None:
    """A missing header and an invalid one are told apart; what alone is sound is kept for parking."""
    read = read_headers(written(**changed))

    assert isinstance(read, MalformedHeadersError)
    assert read.faults == (fault,)
    assert read.id == EVENT
    assert str(fault.header) in read.reason


def test_a_record_without_headers_is_malformed_too() -> None:
    """No headers at all: every one but traceparent is missing, and no id is made up."""
    nothing: list[tuple[str, bytes | None]] = []
    for empty in (None, nothing):
        read = read_headers(empty)
        assert isinstance(read, MalformedHeadersError)
        assert {f.header for f in read.faults} == set(NAMES) - {"traceparent"}
        assert (read.id, read.type) == (None, None)
        assert type_of(empty) is None


def test_a_missing_traceparent_is_no_fault() -> None:
    """A producer that does not trace is heard all the same; its type is found without reading the rest."""
    read = read_headers(written(traceparent=None))

    assert isinstance(read, CloudEvent)
    assert read.traceparent is None
    assert type_of(written()) == b"stock.reserved"
