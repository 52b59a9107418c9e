"""Ids as the law makes them: UUIDv8 of service, cause, type and ordinal (contracts, section 3), reckoned here anew."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from uuid import UUID

_EPOCH = datetime.fromtimestamp(0, UTC)
_LOW = (1 << 62) - 1


def hash_of(service: str, cause: str, wire_type: str, ordinal: int) -> int:
    """Return the 74 bits that the id of what a service says for a cause must carry, whatever its time is."""
    digest = hashlib.sha256(f"{service}\0{cause}\0{wire_type}\0{ordinal}".encode()).digest()
    return int.from_bytes(digest[:10]) >> 6


def hash_in(identity: str) -> int:
    """Return the 74 bits that an id carries beside time, version and variant."""
    number = UUID(identity).int
    return (number >> 64 & 0xFFF) << 62 | number & _LOW


def time_of(identity: str) -> datetime:
    """Return the time that an id carries."""
    return _EPOCH + timedelta(milliseconds=UUID(identity).int >> 80)


def is_root(identity: str) -> bool:
    """Tell whether an id is of a command or a root, not derived from anything: a version 7."""
    return UUID(identity).version == 7  # noqa: PLR2004 - RFC 9562
