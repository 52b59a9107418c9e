"""API: what endpoints work with; commands go in by one committer, reads by a bounded pool, versions are ETags."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Annotated, Any, Concatenate, ParamSpec, Self, TypeAlias, TypeVar, cast
from urllib.parse import urlencode
from uuid import UUID

import sqlalchemy as sa
from fastapi import Depends, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from quadrille.context import ProcessContext
from quadrille.db import sqlstate
from quadrille.ids import uuid7
from quadrille.messages import Command, Reply, key_of
from quadrille.processing.envelope import Envelope
from quadrille.processing.idempotency import KeptAnswer
from quadrille.service import Tx
from quadrille.values import Paged
from quadrille.web.admission import AdmissionControl, AdmissionLimits
from quadrille.web.app import call_of
from quadrille.web.command_batcher import CommandBatcher
from quadrille.web.documents import Document, read_cursor, write_cursor
from quadrille.web.idempotency import KeptReply, is_known
from quadrille.web.middleware import RequestContext
from quadrille.web.problems import refuse
from quadrille.web.sse import V, Watch

P = ParamSpec("P")
T = TypeVar("T")
SIZE = 4
WAIT_SECONDS = 1.0
BOUNDS = "SET statement_timeout = '5s'; SET default_transaction_read_only = on"


class Pool:
    """Gives a query function of the store its connection, on which all its statements see one moment."""

    def __init__(self, connect: Callable[[], Tx], size: int = SIZE) -> None:
        def bounded() -> Tx:
            tx = connect()
            tx.execute(BOUNDS, prepare=False)
            return tx

        self._engine = sa.create_engine(
            "postgresql+psycopg://", creator=bounded, isolation_level="REPEATABLE READ", use_native_hstore=False,
            pool_size=size, max_overflow=0, pool_timeout=WAIT_SECONDS, pool_pre_ping=True, pool_use_lifo=True,
        )  # fmt: skip

    def read(self, query: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the query finds.

        Raises Problem: overloaded when no connection is free in a second, dependency-unavailable without a database.
        """
        try:
            with self._engine.connect() as db:
                return query(db, *args, **kwargs)
        except sa.exc.TimeoutError:
            refuse("overloaded", cause="POOL_EXHAUSTED", retry_after=1)
        except sa.exc.DBAPIError as trouble:
            if sqlstate.blames_input(trouble.orig or trouble):
                raise
            refuse("dependency-unavailable", dependency="database", retry_after=1)

    def close(self) -> None:
        """Close every idle connection."""
        self._engine.dispose()


C = TypeVar("C", bound=Command)
R = TypeVar("R", bound=Reply)
A = TypeVar("A", bound=Paged)
Listing: TypeAlias = Callable[[sa.Connection, str, A, int, str | None], list[T]]  # caller, asked, how many, after
EVENTS = "text/event-stream"
"""The media type of server-sent events."""


class Api:
    """An API's way to its database; open it as a context while serving.

    With ``limits`` new work is let in by a gate, but for what was answered before under its idempotency key.
    Raises StoppedError when made on a database that forgets.
    """

    def __init__(self, context: ProcessContext, limits: AdmissionLimits | None = None) -> None:
        self.settings, self.base = context.settings, context.settings.public_base
        self.keys = context.keys
        self._intake = CommandBatcher(
            context.service, context.connect, context.telemetry, linger=context.linger("intake")
        )
        self._intake.check()
        self._reads = Pool(context.connect)
        self._stop = context.stop
        self._gate = AdmissionControl(context, limits) if limits else None
        if self._gate:
            context.acts_by["intake"] = self._gate.state
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

    @property
    def full(self) -> bool:
        """Whether a command that comes now is refused at once, for it would be answered too late."""
        return self._intake.full

    async def execute(self, request: Request, _: Callable[[C, Any], R], command: C) -> R:
        """Return the reply to a command once it is durable; its handler is named for what it may reply.

        Raises what the intake raises.
        """
        trace = call_of(request).trace
        envelope = Envelope(uuid7(), key_of(command), command, datetime.now(UTC), command.type, trace=trace)
        return cast("R", await self._intake.execute(envelope))

    async def execute_as(self, envelope: Envelope, reply: type[R]) -> R:
        """Return the reply of this kind to a command that comes with an id and a time of its own.

        Raises what the intake raises.
        """
        return _as(await self._intake.execute(envelope), envelope, reply)

    async def execute_once(self, request: Request, envelope: Envelope, reply: type[R], named: str) -> R | KeptReply:
        """Return what is kept under the command's idempotency key, from now on or before; or the reply that refuses it.

        Raises what the intake raises, and overloaded while the gate is shut for what is new. Refuses a key that came
        with another request, which ``named`` is the member of that tells what was done.
        """
        if not (key := envelope.request):
            message = f"{envelope.type} came without its idempotency key"
            raise TypeError(message)
        if self._gate and self._gate.shut:
            refusal = None if await self.read(is_known, key) else self._gate.refusal()
            if refusal:
                raise refusal
        got = await self._intake.execute(envelope)
        if not isinstance(got, KeptAnswer):
            return _as(got, envelope, reply)
        call_of(request).order_id = got.subject
        if got.fingerprint != key.fingerprint:
            members: dict[str, Any] = {named: got.subject}
            refuse("idempotency-key-reused", **members)
        return KeptReply(got.subject, got.answer, replayed=got.subject != envelope.key)

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


def _as(got: Reply | KeptAnswer, envelope: Envelope, reply: type[R]) -> R:
    if isinstance(got, reply):
        return got
    message = f"{envelope.type} was replied to with {type(got).__name__}, not {reply.__name__}"
    raise TypeError(message)


async def api_of(request: Request) -> Api:
    """Return the API of the app a request came to; async, for a plain function would cost a thread's hop."""
    api: Api = request.app.state.api
    return api


TheApi = Annotated[Api, Depends(api_of)]
"""The parameter by which an endpoint gets its service's ``Api``."""


def answer(document: Document, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a document as the answer to a request."""
    return Response(document.model_dump_json(), status, headers, "application/json")


def events(call: RequestContext, lines: AsyncIterator[bytes]) -> Response:
    """Return a stream of server-sent events; refuses when as many as can wait already."""
    if not call.may_rest:
        refuse("overloaded", cause="POOL_EXHAUSTED", retry_after=1)

    async def resting() -> AsyncIterator[bytes]:
        with call.resting():
            async for line in lines:
                if not call.welcome:  # its key was revoked, or is over
                    return
                yield line

    return StreamingResponse(resting(), 200, {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}, EVENTS)
