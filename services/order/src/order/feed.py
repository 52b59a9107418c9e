"""The feed of order's API: every change of a caller's orders in one sequence, by pages and live."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import sqlalchemy as sa
from fastapi import Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from order import store
from order.domain import FINAL, PHASES, Change, Phase, Status
from quadrille import BEGINNING, FeedPage, FeedPlace, Newest
from quadrille.web import (
    EVENTS,
    Answer,
    Document,
    Routes,
    TheApi,
    call_of,
    events,
    follow_feed,
    json_of,
    kept,
    plain,
    read_place,
    write_place,
)

LIMIT = 200
CURSOR = "MDAAAAAAAAFuAaH9Ylfwfuu-luWc5A-csQAAAAF4n1-ZkC7RZQ"
EXAMPLE = {
    "cursor": CURSOR, "type": "order.confirmed", "order_id": "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1",
    "reference": "basket-4711", "sequence": 4, "status": "CONFIRMED", "phase": "SUCCEEDED", "final": True,
    "at": "2026-11-21T09:14:03.391Z", "because": "payment.charged",
}  # fmt: skip
TOLD = (
    f'event: begin\nid: {CURSOR[:-2]}…\ndata: {{}}\n\nevent: change\nid: {CURSOR}\ndata: {{"cursor": "{CURSOR}", …\n\n'
)
GONE = "invalid-cursor", "past-retention"


class ChangeDocument(Document):
    """A new status of one of your orders; order_id and sequence name it for ever."""

    cursor: str = Field(description="Where to go on after it.")
    type: str = Field(description="order. and the status, such as order.confirmed.")
    order_id: UUID
    reference: str | None
    sequence: int = Field(description="Its place in the order's history.")
    status: Status
    phase: Phase
    final: bool
    at: str
    because: str


class ChangeList(Document):
    """A page of changes, oldest first."""

    events: list[ChangeDocument]
    has_more: bool = Field(description="Whether there is more to read now.")
    next: str = Field(description="The cursor to go on after, now or later.")


class FeedQuery(BaseModel):
    """Where to go on, and how many at most."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    after: str | None = Field(
        default=None, max_length=200, pattern="^[A-Za-z0-9_-]*$", description="A cursor; none begins with the oldest."
    )
    limit: int = Field(default=50, ge=1, le=LIMIT, description="How many at most.")


def shown(change: Change, caller: str) -> dict[str, object]:
    """Return a change as its caller sees it."""
    entry = change.entry
    return {
        "cursor": write_place(change.place, caller), "type": f"order.{entry.status.lower()}",
        "order_id": str(change.place.key), "reference": change.reference, "sequence": entry.sequence,
        "status": entry.status, "phase": PHASES[entry.status], "final": entry.status in FINAL, "at": plain(entry.at),
        "because": entry.because,
    }  # fmt: skip


async def read_changes(request: Request, api: TheApi, asked: Annotated[FeedQuery, Query()]) -> Response:
    """Read what has become of all your orders, oldest first, from a cursor on; nothing is ever skipped.

    A change may come twice to who asks twice: order_id and sequence are the same then.
    """
    caller = call_of(request).caller
    after = read_place(asked.after, caller) if asked.after else None
    found = kept(await api.read(store.changes, caller, after, asked.limit + 1))
    page = found[: asked.limit]
    place = page[-1].place if page else after or BEGINNING
    document = {
        "events": [shown(change, caller) for change in page], "has_more": len(found) > len(page),
        "next": write_place(place, caller),
    }  # fmt: skip
    return Response(json_of(document), 200, {}, "application/json")


async def follow_changes(
    request: Request,
    api: TheApi,
    after: Annotated[str | None, Query(max_length=200, pattern="^[A-Za-z0-9_-]*$")] = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Follow all your orders live, from now on; with Last-Event-ID or a cursor from there on, without a gap."""
    call = call_of(request)
    cursor = last_event_id or after
    place = read_place(cursor, call.caller) if cursor else await api.read(_now, call.caller)

    async def read(behind: FeedPlace) -> FeedPage[Change]:
        return await api.read(store.changes, call.caller, behind, LIMIT)

    kept(await read(place))
    watch = api.watch(store.newest_changes)
    return events(call, follow_feed(watch, call.caller, place, read, lambda change: shown(change, call.caller)))


def _now(db: sa.Connection, caller: str) -> FeedPlace:
    """Return the place behind all that may be told by now."""
    newest: Newest | None = store.newest_changes(db, {caller: 0}).get(caller)
    return FeedPlace.behind(newest.version) if newest else BEGINNING


def register(routes: Routes) -> None:
    """Add the feed's routes."""
    page = {"events": [EXAMPLE], "has_more": False, "next": CURSOR}
    answers = [Answer(200, "A page; next goes on from it.", ChangeList, page)]
    routes.on("GET", "/v1/events", scope="events:read", problems=GONE, answers=answers)(read_changes)
    answers = [Answer(200, "begin, change …; restart.", None, TOLD, media_type=EVENTS)]
    routes.on("GET", "/v1/events/stream", scope="events:read", problems=GONE, answers=answers)(follow_changes)
