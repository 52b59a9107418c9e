"""Routes of the ops port beside its probes: a route's key names all it takes, anything else is refused."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute

from quadrille.keys import ADMIN, ANONYMOUS, LOCAL, Keyring, Principal
from quadrille.observability.trace_context import Context, new_trace
from quadrille.ops.checks import in_thread
from quadrille.settings import Secret
from quadrille.values import Text
from quadrille.web.authentication import CALL, authorize, bearer
from quadrille.web.documents import json_of
from quadrille.web.middleware import RequestIdentity
from quadrille.web.problems import refuse
from quadrille.web.requests import StrictRequest, check_query, invalid

M = TypeVar("M", bound=BaseModel)
_TEXT = TypeAdapter[str](Text)


@dataclass(frozen=True, slots=True)
class OpsRequest:
    """One request: the path's variables, the query, the body's members beside ``reason``, who asks and why."""

    path: Mapping[str, str]
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    actor: str = "local"
    reason: str = ""
    trace: Context = field(default_factory=new_trace)
    key: Secret = field(default=Secret(""), repr=False)  # what a writer showed, for a session that acts with it

    def read(self, model: type[M]) -> M:
        """Return the body as a model of ours; refuses what does not fit it."""
        try:
            return model.model_validate_json(json_of(self.body))
        except ValidationError as errors:
            refuse("validation-failed", errors=_told(errors, ""))

    def identity(self, name: str) -> UUID:
        """Return a path's variable that is an id; refuses what is none."""
        return _identity(self.path[name], f"path:{name}")


@dataclass(frozen=True, slots=True)
class OpsResponse:
    """The answer: a status and a JSON document; ``trace`` is the place where it was done, if not in the request's."""

    status: int
    document: Mapping[str, object]
    trace: Context | None = None


Route: TypeAlias = Callable[[OpsRequest], OpsResponse]
READ, REDRIVE, REPLAY, RESOLVE = "ops:read", "ops:redrive", "ops:replay", "ops:resolve"
"""The scopes of whatever only tells; of what is parked; of replays and long actions; of what is decided by hand."""
FINDINGS = "ops:findings"
"""The scope of whoever watches from outside and has found something."""


@dataclass(frozen=True, slots=True)
class ScopedRoute:
    """A route that needs a scope of its own; without one whoever reads needs ``ops:read``, whoever writes ``admin``."""

    scope: str
    route: Route

    def __call__(self, asked: OpsRequest) -> OpsResponse:
        """Answer a request."""
        return self.route(asked)


OpsRoutes: TypeAlias = Mapping[tuple[str, str], Route]
"""By method and pattern, as ``("GET", "/ops/parked/{order_id}?limit&state")``: after ``?`` is what a query may name."""
Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]


def scope_of(method: str, route: Route) -> str:
    """Return the scope a key needs for a route."""
    if isinstance(route, ScopedRoute):
        return route.scope
    return READ if method == "GET" else ADMIN


def routes_of(routes: OpsRoutes, keys: Keyring | None) -> Iterator[StarletteRoute]:
    """Yield the framework's routes of ours; ``keys`` are those that let in, None where none is wanted."""
    for (method, pattern), route in routes.items():
        path, _, query = pattern.partition("?")
        yield StarletteRoute(
            path, _endpoint(route, frozenset(query.split("&")), scope_of(method, route), keys), methods=[method]
        )


def _endpoint(route: Route, known: frozenset[str], scope: str, keys: Keyring | None) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        call: RequestIdentity = request.scope[CALL]
        actor = _admitted(request, call.principal, scope, keys)
        check_query(request, known)
        asked = OpsRequest(request.path_params, dict(request.query_params), actor=actor.owner, trace=call.trace)
        if request.method != "GET":
            asked = replace(asked, key=Secret(bearer(request.scope) or "") if actor is not LOCAL else asked.key)
            body, reason = members(await StrictRequest(request.scope, request.receive).json())
            asked = replace(asked, body=body, reason=reason)
        told = await in_thread(lambda: route(asked))
        call.trace = told.trace or call.trace
        return json_response(told.status, told.document)

    return endpoint


def json_response(status: int, document: Mapping[str, object]) -> Response:
    """Return a document that nobody keeps."""
    body = json.dumps(document, default=str)
    return Response(body, status, {"Cache-Control": "no-store"}, "application/json")


def _admitted(request: Request, principal: Principal, scope: str, keys: Keyring | None) -> Principal:
    """Return who asks: the owner of a key that has the scope; without a key, somebody of this machine.

    Where no key is wanted, anybody who reaches the port may read.
    """
    if principal is not ANONYMOUS and keys is not None:
        authorize(principal, scope)
        return principal
    if keys is not None or request.method != "GET":
        _check_local(request)
    return LOCAL


def _check_local(request: Request) -> None:
    """Refuse another machine, and a write that a web page had a browser send (browsers name its Origin)."""
    if request.client is None or not ipaddress.ip_address(request.client.host).is_loopback:
        refuse("unauthorized", "Without a key this is for this machine only: ask from there, or send a key.")
    if "origin" in request.headers:
        refuse("unauthorized", "Without a key no write is taken from a web page: use the quadrille command.")


def members(value: object) -> tuple[dict[str, Any], str]:
    """Return what a write's body says beside its reason, and the reason; refuses one without."""
    if not isinstance(value, dict):
        invalid("", "object_type", "Input should be an object")
    if "reason" not in value:
        invalid("/reason", "missing", "Say why: whatever an operator does is kept with its reason")
    try:
        reason = _TEXT.validate_python(value.pop("reason"), strict=True)
    except ValidationError as errors:
        refuse("validation-failed", errors=_told(errors, "/reason"))
    if not reason.strip():
        invalid("/reason", "string_too_short", "Say why: whatever an operator does is kept with its reason")
    return value, reason


def _identity(text: str, pointer: str) -> UUID:
    try:
        found = UUID(text)
    except ValueError:
        found = UUID(int=0)
    if str(found) != text.lower():
        invalid(pointer, "uuid_parsing", "Input should be an id: 32 hexadecimal digits in five groups")
    return found


def _told(errors: ValidationError, place: str) -> list[dict[str, str]]:
    return [
        {"pointer": place + "".join(f"/{part}" for part in e["loc"]), "code": e["type"], "message": e["msg"]}
        for e in errors.errors(include_url=False, include_input=False)
    ]
