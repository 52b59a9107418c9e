"""What a record says, read as facts of an order: pure, whatever its body holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from console.domain import Fact, Stored
from quadrille import AnyRecord, rfc3339

INPUTS = frozenset({"input.parked", "input.dead", "input.redriven", "input.discarded"})
"""Types of ``ops.events`` that tell of an input which a service could not handle."""
SEVERAL = {"notification.sent": "kind", "notification.failed": "kind", "notification.suppressed": "kind",
           "compensation.attempted": "participant"}  # fmt: skip
"""Of these types an order has several facts: the member that tells them apart."""
SECRETS = frozenset({"payment_token"})
TEXT_MAX = 512


def fact_of(record: AnyRecord) -> Fact | None:
    """Return what a record says of an order; None if it could not be read, is a copy, or is about none."""
    if record.fault is not None or record.topic.endswith(".dead-letters") or not is_order(record.key):
        return None
    body = plain(record.body or {})
    return Fact(text(record.named), record.at, str(record.id), record.sequence or 0, body)


def input_of(fact: Fact) -> tuple[str, str] | None:
    """Return service and event id of the input a fact tells of; None if it tells of none."""
    if fact.type not in INPUTS:
        return None
    return fact.text("service") or "unknown", fact.text("event_id") or fact.id


def is_order(key: str) -> bool:
    """Tell whether a record's key is an order's id, in its one spelling."""
    try:
        return str(UUID(key)) == key
    except ValueError:
        return False


def name_of(fact: Fact) -> str:
    """Return the name a fact is kept under: its type, and what tells several of it apart."""
    apart = SEVERAL.get(fact.type)
    return f"{fact.type}/{fact.text(apart) or ''}" if apart else fact.type


def plain(value: Any, name: str = "") -> Any:  # noqa: ANN401, PLR0911 - any value of a body; a return a kind
    """Return a decoded value as JSON has it; what is secret by its name is not shown."""
    if name in SECRETS:
        return "***"
    if isinstance(value, Mapping):
        return {text(str(key)): plain(one, str(key)) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    if isinstance(value, bytes | bytearray):
        return value.hex()
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return text(value) if isinstance(value, str) else value


def text(value: str) -> str:
    """Return a text as a database can hold it."""
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def stored(record: AnyRecord) -> Stored:
    """Return a record as it is kept."""
    headers = tuple((text(name), _shown(value)) for name, value in record.headers)
    source = record.source.removeprefix("quadrille/")
    return Stored(
        record.id, text(record.named)[:TEXT_MAX], text(source)[:TEXT_MAX], text(record.key), record.sequence, record.at,
        record.causation, record.trace_id, record.topic, record.partition, record.offset, record.schema_id,
        None if record.body is None else plain(record.body), record.fault, headers, record.raw,
    )  # fmt: skip


def _shown(value: bytes) -> str:
    """Return a header's value as text, one that is none as hex."""
    try:
        found = value.decode()
    except UnicodeDecodeError:
        return f"0x{value.hex()}"
    return found if found.isprintable() else f"0x{value.hex()}"
