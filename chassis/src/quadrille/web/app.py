"""How a service makes its HTTP face: routes declare scope, answers and problems, and refuse what they do not."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, NoReturn, TypedDict, TypeVar, Unpack
from urllib.parse import parse_qsl

import structlog
import uvicorn
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi._compat import ModelField
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import ASGIApp
from uvicorn._types import ASGIApplication

from quadrille import file_limits
from quadrille.observability.tracing import Spans
from quadrille.settings import Bind
from quadrille.web import openapi, strict_json
from quadrille.web.connection_limits import Crowd
from quadrille.web.connections import KEEP_ALIVE_SECONDS, Connection
from quadrille.web.middleware import CALL, RequestContext, RequestMiddleware, respond
from quadrille.web.openapi import Answer
from quadrille.web.problems import Problem, refuse

BODY_MAX = 65_536
BODY_SECONDS = 10.0
ERRORS_MAX = 50
F = TypeVar("F", bound=Callable[..., object])


class Declared(TypedDict):
    """What a route declares beside its path."""

    scope: str
    answers: Sequence[Answer]
    problems: Sequence[str]


class Routes:
    """The routes of one service, and the scopes it has; one that it does not have is refused at import."""

    def __init__(self, *scopes: str) -> None:
        self.scopes = frozenset(scopes)
        self.router = APIRouter(route_class=StrictRoute, redirect_slashes=False)

    def on(self, method: str, path: str, **declared: Unpack[Declared]) -> Callable[[F], F]:
        """Register an endpoint; its first answer is the usual one, its docstring is its description."""
        if declared["scope"] not in self.scopes:
            message = f"{method} {path}: {declared['scope']} is no scope"
            raise TypeError(message)

        def register(endpoint: F) -> F:
            self.router.add_api_route(
                path,
                endpoint,
                methods=[method],
                status_code=declared["answers"][0].status,
                summary=(endpoint.__doc__ or "").partition("\n")[0].rstrip("."),
                tags=[path.split("/")[2]],
                response_model=None,
                responses={answer.status: openapi.documented(answer) for answer in declared["answers"]},
                openapi_extra={openapi.SCOPE: declared["scope"], openapi.PROBLEMS: list(declared["problems"])},
            )
            return endpoint

        return register


class StrictRoute(APIRoute):
    """A route that reads its body strictly and refuses query parameters it does not declare."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]  # FastAPI says Coroutine; awaiting is all it does
        """Return the handler behind the checks."""
        handler = super().get_route_handler()
        known = frozenset(name for parameter in self.dependant.query_params for name in _names(parameter))

        async def strict(request: Request) -> Response:
            if request.scope["query_string"]:
                _check_query(request, known)
            if self.body_field is not None:
                request = _Read(request.scope, request.receive)
                await request.json()
            elif request.method != "GET":
                await _Read(request.scope, request.receive).nothing()
            return await handler(request)

        return strict


class _Read(Request):
    """A request whose body is read once, bounded in size and time, and parsed strictly."""

    async def json(self) -> Any:  # noqa: ANN401 - any JSON value
        """Return the body's value; refuses another media type, too much, too slow, and malformed JSON."""
        if not hasattr(self, "_json"):
            _refuse_media_type(self.headers.get("content-type", ""))
            _refuse_encoding(self.headers)
            try:
                self._json = strict_json.loads(await self.body())
            except strict_json.MalformedJsonError as error:
                refuse("malformed-json", error.reason, position=error.position)
        return self._json

    async def nothing(self) -> None:
        """Read the body of a route that takes none: nothing or an empty object; refuses what would be ignored."""
        if not await self.body():
            return
        if not isinstance(found := await self.json(), dict):
            _invalid("", "object_type", "Input should be nothing, or an empty object")
        if found:
            text = "This route takes no such member"
            errors = [
                {"pointer": _pointer(("body", name)), "code": "extra_forbidden", "message": text} for name in found
            ]
            refuse("validation-failed", errors=errors[:ERRORS_MAX])

    async def body(self) -> bytes:
        """Return the body's bytes."""
        if not hasattr(self, "_body"):
            declared = self.headers.get("content-length", "0")
            if len(declared) > len(str(BODY_MAX)) or int(declared) > BODY_MAX:  # the server has read it as a number
                refuse("body-too-large", limit=BODY_MAX, headers={"Connection": "close"})
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    self._body = await self._bounded()
            except TimeoutError:
                refuse("request-timeout", headers={"Connection": "close"})
            except ClientDisconnect:  # nobody is there to be told
                refuse("request-timeout", "The client has gone.", headers={"Connection": "close"})
        return self._body

    async def _bounded(self) -> bytes:
        chunks, size = [], 0
        async for chunk in self.stream():
            size += len(chunk)
            if size > BODY_MAX:
                refuse("body-too-large", limit=BODY_MAX, headers={"Connection": "close"})
            chunks.append(chunk)
        return b"".join(chunks)


def call_of(request: Request) -> RequestContext:
    """Return the call this request is."""
    call: RequestContext = request.scope[CALL]
    return call


def make_app(title: str, routes: Routes, desk: AbstractAsyncContextManager[object], spans: Spans, base: str) -> ASGIApp:
    """Return the API of a service: its routes, /openapi.json, /docs, /problems.

    ``desk`` is what endpoints work with: open while the app serves, found at ``request.app.state.desk``. Raises
    TypeError for a route without a scope.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with desk:
            yield

    app = FastAPI(
        title=title, version=openapi.version(), lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None,
        redirect_slashes=False,
    )  # fmt: skip
    app.state.desk = desk
    app.include_router(routes.router)
    openapi.describe(app, routes.router, base)
    for error, handler in ((HTTPException, _refused), (RequestValidationError, _not_valid), (Exception, _failed)):
        app.add_exception_handler(error, handler)
    return RequestMiddleware(app, spans, base)


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, Problem):
        return respond(request.scope, error)
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:  # noqa: PLR2004 - the routers raise it bare
        allow = _allowed(request)
        return respond(request.scope, Problem("method-not-allowed", allow=allow, headers={"Allow": ", ".join(allow)}))
    return respond(request.scope, Problem("not-found" if status == 404 else "internal"))  # noqa: PLR2004 - as above


async def _not_valid(request: Request, error: Exception) -> Response:
    errors = error.errors() if isinstance(error, RequestValidationError) else []
    if any(e["loc"][:2] == ("header", "Idempotency-Key") for e in errors):
        return respond(request.scope, Problem("idempotency-key-missing"))
    told = [{"pointer": _pointer(e["loc"]), "code": e["type"], "message": e["msg"]} for e in errors[:ERRORS_MAX]]
    return respond(request.scope, Problem("validation-failed", errors=told))


async def _failed(request: Request, _: Exception) -> Response:
    return respond(request.scope, Problem("internal"))


def _pointer(place: Sequence[str | int]) -> str:
    """Return a JSON pointer into the body, or ``query:name``, ``path:name``, ``header:name``."""
    source, *rest = place
    if source == "body":
        return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in rest)
    return ":".join(str(part) for part in (source, *rest[:1]))


def _allowed(request: Request) -> list[str]:
    """Return every method that some route answers at this path."""
    found: set[str] = set()
    for method in ("GET", "POST", "PUT", "DELETE"):
        scope = {**request.scope, "method": method}
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.router.routes):
            found.add(method)
    return sorted(found | ({"HEAD"} if "GET" in found else set()))


def _names(parameter: ModelField) -> Iterable[str]:
    """Return the query parameters behind one of an endpoint: its own name, or its model's members."""
    kind = parameter.field_info.annotation
    return kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else (parameter.alias,)


def _check_query(request: Request, known: frozenset[str]) -> None:
    """Refuse a query that is not UTF-8, or names what the route does not take, or one thing twice."""
    try:
        given = parse_qsl(request.scope["query_string"].decode(), keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        _invalid("query", "string_unicode", "Percent-encode it in UTF-8")
    names = [name for name, _ in given]
    if unknown := [name for name in dict.fromkeys(names) if name not in known]:
        text = "This route takes no such parameter"
        errors = [{"pointer": f"query:{name[:64]}", "code": "extra_forbidden", "message": text} for name in unknown]
        refuse("validation-failed", errors=errors[:ERRORS_MAX])
    if twice := [name for name in names if names.count(name) > 1]:
        refuse("repeated-parameter", f"{twice[0]} came more than once.", parameter=twice[0])


def _invalid(pointer: str, code: str, message: str) -> NoReturn:
    refuse("validation-failed", errors=[{"pointer": pointer, "code": code, "message": message}])


def _refuse_media_type(header: str) -> None:
    kind, _, parameters = header.lower().partition(";")
    charset = parameters.replace(" ", "").replace('"', "")
    if kind.strip() != "application/json" or charset not in ("", "charset=utf-8"):
        refuse("unsupported-media-type", accepted=["application/json"], headers={"Accept": "application/json"})


def _refuse_encoding(headers: Headers) -> None:
    codings = [
        *headers.get("content-encoding", "identity").split(","),
        *headers.get("transfer-encoding", "").split(","),
    ]
    if any(coding.strip().lower() not in ("", "identity", "chunked") for coding in codings):
        refuse("unsupported-content-encoding", accepted=["identity"], headers={"Accept-Encoding": "identity"})


DRAIN_SECONDS = 20
BACKLOG, AT_ONCE = 2048, 16
LOOK_TICKS = 10  # of uvicorn's tenths of a second, between two looks whose time is over
REST_SECONDS = 0.1  # how long nobody is let in when no file is left to open
_NO_FILE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
log = structlog.get_logger()


def serve(app: ASGIApplication, bind: Bind, stop: threading.Event) -> None:
    """Serve until told to stop, then drain for at most 20 seconds."""
    config = uvicorn.Config(
        app,
        host=bind.host,
        port=bind.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        server_header=False,
        proxy_headers=False,
    )
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_until(Server(config), stop))


class Server(uvicorn.Server):
    """uvicorn, but for who is let in and how long: that is ours."""

    door: Door

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the app, then the door."""
        del sockets
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(uvicorn.config.STARTUP_FAILURE)
        loop = asyncio.get_running_loop()

        def close(connection: Connection) -> None:
            with suppress(RuntimeError):  # the loop has ended, and everyone with it
                loop.call_soon_threadsafe(connection.transport.abort)

        crowd = Crowd[Connection]("api", file_limits.shares().api, close)

        def connection() -> Connection:
            return Connection(self.config, self.server_state, self.lifespan.state, crowd)

        try:
            listening = _listen(self.config.host, self.config.port)
        except OSError as refused:
            where = f"{self.config.host}:{self.config.port}"
            log.critical("refused to run", reason=f"found {where}: {refused.strerror}; free it or set API_BIND")
            await self.lifespan.shutdown()
            sys.exit(uvicorn.config.STARTUP_FAILURE)
        self.door = Door(listening, connection, crowd)
        self.servers = [self.door]  # type: ignore[list-item]  # as much of a server as uvicorn closes
        self.started = True

    async def on_tick(self, counter: int) -> bool:
        """Look whose time is over, now and then."""
        if counter % LOOK_TICKS == 0:
            now = asyncio.get_running_loop().time()
            for connection in tuple(self.server_state.connections):
                connection.look(now)  # type: ignore[union-attr]  # all are ours
        return await super().on_tick(counter)


class Door:
    """Lets clients in; when no more files can be opened it rests for a moment instead of asking again at once."""

    def __init__(
        self, sockets: Sequence[socket.socket], connection: Callable[[], Connection], crowd: Crowd[Connection]
    ) -> None:
        self.sockets, self._connection, self._crowd = sockets, connection, crowd
        self._loop = asyncio.get_running_loop()
        self._entering: set[asyncio.Task[object]] = set()
        self._closed = False
        self._open()

    def close(self) -> None:
        """Let nobody in any more."""
        self._closed = True
        for one in self.sockets:
            self._loop.remove_reader(one)
            one.close()

    async def wait_closed(self) -> None:
        """Return when whoever was on the threshold is in."""
        if self._entering:
            await asyncio.wait(self._entering)

    def _open(self) -> None:
        for one in () if self._closed else self.sockets:
            self._loop.add_reader(one, self._let_in, one)

    def _let_in(self, listening: socket.socket) -> None:
        while len(self._entering) + self._crowd.leaving < AT_ONCE:  # then those go first whose places they take
            try:
                client, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):
                return
            except OSError as refused:
                if refused.errno not in _NO_FILE:
                    raise
                self._rest()
                return
            client.setblocking(False)  # noqa: FBT003 - the socket module's own
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = self._loop.create_task(self._enter(client))
            self._entering.add(task)
            task.add_done_callback(self._entering.discard)

    async def _enter(self, client: socket.socket) -> object:
        try:
            return await self._loop.connect_accepted_socket(self._connection, client)
        except OSError:  # gone before it was in
            client.close()
            return None

    def _rest(self) -> None:
        for one in self.sockets:
            self._loop.remove_reader(one)
        self._crowd.thin()
        self._loop.call_later(REST_SECONDS, self._open)


def _listen(host: str, port: int) -> list[socket.socket]:
    """Return a listening socket for each address of a host; raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    opened: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            one = socket.socket(family, kind, protocol)
            opened.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.setblocking(False)  # noqa: FBT003 - the socket module's own
            one.bind(address)
            one.listen(BACKLOG)
    except OSError:
        for one in opened:
            one.close()
        raise
    return opened


async def _until(server: uvicorn.Server, stop: threading.Event) -> None:
    """Serve; a thread waits for the stop event, so that an idle server is woken by nothing."""
    task = asyncio.ensure_future(server._serve())  # noqa: SLF001 - serve() would take over the signals, which are ours
    waiter = asyncio.get_running_loop().run_in_executor(None, stop.wait)
    await asyncio.wait((task, waiter), return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    stop.set()
    await task
