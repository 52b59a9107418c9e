"""What documents and listings are made of: checked texts, times, cursors that fit one listing only."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

from chassis.problems import refuse

# Control characters (C0, DEL, C1), line and paragraph separators, and all that turns the direction of text.
_PLAIN = r"^[^\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]*$"
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_EPOCH = datetime.fromtimestamp(0, UTC)
_MARK = 8  # bytes of a cursor that say which listing it belongs to


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _written(value: object) -> object:
    if isinstance(value, str) and not _RFC3339.fullmatch(value):
        kind, text = "datetime_format", "Input should be a time of RFC 3339, with its offset"
        raise PydanticCustomError(kind, text)
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_written)]
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=_PLAIN), AfterValidator(_composed)]
Idempotency = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,255}$")]


class Paged(BaseModel):
    """A listing's query: how many, and where to go on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(50, ge=1, le=200, description="How many at most.")
    cursor: str | None = Field(None, max_length=200, pattern="^[A-Za-z0-9_-]*$", description="From a Link's next.")


def from_milliseconds(ms: int) -> datetime:
    """Return the time of Unix milliseconds, exactly."""
    return _EPOCH + timedelta(milliseconds=ms)


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
