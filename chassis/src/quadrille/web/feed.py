"""Feed: all changes of one caller's things in one sequence, by pages and live; no cursor ever skips a change.

Transactions do not commit one after the other as they begin, so a number drawn by each is no place to go on from: a gap
may fill after it was passed. A change's place begins with a transaction's number instead, at least its own, and is told
once every transaction with a smaller number has ended: nothing can come before it any more.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import random
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

from quadrille.values import FeedPage, FeedPlace, HasPlace, Newest, rfc3339
from quadrille.web import sse
from quadrille.web.documents import json_of
from quadrille.web.problems import Problem, refuse

_MARK = 8  # bytes of a cursor that say whose it is
_PLACE = struct.Struct(">Q16sI")


T = TypeVar("T", bound=HasPlace)


def kept(page: FeedPage[T]) -> Sequence[T]:
    """Return the changes of a page; refuses a place some of whose followers are gone."""
    if page.gone:
        members: dict[str, Any] = {"oldest_at": rfc3339(page.oldest_at)} if page.oldest_at else {}
        refuse("past-retention", **members)
    return page.changes


def write_place(place: FeedPlace, caller: str) -> str:
    """Return the cursor that goes on after a place, in the caller's feed only."""
    data = _PLACE.pack(place.xid, place.key.bytes, place.number)
    return base64.urlsafe_b64encode(data + _mark(data, caller)).decode().rstrip("=")


def read_place(cursor: str, caller: str) -> FeedPlace:
    """Return the place to go on after; refuses a cursor that is damaged, or another caller's."""
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True)
        xid, key, number = _PLACE.unpack(data[:-_MARK])
    except (binascii.Error, ValueError, struct.error):
        refuse("invalid-cursor")
    if data[-_MARK:] != _mark(data[:-_MARK], caller):
        refuse("invalid-cursor")
    return FeedPlace(xid, UUID(bytes=key), number)


def _mark(data: bytes, caller: str) -> bytes:
    return hashlib.sha256(b"feed\0" + data + caller.encode()).digest()[:_MARK]


Read = Callable[[FeedPlace], Awaitable[FeedPage[T]]]
Tell = Callable[[T], Mapping[str, Any]]


async def follow_feed(
    watch: sse.Watch[Newest], caller: str, place: FeedPlace, read: Read[T], tell: Tell[T]
) -> AsyncIterator[bytes]:
    """Tell a caller's changes after a place as they come: each an event ``change`` whose id is the cursor behind it.

    ``begin`` tells the cursor it begins at. ``restart`` asks the client to come back with the last id: the process
    ends, the stream has lived for its 10 to 15 minutes, or it fell behind what is kept.
    """
    loop = asyncio.get_running_loop()
    over = loop.time() + random.uniform(*sse.STREAM_SECONDS)  # noqa: S311 - spreads load, guards nothing
    yield b"event: begin\nid: %s\ndata: {}\n\n" % write_place(place, caller).encode()
    while not watch.stopping and loop.time() < over:
        try:
            page = await read(place)
        except Problem:  # its database is away for a while
            await asyncio.sleep(sse.OUTAGE_SECONDS)
            yield b": keep-alive\n\n"
            continue
        if page.gone:
            break
        for change in page.changes:
            cursor = write_place(place := change.place, caller)
            yield b"event: change\nid: %s\ndata: %s\n\n" % (cursor.encode(), json_of(tell(change)))
        if page.changes:
            continue
        wait = min(sse.KEEP_ALIVE_SECONDS, over - loop.time())
        if not await watch.after(caller, place.xid, wait) and not watch.stopping:
            yield b": keep-alive\n\n"
    yield b"event: restart\ndata: {}\n\n"
