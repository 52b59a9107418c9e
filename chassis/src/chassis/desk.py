"""What endpoints work with: commands go in by one committer, reads come from a bounded pool, versions are ETags."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Annotated, Any, Concatenate, ParamSpec, Self, TypeAlias, TypeVar, cast
from urllib.parse import urlencode
from uuid import UUID

import sqlalchemy as sa
from fastapi import Depends, Request, Response
from pydantic import BaseModel, ConfigDict, PlainSerializer, WithJsonSchema
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from chassis.documents import read_cursor, rfc3339, write_cursor
from chassis.edge import Call
from chassis.ids import uuid7
from chassis.inputs import Input
from chassis.intake import Intake
from chassis.pool import Pool
from chassis.problems import refuse
from chassis.program import Face
from chassis.throttle import Gate
from chassis.values import Paged
from chassis.waiting import V, Watch
from chassis.web import call_of
from chassis.words import Command, Reply, key_of
from chassis.worker import Notes

C = TypeVar("C", bound=Command)
R = TypeVar("R", bound=Reply)
T = TypeVar("T")
A = TypeVar("A", bound=Paged)
P = ParamSpec("P")
Listing: TypeAlias = Callable[[sa.Connection, str, A, int, str | None], list[T]]  # caller, asked, how many, after
EVENTS = "text/event-stream"


Time = Annotated[
    datetime,
    PlainSerializer(rfc3339, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}, mode="serialization"),
]


class Document(BaseModel):
    """A JSON document of ours, in or out: its members and no others, each of its own type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Desk:
    """An API's way to its database; open it as a context while serving.

    With ``known``, which tells whether a command was answered before, new ones are let in by a gate.
    Raises Stopped when made on a database that forgets.
    """

    def __init__(self, face: Face, known: Callable[[sa.Connection, Any], bool] | None = None) -> None:
        self.settings, self.base = face.settings, face.settings.public_base
        self._intake = Intake(face.service, face.connect, Notes(face.spans, face.tally))
        self._intake.check()
        self._reads = Pool(face.connect)
        self._stop = face.stop
        self._known, self._gate = known, Gate(face) if known else None
        self._watches: dict[object, Watch[Any]] = {}

    async def __aenter__(self) -> Self:
        await self._intake.__aenter__()
        if self._gate:
            await run_in_threadpool(self._gate.open)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._intake.__aexit__(kind, error, trace)
        if self._gate:
            await run_in_threadpool(self._gate.close)
        self._reads.close()

    async def ask(self, request: Request, _: Callable[[C, Any], R], command: C) -> R:
        """Return the reply to a command once it is durable; its handler is named for what it may reply.

        Raises what the intake raises.
        """
        trace = call_of(request).trace
        heard = Input(uuid7(), key_of(command), command, datetime.now(UTC), command.type, trace=trace)
        return cast("R", await self._intake.ask(heard))

    async def ask_once(self, heard: Input, reply: type[R]) -> R:
        """Return the reply to a command that may be sent again: an input with an id and a request key of its own.

        Raises what the intake raises, and overloaded while the gate is shut for what is new.
        """
        if self._gate and self._known and heard.request and self._gate.shut:
            refusal = None if await self.read(self._known, heard.body) else self._gate.refusal()
            if refusal:
                raise refusal
        if isinstance(got := await self._intake.ask(heard), reply):
            return got
        message = f"{heard.type} was replied to with {type(got).__name__}, not {reply.__name__}"
        raise TypeError(message)

    async def read(self, query: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a query of the store finds; raises what the pool raises."""
        return await run_in_threadpool(lambda: self._reads.read(query, *args, **kwargs))

    def watch(self, newer: Callable[[sa.Connection, Mapping[str, int]], Mapping[str, V]]) -> Watch[V]:
        """Return the one watch over what a query of the store tells news of."""
        if newer not in self._watches:
            self._watches[newer] = Watch(lambda known: self.read(newer, known), self._stop)
        return self._watches[newer]

    async def page(
        self, request: Request, asked: A, query: Listing[A, T], name: Callable[[T], str]
    ) -> tuple[list[T], dict[str, str]]:
        """Return a page of the caller's, and its headers: a Link with rel=next after the last's name, if more follow.

        Raises what the pool raises, and refuses a cursor of another listing.
        """
        caller = call_of(request).caller
        listing = asked.model_dump(mode="json", exclude={"limit", "cursor"}, exclude_none=True) | {"caller": caller}
        after = str(read_cursor(asked.cursor, listing)) if asked.cursor else None
        found = await self.read(query, caller, asked, asked.limit + 1, after)
        if len(found) <= asked.limit:
            return found, {}
        page = found[: asked.limit]
        following = {**request.query_params, "cursor": write_cursor(UUID(name(page[-1])), listing)}
        return page, {"Link": f'<{self.base}{request.url.path}?{urlencode(following)}>; rel="next"'}


async def desk_of(request: Request) -> Desk:
    """Return the desk of the app a request came to; async, for a plain function would cost a thread's hop."""
    desk: Desk = request.app.state.desk
    return desk


AtDesk = Annotated[Desk, Depends(desk_of)]


def answer(document: Document, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a document as the answer to a request."""
    return Response(document.model_dump_json(), status, headers, "application/json")


def events(call: Call, lines: AsyncIterator[bytes]) -> Response:
    """Return a stream of server-sent events; refuses when as many as can wait already."""
    if not call.may_rest:
        refuse("overloaded", cause="POOL_EXHAUSTED", retry_after=1)

    async def resting() -> AsyncIterator[bytes]:
        with call.resting():
            async for line in lines:
                yield line

    return StreamingResponse(resting(), 200, {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}, EVENTS)


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
