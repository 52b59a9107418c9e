"""Documents and listings: JSON, exact times, cursors that fit one listing only."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, PlainSerializer, WithJsonSchema

from quadrille.values import rfc3339
from quadrille.web.problems import refuse

_MARK = 8  # bytes of a cursor that say which listing it belongs to


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


Time = Annotated[
    datetime,
    PlainSerializer(rfc3339, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}, mode="serialization"),
]
"""A time in a document: RFC 3339, UTC, milliseconds."""


class Document(BaseModel):
    """A JSON document of ours, in or out: its members and no others, each of its own type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def shown(source: object, model: type[BaseModel], **told: object) -> dict[str, object]:
    """Return a document of the model: what is told, and for all else the source's attributes of the same names."""
    return {n: told[n] if n in told else plain(getattr(source, n)) for n in model.model_fields}


def plain(value: object) -> object:
    """Return a value as JSON has it: times as RFC 3339, tuples as lists, dataclasses as objects."""
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, tuple):
        return [plain(one) for one in value]
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    return value


def etag(version: int) -> str:
    """Return the entity tag of a row's version."""
    return f'"v{version}"'


def matches(condition: str, current: str | None) -> bool:
    """Tell whether If-Match holds: strong comparison (RFC 9110, 13.1.1); None is what does not exist."""
    return current is not None and (condition.strip() == "*" or current in _tags(condition))


def unchanged(condition: str | None, current: str) -> bool:
    """Tell whether If-None-Match of a GET names what is there: weak comparison (RFC 9110, 13.1.2)."""
    return condition is not None and (
        condition.strip() == "*" or current in [tag.removeprefix("W/") for tag in _tags(condition)]
    )


def _tags(condition: str) -> list[str]:
    return [tag.strip() for tag in condition.split(",")]
