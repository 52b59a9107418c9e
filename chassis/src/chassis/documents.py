"""What documents and listings are made of: JSON, exact times, cursors that fit one listing only."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from uuid import UUID

from chassis.problems import refuse

_MARK = 8  # bytes of a cursor that say which listing it belongs to


def rfc3339(at: datetime) -> str:
    """Return a time as every interface shows it: RFC 3339, UTC, milliseconds."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def json_of(document: Mapping[str, object]) -> bytes:
    """Return the bytes of a document."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def write_cursor(last: UUID, listing: Mapping[str, object]) -> str:
    """Return the cursor that goes on after the id, in the listing with these filters only."""
    return base64.urlsafe_b64encode(last.bytes + _mark(last, listing)).decode().rstrip("=")


def read_cursor(cursor: str, listing: Mapping[str, object]) -> UUID:
    """Return the id to go on after; refuses a damaged cursor, or one of a listing with other filters."""
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True)
        last = UUID(bytes=data[:-_MARK])
    except (binascii.Error, ValueError):
        refuse("invalid-cursor")
    if data[-_MARK:] != _mark(last, listing):
        refuse("invalid-cursor")
    return last


def _mark(last: UUID, listing: Mapping[str, object]) -> bytes:
    return hashlib.sha256(last.bytes + json.dumps(listing, sort_keys=True, default=str).encode()).digest()[:_MARK]
