"""Headers of a record, ten of them: CloudEvents in binary mode, Debezium's `id`, W3C trace (contracts.md, section 2).

What one service's relay writes from an outbox row every consumer reads back, or learns which header is at fault.
"""

from __future__ import annotations

from binascii import hexlify
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

SPEC_VERSION = b"1.0"
CONTENT_TYPE = b"application/vnd.confluent.avro"
NAMES = (
    "id",
    "ce_id",
    "ce_specversion",
    "ce_source",
    "ce_type",
    "ce_time",
    "ce_causationid",
    "ce_sequence",
    "content-type",
    "traceparent",
)
POSTGRES_EPOCH = 946_684_800
"""Unix seconds of 2000-01-01, where PostgreSQL's timestamps count from, in microseconds."""


def write_headers(row: OutboxRow, source: bytes) -> list[tuple[str, str | bytes | None]]:
    """Return the ten headers of an outbox row, in order; ``source`` is `quadrille/<service>`."""
    event_id = uuid_text(row.id)
    return [
        ("id", event_id),
        ("ce_id", event_id),
        ("ce_specversion", SPEC_VERSION),
        ("ce_source", source),
        ("ce_type", row.type),
        ("ce_time", rfc3339(int.from_bytes(row.occurred_at, signed=True))),
        ("ce_causationid", uuid_text(row.causationid)),
        ("ce_sequence", b"%d" % int.from_bytes(row.sequence, signed=True)),
        ("content-type", CONTENT_TYPE),
        ("traceparent", row.traceparent),
    ]


def uuid_text(raw: bytes) -> bytes:
    """Return the canonical text of a UUID's 16 bytes, without a UUID object (a million rows pass here)."""
    h = hexlify(raw)
    return b"%b-%b-%b-%b-%b" % (h[:8], h[8:12], h[12:16], h[16:20], h[20:])


def unix_nanoseconds(postgres_microseconds: bytes) -> int:
    """Return Unix nanoseconds of a binary timestamptz."""
    return (int.from_bytes(postgres_microseconds, signed=True) + POSTGRES_EPOCH * 1_000_000) * 1000


def rfc3339(postgres_microseconds: int) -> bytes:
    """Return a timestamptz, microseconds since 2000, as RFC 3339 in UTC with milliseconds, rounded down."""
    second, rest = divmod(postgres_microseconds, 1_000_000)
    return b"%b.%03dZ" % (_to_the_second(second), rest // 1000)


@lru_cache(maxsize=64)
def _to_the_second(second: int) -> bytes:
    return datetime.fromtimestamp(second + POSTGRES_EPOCH, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """What the headers of a record say; ``traceparent`` is None where a producer sent none."""

    id: UUID
    type: str
    source: str
    time: datetime
    causation: UUID
    sequence: int
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class Fault:
    """One header that is `missing` or `invalid`."""

    header: str
    problem: str


@dataclass(frozen=True, slots=True)
class MalformedHeadersError:
    """Headers that make no envelope; ``id``, ``type`` and ``traceparent`` are kept where they alone are sound."""

    faults: tuple[Fault, ...]
    id: UUID | None
    type: str | None
    traceparent: str | None

    @property
    def reason(self) -> str:
        """Return a fixed phrase that names the headers, never their values."""
        return ", ".join(f"header {f.header} is {f.problem}" for f in self.faults)


Headers = Sequence[tuple[str, bytes | None]]


def type_of(headers: Headers | None) -> bytes | None:
    """Return the wire type alone, or None: enough to skip an unheard record before anything is decoded."""
    for name, value in headers or ():
        if name == "ce_type":
            return value
    return None


def read_headers(headers: Headers | None) -> CloudEvent | MalformedHeadersError:
    """Return the envelope of a record, or which of its headers are missing or invalid; a repeated header counts once.

    The id is `ce_id`; Debezium's `id` beside it must be equal. A missing or broken traceparent is no fault.
    """
    reader = _Reader(dict(reversed(headers or ())))
    event_id = reader.uuid("ce_id")
    if reader.found.get("id") is None or (event_id and reader.found["id"] != reader.found["ce_id"]):
        reader.blame("id")
    reader.literal("ce_specversion", SPEC_VERSION)
    source, wire_type = reader.text("ce_source"), reader.text("ce_type")
    time, causation, sequence = reader.time("ce_time"), reader.uuid("ce_causationid"), reader.count("ce_sequence")
    reader.literal("content-type", CONTENT_TYPE)
    traceparent = _decoded(reader.found.get("traceparent"))
    if reader.faults or not (event_id and source and wire_type and time and causation and sequence):
        return MalformedHeadersError(tuple(reader.faults), event_id, wire_type, traceparent)
    return CloudEvent(event_id, wire_type, source, time, causation, sequence, traceparent)


class _Reader:
    """Reads one header after the other and remembers which were at fault."""

    def __init__(self, found: dict[str, bytes | None]) -> None:
        self.found = found
        self.faults: list[Fault] = []

    def blame(self, name: str) -> None:
        """Remember a header as missing or invalid."""
        self.faults.append(Fault(name, "missing" if self.found.get(name) is None else "invalid"))

    def text(self, name: str) -> str | None:
        """Return a header's text; empty or not UTF-8 is invalid."""
        if not (value := _decoded(self.found.get(name))):
            self.blame(name)
            return None
        return value

    def uuid(self, name: str) -> UUID | None:
        """Return a UUID in canonical text."""
        value = _decoded(self.found.get(name)) or ""
        try:
            parsed = UUID(value)
        except ValueError:
            self.blame(name)
            return None
        if str(parsed) == value:
            return parsed
        self.blame(name)  # Python also takes braces, urn: and any placing of hyphens; an id has one spelling
        return None

    def time(self, name: str) -> datetime | None:
        """Return a point in time that names its offset."""
        try:
            parsed = datetime.fromisoformat(_decoded(self.found.get(name)) or "")
        except ValueError:
            parsed = None
        if parsed is None or parsed.tzinfo is None:
            self.blame(name)
            return None
        return parsed

    def count(self, name: str) -> int | None:
        """Return a sequence: 1, 2, 3 ... below 2^63, in plain digits."""
        value = self.found.get(name) or b""
        if value.isdigit() and len(value) <= len(str(2**63)) and 0 < int(value) < 2**63:
            return int(value)
        self.blame(name)
        return None

    def literal(self, name: str, wanted: bytes) -> None:
        """Require exactly these bytes."""
        if self.found.get(name) != wanted:
            self.blame(name)


def _decoded(value: bytes | None) -> str | None:
    try:
        return value.decode() if value is not None else None
    except UnicodeDecodeError:
        return None


class OutboxRow(NamedTuple):
    """An inserted row, each column in PostgreSQL's binary form; only ``parent_span`` may be NULL."""

    id: bytes
    aggregatetype: bytes
    aggregateid: bytes
    type: bytes
    sequence: bytes
    payload: bytes
    causationid: bytes
    traceparent: bytes
    parent_span: bytes | None
    occurred_at: bytes
