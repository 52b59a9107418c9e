"""Values as they come over HTTP, checked: texts, identifiers, times, sizes and places of lists; named without HTTP."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Generic, NamedTuple, Protocol, TypeVar
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

# Control characters (C0, DEL, C1), line and paragraph separators, and all that turns the direction of text.
_PLAIN = r"^[^\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]*$"
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
TEXT_MAX = 255
FIRST, LAST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)  # nothing of ours is before or after


def _composed(text: str) -> str:
    """Return the text as it is kept and compared, which may be longer than it was; bounds are those of what is kept."""
    composed = unicodedata.normalize("NFC", text)
    if len(composed) > TEXT_MAX:
        kind, message = "string_too_long", "String should have at most 255 characters once composed (NFC)"
        raise PydanticCustomError(kind, message)
    return composed


def _written(value: object) -> object:
    if isinstance(value, str) and not _RFC3339.fullmatch(value):
        kind, text = "datetime_format", "Input should be a time of RFC 3339, with its offset"
        if _RFC3339.fullmatch("+".join(value.rsplit(" ", 1))):
            text = "In a query a + is a blank: write %2B before the offset, or use Z"
        raise PydanticCustomError(kind, text)
    return value


def _within(moment: datetime) -> datetime:
    """Return the nearest time a database knows: one beyond everything of ours is as good as the first or last."""
    return min(max(moment, FIRST), LAST)


Moment = Annotated[AwareDatetime, BeforeValidator(_written), AfterValidator(_within)]
"""A time as it comes in, RFC 3339 with its offset; one before 2000 or after 2200 is taken as the first or last."""
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$")]
"""A name made by a machine: letters, digits and ``. _ : -``, 64 at most."""
Text = Annotated[str, StringConstraints(min_length=1, max_length=TEXT_MAX, pattern=_PLAIN), AfterValidator(_composed)]
"""A text by people, composed (NFC), without control characters, 255 at most."""
Idempotency = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,255}$")]
"""An ``Idempotency-Key``: visible ASCII, 255 at most."""


class Paged(BaseModel):
    """A listing's query: how many, and where to go on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(default=50, ge=1, le=200, description="How many at most.")
    cursor: str | None = Field(
        default=None, max_length=200, pattern="^[A-Za-z0-9_-]*$", description="From a Link's next."
    )


class FeedPlace(NamedTuple):
    """Where a change stands in its caller's feed: a transaction's number, what has changed, which change of it."""

    xid: int
    key: UUID
    number: int

    @classmethod
    def behind(cls, xid: int) -> FeedPlace:
        """Return the place behind all that a number stands for."""
        return cls(xid, UUID(int=2**128 - 1), 2**31 - 1)


BEGINNING = FeedPlace(0, UUID(int=0), 0)
"""The place before all changes."""


class HasPlace(Protocol):
    """A change of a feed."""

    @property
    def place(self) -> FeedPlace:
        """Where it stands."""
        ...


C = TypeVar("C", bound=HasPlace)


@dataclass(frozen=True, slots=True)
class FeedPage(Generic[C]):
    """Changes after a place, oldest first; where some of them are gone, ``oldest_at`` is when what is kept begins."""

    changes: Sequence[C]
    gone: bool = False
    oldest_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest place of a feed that may be told, by its number."""

    version: int


def rfc3339(at: datetime) -> str:
    """Return a time as every interface shows it: RFC 3339, UTC, milliseconds."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
