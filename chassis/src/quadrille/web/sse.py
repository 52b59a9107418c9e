"""Server-sent events and other waits for a row to go on: one query for all; nobody misses what became of a row.

Who waits names the version they know; the newest row beyond it is theirs. A stream of events is such a wait, repeated.
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from quadrille.web.documents import json_of
from quadrille.web.problems import Problem

LOOK_SECONDS = 0.025
OUTAGE_SECONDS = 0.5
KEEP_ALIVE_SECONDS = 15.0
STREAM_SECONDS = (600.0, 900.0)  # drawn for each stream, so that not all come back at once
WAIT_MAX = 10
_WAIT = re.compile(r'(?:^|,)\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:$|[,;])', re.IGNORECASE)


class Versioned(Protocol):
    """A row that says how often it has changed."""

    @property
    def version(self) -> int:
        """The version, which only grows."""
        ...


V = TypeVar("V", bound=Versioned)
Newer: TypeAlias = Callable[[Mapping[str, int]], Awaitable[Mapping[str, V]]]


@dataclass(slots=True, eq=False)
class _Waiter(Generic[V]):
    """Somebody who knows a version of a row; the future is None when there is no more waiting."""

    key: str
    version: int
    row: asyncio.Future[V | None]


class Watch(Generic[V]):
    """Looks for rows that have gone on, every 25 ms while anybody waits; from the event loop only.

    ``newer`` gives, of the rows known by these versions, those that have another by now.
    """

    def __init__(self, newer: Newer[V], stop: threading.Event) -> None:
        self._newer, self._stop = newer, stop
        self._waiting: set[_Waiter[V]] = set()
        self._looking: asyncio.Task[None] | None = None

    @property
    def stopping(self) -> bool:
        """Whether the process is to end: nobody waits any more."""
        return self._stop.is_set()

    async def after(self, key: str, version: int, seconds: float) -> V | None:
        """Return the row once it is beyond the version; None after so many seconds, or when the process is to end."""
        waiter = _Waiter(key, version, asyncio.get_running_loop().create_future())
        self._waiting.add(waiter)
        self._looking = self._looking or asyncio.create_task(self._look())
        try:
            async with asyncio.timeout(seconds):
                return await waiter.row
        except TimeoutError:
            return None
        finally:
            self._waiting.discard(waiter)

    async def until(self, key: str, done: Callable[[V], bool], seconds: float) -> V | None:
        """Return the row once it is done, or as it is after so many seconds; None if it could not be looked at."""
        loop = asyncio.get_running_loop()
        end, row = loop.time() + seconds, None
        while newer := await self.after(key, row.version if row else 0, end - loop.time()):
            row = newer
            if done(row):
                break
        return row

    async def _look(self) -> None:
        trouble: Exception | None = None
        try:
            while self._waiting and not self._stop.is_set():  # noqa: ASYNC110 - the database tells nobody
                await asyncio.sleep(LOOK_SECONDS if await self._found() else OUTAGE_SECONDS)
        except Exception as raised:  # noqa: BLE001 - a bug in the query is every waiter's to raise
            trouble = raised
        self._looking = None
        for row in [waiter.row for waiter in self._waiting if not waiter.row.done()]:
            row.set_exception(trouble) if trouble else row.set_result(None)

    async def _found(self) -> bool:
        """Look once, and tell those whose row has gone on; False if the database does not answer."""
        known: dict[str, int] = {}
        for waiter in self._waiting:
            known[waiter.key] = min(waiter.version, known.get(waiter.key, waiter.version))
        try:
            rows = await self._newer(known)
        except Problem:
            return False
        for waiter in self._waiting:
            row = rows.get(waiter.key)
            if row and row.version > waiter.version and not waiter.row.done():
                waiter.row.set_result(row)
        return True


class ServerSentEvent(NamedTuple):
    """An event of a stream: its name, the place a client may go on from, its document."""

    name: str
    id: int
    data: Mapping[str, object]

    @property
    def line(self) -> bytes:
        """The event as it goes over the wire (the HTML standard's server-sent events)."""
        return b"event: %s\nid: %d\ndata: %s\n\n" % (self.name.encode(), self.id, json_of(self.data))


Show: TypeAlias = Callable[[V], Mapping[str, Any]]


def news(document: Mapping[str, Any], known: int | None) -> Iterator[ServerSentEvent]:
    """Yield what is told of a document with a ``history`` to somebody who knows so much of it, or nothing yet.

    ``snapshot`` is the whole document, ``status`` an entry of its history, ``end`` the document once it is ``final``.
    """
    history = document["history"]
    if known is None:
        yield ServerSentEvent("snapshot", len(history), document)
    for entry in () if known is None else history[known:]:
        yield ServerSentEvent("status", entry["sequence"], entry)
    if document["final"]:
        yield ServerSentEvent("end", len(history), document)


async def stream(watch: Watch[V], key: str, row: V, show: Show[V], came_from: str | None) -> AsyncIterator[bytes]:
    """Tell what became of a row since the Last-Event-ID a client came from, until an ``end`` is told.

    ``restart`` asks the client to come back: the process ends, or the stream has lived for its 10 to 15 minutes.
    """
    loop = asyncio.get_running_loop()
    over = loop.time() + random.uniform(*STREAM_SECONDS)  # noqa: S311 - spreads load, guards nothing
    document = show(row)
    last = _place(came_from or "", len(document["history"]))
    while True:
        for event in news(document, last):
            yield event.line
            last = event.id
            if event.name == "end":
                return
        while not (newer := await watch.after(key, row.version, min(KEEP_ALIVE_SECONDS, over - loop.time()))):
            if watch.stopping or loop.time() >= over:
                yield b"event: restart\ndata: {}\n\n"
                return
            yield b": keep-alive\n\n"
        row, document = newer, show(newer)


def wait_of(prefer: str | None) -> int:
    """Return the seconds of ``Prefer: wait=N`` (RFC 7240), 10 at most; 0 if nobody prefers to wait."""
    found = _WAIT.search(prefer or "")
    return min(int(found[1]), WAIT_MAX) if found else 0


def _place(text: str, newest: int) -> int | None:
    """Return the event a client has seen; None if the text names none."""
    return int(text) if re.fullmatch("[0-9]{1,9}", text) and int(text) <= newest else None
