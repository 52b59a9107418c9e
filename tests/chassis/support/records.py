"""Records as a relay ships them."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from quadrille.ids import uuid7
from quadrille.observability.trace_context import new_trace

Headers = tuple[tuple[str, bytes], ...]


def record_headers(identity: UUID, kind: str, sequence: int = 1) -> Headers:
    """Return the ten headers of a record."""
    name = str(identity).encode()
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return (
        ("id", name),
        ("ce_id", name),
        ("ce_specversion", b"1.0"),
        ("ce_source", b"quadrille/order"),
        ("ce_type", kind.encode()),
        ("ce_time", now.encode()),
        ("ce_causationid", str(uuid7()).encode()),
        ("ce_sequence", b"%d" % sequence),
        ("content-type", b"application/vnd.confluent.avro"),
        ("traceparent", new_trace().traceparent.encode()),
    )
