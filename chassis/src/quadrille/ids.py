"""Ids made of time and cause: the same cause always yields the same id, and a range of ids is a range of time.

Layout (contracts.md, section 3): 48 bits of Unix milliseconds, version 8, 12 bits of hash, variant, 62 bits of hash.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

_VARIANT = 0b10 << 62
# Ids are unique, not secret: a generator seeded by the system, for asking the system each time costs up to 40 µs.
random_bits = random.Random(os.urandom(32)).getrandbits  # noqa: S311 - no secret is made of it
_EPOCH = datetime.fromtimestamp(0, UTC)
_MILLISECOND = timedelta(milliseconds=1)


def milliseconds(at: datetime) -> int:
    """Return Unix milliseconds, rounded down."""
    return (at - _EPOCH) // _MILLISECOND


def from_milliseconds(ms: int) -> datetime:
    """Return the time of Unix milliseconds in UTC, exactly: a float would not be, from the year 2286 on."""
    return _EPOCH + ms * _MILLISECOND


def id_milliseconds(event_id: UUID) -> int:
    """Return the milliseconds a version 7 or 8 id carries."""
    return event_id.int >> 80


def id_time(event_id: UUID) -> datetime:
    """Return the time a version 7 or 8 id carries, in UTC."""
    return from_milliseconds(id_milliseconds(event_id))


def uuid7(at_ms: int | None = None) -> UUID:
    """Return a fresh UUIDv7 (RFC 9562) for a command or a root event."""
    ms = time.time_ns() // 1_000_000 if at_ms is None else at_ms
    return _lay_out(ms, 7, random_bits(12), random_bits(62))


def event_id(service: str, cause: UUID, wire_type: str, ordinal: int, at_ms: int | None = None) -> UUID:
    """Return the id of what ``service`` emits for ``cause``: UUIDv8, milliseconds of the cause unless ``at_ms``."""
    text = f"{service}\0{cause}\0{wire_type}\0{ordinal}".encode()
    h = int.from_bytes(hashlib.sha256(text).digest()[:10]) >> 6  # the first 74 bits
    return _lay_out(cause.int >> 80 if at_ms is None else at_ms, 8, h >> 62, h & (1 << 62) - 1)


def record_id(topic: str, partition: int, offset: int, at_ms: int) -> UUID:
    """Return the id of a record that carries no valid one: UUIDv8 of its coordinates at the record's time."""
    h = int.from_bytes(hashlib.sha256(f"{topic}\0{partition}\0{offset}".encode()).digest()[:10]) >> 6
    return _lay_out(at_ms, 8, h >> 62, h & (1 << 62) - 1)


def floor_of(at_ms: int) -> UUID:
    """Return the smallest id of a millisecond: where an inbox partition begins."""
    return UUID(int=at_ms << 80)


def lock_key(key: str) -> int:
    """Return the advisory lock of a key, signed 64 bits; a UUID is hashed parsed, not by its spelling."""
    try:
        data = UUID(key).bytes
    except ValueError:
        data = key.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(data).digest()[:8], signed=True)


def _lay_out(ms: int, version: int, high: int, low: int) -> UUID:
    return UUID(int=(ms & (1 << 48) - 1) << 80 | version << 76 | (high & 0xFFF) << 64 | _VARIANT | low)
