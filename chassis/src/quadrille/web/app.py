"""HTTP application of a service: routes declare scope, answers and problems, and refuse what they do not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypedDict, TypeVar, Unpack

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi._compat import ModelField
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.telemetry import TelemetryConfig
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp

from quadrille.keys import ADMIN, Keyring
from quadrille.observability.tracing import Spans
from quadrille.web import openapi
from quadrille.web.authentication import CALL, authorize, declared
from quadrille.web.middleware import RequestContext, RequestMiddleware, respond
from quadrille.web.openapi import Answer
from quadrille.web.problems import Problem
from quadrille.web.requests import ERRORS_MAX, StrictRequest, answer_failure, answer_refusal, check_query, pointer

# A request has one span, the middleware's. FastAPI would make three more, below whatever parent a caller names, at a
# quarter of the API's time (docs/adr/0002-dependencies.md).
FASTAPI_TELEMETRY_OFF: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
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
                tags=[*(path.split("/")[2:3] or [path.strip("/")])],
                response_model=None,
                responses={answer.status: openapi.documented(answer) for answer in declared["answers"]},
                openapi_extra={openapi.SCOPE: declared["scope"], openapi.PROBLEMS: list(declared["problems"])},
            )
            return endpoint

        return register


class StrictRoute(APIRoute):
    """A route for those who have its scope, that reads its body strictly and refuses parameters it does not declare."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]  # FastAPI says Coroutine; awaiting is all it does
        """Return the handler behind the checks."""
        handler = super().get_route_handler()
        scope: str = (self.openapi_extra or {}).get(openapi.SCOPE, ADMIN)
        known = frozenset(name for parameter in self.dependant.query_params for name in _names(parameter))

        async def strict(request: Request) -> Response:
            authorize(call_of(request).principal, scope)
            if request.scope["query_string"]:
                check_query(request, known)
            if self.body_field is not None:
                request = StrictRequest(request.scope, request.receive)
                await request.json()
            elif request.method != "GET":
                await StrictRequest(request.scope, request.receive).nothing()
            return await handler(request)

        return strict


def call_of(request: Request) -> RequestContext:
    """Return the call this request is."""
    call: RequestContext = request.scope[CALL]
    return call


def make_app(  # noqa: PLR0913 - one of each thing an app is made of
    title: str, routes: Routes, api: AbstractAsyncContextManager[object], spans: Spans, base: str,
    *, keys: Keyring | None, pages: Sequence[Route] = (), about: str = "",
) -> ASGIApp:  # fmt: skip
    """Return the API of a service: its routes, /openapi.json, /docs, /problems; and its ``pages``, which are no API.

    ``keys`` are those that let in, None where none is wanted (``ProcessContext.keys``); a page ``needs`` a scope too.
    ``about`` is how one starts, in Markdown, above all routes of /docs.
    ``api`` is what endpoints work with: open while the app serves, found at ``request.app.state.api``. Raises
    TypeError for a route or a page without a scope.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with api:
            yield

    app = FastAPI(
        title=title, version=openapi.version(), lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None,
        redirect_slashes=False, telemetry=FASTAPI_TELEMETRY_OFF, description=about,
        generate_unique_id_function=lambda route: route.name,
    )  # fmt: skip
    app.state.api = api
    app.include_router(routes.router)
    openapi.describe(app, routes.router, base, keyed=keys is not None)
    if open_page := next((page.path for page in pages if not declared(page.endpoint)), None):
        message = f"{open_page} declares no scope: nothing is served by default"
        raise TypeError(message)
    app.router.routes.extend(pages)
    for error, handler in (
        (HTTPException, answer_refusal),
        (RequestValidationError, _not_valid),
        (Exception, answer_failure),
    ):
        app.add_exception_handler(error, handler)
    return RequestMiddleware(app, spans, base, keys, lambda: bool(getattr(api, "full", False)))


async def _not_valid(request: Request, error: Exception) -> Response:
    errors = error.errors() if isinstance(error, RequestValidationError) else []
    if any(e["loc"][:2] == ("header", "Idempotency-Key") for e in errors):
        return respond(request.scope, Problem("idempotency-key-missing"))
    told = [{"pointer": pointer(e["loc"]), "code": e["type"], "message": e["msg"]} for e in errors[:ERRORS_MAX]]
    return respond(request.scope, Problem("validation-failed", errors=told))


def _names(parameter: ModelField) -> Iterable[str]:
    """Return the query parameters behind one of an endpoint: its own name, or its model's members."""
    kind = parameter.field_info.annotation
    return kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else (parameter.alias,)
