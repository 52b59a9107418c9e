"""Plan of a replay: what is to be read again, frozen once planned, one half-open interval of offsets a partition.

What the service's own worker has not read yet is never planned: it is that worker's, in its order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NoReturn
from uuid import UUID

from pydantic import Field, TypeAdapter

from quadrille.ids import from_milliseconds, milliseconds
from quadrille.kafka.topics import Place, Topics
from quadrille.replay.archive import Archive
from quadrille.service import Tx
from quadrille.values import FIRST, LAST, Text, rfc3339
from quadrille.web.documents import Document
from quadrille.web.problems import refuse

POSITIONS = "SELECT partition, next_offset FROM position WHERE topic = %b"
_AGO = re.compile(r"(\d{1,6})([smhd])")
_UNIT = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
Bounds = Mapping[Place, tuple[int, int]]


class DryRunRequest(Document):
    """What to look at: a topic from one edge to another, of one key, one type, or these events alone."""

    into: Literal["dry"]
    topic: Text
    since: Text = Field(alias="from")
    until: Text = Field(default="end", alias="to")
    partition: int | None = None
    order: Text | None = None
    type: Text | None = None
    events: tuple[UUID, ...] = Field(default=(), max_length=100)
    limit: int | None = Field(default=None, ge=1)
    archive: Text | None = None


class LiveRunRequest(Document):
    """What to do: a plan, the service's name once more, how fast, and which effects the fence lets through."""

    into: Literal["live"]
    plan: UUID
    confirm: Text
    allow_effects: tuple[Text, ...] = Field(default=(), max_length=10)
    rate: int = Field(default=200, ge=1, le=100_000)


class ShadowRunRequest(Document):
    """What to rebuild: a projection the service declares; a swap is asked for with the service's name once more."""

    into: Literal["shadow"]
    model: Text
    swap: bool = False
    confirm: Text = ""
    archive: Text | None = None


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """A frozen selection: ``ranges`` by partition, and what of them is meant; ``left`` records are the worker's.

    A live one has what it was made from: ``plan``, how many ``records`` that saw, what it may let out, how fast. One of
    an ``archive`` names its directory, and the ``seal`` of the manifest there.
    """

    mode: str
    topic: str
    since: str
    until: str
    ranges: dict[int, tuple[int, int]]
    order: str | None = None
    type: str | None = None
    events: tuple[UUID, ...] = ()
    limit: int | None = None
    left: int = 0
    plan: UUID | None = None
    records: int = 0
    allow_effects: tuple[str, ...] = ()
    rate: int = 200
    archive: str | None = None
    seal: str | None = None

    @property
    def offsets(self) -> int:
        """How many offsets the ranges span."""
        return sum(upto - since for since, upto in self.ranges.values())

    def document(self) -> dict[str, Any]:
        """Return it as it is stored."""
        document: dict[str, Any] = _PLAN.dump_python(self, mode="json")
        return document


_PLAN = TypeAdapter(ReplayPlan)


def plan_of(document: Mapping[str, Any]) -> ReplayPlan:
    """Return the plan of a stored document."""
    return _PLAN.validate_python(document)


def freeze(request: DryRunRequest, topics: Topics | Archive, tx: Tx, consumed: bool) -> ReplayPlan:  # noqa: FBT001 - whether the service hears it
    """Turn a request into offsets, as the broker has them now; refuses what is not there, and what is past retention.

    Of a topic the service hears, only what its own positions have passed is planned; an archive is read as its topic
    would be.
    """
    places = topics.places(request.topic)
    archive = topics if isinstance(topics, Archive) else None
    if not places:
        _invalid("/topic", "unknown_topic", "The archive has none of it" if archive else "There is no such topic")
    if request.partition is not None:
        places = [place for place in places if place[1] == request.partition]
        if not places:
            _invalid("/partition", "unknown_partition", "The topic has no such partition")
    bounds, now = topics.watermarks(places), datetime.now(UTC)
    edges = [
        _Edge(text, pointer, request.partition) for text, pointer in ((request.since, "/from"), (request.until, "/to"))
    ]
    times = [edge.time(now) for edge in edges]
    if times[0] and times[1] and times[0] > times[1]:
        _invalid("/to", "before_from", "The end lies before the beginning")
    first, last = (edge.offsets(topics, bounds, now) for edge in edges)
    read: dict[int, int] = dict(tx.execute(POSITIONS, [request.topic]).fetchall())
    ranges, left = {}, 0
    for place, (low, _) in bounds.items():
        since, upto = first[place], last[place]
        if since > upto:
            _invalid("/to", "before_from", "The end lies before the beginning")
        passed = min(upto, read.get(place[1], low)) if consumed else upto
        ranges[place[1]] = since, max(since, passed)
        left += upto - max(since, passed)
    since_shown, until_shown = (edge.shown(now) for edge in edges)
    return ReplayPlan(
        "dry",
        request.topic,
        since_shown,
        until_shown,
        ranges,
        request.order,
        request.type,
        request.events,
        request.limit,
        left,
        archive=str(archive.directory) if archive else None,
        seal=archive.seal if archive else None,
    )


def concerns(plan: ReplayPlan, key: str) -> bool:
    """Tell whether a plan selects records of a key."""
    return plan.order in (None, key)


@dataclass(frozen=True, slots=True)
class _Edge:
    """Where a range begins or ends, as it was asked: ``10m`` ago, a time, ``offset:N``, ``beginning``, ``end``."""

    text: str
    pointer: str
    partition: int | None

    def offsets(self, topics: Topics | Archive, bounds: Bounds, now: datetime) -> dict[Place, int]:
        """Return the offset of each partition."""
        if self.text in ("beginning", "end"):
            return {place: low if self.text == "beginning" else high for place, (low, high) in bounds.items()}
        if self.text.startswith("offset:"):
            return {place: self._offset(topics, place, bounds[place]) for place in bounds}
        at = min(milliseconds(self._moment(now)), milliseconds(now) + 1)
        found = topics.since(bounds, at)
        return {place: found[place][0] if found[place][0] >= 0 else high for place, (_, high) in bounds.items()}

    def shown(self, now: datetime) -> str:
        """Return it as an absolute time, or as it was asked."""
        moment = self.time(now)
        return rfc3339(moment) if moment else self.text

    def time(self, now: datetime) -> datetime | None:
        """Return the time it is, None where it is a place."""
        place = self.text in ("beginning", "end") or self.text.startswith("offset:")
        return None if place else self._moment(now)

    def _offset(self, topics: Topics | Archive, place: Place, within: tuple[int, int]) -> int:
        number = self.text.removeprefix("offset:")
        if self.partition is None:
            _invalid("/partition", "missing", "An offset belongs to a partition: name it")
        if not (number.isascii() and number.isdigit() and len(number) < len(str(1 << 63))):
            _invalid(self.pointer, "offset", "Input should be offset:N")
        low, high = within
        if int(number) < low:
            _, oldest = topics.since([place], 0)[place]
            at = rfc3339(from_milliseconds(oldest)) if oldest >= 0 else None
            detail = f"{place[0]}[{place[1]}] begins at offset {low}: what was before it has gone."
            refuse("past-retention", detail, oldest_at=at)
        if int(number) > high:
            _invalid(self.pointer, "beyond_end", f"The partition ends at offset {high}")
        return int(number)

    def _moment(self, now: datetime) -> datetime:
        if ago := _AGO.fullmatch(self.text):
            return now - min(timedelta(**{_UNIT[ago[2]]: int(ago[1])}), now - FIRST)
        try:
            moment = datetime.fromisoformat(self.text)
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None:
            wanted = "Input should be 10m (ago), a time with its offset, offset:N, beginning or end"
            _invalid(self.pointer, "edge", wanted)
        return min(max(moment, FIRST), LAST)


def _invalid(pointer: str, code: str, message: str) -> NoReturn:
    refuse("validation-failed", errors=[{"pointer": pointer, "code": code, "message": message}])
